"""The server, spoken to in plain SMP/1: who is served when, and that nobody suffers for others."""

import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq

from splatmend.core import Frame, InputError, SplatmendError, from_tensor, to_tensor
from splatmend.plugin.framing import MAGIC, Limits
from splatmend.plugin.keys import KeysConfig, client_keys, make_keys
from splatmend.plugin.keys import main as keys_main
from splatmend.plugin.messages import (
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
from splatmend.plugin.planes import Plane
from splatmend.plugin.protocol import encode, parse
from splatmend.plugin.serve import ServeConfig, serve
from splatmend.plugin.serve import main as serve_main
from splatmend.plugin.server import Server, ServerOptions
from splatmend.plugin.sessions import Policy
from splatmend.plugin.shared_pass import SharedPass
from splatmend.plugin.stats import MetricsEndpoint, prometheus_text
from splatmend.plugin.watch import Watch, screen
from splatmend.plugin.wire_frames import to_planes
from splatmend.plugin.workers import Engine, engine_of

LOCAL = "tcp://127.0.0.1:0"
PATIENCE_MS = 5000


class Wire:
    """A DEALER that speaks SMP/1 and nothing else."""

    def __init__(
        self, url: str, keys: tuple[bytes, bytes, bytes] | None = None, *, queue: int = 1000
    ) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, queue)
        if keys is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey = keys[0], keys[1]
            self.socket.curve_serverkey = keys[2]
        self.socket.connect(url)
        self.session = ""

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()

    def send(self, message: Any) -> None:
        self.socket.send_multipart([MAGIC, *encode(message)])

    def receive(self, timeout_ms: int = PATIENCE_MS) -> Any:
        if not self.socket.poll(timeout_ms):
            return None
        magic, *parts = self.socket.recv_multipart()
        assert magic == MAGIC
        return parse(parts, Limits())

    def hello(self, **more: Any) -> Welcome:
        self.send(Hello(**more))
        welcome = self.receive()
        while isinstance(welcome, Bye):
            welcome = self.receive()
        assert isinstance(welcome, Welcome), welcome
        self.session = welcome.session
        return welcome

    def frame(
        self, number: int, value: int = 0, size: tuple[int, int] = (4, 6), **more: Any
    ) -> None:
        planes, data = to_planes(Frame(color=np.full((*size, 3), value, np.uint8)))
        self.send(
            FrameRequest(
                session=self.session, id=number, height=size[0], width=size[1], planes=planes,
                data=data, **more,
            )
        )  # fmt: skip

    def answers(self, count: int) -> dict[int, Any]:
        """The answers to so many frames by id; every id once."""
        found: dict[int, Any] = {}
        while len(found) < count:
            answer = self.receive()
            assert isinstance(answer, Result | Drop | ErrorReply), answer
            assert answer.id is not None
            assert answer.id not in found
            found[answer.id] = answer
        return found


def negative(frames: Any) -> list[Frame]:
    return [frame.with_color(255 - frame.color) for frame in frames]


class Gate:
    """An engine that says what it is given and waits until it may go on."""

    def __init__(self, *, max_batch: int = 1, is_open: bool = False) -> None:
        self.batches: list[list[tuple[str, int]]] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.engine = Engine("gate", self.restore, max_batch=max_batch)
        if is_open:
            self.open.set()

    def restore(self, frames: Any) -> list[Frame]:
        self.batches.append([(f.stream_id, int(f.color[0, 0, 0])) for f in frames])
        self.entered.release()
        assert self.open.wait(10)
        return negative(frames)


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Server]:
    """`start(engine, ..., option=value)`: a running server."""

    def run(*engines: Engine, **options: Any) -> Server:
        engines = engines or (Engine("negative", negative),)
        return stack.enter_context(Server(engines, ServerOptions(urls=(LOCAL,), **options)))

    return run


@pytest.fixture
def connect(stack: ExitStack) -> Callable[..., Wire]:
    """`connect(server, mode="latest", ...)`: a client that has said hello."""

    def run(server: Server, **hello: Any) -> Wire:
        wire = stack.enter_context(closing(Wire(server.urls[0])))
        wire.hello(**hello)
        return wire

    return run


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


