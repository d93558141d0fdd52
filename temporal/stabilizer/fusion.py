"""One step of the stabiliser: what the last frame's restoration still says about this one.

A frame is its picture and a residual (restored - input), and each has a memory of its own. With
r the residual, w the last fused residual moved to the current frame and g a gain for each pixel,

    r <- k ((1 - g) r + g w),    g = gain * max(l, s) * trust,

    trust = valid * exp(-d / tolerance)

where d is how far the last input, moved likewise, is from the current one beyond its usual
flicker, l whether what was seen lasts, and s how much of the change of r is the restorer's own: see
flicker.py. After KEEP (Feng et al. 2024, "Kalman-Inspired Feature Propagation for Video Face
Super-Resolution"), which fuses codes. The picture is steadied likewise, with a stricter trust and
within what it shows: see antialiasing.py. So nothing lags and nothing ghosts, and what is steady
already keeps its detail.

k undoes what averaging takes away. The finest detail that a restorer invents hardly agrees
from frame to frame, so its mean fades to a blur; k brings its energy, in two bands and each
neighbourhood, back to what it usually is there: that of one frame alone would make k boil. Detail
then moves with the head instead of boiling or fading, and where a restorer does nothing, nothing
is left.

Everything here works on arrays on the CPU, where frames come from and go to: brightness at full
size, colour and whatever says how much of the past to keep at half, as video coders see it. What
is done to whole planes is compiled: see numba_support.py and kernels.py.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, cast

import cv2 as typed_cv2
import numpy as np
import torch

from splatmend.core import InputError
from splatmend.temporal.motion.validity import alphas_agree, depths_agree
from splatmend.temporal.motion.warping import sample_array
from splatmend.temporal.planes.operations import (
    Picture,
    Plane,
    Planes,
    aim,
    aim_cells,
    around,
    box_mean,
    difference,
    finest,
    flicker,
    half,
    mix,
    raise_bands,
    revised,
    split,
)
from splatmend.temporal.stabilizer.antialiasing import refine, steady, stretch
from splatmend.temporal.stabilizer.flicker import (
    broad,
    exceeding,
    is_light,
    lasting,
    learn,
    moving_alone,
    noise_share,
)
from splatmend.temporal.stabilizer.state import Memory

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = [
    "Carried",
    "Compared",
    "Past",
    "TemporalOptions",
    "Trust",
    "carry",
    "compare",
    "fuse",
    "revise",
    "steady_picture",
    "trusted",
]

_TINT = np.float32(2.5)  # colours at half the size lose more by moving than brightness
_SHARPENED = np.float32(1.7)  # times what goes astray in a picture does so in its restoration
_CHANCE = np.float32(4)  # times an energy that may still be chance
_AROUND = np.ones((3, 3), np.uint8)
_BEYOND = -9.0  # brightness of what lies beyond the border: unlike anything


@dataclass(frozen=True, kw_only=True)
class TemporalOptions:
    """How much of the past is kept along a stream.

    The defaults were measured on moving splat portraits and avatars; see
    benchmarks/steadiness.py for what they bring, benchmarks/temporal.py for the cost.

    Raises:
        InputError: a value out of its range.
    """

    gain: float = 0.95
    """Share of the restoration's memory where it is fully trusted, 0 to below 1."""
    input_gain: float = 0.8
    """The same of the picture's own memory; 0 leaves the input's flicker to the input."""
    tolerance: float = 0.05
    """Difference of the inputs beyond their usual one, of [0, 1], at which that share has fallen
    to 1/e."""
    anchor: bool = True
    """Whether the network's grid goes along with what it restores; see grid_offset.py."""
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Carried:
    """Planes of a memory, moved to where the next frame sees the same things.

    Planes are half planes but for those of (h, w).
    """

    brightness: Plane
    """(h, w); below 0 where it comes from beyond the border."""
    steadied: Plane
    """(h, w)."""
    residual: Plane
    """(h, w)."""
    colors: Planes
    residual_colors: Planes
    energies: Planes
    """Quarter planes."""
    unrest: Plane
    lasts: Plane
    alpha: Plane | None
    """(h, w)."""
    depth: Plane | None
    """(h, w)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Compared:
    """How a moved memory and the current picture differ, in half planes."""

    change: Plane
    """How far the last picture is from the current one around each place."""
    flicker: Plane
    """The same without what changes broadly, as light does."""
    astray: Plane
    """How far the steadied picture is from the current one."""
    drift: Plane
    """The current picture less the steadied one."""
    between: Plane
    """How far between pixels it comes from, in [0, 1]."""
    moving: Plane
    """What moving alone changes."""
    fine: Plane
    """Energy of the current picture's finest band, a quarter plane; see `split`."""


