"""Streams with memory on the server: one memory each, one batch for several."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from splatmend.core import Frame, RestorerTraits, from_tensor, to_tensor
from splatmend.plugin.protocol.frames import to_planes
from splatmend.plugin.protocol.messages import ErrorReply, FrameRequest, Result
from splatmend.plugin.server import Engine, engine_of
from splatmend.plugin.server.batching import BatchedRestorer

from serving import negative
from waiting import until

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

    traits, device = RestorerTraits("dark", keeps_colors=True), torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, rgb: Any) -> Any:
        self.entered.set()
        assert self.open.wait(30)
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
    assert dark.entered.wait(30)
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
    assert means == [30, 60, 0, 90]  # each with its own memory
    assert sorted(v for batch in dark.batches for v in batch) == sorted(
        [0, 40, 80, 120, 80, 160, 0, 240]
    )


def test_calls_of_several_tasks_become_one_batch() -> None:
    dark = Dark()
    dark.open.set()
    shared = BatchedRestorer(dark)

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
