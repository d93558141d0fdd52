"""Starting, stopping, keys, figures and `splatmend serve`."""

import io
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from splatmend.core import (
    Frame,
    InputError,
    RestoreOptions,
    SplatmendError,
    load_restorer,
    restore_frames,
)
from splatmend.core.command_line import parse
from splatmend.plugin.protocol.curve_keys import KeysConfig, client_keys, make_keys
from splatmend.plugin.protocol.curve_keys import main as keys_main
from splatmend.plugin.protocol.messages import Bye, Hello, Result, Stats
from splatmend.plugin.server import Engine, Server, ServerOptions
from splatmend.plugin.server.command import ServeConfig, engines_of, serve
from splatmend.plugin.server.command import main as serve_main
from splatmend.plugin.server.stats import Figures, MetricsEndpoint
from splatmend.plugin.server.watch import screen, watch

from serving import LOCAL, negative
from waiting import until
from wire import Gate, Wire

# Stopping


def test_stopping_answers_what_is_at_work_and_frees_the_port(stack) -> None:
    gate = Gate()
    server = Server([gate.engine], ServerOptions(urls=(LOCAL,))).start()
    url = server.urls[0]
    working, waiting = (stack.enter_context(closing(Wire(url))) for _ in range(2))
    working.hello()
    waiting.hello()
    working.frame(0)
    assert gate.entered.acquire(timeout=5)
    waiting.frame(0)
    until(lambda: all(stream.size for stream in server.figures().streams))  # both frames are in
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert waiting.receive().why == "shutdown"
    assert isinstance(waiting.receive(), Bye)
    waiting.send(Hello())
    assert waiting.receive().code == "busy"
    gate.open.set()
    assert isinstance(working.receive(), Result)
    assert isinstance(working.receive(), Bye)
    stopping.join(5)
    server.stop()  # again: nothing
    with Server([gate.engine], ServerOptions(urls=(url,))) as again:
        assert again.urls == [url]


def test_stopping_does_not_wait_for_ever(stack) -> None:
    gate = Gate()
    server = Server([gate.engine], ServerOptions(urls=(LOCAL,))).start()
    wire = stack.enter_context(closing(Wire(server.urls[0])))
    wire.hello()
    wire.frame(0)
    assert gate.entered.acquire(timeout=5)
    server.stop(grace_s=0.1)
    assert wire.receive().why == "shutdown"
    assert isinstance(wire.receive(), Bye)
    gate.open.set()
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("smp-")])


def test_a_server_that_never_started_can_be_stopped() -> None:
    server = Server([Engine("negative", negative)], ServerOptions(urls=(LOCAL,)))
    url = server.urls[0]
    server.stop()
    Server([Engine("negative", negative)], ServerOptions(urls=(url,))).stop()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("tcp://0.0.0.0:0", "open to other machines: make keys"),
        ("tcp://*:0", "open to other machines: make keys"),
        ("tcp://[::]:0", "open to other machines: make keys"),
        ("tcp://127.0.0.1.example:0", "open to other machines: make keys"),
        ("tcp://127.0.0.1:99999", "is not an address: use tcp://host:port"),
        ("smoke://signal", "is not an address"),
        ("ipc://*", "is not an address"),
    ],
)
def test_addresses_that_cannot_be(url, message) -> None:
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        Server([Engine("negative", negative)], ServerOptions(urls=(url,)))


def test_a_taken_port_is_an_error(start) -> None:
    taken = start().urls[0]
    with pytest.raises(InputError, match=r"Address already in use.*; choose another"):
        Server([Engine("negative", negative)], ServerOptions(urls=(LOCAL, taken)))


def test_a_server_needs_engine_and_address() -> None:
    with pytest.raises(InputError, match="at least one engine"):
        Server([])
    with pytest.raises(InputError, match="at least one address"):
        ServerOptions(urls=())


def test_ipc_is_for_this_user_alone(stack, tmp_path: Path) -> None:
    path = tmp_path / "private" / "smp"
    options = ServerOptions(urls=(LOCAL, f"ipc://{path}"))
    server = stack.enter_context(Server([Engine("negative", negative)], options))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    wire = stack.enter_context(closing(Wire(server.urls[1])))
    wire.hello()
    wire.frame(0)
    assert isinstance(wire.receive(), Result)


# Keys