@dataclass(frozen=True, eq=False)
class Trust:
    """How far what was carried belongs to a frame."""

    share: Plane
    """(h / 2, w / 2) in [0, 1]."""
    forgets: slice
    """Rows of the frame that forget all, and"""
    cells_forget: slice
    """those of half planes."""


@dataclass(frozen=True, eq=False)
class Past:
    """What the last frame says about this one before this one is restored."""

    steadied: Memory
    """This frame's picture, steadied by it."""
    carried: Carried
    compared: Compared
    trust: Trust
    estimated: bool = False
    """Whether the motion was."""


def revise(restored: Picture, fresh: Memory, fused: Memory) -> Picture:
    """A restored picture (h, w, 3), whose memory was `fresh`, as its fused memory has it."""
    tints = (fused.colors - fresh.colors) + (fused.residual_colors - fresh.residual_colors)
    change = (fused.steadied, fresh.steadied, fused.residual, fresh.residual)
    return revised(restored, change, tints)


def carry(memory: Memory, motion: Plane | None) -> tuple[Carried, Plane]:
    """Move a memory along backward `motion` (h, w, 2); None: nothing has moved.

    Returns:
        What it has where the current frame sees the same things, and how far between pixels that
        comes from, a half plane of [0, 1].
    """
    if motion is None:
        same = {plane.name: getattr(memory, plane.name) for plane in fields(Carried)}
        return Carried(**same), np.zeros_like(memory.unrest)
    source = aim(motion)
    coarse, between = aim_cells(source)
    quarter, _ = aim_cells(coarse)
    # OpenCV samples four planes that lie together, pixel by pixel, as fast as one
    four = cv2.merge([*memory.residual_colors, memory.unrest, memory.lasts])
    red, blue, unrest, lasts = cv2.split(sample_array(four, coarse))
    alpha, depth = (
        None if p is None else sample_array(p, source) for p in (memory.alpha, memory.depth)
    )
    carried = Carried(
        brightness=sample_array(memory.brightness, source, beyond=(_BEYOND,)),
        steadied=sample_array(memory.steadied, source, cubic=True),
        residual=sample_array(memory.residual, source, beyond=(0,)),
        colors=np.stack([sample_array(p, coarse, cubic=True) for p in memory.colors]),
        residual_colors=np.stack([red, blue]),
        energies=np.stack([sample_array(p, quarter) for p in memory.energies]),
        unrest=unrest,
        lasts=lasts,
        alpha=alpha,
        depth=depth,
    )
    return carried, between


def compare(carried: Carried, between: Plane, now: Memory) -> Compared:
    """Tell what was carried from the current picture."""
    signed, change = difference(now.brightness, carried.brightness)
    drift, astray = difference(now.brightness, carried.steadied)
    light = broad(signed, is_light(signed))
    low, energies = split(now.brightness)
    return Compared(
        change=around(change),
        flicker=around(flicker(now.brightness, carried.brightness, light)),
        astray=around(astray),
        drift=drift,
        between=between,
        moving=moving_alone(around(finest(now.brightness, low)), between),
        fine=energies[0],
    )


