"""One step of the stabiliser: what the last frame's restoration still says about this one.

A frame is its picture and a residual (restored - input), and each has a memory of its own. With
r the residual, w the last fused residual moved to the current frame and g a gain for each pixel,

    r <- k ((1 - g) r + g w),    g = gain * max(l, s) * trust,

    trust = valid * exp(-d / tolerance)

where d is how far the last input, moved likewise, is from the current one beyond its usual
flicker, l whether what was seen lasts, and s how much of the change of r is the restorer's own: see
unrest.py. After KEEP (Feng et al. 2024, "Kalman-Inspired Feature Propagation for Video Face
Super-Resolution"), which fuses codes. The picture is steadied likewise, with a stricter trust and
within what it shows: see steady.py. So nothing lags and nothing ghosts, and what is steady already
keeps its detail.

k undoes what averaging takes away. The finest detail that a restorer invents hardly agrees
from frame to frame, so its mean fades to a blur; k brings its energy, in two bands and each
neighbourhood, back to that of the current frame. Detail then moves with the head instead of
boiling or fading, and where a restorer does nothing, nothing is left.

Everything here works on arrays on the CPU, where frames come from and go to; brightness at full
size and colour at half, as video coders see it, which halves the work.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import cv2 as typed_cv2
import numpy as np
import torch
from numpy.typing import NDArray

from splatmend.core import InputError
from splatmend.temporal.planes import Plane, around, box_mean, detail, half, larger, mix, whole
from splatmend.temporal.steady import refine, steady, stretch
from splatmend.temporal.unrest import (
    between_pixels,
    exceeding,
    lasting,
    learn,
    moving_alone,
    noise_share,
    without_light,
)
from splatmend.temporal.validity import alphas_agree, depths_agree
from splatmend.temporal.warp import sample_array, sources

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = [
    "Carried",
    "Memory",
    "TemporalOptions",
    "add_residual",
    "carry",
    "fuse",
    "look",
    "place",
    "revise",
    "steady_picture",
    "trust_map",
]

Box = tuple[slice, slice]

_STRICT = 4  # so many times sooner the picture's memory is distrusted
_TINT = np.float32(2.5)  # colours at half the size lose more by moving than brightness
_BEYOND = -9.0  # brightness of what lies beyond the border: unlike anything
_TO_RGB = np.array(  # from a difference of YCrCb, without that of Y
    [[0, 1.403, 0], [0, -0.714, -0.344], [0, 0, 1.773]], np.float32
)


@dataclass(frozen=True, kw_only=True)
class TemporalOptions:
    """How much of the past is kept along a stream.

    The defaults were measured on moving splat portraits and avatars; see
    benchmarks/steadiness.py for what they bring, benchmarks/temporal.py for the cost.

    Raises:
        InputError: a value out of its range.
    """

    gain: float = 0.97
    """Share of the restoration's memory where it is fully trusted, 0 to below 1."""
    input_gain: float = 0.8
    """The same of the picture's own memory; 0 leaves the input's flicker to the input."""
    tolerance: float = 0.05
    """Difference of the inputs beyond their usual one, of [0, 1], at which that share has fallen
    to 1/e."""
    anchor: bool = True
    """Whether the network's grid goes along with what it restores; see anchor.py."""
    flow: str = "dis-fast"
    """Motion estimator where frames bring none; see `load_flow`."""
    max_age: int = 256
    """Frames after which every row of the picture has been restored without memory once."""
    refresh: int = 30
    """An unchanged frame gets the last answer, but every so many are restored again; 1: all."""
    max_gap: int | None = None
    """Longest step of `Frame.pts` that still is the next frame; None does not look at times."""

    def __post_init__(self) -> None:
        for name, gain in (("gain", self.gain), ("input_gain", self.input_gain)):
            if not 0 <= gain < 1:
                raise InputError(f"{name} must lie in [0, 1), got {gain}")
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
    """What one frame leaves to the next."""

    seen: NDArray[np.uint8]
    """(h, w, 3): the picture as the network saw it, in 8 bits."""
    brightness: Plane
    """(h, w), of [0, 1]: the picture's, which tells the next frame where the rest belongs."""
    steadied: Plane
    """(h, w): the same without its flicker."""
    residual: Plane
    """(h, w): of brightness."""
    colors: Plane
    """(h / 2, w / 2, 3), rounded up: the steadied picture in OpenCV's YCrCb, without use of Y."""
    residual_colors: Plane
    """(h / 2, w / 2, 3): likewise the residual."""
    unrest: Plane
    """(h / 2, w / 2), of [0, 1]: how much the picture usually changes along its motion."""
    lasts: Plane
    """(h / 2, w / 2) in [0, 1]: whether what is steadied here has lasted so far."""
    alpha: Plane | None = None
    """(h, w) in [0, 1]."""
    depth: Plane | None = None
    """(h, w), the renderer's units."""
    age: int = 0
    """Frames since the stream began."""


