"""Servers that are away, silent, killed or forgetful, and interruptions: the client goes on."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from splatmend.core import Frame
from splatmend.plugin.client.breaker import Breaker
from splatmend.plugin.client.connection import Connection
from splatmend.plugin.protocol.messages import ErrorReply

from fake_server import client_of, picture
from waiting import is_waiting, until

# Servers that come and go


def test_a_server_may_be_absent_and_come(start, client) -> None:
    server = start()
    url = server.urls[0]
    server.stop()
    asks = client(url, wait=False, deadline_ms=600_000)  # which nobody waits for
    frame = picture(1)
    for _ in range(100):
        shown = asks.restore(frame)
        assert shown.frame is frame
        assert shown.why == "down"
    start(url=url)
    until(lambda: asks.restore(frame).restored)


def test_stopping_and_starting_the_server(start, client) -> None:
    server = start()
    url = server.urls[0]
    clients = {m: client(server, mode=m) for m in ("sync", "latest")}
    done = threading.Event()
    ordered = client(server, mode="ordered")
    collected: list[Any] = []

    def endless() -> Iterator[Frame]:
        for value in range(1 << 20):
            if done.is_set():
                return
            yield picture(value % 256)

    thread = threading.Thread(target=lambda: collected.extend(ordered.stream(endless())))
    thread.start()
    for asks in clients.values():
        until(lambda asks=asks: asks.restore(picture(9)).restored)
    server.stop()
    until(lambda: all(a.state == "down" for a in (*clients.values(), ordered)))
    count = len(collected)
    start(url=url)
    for asks in clients.values():
        until(lambda asks=asks: asks.restore(picture(9)).restored, 3)
    until(lambda: len(collected) > count + 10)
    done.set()
    thread.join()
    assert [s.id for s in collected] == list(range(len(collected)))
    assert all(s.restored for s in collected)
    assert all((s.frame.color == 255 - s.id % 256).all() for s in collected)


SERVE = """
import sys, threading
from splatmend.plugin.server import Server, ServerOptions
from splatmend.plugin.server import Engine
def negative(frames):
    return [frame.with_color(255 - frame.color) for frame in frames]
