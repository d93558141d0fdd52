"""One step of the stabiliser: what the last frame's restoration still says about this one.

Residuals are fused, never pictures: the base is always the current input, so nothing lags and
nothing ghosts. With r the residual (restored - input), w the last fused residual moved to the
current frame and g a gain for each pixel,

    r <- k ((1 - g) r + g w),    g = gain * valid * exp(-d / tolerance)

where d is how far the last input, moved likewise, is from the current one. After KEEP (Feng et
al. 2024, "Kalman-Inspired Feature Propagation for Video Face Super-Resolution"), which fuses codes.

k undoes what averaging takes away. The finest detail that a restorer invents hardly agrees
from frame to frame, so its mean fades to a blur; k brings its energy, in two bands and each
neighbourhood, back to that of the current frame. Detail then moves with the head instead of
boiling or fading, and where a restorer does nothing, nothing is left.

Everything here works on arrays on the CPU, where frames come from and go to.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import cv2 as typed_cv2
import numpy as np
import torch
from numpy.typing import NDArray

from splatmend.core import InputError
from splatmend.temporal.validity import alphas_agree, depths_agree
from splatmend.temporal.warp import warp_array

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = [
    "Carried",
    "Memory",
    "TemporalOptions",
    "apply",
    "carry",
    "fuse",
    "gain_map",
    "place",
    "to_residual",
]

Plane = NDArray[np.float32]
Box = tuple[slice, slice]

_MOST = np.float32(2.0)  # most that detail is raised in one frame; it may be lowered to nothing
_BEYOND = -9.0  # brightness of what lies beyond the border: unlike anything
_QUIET = np.float32(1e-7)  # energy far below what 8 bits show: keeps 0 / 0 at 1


@dataclass(frozen=True, kw_only=True)
class TemporalOptions:
    """How much of the past is kept along a stream.

    The defaults were measured on moving splat portraits and avatars; see
    benchmarks/temporal.py for the cost.

    Raises:
        InputError: a value out of its range.
    """

    gain: float = 0.95
    """Share of the memory where it is fully trusted, 0 to below 1."""
    tolerance: float = 0.05
    """Difference of the inputs, of [0, 1], at which that share has fallen to 1/e."""
    flow: str = "dis"
    """Motion estimator where frames bring none; see `load_flow`."""
    max_age: int = 256
    """Frames after which every row of the picture has been restored without memory once."""
    refresh: int = 30
    """An unchanged frame gets the last answer, but every so many are restored again; 1: all."""
    max_gap: int | None = None
    """Longest step of `Frame.pts` that still is the next frame; None does not look at times."""

    def __post_init__(self) -> None:
        if not 0 <= self.gain < 1:
            raise InputError(f"gain must lie in [0, 1), got {self.gain}")
        if not self.tolerance > 0:
            raise InputError(f"tolerance must be more than 0, got {self.tolerance}")
        for name, value in (
            ("max_age", self.max_age),
            ("refresh", self.refresh),
            ("max_gap", self.max_gap),
        ):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class Memory:
    """What one frame leaves to the next. All planes have one size."""

    seen: NDArray[np.uint8]
    """(h, w, 3): the picture as the network saw it, in 8 bits."""
    residual: Plane
    """(h, w, 4): the fused residual of [0, 1]; the last channel is scratch."""
    brightness: Plane
    """(h, w): the picture's, in [0, 1]: what tells the next frame where the residual belongs."""
    alpha: Plane | None = None
    """(h, w) in [0, 1]."""
    depth: Plane | None = None
    """(h, w), the renderer's units."""
    age: int = 0
    """Frames since the stream began."""


@dataclass(frozen=True, eq=False)
class Carried:
    """A memory, moved to where the next frame sees the same things."""

    residual: Plane
    apart: Plane
    """(h, w): how far the moved picture's brightness is from the current one's; above 1 where it
    comes from beyond the border."""
    alpha: Plane | None
    depth: Plane | None


def to_residual(restored: Plane, picture: Plane) -> tuple[Plane, Plane]:
    """`Memory.residual` and `Memory.brightness` of a picture (h, w, 3), restored to (3, h, w)."""
    change = cv2.merge(list(restored))
    cv2.subtract(change, picture, dst=change)
    brightness = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cast(Plane, cv2.cvtColor(change, cv2.COLOR_RGB2RGBA)), cast(Plane, brightness)


def apply(picture: Plane, residual: Plane) -> Plane:
    """A picture (h, w, 3) with a residual (h, w, 4) added."""
    change = cv2.cvtColor(residual, cv2.COLOR_RGBA2RGB)
    return cast(Plane, cv2.add(change, picture, dst=change))