def test_every_frame_gets_exactly_one_answer(start, connect) -> None:
    """Floods, bad frames and slow work, in all modes at once."""

    def slow(frames: Any) -> list[Frame]:
        time.sleep(0.001)
        return negative(frames)

    server = start(Engine("slow", slow, max_batch=2), Engine("slow", slow))
    wires = [connect(server, mode=mode) for mode in ("latest", "sync", "ordered") * 2]
    for number in range(100):
        for wire in wires:
            if number % 7 == 3:  # too few bytes
                header = encode(FrameRequest(session=wire.session, id=number, width=9, height=9,
                                             planes=(), data=()))[0]  # fmt: skip
                wire.socket.send_multipart([MAGIC, header])
            else:
                wire.frame(number)
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
    wire = connect(start(gate.engine, policy=Policy(credit_local=1)), mode="ordered", max_age_ms=1)
    assert wire.hello(mode="ordered").credit == 4
    for number in range(4):
        wire.frame(number, value=number)
    assert gate.entered.acquire(timeout=5)
    wire.frame(4)  # one more than was allowed
    over = wire.receive()
    assert (over.id, over.why) == (4, "busy")
    time.sleep(0.1)
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
    modest.frame(1)
    until(lambda: server.figures().streams[1].size is not None)
    gate.open.set()
    greedy.answers(10)
    modest.answers(2)
    order = [session == modest.session for [(session, _)] in gate.batches]
    assert order[:5] == [False, True, False, True, False]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


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


def test_a_client_that_does_not_read_is_given_up(start, connect, stack) -> None:
    server = start(policy=Policy(credit_local=1000))
    other = connect(server)
    stalled = stack.enter_context(closing(Wire(server.urls[0], queue=1)))
    stalled.hello(mode="ordered")
    limit = time.monotonic() + 15
    number = 0
    while len(server.figures().streams) == 2:
        assert time.monotonic() < limit
        number += 1
        stalled.frame(number, size=(512, 512))
        other.frame(number)
        assert isinstance(other.receive(), Result)
    assert [s.session for s in server.figures().streams] == [other.session]


# Memory along a stream


class Counting:
    """A stream that writes how many frames it has seen into the picture."""

    made: list["Counting"]

    def __init__(self) -> None:
        self.seen = 0
        self.motion: list[bool] = []

    def restore(self, frames: Any) -> list[Frame]:
        out = []
        for frame in frames:
            if frame.color[0, 0, 0] == 13:
                raise RuntimeError("thirteen")
            self.seen += 1
            self.motion.append(frame.motion is not None)
            out.append(frame.with_color(np.full_like(frame.color, self.seen)))
        return out

    def reset(self) -> None:
        self.seen = 0


def counting(streams: list[Counting]) -> Engine:
    def make() -> Counting:
        streams.append(Counting())
        return streams[-1]

    return Engine("counting", negative, new_stream=make, uses=("color", "motion"), max_batch=4)


def test_each_session_has_a_memory_of_its_own(start, connect) -> None:
    server = start(counting([]))
    one, two, none = connect(server), connect(server), connect(server, temporal=False)
    assert (one.hello().stateful, none.hello(temporal=False).stateful) == (True, False)
    for number in range(3):
        one.frame(number)
        assert one.receive().data[0][0] == number + 1
    two.frame(0)
    assert two.receive().data[0][0] == 1
    none.frame(0, value=5)
    assert none.receive().data[0][0] == 250
    one.hello()
    one.frame(3)
    assert one.receive().data[0][0] == 1


def test_memory_is_dropped_where_it_does_not_fit(start, connect) -> None:
    wire = connect(start(counting([])))

    def seen(number: int, **more: Any) -> Any:
        wire.frame(number, **more)
        answer = wire.receive()
        return answer.data[0][0] if isinstance(answer, Result) else answer.code

    assert [seen(0), seen(1)] == [1, 2]
    assert seen(2, cut=True) == 1
    assert seen(10) == 2  # some frames are missing
    assert seen(30) == 1  # too many are
    assert seen(31) == 2
    assert seen(32, size=(8, 8)) == 1
    assert seen(33, size=(8, 8)) == 2
    assert seen(34, size=(8, 8), value=13) == "internal"
    assert seen(35, size=(8, 8)) == 1