def trusted(carried: Carried, compared: Compared, now: Memory, options: TemporalOptions) -> Trust:
    """How far `carried` belongs to this frame."""
    new = exceeding(compared.change, carried.unrest)
    share = np.exp(new * np.float32(-1 / options.tolerance))
    for before, after, agree in (
        (carried.alpha, now.alpha, alphas_agree), (carried.depth, now.depth, depths_agree),
    ):  # fmt: skip
        if before is not None and after is not None:
            other = ~agree(torch.tensor(before), torch.tensor(after)).numpy()
            # enlarged, a place is a mean with those beside it: they forget too
            share[cv2.dilate(half(other.astype(np.float32)), _AROUND) > 0] = 0
    # a few rows in turn forget, so that nothing lives for ever and nothing is seen to end
    turn = now.age % options.max_age
    rows = [len(now.brightness) * t // options.max_age for t in (turn, turn + 1)]
    return Trust(share, slice(*rows), slice(*(-(-row // 2) for row in rows)))


def steady_picture(
    seen: Memory, carried: Carried, compared: Compared, trust: Trust, options: TemporalOptions
) -> Memory:
    """The memory of a picture with its flicker learned and steadied."""
    unrest = learn(compared.flicker, carried.unrest, seen.age)
    lasts = lasting(compared.astray, compared.change, carried.unrest, carried.lasts)
    # a wrong picture is seen sooner than a wrong residual: four times as strict
    strict = trust.share**2
    gain = strict * strict * noise_share(unrest, compared.moving) * lasts
    gain *= np.float32(options.input_gain)
    steadied = steady(seen.brightness, carried.steadied, compared.drift, gain)
    refine(steadied, compared.fine, compared.between)
    steadied[trust.forgets] = seen.brightness[trust.forgets]
    tint = box_mean(np.abs(seen.colors - carried.colors).max(0))
    tint_gain = half(gain * noise_share(tint, _TINT * compared.moving))
    colors = np.stack(
        [
            steady(p, moved, half(p - moved), tint_gain)
            for p, moved in zip(seen.colors, carried.colors, strict=True)
        ]
    )
    colors[:, trust.cells_forget] = seen.colors[:, trust.cells_forget]
    return replace(seen, unrest=unrest, lasts=lasts, steadied=steadied, colors=colors)


def fuse(fresh: Memory, past: Past, options: TemporalOptions) -> Memory:
    """A steadied picture's memory with the `fresh` residual, fused."""
    carried, rows, cells = past.carried, past.trust.forgets, past.trust.cells_forget
    lasts = past.steadied.lasts
    _, boil = difference(fresh.residual, carried.residual)
    # an estimate follows what slides as it looks, and its own errors count as gone astray already
    astray = past.compared.astray if past.estimated else _SHARPENED * past.compared.astray
    own = noise_share(around(boil), astray)
    trust_gain = np.float32(options.gain) * past.trust.share
    gain = trust_gain * np.maximum(lasts, own)
    # what slides over one another mixes energies of several things: only what lasts has a usual one
    usual = half(trust_gain * lasts**2)
    energies = np.stack(
        [_usual(*bands, usual) for bands in zip(fresh.energies, carried.energies, strict=True)]
    )
    residual = _fuse_residual(fresh.residual, carried.residual, energies, gain)
    residual[rows] = fresh.residual[rows]
    gain = half(gain)
    colors = np.stack(
        [
            mix(plane, moved, gain)
            for plane, moved in zip(fresh.residual_colors, carried.residual_colors, strict=True)
        ]
    )
    colors[:, cells] = fresh.residual_colors[:, cells]
    return replace(past.steadied, residual=residual, residual_colors=colors, energies=energies)


def _usual(fresh: Plane, past: Plane, share: Plane) -> Plane:
    """An energy as it usually is, quarter planes: a little more or less is chance, much is news."""
    nearby = around(fresh)
    least, most = np.minimum(fresh, nearby) / _CHANCE, np.maximum(fresh, nearby) * _CHANCE
    return cast(Plane, fresh + share * (past.clip(least, most) - fresh))


def _fuse_residual(residual: Plane, moved: Plane, wanted: Planes, gain: Plane) -> Plane:
    """The formula for r above, for brightness: (h, w); k has what is `wanted` of energies."""
    mixed = mix(residual, moved, gain)
    low, given = split(mixed)
    fine_more, low_more = (stretch(w, g, gain) for w, g in zip(wanted, given, strict=True))
    raise_bands(mixed, low, fine_more, low_more)
    return mixed
