"""On a GPU a frame crosses the bus twice: once in, once out. Tried here on the CPU's tensors."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from splatmend.core import Frame, RestorerTraits
from splatmend.temporal import Stream, stream
from splatmend.temporal.stabilizer import planes

from streams import alpha_clip, clip

_READS = ("numpy", "cpu", "item", "tolist", "__bool__", "__float__", "__int__", "__index__")
_WRITES = ("tensor", "as_tensor", "from_numpy", "new_tensor", "arange")


class Blurring:
    """A restorer that reads and writes nothing but tensors."""

    traits = RestorerTraits("blurring", keeps_colors=True)
    device = torch.device("cpu")

    def __call__(self, rgb: Tensor) -> Tensor:
        return (1.5 * rgb - 0.5 * F.avg_pool2d(rgb, 3, stride=1, padding=1)).clamp(0, 1)


class Bus(TorchFunctionMode):
    """Records what passes between the host and the place of the planes."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []
        self.there = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if self.there and name in _READS + _WRITES:
            self.passed.append(name)
        return func(*args, **(kwargs or {}))

    def crossing(self, name: str, call: Callable[..., Any], *, there: bool) -> Callable[..., Any]:
        def crossed(*arguments: Any, **options: Any) -> Any:
            self.there = False
            self.passed.append(name)
            found = call(*arguments, **options)
            self.there = there
            return found

        return crossed


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """A bus, and planes handled as on a device."""
    monkeypatch.setattr(planes, "_is_cpu", lambda _: False)
    bus = Bus()
    monkeypatch.setattr(stream, "send", bus.crossing("in", stream.send, there=True))
    monkeypatch.setattr(stream, "receive", bus.crossing("out", stream.receive, there=False))
    planes.constant.cache_clear()
    planes._grid.cache_clear()
    with bus:
        yield bus


@pytest.mark.parametrize(
    "frames",
    [
        clip(5, depth=np.ones((96, 128), np.float32)),
        clip(5, motion=False),
        alpha_clip(3) * 2,
    ],
    ids=["supplied motion and depth", "estimated motion", "alpha"],
)
def test_each_frame_is_moved_in_once_and_out_once(bus: Bus, frames: list[Frame]) -> None:
    steady = Stream(Blurring())
    steady.restore(frames[:2])  # constants are moved once in a process
    for frame in frames[2:]:
        bus.passed.clear()
        steady.restore([frame])
        assert bus.passed == ["in", "out"]


def test_the_bus_sees_what_crosses_it(bus: Bus) -> None:
    bus.there = True
    assert float(torch.ones(()).item()) == 1
    assert torch.tensor([1.0]).numpy().tolist() == [1]
    assert bus.passed == ["item", "tensor", "numpy"]


def test_planes_are_packed_into_one_transfer() -> None:
    given = [torch.rand(3, 5, 7), torch.rand(5, 7, 2), torch.rand(1, 5, 7)]
    packed = planes._packed(given)
    assert packed.ndim == 1
    for one, other in zip(planes._unpacked(packed, given), given, strict=True):
        assert torch.equal(one, other)
