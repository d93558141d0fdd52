"""The server and plain SMP/1: sessions, their messages, and their ends."""

import itertools
from contextlib import closing

import pytest

from splatmend.plugin.protocol.framing import MAGIC
from splatmend.plugin.protocol.messages import (
    Bye,
    Drop,
    ErrorReply,
    FrameRequest,
    Hello,
    Ping,
    Pong,
    Result,
    Stats,
    Want,
    Welcome,
)
from splatmend.plugin.protocol.plane_formats import Plane
from splatmend.plugin.server import Engine, Policy

from waiting import until
from wire import Gate, Wire


def test_hello_and_a_frame(start, connect) -> None:
    server = start()
    wire = connect(server)
    welcome = wire.hello(stream="cam0")
    assert (welcome.credit, welcome.model, welcome.stateful) == (1, "negative", False)
    assert welcome.uses == ("color", "alpha", "mask")
    wire.frame(5, value=100, pts=-77)
    result = wire.receive()
    assert isinstance(result, Result)
    assert (result.session, result.id, result.pts) == (welcome.session, 5, -77)
    assert (result.width, result.height, result.credit, result.applied) == (6, 4, 1, True)
    assert bytes(result.data[0]) == bytes([155]) * 72
    assert result.proc_ms > 0
    wire.send(Ping(n=3))
    assert wire.receive() == Pong(n=3)


def test_results_come_as_hello_wants_them(start, connect) -> None:
    wire = connect(start(), want=Want(fmt="rgba8", origin="bl"))
    wire.frame(0, value=1)
    result = wire.receive()
    assert result.planes[0].fmt == "rgba8"
    assert bytes(result.data[0]) == bytes([254, 254, 254, 255]) * 24


def test_what_was_left_alone_is_not_sent_back(start, connect) -> None:
    wire = connect(start(Engine("lazy", list)))
    wire.frame(0)
    result = wire.receive()
    assert (result.applied, result.planes) == (False, ())


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Hello(versions=(2, 3)), "version"),
        (FrameRequest(session="", id=0, width=1, height=1, data=(b"abc",),
                      planes=(Plane(name="color", fmt="rgb8", stride=3),)), "no_session"),
        (Stats(), "no_session"),
        (Drop(session="", id=1, why="stale", credit=1), "no_session"),
    ],
)  # fmt: skip
def test_strangers_are_answered(message, code, start, stack) -> None:
    wire = stack.enter_context(closing(Wire(start().urls[0])))
    wire.send(message)
    answer = wire.receive()
    assert isinstance(answer, ErrorReply)
    assert answer.code == code
    assert answer.id == getattr(message, "id", None) or not isinstance(message, FrameRequest)


def test_messages_for_clients_are_refused(start, connect) -> None:
    wire = connect(start())
    wire.send(Drop(session=wire.session, id=1, why="stale", credit=1))
    assert wire.receive().code == "unsupported"
    wire.send(ErrorReply(code="internal", text="no ping-pong of errors"))
    wire.send(Pong())
    assert wire.receive(100) is None


def test_a_frame_of_another_session_is_refused(start, connect) -> None:
    wire = connect(start())
    wire.session = "another"
    wire.frame(1)
    answer = wire.receive()
    assert (answer.code, answer.id) == ("no_session", 1)


def test_bad_frames_harm_nobody_and_many_end_the_session(start, connect) -> None:
    server = start()
    good, bad = connect(server), connect(server)
    for number in range(9):
        bad.socket.send_multipart([MAGIC, b"{", b"x" * 1000])
        assert bad.receive().code == "bad_header"
        good.frame(number)
        assert isinstance(good.receive(), Result)
    bad.frame(100)  # a good one: the count starts again
    assert isinstance(bad.receive(), Result)
    for _ in range(9):
        bad.socket.send_multipart([b"JUNK"])
        assert not bad.receive().fatal
    bad.socket.send_multipart([MAGIC, *[b"x"] * 500])
    assert bad.receive().fatal
    assert isinstance(bad.receive(), Bye)
    bad.frame(101)
    assert bad.receive().code == "no_session"
    bad.hello()
    assert len(server.figures().streams) == 2