@pytest.mark.slow
def test_only_listed_keys_come_in(stack, tmp_path: Path, capsys: Any) -> None:
    keys_main([str(tmp_path / "keys"), "--client", "laptop"])
    said = capsys.readouterr().out
    assert "laptop may come in" in said
    make_keys(KeysConfig(tmp_path / "other", client="stranger"))
    server_key = tmp_path / "keys" / "server.key"
    laptop = client_keys(tmp_path / "keys" / "laptop.key_secret", server_key)
    stranger = client_keys(tmp_path / "other" / "stranger.key_secret", server_key)
    options = ServerOptions(urls=("tcp://0.0.0.0:0",), keys=tmp_path / "keys")
    server = stack.enter_context(Server([Engine("negative", negative)], options))
    url = server.urls[0].replace("0.0.0.0", "127.0.0.1")
    known = stack.enter_context(closing(Wire(url, laptop)))
    assert known.hello().credit == 2  # not local
    known.frame(0)
    assert isinstance(known.receive(), Result)
    for keys in (stranger, None):
        with closing(Wire(url, keys)) as wire:
            wire.send(Hello())
            assert wire.receive(300) is None
    make_keys(
        KeysConfig(tmp_path / "keys", client="late",
                   public_key=tmp_path / "other" / "clients" / "stranger.key")
    )  # fmt: skip
    with closing(Wire(url, stranger)) as wire:  # without a restart
        wire.hello()
    (tmp_path / "keys" / "clients" / "laptop.key").unlink()
    with closing(Wire(url, laptop)) as wire:
        wire.send(Hello())
        assert wire.receive(300) is None


def test_keys_that_cannot_be(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    make_keys(KeysConfig(keys, client="a"))
    assert (keys / "server.key_secret").stat().st_mode & 0o077 == 0
    assert (keys / "a.key_secret").stat().st_mode & 0o077 == 0
    for name, message in (("a", "exists: choose another"), ("../b", "letters"), ("server", "name")):
        with pytest.raises(InputError, match=message):
            make_keys(KeysConfig(keys, client=name))
    with pytest.raises(InputError, match="is not a ZeroMQ key file"):
        client_keys(keys / "absent", keys / "server.key")
    with pytest.raises(InputError, match="has no secret key"):
        client_keys(keys / "server.key", keys / "server.key")
    (keys / "server.key_secret").chmod(0o644)
    with pytest.raises(InputError, match="others may read"):
        Server([Engine("negative", negative)], ServerOptions(urls=(LOCAL,), keys=keys))
    with pytest.raises(InputError, match="is not a ZeroMQ key file"):
        Server([Engine("negative", negative)], ServerOptions(urls=(LOCAL,), keys=tmp_path))


# Figures


def test_figures_in_all_three_forms(start, connect, stack) -> None:
    server = start()
    wire = connect(server, stream='we"ird', client="test", mode="ordered")
    for number in range(3):
        wire.frame(number)
        assert isinstance(wire.receive(), Result)
    wire.frame(3, size=(4, 6), max_age_ms=0)
    wire.receive()
    wire.send(Stats())
    values = wire.receive().values
    (stream,) = values["streams"]
    assert (stream["stream"], stream["mode"], stream["size"]) == ('we"ird', "ordered", [6, 4])
    assert stream["frames"] == values["frames"] == {"result": 4}
    assert stream["age_ms"].keys() == {"queue", "prepare", "restore", "answer", "total"}
    assert all(0 <= p50 <= p95 for p50, p95 in stream["age_ms"].values())
    assert stream["fps"] == 2.0  # 4 frames within two seconds
    assert values["resident_bytes"] > 10e6

    endpoint = stack.enter_context(MetricsEndpoint("127.0.0.1", 0, server.figures))
    with urllib.request.urlopen(f"http://{endpoint.address}/metrics") as page:
        assert page.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = page.read().decode()
    assert 'splatmend_frames_total{outcome="result"} 4.0\n' in text
    assert 'stream="we\\"ird"' in text
    assert "splatmend_sessions 1" in text
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert {s.name for s in samples} == {
        f"splatmend_{name}"
        for name in (
            "uptime_seconds", "resident_bytes", "sessions", "frames_total", "stream_fps",
            "stream_frames_total", "age_seconds",
        )
    }  # fmt: skip
    ages = [s for s in samples if s.name == "splatmend_age_seconds"]
    assert len(ages) == 10
    for s in ages:
        assert (s.labels["stream"], s.labels["mode"]) == ('we"ird', "ordered")
        pair = stream["age_ms"][s.labels["stage"]]
        assert s.value == pytest.approx(pair[s.labels["quantile"] == "0.95"] / 1e3, abs=1e-6)
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(f"http://{endpoint.address}/")
    refused.value.close()
    host, port = endpoint.address.split(":")
    with pytest.raises(InputError, match="cannot serve metrics"):
        MetricsEndpoint(host, int(port), server.figures)

    shown = drawn(server.figures(), columns=80, rows=24)
    assert len(shown) == 6
    assert "4 restored  0 dropped  0 errors" in shown[0]
    assert 'we"ird' in shown[3]
    assert "6x4" in shown[3]
    assert [len(line) for line in shown[2:4]] == [80, 80]


def drawn(figures: Figures, *, columns: int, rows: int) -> list[str]:
    console = Console(width=columns, height=rows, force_terminal=False)
    with console.capture() as captured:
        console.print(screen(figures, rows=rows))
    return captured.get().splitlines()


def test_the_screen_fits(start, connect) -> None:
    server = start()
    for number in range(12):
        connect(server, stream=f"camera with a long name {number}")
    lines = drawn(server.figures(), columns=50, rows=10)
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 50
    assert "... and 9 more" in lines


def test_watching_gives_the_terminal_back(start) -> None:
    terminal = io.StringIO()
    with watch(start().figures, Console(file=terminal, force_terminal=True)):
        until(lambda: "0 streams" in terminal.getvalue())
    assert terminal.getvalue().endswith("\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize(
    ("package", "options"),
    [("prometheus_client", ["--metrics", "127.0.0.1:0"]), ("rich", ["--watch"])],
)
def test_packages_that_are_not_there_are_named(monkeypatch, package, options) -> None:
    for name in (n for n in tuple(sys.modules) if n == package or n.startswith(f"{package}.")):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "splatmend.plugin.server.watch")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs {package}.*pip install 'splatmend\[gateway\]'"):
        serve(
            configured(*options),
            threading.Event(),
            say=print,
        )