def carry(memory: Memory, motion: Plane | None, now: Memory) -> Carried:
    """Move a memory along backward `motion` (h, w, 2) to where it is `now`.

    Without motion nothing has moved, and the pictures are the same.
    """
    if motion is None:
        apart = np.zeros_like(now.brightness)
        return Carried(memory.residual, apart, memory.alpha, memory.depth)
    # brightness moves along for nothing: OpenCV warps four channels faster than three
    both = cv2.insertChannel(memory.brightness, memory.residual, 3)
    residual = warp_array(both, motion, beyond=(0, 0, 0, _BEYOND))
    apart = cv2.absdiff(cv2.extractChannel(residual, 3), now.brightness)
    alpha, depth = (
        None if p is None else warp_array(p, motion) for p in (memory.alpha, memory.depth)
    )
    return Carried(residual, apart, alpha, depth)


def gain_map(carried: Carried, now: Memory, options: TemporalOptions) -> Plane:
    """The g of every pixel, (h, w), for fusing `carried` with what there is of this frame."""
    # one pixel may look alike by chance, a neighbourhood hardly does
    gain = cv2.blur(carried.apart, (5, 5))
    gain *= np.float32(-1 / options.tolerance)
    gain = cast(Plane, cv2.exp(gain, dst=gain))
    gain *= np.float32(options.gain)
    for before, after, agree in (
        (carried.alpha, now.alpha, alphas_agree), (carried.depth, now.depth, depths_agree),
    ):  # fmt: skip
        if before is not None and after is not None:
            gain *= agree(torch.tensor(before), torch.tensor(after)).numpy()
    # a few rows in turn forget, so that nothing lives for ever and nothing is seen to end
    height, turn = gain.shape[0], now.age % options.max_age
    gain[height * turn // options.max_age : height * (turn + 1) // options.max_age] = 0
    return gain


def fuse(now: Memory, carried: Carried, gain: Plane) -> Memory:
    """The module's formula, with k for brightness: `now` with the fused residual.

    `now` holds the fresh one; `gain` is (h, w).
    """
    mixed = cv2.blendLinear(carried.residual, now.residual, gain, 1 - gain)
    luma, fresh = (cv2.cvtColor(p, cv2.COLOR_RGBA2GRAY) for p in (mixed, now.residual))
    low, fresh_low = cv2.blur(luma, (3, 3)), cv2.blur(fresh, (3, 3))
    luma -= low
    fresh -= fresh_low
    low *= _stretch(fresh_low, low)
    luma *= _stretch(fresh, luma)
    luma += low
    cv2.add(mixed, cv2.cvtColor(luma, cv2.COLOR_GRAY2RGBA), dst=mixed)
    return replace(now, residual=mixed)


def _stretch(wanted: Plane, given: Plane) -> Plane:
    """A k, less 1, for one band: what gives one (h, w) the local energy of another."""
    # Neighbourhoods must weigh with no negative frequency, as a box has: ripples in k would
    # feed on themselves from frame to frame.
    wanted_energy, energy = (
        cv2.GaussianBlur(_shrink(cv2.multiply(x, x)), (3, 3), 0) + _QUIET for x in (wanted, given)
    )
    factor = np.minimum(np.sqrt(wanted_energy / energy), _MOST) - 1
    return cast(Plane, cv2.resize(factor, wanted.shape[::-1], interpolation=cv2.INTER_LINEAR))


def place(memory: Memory, old: Box, new: Box, *, ground: tuple[float, float, float]) -> Memory:
    """A memory of the box `old` of a frame as one of the box `new`; `ground` is the matte."""

    def moved(plane: NDArray[Any], fill: Any) -> NDArray[Any]:
        sides = [s.stop - s.start for s in new]
        result = np.full((*sides, *plane.shape[2:]), fill, plane.dtype)
        source, target = [], []
        for a, b in zip(old, new, strict=True):
            first = max(a.start, b.start)
            last = max(first, min(a.stop, b.stop))
            source.append(slice(first - a.start, last - a.start))
            target.append(slice(first - b.start, last - b.start))
        result[tuple(target)] = plane[tuple(source)]
        return result

    matte = [round(255 * value) for value in ground]
    alpha, depth = (None if p is None else moved(p, 0) for p in (memory.alpha, memory.depth))
    gray = cv2.cvtColor(np.array([[ground]], np.float32), cv2.COLOR_RGB2GRAY).item()
    return Memory(
        seen=moved(memory.seen, matte),
        residual=moved(memory.residual, 0),
        brightness=moved(memory.brightness, gray),
        alpha=alpha,
        depth=depth,
        age=memory.age,
    )


def _shrink(plane: NDArray[Any]) -> NDArray[Any]:
    """(h, w, ...) -> means of cells of 4 x 4 pixels, (h / 4, w / 4, ...) rounded up."""
    for _ in range(2):  # OpenCV halves several times faster than it quarters
        size = -(-plane.shape[1] // 2), -(-plane.shape[0] // 2)
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return plane