@dataclass(frozen=True, eq=False)
class Carried:
    """Planes of a memory, moved to where the next frame sees the same things."""

    steadied: Plane
    residual: Plane
    colors: Plane
    residual_colors: Plane
    unrest: Plane
    lasts: Plane
    apart: Plane
    """(h, w): how far the moved picture's brightness is from the current one's; above 1 where it
    comes from beyond the border."""
    change: Plane
    """(h / 2, w / 2): the mean of that around each place."""
    flicker: Plane
    """The same without what changes broadly, as light does."""
    between: Plane
    """(h / 2, w / 2) in [0, 1]: how far between pixels it comes from."""
    astray: Plane
    """(h / 2, w / 2): how far the moved steadied picture is from the current one."""
    still: Plane
    """(h / 2, w / 2): what moving alone changes."""
    fine: Plane
    """(h, w): the finest band of the current picture's brightness."""
    alpha: Plane | None
    depth: Plane | None


def look(seen: NDArray[np.uint8], picture: Plane, **more: Any) -> Memory:
    """The memory of a picture, (h, w, 3) in [0, 1], that nothing was done to yet."""
    brightness, colors = _brightness(picture), _half_colors(picture)
    nothing, unrest = np.zeros_like(brightness), np.zeros(colors.shape[:2], np.float32)
    planes = (brightness, brightness, nothing, colors, np.zeros_like(colors), unrest, 1 - unrest)
    return Memory(seen, *planes, **more)


def add_residual(seen: Memory, restored: Plane) -> Memory:
    """The memory of a picture, with what became of it: (h, w, 3) in [0, 1]."""
    residual, colors = _brightness(restored), _half_colors(restored)
    cv2.subtract(residual, seen.brightness, dst=residual)
    cv2.subtract(colors, seen.colors, dst=colors)
    return replace(seen, residual=residual, residual_colors=colors)