def test_motion_is_used_only_if_the_frame_before_was_seen(start, connect) -> None:
    streams: list[Counting] = []
    wire = connect(start(counting(streams)), mode="ordered")
    frame = Frame(color=np.zeros((4, 6, 3), np.uint8), motion=np.zeros((4, 6, 2), np.float32))
    planes, data = to_planes(frame)
    for number in (5, 6, 7, 9, 10):
        wire.send(FrameRequest(session=wire.session, id=number, width=6, height=4, planes=planes,
                               data=data))  # fmt: skip
    wire.answers(5)
    assert streams[0].motion == [False, True, True, False, True]


def test_an_ordered_stream_goes_in_batches_through_its_memory(start, connect) -> None:
    wire = connect(start(counting([])), mode="ordered")
    for number in range(8):
        wire.frame(number, cut=number == 5)
    answers = wire.answers(8)
    assert [answers[n].data[0][0] for n in range(8)] == [1, 2, 3, 4, 5, 1, 2, 3]


class Blend:
    """A stream of which each answer is the mean of the restored frame and the last answer."""

    def __init__(self, restorer: Any, _options: Any) -> None:
        self.restorer = restorer
        self.last: Any = None

    def restore(self, frames: Any) -> list[Frame]:
        out = []
        for frame in frames:
            now = self.restorer(to_tensor([frame.color]))
            self.last = now if self.last is None else (now + self.last) / 2
            out.append(frame.with_color(from_tensor(self.last, np.uint8)[0]))
        return out

    def reset(self) -> None:
        self.last = None


class Dark:
    """Halves, and notes the batches; refuses pictures that start with 13."""

    name, device, multiple, reach, keeps_colors = "dark", torch.device("cpu"), 1, 0, True

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()

    def __call__(self, rgb: Any) -> Any:
        assert self.open.wait(10)
        values = [round(float(picture[0, 0, 0]) * 255) for picture in rgb]
        if 13 in values:
            raise RuntimeError("thirteen")
        self.batches.append(values)
        return rgb / 2


def test_streams_with_memory_share_a_pass(start, connect) -> None:
    dark = Dark()
    server = start(engine_of(dark, max_batch=4, stream=Blend))
    wires = [connect(server) for _ in range(5)]
    wires[0].frame(0)
    until(lambda: server.figures().streams[0].size is not None)
    time.sleep(0.05)  # at work now
    values = [40, 80, 13, 120]
    for wire, value in zip(wires[1:], values, strict=True):
        wire.frame(0, value=value)
    until(lambda: all(s.size is not None for s in server.figures().streams))
    dark.open.set()
    answers = [wire.receive() for wire in wires[1:]]
    assert [type(a) for a in answers] == [Result, Result, ErrorReply, Result]
    assert [answers[i].data[0][0] for i in (0, 1, 3)] == [20, 40, 60]
    assert sorted(dark.batches) == [[0], [40], [80], [120]]  # one of the four broke the batch
    for wire, value in zip(wires[1:], (80, 160, 0, 240), strict=True):
        wire.frame(1, value=value)
    means = [wire.receive().data[0][0] for wire in wires[1:]]
    assert means == [30, 60, 0, 90]  # each with what it remembers
    assert sorted(v for batch in dark.batches for v in batch) == sorted(
        [0, 40, 80, 120, 80, 160, 0, 240]
    )