def test_ids_must_grow(start, connect) -> None:
    wire = connect(start())
    wire.frame(7)
    assert isinstance(wire.receive(), Result)
    wire.frame(7)
    answer = wire.receive()
    assert "ids must grow: 7 came after 7" in answer.text
    assert answer.id is None  # 7 has had its answer


def test_a_second_hello_replaces_the_session(start, connect) -> None:
    server = start()
    wire = connect(server)
    first = wire.session
    wire.send(Hello())
    bye, welcome = wire.receive(), wire.receive()
    assert (bye.session, bye.why) == (first, "replaced")
    assert welcome.session != first
    assert len(server.figures().streams) == 1


def test_bye_is_answered_once_all_frames_are(start, connect) -> None:
    gate = Gate()
    wire = connect(start(gate.engine))
    wire.frame(0)
    assert gate.entered.acquire(timeout=5)
    wire.frame(1)
    wire.send(Bye())
    assert wire.receive().why == "shutdown"
    gate.open.set()
    assert isinstance(wire.receive(), Result)
    assert isinstance(wire.receive(), Bye)


@pytest.mark.slow
def test_silent_sessions_are_closed(start, connect) -> None:
    server = start(policy=Policy(idle_s=0.8))
    silent, chatty = connect(server), connect(server)
    number, bye = 0, None
    while bye is None:
        chatty.send(Ping(n=number))
        assert chatty.receive() == Pong(n=number)
        number, bye = number + 1, silent.receive(50)
    assert (bye.session, bye.why) == (silent.session, "idle")
    assert [s.session for s in server.figures().streams] == [chatty.session]


def test_the_number_of_sessions_is_bounded(start, connect, stack) -> None:
    server = start(policy=Policy(max_sessions=1))
    wire = connect(server)
    other = stack.enter_context(closing(Wire(server.urls[0])))
    other.send(Hello())
    answer = other.receive()
    assert (answer.code, answer.retry_ms) == ("busy", 1000)
    wire.send(Bye())
    assert isinstance(wire.receive(), Bye)
    other.hello()


@pytest.mark.slow
def test_who_has_missed_two_heartbeats_makes_way(start, connect, stack) -> None:
    server = start(policy=Policy(max_sessions=2, heartbeat_ms=300))
    silent, alive = connect(server), connect(server)
    other = stack.enter_context(closing(Wire(server.urls[0])))

    def other_is_let_in() -> bool:
        alive.send(Ping(n=1))
        assert isinstance(alive.receive(), Pong)
        other.send(Hello())
        answer = other.receive()
        assert isinstance(answer, Welcome) or answer.code == "busy"
        other.session = getattr(answer, "session", "")
        return isinstance(answer, Welcome)

    until(other_is_let_in)
    assert silent.receive().why == "idle"
    late = stack.enter_context(closing(Wire(server.urls[0])))
    late.send(Hello())
    assert late.receive().code == "busy"  # those two have spoken of late
    for wire in (alive, other):
        wire.frame(0)
        assert isinstance(wire.receive(), Result)


def test_a_client_that_does_not_read_is_given_up(start, connect, stack) -> None:
    server = start(policy=Policy(credit_local=1000))
    other = connect(server)
    stalled = stack.enter_context(closing(Wire(server.urls[0], queue=1)))
    stalled.hello(mode="ordered")
    numbers = itertools.count(1)

    def stalled_is_gone() -> bool:
        number = next(numbers)
        stalled.frame(number, size=(512, 512))
        other.frame(number)
        assert isinstance(other.receive(), Result)
        return len(server.figures().streams) == 1

    until(stalled_is_gone)
    assert [s.session for s in server.figures().streams] == [other.session]