# The command


def configured(*words: str) -> ServeConfig:
    """What `splatmend serve` makes of arguments; copy on the CPU where they do not say more."""
    given = ["--model", "copy", "--device", "cpu", "--url", LOCAL, *words]
    return parse(ServeConfig, given, prog="splatmend serve", description="")


def test_serve_says_where_and_stops(stack) -> None:
    stop, said = threading.Event(), []
    config = configured("--metrics", "127.0.0.1:0")
    thread = threading.Thread(target=serve, args=(config, stop), kwargs={"say": said.append})
    thread.start()
    until(lambda: bool(said))
    assert said[0].startswith("serving copy on tcp://127.0.0.1:")
    wire = stack.enter_context(closing(Wire(said[0].split()[3].rstrip(","))))
    assert wire.hello().stateful
    wire.frame(0, value=9)
    assert bytes(wire.receive().data[0]) == bytes([9]) * 72
    stop.set()
    thread.join(10)
    assert said[-1] == "stopped"


def test_serve_restores_as_its_options_say() -> None:
    color = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    frame, given = Frame(color=color), {"strength": 0.5, "magnify": 2}
    (engine,) = engines_of(configured("--model", "unsharp", "--strength", "0.5", "--magnify", "2"))
    assert engine.new_stream is not None
    answers = engine.restore([frame]) + engine.new_stream().restore([frame])
    restorer = load_restorer("unsharp", device="cpu")
    (wanted,) = restore_frames(restorer, [frame], RestoreOptions(**given))
    for answer in answers:
        assert np.array_equal(answer.color, wanted.color)
    for name, other in {"strength": 1.0, "magnify": 1}.items():
        (unlike,) = restore_frames(restorer, [frame], RestoreOptions(**{**given, name: other}))
        assert not np.array_equal(unlike.color, wanted.color)


def test_serve_stops_on_ctrl_c(capsys: Any) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        until(lambda: signal.getsignal(signal.SIGINT) is not before)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert serve_main(["--model", "copy", "--device", "cpu", "--url", LOCAL]) == 0
    assert capsys.readouterr().out.endswith("stopped\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "best"], "no restorer called 'best'"),
        (["--device", "tpu"], "device 'tpu' cannot be used"),
        (["--device"], "at least one device"),
        (["--batch", "0"], "must be 1 or more"),
        (["--max-sessions", "0"], "must be 1 or more"),
        (["--metrics", "9108"], "use host:port"),
        (["--url", "tcp://0.0.0.0:0"], "make keys"),
        (["--token-file", "absent"], "cannot read tokens"),
    ],
)
def test_options_that_cannot_be(options, message) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(SplatmendError, match=message):
        serve(configured(*options), stop, say=print)
