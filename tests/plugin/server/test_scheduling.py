"""The order of service, and its fairness."""

import threading
from collections import Counter
from typing import Any

import pytest

from splatmend.core import Frame
from splatmend.plugin.protocol.codec import encode
from splatmend.plugin.protocol.framing import MAGIC
from splatmend.plugin.protocol.messages import ErrorReply, FrameRequest, Result
from splatmend.plugin.server import Engine, Policy

from serving import Held, negative
from waiting import until
from wire import Gate


def test_every_frame_gets_exactly_one_answer(start, connect) -> None:
    """Floods, bad frames and slow work, in all modes at once."""
    held = Held()
    server = start(Engine("slow", held, max_batch=2), Engine("slow", held))
    wires = [connect(server, mode=mode) for mode in ("latest", "sync", "ordered") * 2]
    for number in range(100):
        held.let_go()
        for wire in wires:
            if number % 7 == 3:  # too few bytes
                header = encode(FrameRequest(session=wire.session, id=number, width=9, height=9,
                                             planes=(), data=()))[0]  # fmt: skip
                wire.socket.send_multipart([MAGIC, header])
            else:
                wire.frame(number)
    held.let_go(1000)
    totals = Counter[str]()
    for wire in wires:
        answers = wire.answers(100)
        assert sorted(answers) == list(range(100))
        kinds = Counter(type(a).__name__ for a in answers.values())
        assert kinds["ErrorReply"] == 14
        totals += Counter(getattr(a, "why", type(a).__name__) for a in answers.values())
        assert wire.receive(20) is None
    counted = server.figures().frames
    assert counted["result"] == totals["Result"]
    assert counted["superseded"] == totals["superseded"]
    assert counted["error"] == totals["ErrorReply"]
    assert sum(counted.values()) == 600


def test_the_newest_frame_wins(start, connect) -> None:
    gate = Gate()
    wire = connect(start(gate.engine))
    wire.frame(0)
    assert gate.entered.acquire(timeout=5)
    for number in range(1, 6):
        wire.frame(number)
    early = wire.answers(4)
    assert {(a.id, a.why) for a in early.values()} == {(n, "superseded") for n in (1, 2, 3, 4)}
    gate.open.set()
    late = wire.answers(2)
    assert sorted(late) == [0, 5]
    assert all(isinstance(a, Result) for a in late.values())


@pytest.mark.parametrize("own", [True, False])
def test_stale_frames_are_dropped_while_the_worker_is_busy(own, start, connect) -> None:
    gate = Gate()
    server = start(gate.engine)
    first = connect(server)
    second = connect(server, max_age_ms=None if own else 30)
    first.frame(0)
    assert gate.entered.acquire(timeout=5)
    second.frame(9, max_age_ms=30 if own else None)
    answer = second.receive()  # before the gate opens
    assert (answer.id, answer.why) == (9, "stale")
    gate.open.set()
    assert isinstance(first.receive(), Result)


def test_ordered_frames_are_never_dropped_within_the_credit(start, connect) -> None:
    gate = Gate(max_batch=2)
    server = start(gate.engine, policy=Policy(credit_local=1))
    wire = connect(server, mode="ordered", max_age_ms=1)
    other = connect(server, max_age_ms=1)
    assert wire.hello(mode="ordered").credit == 4
    for number in range(4):
        wire.frame(number, value=number)
    assert gate.entered.acquire(timeout=5)
    wire.frame(4)  # one more than was allowed
    over = wire.receive()
    assert (over.id, over.why) == (4, "busy")
    other.frame(0)
    assert other.receive().why == "stale"  # earlier frames are older still
    gate.open.set()
    for number in range(4):
        answer = wire.receive()
        assert (answer.id, isinstance(answer, Result)) == (number, True)


def test_sessions_take_turns(start, connect) -> None:
    gate = Gate()
    server = start(gate.engine, policy=Policy(credit_local=50))
    greedy, modest = (connect(server, mode="ordered") for _ in range(2))
    greedy.frame(0)
    assert gate.entered.acquire(timeout=5)
    for number in range(1, 10):
        greedy.frame(number)
    modest.frame(0)
    modest.frame(1, size=(8, 8))  # another size, so that it can be seen that both are in
    until(lambda: server.figures().streams[1].size == (8, 8))
    gate.open.set()
    greedy.answers(10)
    modest.answers(2)
    order = [session == modest.session for [(session, _)] in gate.batches]
    assert order[:5] == [False, True, False, True, False]


def test_frames_of_several_streams_share_a_batch(start, connect) -> None:
    gate = Gate(max_batch=3)
    server = start(gate.engine)
    wires = [connect(server) for _ in range(6)]
    wires[0].frame(0)
    assert gate.entered.acquire(timeout=5)
    for number, wire in enumerate(wires[1:], 1):
        wire.frame(0, value=number, size=(8, 8) if number == 3 else (4, 6))
    until(lambda: all(s.size is not None for s in server.figures().streams))
    gate.open.set()
    for number, wire in enumerate(wires[1:], 1):
        assert wire.receive().data[0][0] == 255 - number
    # the one of another size waits for its turn
    assert [[value for _, value in batch] for batch in gate.batches] == [[0], [1, 2, 4], [3], [5]]


def test_a_frame_that_breaks_its_batch_breaks_alone(start, connect) -> None:
    started = threading.Event()

    def touchy(frames: Any) -> list[Frame]:
        started.wait(5)
        if any(f.color[0, 0, 0] == 13 for f in frames):
            raise RuntimeError("thirteen")
        return negative(frames)

    server = start(Engine("touchy", touchy, max_batch=4))
    wires = [connect(server) for _ in range(4)]
    for value, wire in zip((1, 2, 13, 4), wires, strict=True):
        wire.frame(0, value=value)
    until(lambda: all(s.size is not None for s in server.figures().streams))
    started.set()
    answers = [wire.receive() for wire in wires]
    assert [type(a) for a in answers] == [Result, Result, ErrorReply, Result]
    assert (answers[2].code, answers[2].text) == ("internal", "RuntimeError: thirteen")
    assert not answers[2].fatal
    wires[2].frame(1)
    assert isinstance(wires[2].receive(), Result)


def test_an_engine_that_returns_nonsense_is_an_error(start, connect) -> None:
    wire = connect(start(Engine("none", lambda _: [])))
    wire.frame(0)
    assert "made nothing of 1 frames" in wire.receive().text


def test_streams_are_spread_over_the_devices(start, connect) -> None:
    both = threading.Barrier(2)

    def meet(frames: Any) -> list[Frame]:
        both.wait(5)
        return negative(frames)

    server = start(Engine("meet", meet), Engine("meet", meet))
    wires = [connect(server), connect(server)]
    for wire in wires:
        wire.frame(0)
    assert all(isinstance(wire.receive(), Result) for wire in wires)