def revise(restored: Plane, fresh: Memory, fused: Memory) -> Plane:
    """A restored picture (h, w, 3), whose memory was `fresh`, as its fused memory has it."""
    change = cv2.subtract(fused.steadied, fresh.steadied)
    cv2.add(change, cv2.subtract(fused.residual, fresh.residual), dst=change)
    colors = cv2.subtract(fused.colors, fresh.colors)
    cv2.add(colors, cv2.subtract(fused.residual_colors, fresh.residual_colors), dst=colors)
    colors = cv2.transform(colors, _TO_RGB)
    whole = cv2.resize(colors, restored.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    cv2.add(whole, cv2.cvtColor(change, cv2.COLOR_GRAY2RGB), dst=whole)
    return cast(Plane, cv2.add(whole, restored, dst=whole))


def carry(memory: Memory, motion: Plane | None, now: Memory, *, picture: bool = True) -> Carried:
    """Move a memory along backward `motion` (h, w, 2) to where it is `now`.

    Without motion nothing has moved, and the pictures are the same. Of `now` only the picture
    counts. `picture` is whether the steadied picture is wanted; it is half of the work.
    """
    fine = detail(now.brightness)
    if motion is None:
        apart, change = np.zeros_like(now.brightness), np.zeros_like(now.unrest)
        planes = (memory.steadied, memory.residual, memory.colors, memory.residual_colors)
        usual = memory.unrest, memory.lasts
        changes = (apart, change, change, change, change, moving_alone(fine, change), fine)
        return Carried(*planes, *usual, *changes, memory.alpha, memory.depth)
    source = sources(motion)
    apart = sample_array(memory.brightness, source, beyond=(_BEYOND,))
    cv2.subtract(now.brightness, apart, dst=apart)
    size = np.abs(apart)
    change = around(size)
    steadied, astray = memory.steadied, change
    if picture:
        steadied = sample_array(memory.steadied, source, cubic=True)
        astray = around(cv2.absdiff(now.brightness, steadied))
    coarse = sources(half(motion) * np.float32(0.5))
    between = between_pixels(coarse)
    alpha, depth = (
        None if p is None else sample_array(p, source) for p in (memory.alpha, memory.depth)
    )
    return Carried(
        steadied,
        sample_array(memory.residual, source, beyond=(0,)),
        sample_array(memory.colors, coarse, cubic=True) if picture else memory.colors,
        sample_array(memory.residual_colors, coarse),
        sample_array(memory.unrest, coarse),
        sample_array(memory.lasts, coarse),
        size,
        change,
        without_light(apart),
        between,
        astray,
        moving_alone(fine, between),
        fine,
        alpha=alpha,
        depth=depth,
    )


def trust_map(carried: Carried, now: Memory, options: TemporalOptions) -> Plane:
    """How far `carried` belongs to this frame, (h, w) in [0, 1]."""
    new = exceeding(carried.change, carried.unrest)
    trust = whole(np.exp(new * np.float32(-1 / options.tolerance)), now.brightness)
    for before, after, agree in (
        (carried.alpha, now.alpha, alphas_agree), (carried.depth, now.depth, depths_agree),
    ):  # fmt: skip
        if before is not None and after is not None:
            trust *= agree(torch.tensor(before), torch.tensor(after)).numpy()
    # a few rows in turn forget, so that nothing lives for ever and nothing is seen to end
    height, turn = trust.shape[0], now.age % options.max_age
    trust[height * turn // options.max_age : height * (turn + 1) // options.max_age] = 0
    return trust


def steady_picture(
    seen: Memory, carried: Carried, trust: Plane, options: TemporalOptions
) -> Memory:
    """The memory of a picture with its flicker learned and steadied; `trust` is (h, w)."""
    unrest = learn(carried.flicker, carried.unrest, seen.age)
    if options.input_gain == 0:
        return replace(seen, unrest=unrest, lasts=np.zeros_like(unrest))  # nothing tells
    lasts = lasting(carried.astray, carried.change, carried.unrest, carried.lasts)
    # a wrong picture is seen sooner than a wrong residual
    share = np.float32(options.input_gain) * noise_share(unrest, carried.still)
    share *= lasts
    gain = cv2.multiply(cv2.pow(trust, _STRICT), whole(share, trust))
    steadied = steady(seen.brightness, carried.steadied, gain)
    tint = box_mean(larger(cv2.absdiff(seen.colors, carried.colors)[..., 1:]))
    tint_share = noise_share(tint, _TINT * carried.still)
    return replace(
        seen,
        unrest=unrest,
        lasts=lasts,
        steadied=refine(steadied, carried.fine, carried.between),
        colors=steady(seen.colors, carried.colors, half(gain) * tint_share),
    )


def fuse(
    fresh: Memory, steadied: Memory, carried: Carried, trust: Plane, options: TemporalOptions
) -> Memory:
    """A steadied picture's memory with the `fresh` residual, fused; `trust` is (h, w)."""
    boil = around(cv2.absdiff(fresh.residual, carried.residual))
    share = np.maximum(steadied.lasts, noise_share(boil, carried.astray))
    gain = cv2.multiply(trust, whole(share, trust), scale=options.gain)
    return replace(
        steadied,
        residual=_fuse_residual(fresh.residual, carried.residual, gain),
        residual_colors=mix(fresh.residual_colors, carried.residual_colors, half(gain)),
    )


def _fuse_residual(residual: Plane, moved: Plane, gain: Plane) -> Plane:
    """The formula for r above, for brightness; all (h, w)."""
    mixed = mix(residual, moved, gain)
    low, fresh_low = box_mean(mixed), box_mean(residual)
    cv2.subtract(mixed, low, dst=mixed)
    fine = stretch(cv2.subtract(residual, fresh_low), mixed)
    cv2.add(mixed, cv2.multiply(mixed, fine), dst=mixed)
    cv2.add(low, cv2.multiply(low, stretch(fresh_low, low)), dst=low)
    return cast(Plane, cv2.add(mixed, low, dst=mixed))


def place(memory: Memory, old: Box, new: Box, *, ground: tuple[float, float, float]) -> Memory:
    """A memory of the box `old` of a frame as one of the box `new`; `ground` is the matte."""

    def moved(plane: NDArray[Any], fill: Any, boxes: tuple[Box, Box] = (old, new)) -> NDArray[Any]:
        sides = [s.stop - s.start for s in boxes[1]]
        result = np.full((*sides, *plane.shape[2:]), fill, plane.dtype)
        source, target = [], []
        for a, b in zip(*boxes, strict=True):
            first = max(a.start, b.start)
            last = max(first, min(a.stop, b.stop))
            source.append(slice(first - a.start, last - a.start))
            target.append(slice(first - b.start, last - b.start))
        result[tuple(target)] = plane[tuple(source)]
        return result

    matte = np.array([[ground]], np.float32)
    ycc = cv2.cvtColor(matte, cv2.COLOR_RGB2YCrCb).ravel().tolist()
    halves = _half_box(old), _half_box(new)
    alpha, depth = (None if p is None else moved(p, 0) for p in (memory.alpha, memory.depth))
    return Memory(
        seen=moved(memory.seen, [round(255 * value) for value in ground]),
        brightness=moved(memory.brightness, ycc[0]),
        steadied=moved(memory.steadied, ycc[0]),
        residual=moved(memory.residual, 0),
        colors=moved(memory.colors, ycc, halves),
        residual_colors=moved(memory.residual_colors, 0, halves),
        unrest=moved(memory.unrest, 0, halves),
        lasts=moved(memory.lasts, 1, halves),
        alpha=alpha,
        depth=depth,
        age=memory.age,
    )


def _half_box(box: Box) -> Box:
    """Where a box, which begins at even pixels, is in planes of half the size."""
    rows, columns = (slice(s.start // 2, -(-s.stop // 2)) for s in box)
    return rows, columns


def _brightness(picture: Plane) -> Plane:
    return cast(Plane, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


def _half_colors(picture: Plane) -> Plane:
    return cast(Plane, cv2.cvtColor(half(picture), cv2.COLOR_RGB2YCrCb))
