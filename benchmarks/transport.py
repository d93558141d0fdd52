"""What the frame server costs and how it behaves, on this machine, as ratios within one run.

    python benchmarks/transport.py transport     frames/s against a bare echo and its peers
    python benchmarks/transport.py policy        a source that is faster than the restorer
    python benchmarks/transport.py restart       the server is killed under load and comes back

Servers run in processes of their own. `transport` compares frames/s through the server, with
a restorer that copies its input, with a bare DEALER/ROUTER echo that reads every pixel and
writes it anew, on the same socket options. imagezmq and vidgear join where they are installed.
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
import psutil
import tyro
import zmq

from splatmend.core import Frame, RestoreOptions, keep_freed_memory, load_restorer
from splatmend.plugin.client import Client, ClientOptions, Shown
from splatmend.plugin.framing import MAGIC, Limits
from splatmend.plugin.messages import FrameRequest, Hello, Welcome
from splatmend.plugin.protocol import encode, parse
from splatmend.plugin.server import Server, ServerOptions
from splatmend.plugin.sessions import Policy
from splatmend.plugin.sockets import set_common_options
from splatmend.plugin.wire_frames import to_planes
from splatmend.plugin.workers import Engine, engine_of

PORT = 17878
LIMITS = Limits()
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Config:
    what: tyro.conf.Positional[Literal["transport", "policy", "restart"]]
    size: int = 512
    seconds: float = 1.5
    """Of each measurement."""
    rounds: int = 3
    """All rows are measured in turn, so often."""
    service_ms: float = 50.0
    """policy, restart: what the restorer takes."""
    fps: float = 30.0
    """policy, restart: of the source."""
    clients: int = 3
    """restart: at once, one of them ordered."""
    out: Path | None = None
    """Receives the figures as JSON."""


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    rows = {"transport": transport, "policy": policy, "restart": restart}[config.what](config)
    report(rows)
    if config.out is not None:
        config.out.write_text(json.dumps({"config": vars(config), "rows": rows}, default=str))


def report(rows: list[dict[str, Any]]) -> None:
    """A markdown table."""
    names = list(rows[0])
    sys.stdout.write("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|\n")
    for row in rows:
        cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        sys.stdout.write("| " + " | ".join(cells) + " |\n")


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    started = SPAWN.Process(target=target, args=arguments, daemon=True)
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join()


# Servers


def echo_server(port: int, keep: bool = False) -> None:
    """The bare echo: no protocol, no threads, no checks; one pass over the pixels."""
    if keep:
        keep_freed_memory()
    url = f"tcp://127.0.0.1:{port}"
    router = zmq.Context().socket(zmq.ROUTER)
    set_common_options(router, url)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else a full queue swallows the answer
    router.bind(url)
    while True:
        identity, header, pixels = router.recv_multipart(copy=False)
        copy = np.frombuffer(pixels.buffer, np.uint8).copy()
        router.send_multipart([identity, header, copy], copy=False)


def copy_engine() -> Engine:
    return Engine("copy", lambda frames: [f.with_color(f.color.copy()) for f in frames])


def tensor_engine() -> Engine:
    return engine_of(load_restorer("copy", device="cpu"), RestoreOptions())


def slow_engine(milliseconds: float) -> Engine:
    def restore(frames: Any) -> list[Frame]:
        time.sleep(milliseconds / 1e3)
        return [f.with_color(255 - f.color) for f in frames]

    return Engine("slow", restore)


def smp_server(port: int, engine: Callable[..., Engine], *arguments: Any, credit: int = 1) -> None:
    keep_freed_memory()  # as `splatmend serve` does
    options = ServerOptions(
        urls=(f"tcp://127.0.0.1:{port}",), policy=Policy(credit_local=credit)
    )  # fmt: skip
    Server([engine(*arguments)], options).start()
    time.sleep(3600)


def imagezmq_server(port: int) -> None:
    import imagezmq

    hub = imagezmq.ImageHub(open_port=f"tcp://127.0.0.1:{port}")
    while True:
        _, image = hub.recv_image()
        hub.send_reply(image.copy().tobytes())


def netgear_server(port: int) -> None:
    from vidgear.gears import NetGear

    options = {"bidirectional_mode": True, "jpeg_compression": False}
    gear = NetGear(address="127.0.0.1", port=str(port), protocol="tcp", pattern=1,
                   receive_mode=True, logging=False, **options)  # fmt: skip
    last = None
    while True:
        received = gear.recv(return_data=last)
        if received is not None:
            last = received[1].copy()


# Clients: each yields once per answered frame


def echo_client(port: int, frame: np.ndarray, inflight: int) -> Iterator[None]:
    url = f"tcp://127.0.0.1:{port}"
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        set_common_options(dealer, url)
        dealer.connect(url)
        for _ in range(inflight - 1):
            dealer.send_multipart([b"x" * 200, frame], copy=False)
        while True:
            dealer.send_multipart([b"x" * 200, frame], copy=False)
            dealer.recv_multipart(copy=False)
            yield


def smp_client(port: int, frame: np.ndarray, inflight: int) -> Iterator[None]:
    """SMP/1 spoken by hand and in as few words as the bare echo, so that the server is measured."""
    url = f"tcp://127.0.0.1:{port}"
    planes, data = to_planes(Frame(color=frame))
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        set_common_options(dealer, url)
        dealer.connect(url)
        dealer.send_multipart([MAGIC, *encode(Hello(mode="ordered"))], copy=False)
        welcome = parse(dealer.recv_multipart()[1:], LIMITS)
        assert isinstance(welcome, Welcome)
        assert welcome.credit >= inflight
        request = FrameRequest(session=welcome.session, id=0, height=frame.shape[0],
                               width=frame.shape[1], planes=planes, data=data)  # fmt: skip
        before, after = bytes(encode(request)[0]).split(b'"id":0,')
        answered = 0
        for number in range(1 << 40):
            header = b'%b"id":%d,%b' % (before, number, after)
            dealer.send_multipart([MAGIC, header, frame], copy=False)
            if number - answered + 1 < inflight:
                continue
            answer = bytes(dealer.recv_multipart(copy=False)[1])
            assert b'"t":"result"' in answer
            assert b'"id":%d,' % answered in answer
            answered += 1
            yield


def our_client(port: int, frame: np.ndarray, mode: Any) -> Iterator[None]:
    given = Frame(color=frame)
    with Client(f"tcp://127.0.0.1:{port}", ClientOptions(mode=mode, deadline_ms=5000)) as client:
        assert client.wait(20)
        if mode == "ordered":
            for shown in client.stream(given for _ in range(1 << 40)):
                assert shown.restored, shown.why
                yield
        while True:
            shown = client.restore(given)
            assert shown.restored, shown.why
            yield


def imagezmq_client(port: int, frame: np.ndarray) -> Iterator[None]:
    import imagezmq

    with closing(imagezmq.ImageSender(connect_to=f"tcp://127.0.0.1:{port}")) as sender:
        while True:
            reply = sender.send_image("", frame)
            np.frombuffer(reply, np.uint8).reshape(frame.shape)
            yield


def netgear_client(port: int, frame: np.ndarray) -> Iterator[None]:
    from vidgear.gears import NetGear

    options = {"bidirectional_mode": True, "jpeg_compression": False}
    gear = NetGear(address="127.0.0.1", port=str(port), protocol="tcp", pattern=1,
                   logging=False, **options)  # fmt: skip
    try:
        while True:
            gear.send(frame)
            yield
    finally:
        gear.close()


@dataclass(frozen=True)
class Row:
    name: str
    server: Callable[..., None]
    arguments: tuple[Any, ...]
    client: Callable[..., Iterator[None]]
    with_: tuple[Any, ...] = ()


def transport(config: Config) -> list[dict[str, Any]]:
    """Frames/s and time a frame, 1 and 3 in flight; ratios to the bare echo with as many."""
    rows = [
        Row("bare echo, 1 in flight", echo_server, (), echo_client, (1,)),
        Row("SMP/1 server, 1 in flight", smp_server, (copy_engine,), smp_client, (1,)),
        Row("SMP/1 server and client, sync", smp_server, (copy_engine,), our_client, ("sync",)),
        Row("imagezmq, image as the reply", imagezmq_server, (), imagezmq_client),
        Row("vidgear NetGear, both ways, raw", netgear_server, (), netgear_client),
        Row("bare echo, 3 in flight", echo_server, (), echo_client, (3,)),
        Row("the same, freed memory kept", echo_server, (True,), echo_client, (3,)),
        Row("SMP/1 server, 3 in flight", smp_server, (copy_engine,), smp_client, (3,)),
        Row("SMP/1 server and client, ordered", smp_server, (copy_engine,), our_client,
            ("ordered",)),
        Row("SMP/1 with tensors, ordered", smp_server, (tensor_engine,), our_client, ("ordered",)),
    ]  # fmt: skip
    rows = [row for row in rows if available(row)]
    figures: dict[str, list[tuple[float, float, float]]] = {row.name: [] for row in rows}
    for turn in range(config.rounds):
        for index, row in enumerate(rows):
            port = PORT + turn * len(rows) + index
            credit = {"credit": 3} if "3 in" in row.name or "ordered" in row.name else {}
            target = row.server if row.server is not smp_server else _server_with(credit)
            with process(target, port, *row.arguments):
                figures[row.name].append(measure(row, port, config))
    table = []
    for row in rows:
        fps, p50, p99 = (statistics.median(column) for column in zip(*figures[row.name]))  # noqa: B905
        many = "3 in" in row.name or "ordered" in row.name or "the same" in row.name
        base = f"bare echo, {3 if many else 1} in flight"
        bare_fps, bare_p50, _ = (statistics.median(c) for c in zip(*figures[base]))  # noqa: B905
        table.append({"": row.name, "frames/s": fps, "p50 ms": p50, "p99 ms": p99,
                      "to bare": fps / bare_fps, "added ms": p50 - bare_p50})  # fmt: skip
    return table


def _server_with(credit: dict[str, int]) -> Callable[..., None]:
    return smp_server_of_three if credit else smp_server


def smp_server_of_three(port: int, engine: Callable[..., Engine]) -> None:
    smp_server(port, engine, credit=3)


def available(row: Row) -> bool:
    try:
        if row.server is imagezmq_server:
            import imagezmq  # noqa: F401
        if row.server is netgear_server:
            import vidgear.gears  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"{row.name}: left out, {error}\n")
        return False
    return True


def measure(row: Row, port: int, config: Config) -> tuple[float, float, float]:
    """Frames/s, and the median and 99th percentile of the time between answers, times inflight."""
    inflight = row.with_[0] if row.with_ and isinstance(row.with_[0], int) else 1
    frames = row.client(port, noise(config.size), *row.with_)
    for _ in range(20):
        next(frames)
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < config.seconds:
        before = time.perf_counter()
        next(frames)
        times.append(time.perf_counter() - before)
    fps = len(times) / (time.perf_counter() - began)
    frames.close()
    times.sort()
    middle, high = times[len(times) // 2], times[len(times) * 99 // 100]
    return fps, middle * 1e3 * inflight, high * 1e3 * inflight


# Policies


def policy(config: Config) -> list[dict[str, Any]]:
    """Age and drops of each mode, with a source that is faster than the restorer."""
    rows = []
    for offset, mode in enumerate(("latest", "sync", "ordered")):
        port = PORT + 100 + offset
        with process(smp_server, port, slow_engine, config.service_ms) as server:
            rows.append({"": mode, **run_source(config, port, mode)})
            memory = psutil.Process(server.pid).memory_info().rss / 1e6
            rows[-1]["server MB"] = memory
    return rows


def run_source(config: Config, port: int, mode: Any) -> dict[str, Any]:
    count = int(4 * config.seconds * config.fps)
    options = ClientOptions(mode=mode, deadline_ms=1000, max_age_ms=1000)
    ages: list[float] = []
    whys: Counter[str] = Counter()
    with Client(f"tcp://127.0.0.1:{port}", options) as client:
        assert client.wait(20)
        began = time.perf_counter()

        def source() -> Iterator[Frame]:
            for index in range(count):
                time.sleep(max(0.0, began + index / config.fps - time.perf_counter()))
                yield Frame(color=np.full((config.size, config.size, 3), index % 256, np.uint8))

        if mode == "ordered":
            shown = list(client.stream(source()))
        else:
            shown = [client.restore(frame) for frame in source()]
        seconds = time.perf_counter() - began
        back_ms = client.age_ms
        assert back_ms is not None
        for each in shown:
            whys[each.why or "restored"] += 1
            if each.restored:
                ages.append(each.age_ms)
        distinct = len({each.id for each in shown if each.restored})
        foreign = sum(each.restored and (each.frame.color[0, 0, 0] != 255 - each.id % 256)
                      for each in shown)  # fmt: skip
    return {
        "given": count,
        "restored, distinct": distinct,
        "fps": distinct / seconds,
        "median age back ms": back_ms[0],
        "in service times": back_ms[0] / config.service_ms,
        "median age shown ms": statistics.median(ages),
        "raw": dict(whys - Counter(restored=whys["restored"])),
        "wrong": int(foreign),
    }


class Viewer:
    """A client on a thread of its own that notes what it was shown, and when."""

    def __init__(self, index: int, mode: Any, port: int, config: Config) -> None:
        self.index, self.mode, self.port, self.config = index, mode, port, config
        self.log: list[tuple[float, Shown, bool]] = []
        self.running = True
        self.thread = Thread(target=self.run)
        self.thread.start()

    def value(self, number: int) -> int:
        """Every client has colours of its own, so that a foreign frame would show."""
        return (number * self.config.clients + self.index) % 251

    def frames(self) -> Iterator[Frame]:
        number = 0
        while self.running:
            yield Frame(color=np.full((64, 64, 3), self.value(number), np.uint8))
            number += 1
            time.sleep(1 / self.config.fps)

    def run(self) -> None:
        options = ClientOptions(mode=self.mode, deadline_ms=1000, max_age_ms=1000)
        with Client(f"tcp://127.0.0.1:{self.port}", options) as client:
            if self.mode == "ordered":
                self.note(client.stream(self.frames()))
            else:
                self.note(client.restore(frame) for frame in self.frames())

    def note(self, all_shown: Iterator[Shown]) -> None:
        for shown in all_shown:
            value = self.value(shown.id)
            expected = 255 - value if shown.restored else value
            right = bool(shown.frame.color[0, 0, 0] == expected)
            self.log.append((time.perf_counter(), shown, right))


def restart(config: Config) -> list[dict[str, Any]]:
    """The server is killed under load, comes back after a second, and all clients go on."""
    port = PORT + 200
    service = slow_engine, config.service_ms / config.clients
    modes = [("sync", "latest")[i % 2] for i in range(config.clients - 1)] + ["ordered"]
    viewers = [Viewer(i, mode, port, config) for i, mode in enumerate(modes)]
    with process(smp_server, port, *service):
        while not all(any(shown.restored for _, shown, _ in v.log) for v in viewers):
            time.sleep(0.01)
        time.sleep(config.seconds)
        killed = time.perf_counter()
    time.sleep(1)
    with process(smp_server, port, *service):
        began = wait_for_port(port)
        time.sleep(2 * config.seconds)
        for viewer in viewers:
            viewer.running = False
        for viewer in viewers:
            viewer.thread.join()
    return [
        {
            "": viewer.mode,
            "shown": len(viewer.log),
            "restored": sum(shown.restored for _, shown, _ in viewer.log),
            "raw while away": sum(
                not shown.restored for at, shown, _ in viewer.log if killed < at < began
            ),
            "server away s": began - killed,
            "back after s": min(a for a, s, _ in viewer.log if s.restored and a > began) - began,
            "oldest shown ms": max(s.age_ms for _, s, _ in viewer.log) if viewer.mode != "ordered"
            else 0.0,
            "wrong": sum(not right for _, _, right in viewer.log),
        }
        for viewer in viewers
    ]  # fmt: skip


def wait_for_port(port: int) -> float:
    import socket

    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
            return time.perf_counter()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