Server([Engine("negative", negative)], ServerOptions(urls=(sys.argv[1],))).start()
print("ready", flush=True)
threading.Event().wait()
"""


@pytest.mark.slow
def test_a_server_that_is_killed_under_load(client) -> None:
    """Kills the server with SIGKILL: answers are lost, and yet nothing wrong is shown."""
    with zmq.Context() as context, context.socket(zmq.REP) as free:
        port = free.bind_to_random_port("tcp://127.0.0.1")
    url = f"tcp://127.0.0.1:{port}"

    def launch() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, url], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdout.close()
        return process

    server = launch()
    try:
        asks = client(url, deadline_ms=600_000)  # which nobody waits for
        values = iter(range(1 << 30))

        def ask() -> bool:
            value = next(values) % 256
            frame = picture(value)
            shown = asks.restore(frame)
            if shown.restored:
                assert (shown.frame.color == 255 - value).all()
            else:
                assert shown.frame is frame
            return shown.restored

        for _ in range(20):
            ask()
        threading.Timer(0.05, server.kill).start()
        while ask():
            pass
        server.wait()
        assert not any(ask() for _ in range(100))
        assert "late" not in asks.counts
        server = launch()
        until(ask, 3)
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_a_silent_server_is_bypassed_and_probed(fake, client) -> None:
    asks = client_of(fake, client, deadline_ms=40, misses=3)
    whys = []
    while (why := asks.restore(picture(0)).why) == "late":
        whys.append(why)
    assert 3 <= len(whys) <= 4
    assert why == "bypass"
    until(lambda: asks.counts["late"] >= 3)
    late = asks.counts["late"]
    assert late <= len(whys)
    assert all(asks.restore(picture(0)).why == "bypass" for _ in range(100))
    assert asks.counts["late"] == late  # nobody waits for a bypassed server
    while fake.receive(100):  # earlier frames that were never answered
        pass
    until(lambda: asks.state == "probe", 5)
    assert asks.restore(picture(1)).why == "bypass"
    probe = fake.receive()
    assert set(bytes(probe.data[0])) == {1}
    done = threading.Event()

    def answer_all() -> None:
        while not done.is_set():
            if asked := fake.receive(10):
                fake.answer(asked)

    thread = threading.Thread(target=answer_all)
    thread.start()
    until(lambda: asks.restore(picture(2)).restored, 20)
    done.set()
    thread.join()


@pytest.mark.slow
def test_credit_that_was_lost_is_taken_back(fake, client) -> None:
    asks = client_of(fake, client, mode="latest")
    asks.restore(picture(1))
    lost = fake.receive()
    asks.restore(picture(2))
    assert fake.receive(300) is None  # no credit
    found = fake.receive(5000)
    assert (lost.id, found.id) == (0, 1)
    fake.answer(lost)
    fake.answer(found)
    until(lambda: asks.restore(picture(3)).id == 1)
    assert asks.counts["unasked"] == 1


@pytest.mark.slow
def test_a_forgotten_session_is_opened_again(fake, client) -> None:
    asks = client_of(fake, client, mode="latest")
    asks.restore(picture(1))
    asked = fake.receive()
    fake.send(ErrorReply(code="no_session", text="who are you?", id=asked.id))
    fake.welcome("another")
    until(lambda: asks.state == "up")
    asks.restore(picture(2))
    assert fake.receive().session == "another"


def test_breaker() -> None:
    breaker = Breaker(misses_allowed=2, shortest_s=1, longest_s=3)
    breaker.missed(0)
    breaker.answered()
    breaker.missed(0)
    assert breaker.is_closed
    breaker.missed(0)
    assert not breaker.is_closed
    pauses, now = [], 0.0
    for _ in range(4):
        opened = now
        while not breaker.may_send(now):
            now += 0.5
        pauses.append(now - opened)
        breaker.sent()
        assert not breaker.may_send(now + 100)  # one probe at a time
        breaker.missed(now)
    assert pauses == [1, 2, 3, 3]
    breaker.sent()
    breaker.answered()
    assert breaker.is_closed


# Interrupted by its viewer


class InterruptedRenderError(Exception):
    """Throws the exception into the render thread at any line, as viewers do."""


@pytest.mark.slow
@pytest.mark.usefixtures("no_collections")
def test_an_interruption_at_any_line_does_no_harm(start, client) -> None:
    asks = client(start())

    def restore_interrupted_at(line: int, value: int) -> bool:
        """Return False once the call ends before that line."""
        left = [line]

        def trace(*_: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise InterruptedRenderError
            return trace

        previous = sys.gettrace()
        sys.settrace(trace)
        try:
            asks.restore(picture(value))
        except InterruptedRenderError:
            return True
        finally:
            sys.settrace(previous)
        return False

    line = 0
    while restore_interrupted_at(line, line % 256):
        shown = asks.restore(picture(255 - line % 256))
        if shown.restored:
            assert (shown.frame.color == line % 256).all()
        line += 1
    assert line > 50
    assert asks.restore(picture(3)).restored


# Closing, options, keys


def test_closing_ends_waiting(fake, client) -> None:
    asks = client(fake.url, mode="ordered", wait=False)
    fake.welcome()
    threading.Timer(0.2, asks.close).start()
    shown = list(asks.stream([picture(1), picture(2), picture(3)]))
    assert [s.why for s in shown][-2:] == ["closed", "closed"]


def test_closing_again_waits_for_the_end_too(fake, client, monkeypatch) -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "smp-client"]

    release, releasing, go = Connection._release, threading.Event(), threading.Event()

    def slowly(link: Connection) -> None:
        releasing.set()
        assert go.wait(30)
        release(link)

    left: list[list[str]] = []

    def close() -> None:
        asks.close()
        left.append(threads())

    monkeypatch.setattr(Connection, "_release", slowly)
    asks = client(fake.url, wait=False)
    first, second = threading.Thread(target=close), threading.Thread(target=close)
    first.start()
    assert releasing.wait(5)
    second.start()
    until(lambda: is_waiting(first) and is_waiting(second))
    go.set()
    first.join()
    second.join()
    asks.close()
    assert left == [[], []]


def test_closing_says_bye(start, client) -> None:
    server = start()
    asks = client(server)
    assert len(server.figures().streams) == 1
    asks.close()
    until(lambda: not server.figures().streams, 2)
    assert asks.restore(picture(1)).why == "down"