def test_a_shared_pass_is_one_pass() -> None:
    dark = Dark()
    dark.open.set()
    shared = SharedPass(dark)

    def task(value: int, calls: int, size: int = 2) -> list[int]:
        pictures = [torch.full((1, 3, size, 2), value / 255) for _ in range(calls)]
        return [round(float(shared(p)[0, 0, 0, 0]) * 255) for p in pictures]

    with ThreadPoolExecutor(5) as pool:
        results = shared.together(
            [
                lambda: task(40, 1),
                lambda: task(80, 2),
                lambda: task(20, 0),
                lambda: task(60, 1, size=3),
                lambda: task(100, 2),
            ],
            pool,
        )
        assert results == [[20], [40, 40], [], [30], [50, 50]]
        assert sorted(map(sorted, dark.batches)) == [[40, 80, 100], [60], [80, 100]]
        broken, whole = shared.together([lambda: task(13, 1), lambda: task(8, 1)], pool)
        assert isinstance(broken, RuntimeError)
        assert whole == [4]
    assert task(10, 1) == [5]  # and alone it is the restorer


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
    until(lambda: len(server.figures().streams) == 2)
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
        ("tcp://127.0.0.1:99999", "is no address: use tcp://host:port"),
        ("smoke://signal", "is no address"),
        ("ipc://*", "is no address"),
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
    with pytest.raises(InputError, match="is no ZeroMQ key file"):
        client_keys(keys / "absent", keys / "server.key")
    with pytest.raises(InputError, match="holds no secret key"):
        client_keys(keys / "server.key", keys / "server.key")
    (keys / "server.key_secret").chmod(0o644)
    with pytest.raises(InputError, match="others may read"):
        Server([Engine("negative", negative)], ServerOptions(urls=(LOCAL,), keys=keys))
    with pytest.raises(InputError, match="is no ZeroMQ key file"):
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

    text = prometheus_text(server.figures())
    assert 'splatmend_frames_total{outcome="result"} 4\n' in text
    assert 'stream="we\\"ird"' in text
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
    endpoint = stack.enter_context(MetricsEndpoint("127.0.0.1", 0, server.figures))
    with urllib.request.urlopen(f"http://{endpoint.address}/metrics") as page:
        assert b"splatmend_sessions 1" in page.read()
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(f"http://{endpoint.address}/")
    refused.value.close()
    host, port = endpoint.address.split(":")
    with pytest.raises(InputError, match="cannot serve metrics"):
        MetricsEndpoint(host, int(port), server.figures)

    shown = screen(server.figures(), columns=80, rows=24).splitlines()
    assert len(shown) == 6
    assert "4 restored  0 dropped  0 errors" in shown[0]
    assert 'we"ird' in shown[3]
    assert "6x4" in shown[3]
    assert [len(line) for line in shown[2:4]] == [80, 80]


def test_the_screen_fits(start, connect) -> None:
    server = start()
    for number in range(12):
        connect(server, stream=f"camera with a long name {number}")
    lines = screen(server.figures(), columns=50, rows=10).splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 50
    assert "... and 9 more" in lines


def test_watching_gives_the_terminal_back(start) -> None:
    class Terminal:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    terminal = Terminal()
    with Watch(start().figures, terminal):  # type: ignore[arg-type]
        until(lambda: "0 streams" in terminal.text)
    assert terminal.text.endswith("\x1b[?25h\x1b[?1049l")


# The command


def test_serve_says_where_and_stops(stack) -> None:
    stop, said = threading.Event(), []
    config = ServeConfig(model="copy", device=("cpu",), url=(LOCAL,), metrics="127.0.0.1:0")
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


def test_serve_stops_on_ctrl_c(capsys: Any) -> None:
    import os
    import signal

    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert serve_main(["--model", "copy", "--device", "cpu", "--url", LOCAL]) == 0
    assert capsys.readouterr().out.endswith("stopped\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "best"}, "no restorer called 'best'"),
        ({"device": ("tpu",)}, "device 'tpu' cannot be used"),
        ({"device": ()}, "at least one device"),
        ({"batch": 0}, "must be 1 or more"),
        ({"metrics": "9108"}, "use host:port"),
        ({"url": ("tcp://0.0.0.0:0",)}, "make keys"),
        ({"token_file": Path("absent")}, "cannot read tokens"),
    ],
)
def test_options_that_cannot_be(options, message) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(SplatmendError, match=message):
        serve(
            ServeConfig(**{"model": "copy", "device": ("cpu",), "url": (LOCAL,), **options}),
            stop,
            say=print,
        )
