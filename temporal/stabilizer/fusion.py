"""One step of the stabiliser: the last frame's restoration fused into this one.

A frame has a picture and a residual (restored - input), each with a memory of its own. Let r be the
residual, w the last fused residual, moved to the current frame, and g a gain for each pixel. Then

    r <- k ((1 - g) r + g w),    g = gain * max(l, s) * trust,

    trust = valid * exp(-d / tolerance)

Here d is the difference between the moved last input and the current one beyond its usual flicker.
l is the persistence of the past, and s the restorer's own share in the change of r: see flicker.py.
The scheme follows KEEP (Feng et al. 2024, "Kalman-Inspired Feature Propagation for Video Face
Super-Resolution"), which fuses codes. The picture is anti-aliased likewise, with a stricter trust
and clipped to its own range: see antialiasing.py. So nothing lags, there is no ghosting, and
content that does not flicker keeps its detail.

k undoes the loss of averaging. The finest detail that a restorer invents hardly agrees from frame
to frame, so its mean fades to a blur. k restores its usual energy, in two bands and each
neighbourhood. The energy of one frame alone would make k flicker. Detail then moves with the
head instead of flickering or fading. Where a restorer changes nothing, the residual stays 0.

Everything here works on arrays on the CPU. As in video coding, brightness has full size, and
colour and gains half of it. Loops over whole planes are compiled: see numba_support.py and
kernels.py.
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
from splatmend.temporal.stabilizer.antialiasing import antialias, refine, stretch
from splatmend.temporal.stabilizer.flicker import (
    broad,
    exceeding,
    is_light,
    learn,
    learn_persistence,
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
    "antialias_picture",
    "carry",
    "compare",
    "fuse",
    "revise",
    "trusted",
]

_TINT = np.float32(2.5)  # colours at half the size lose more by moving than brightness
_SHARPENED = np.float32(1.7)  # error of a restoration as a multiple of its picture's
_CHANCE = np.float32(4)  # factor between energies that may still be chance
_AROUND = np.ones((3, 3), np.uint8)
_BEYOND = -9.0  # brightness beyond the border, unlike any pixel


@dataclass(frozen=True, kw_only=True)
class TemporalOptions:
    """Options of the stabiliser: the share of the past, the motion, and resets.

    The defaults were measured on moving splat portraits and avatars: the gain by
    benchmarks/steadiness.py, the cost by benchmarks/temporal.py.

    Raises:
        InputError: a value out of its range.
    """

    gain: float = 0.95
    """Share of the last residual where it is fully trusted, in [0, 1)."""
    input_gain: float = 0.8
    """Share of the last picture in the input, likewise; 0 keeps the input's flicker."""
    tolerance: float = 0.05
    """Difference of the inputs beyond their usual flicker, in [0, 1], at which both shares have
    fallen to 1/e."""
    anchor: bool = True
    """Whether the network's grid moves along with the picture; see grid_offset.py."""
    flow: str = "dis-fast"
    """Motion estimator for frames without motion; see `load_flow`."""
    max_age: int = 256
    """Frames after which every row of the picture has been restored without memory once."""
    refresh: int = 30
    """Interval at which unchanged frames are restored anew, the rest repeat; 1: restore all."""
    max_gap: int | None = None
    """Longest step of `Frame.pts` within a stream; None ignores times."""

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
    """Planes of a memory, moved to the next frame along the motion.

    Planes are half planes except those of (h, w).
    """

    brightness: Plane
    """(h, w); below 0 where the source lies beyond the border."""
    antialiased: Plane
    """(h, w)."""
    residual: Plane
    """(h, w)."""
    colors: Planes
    residual_colors: Planes
    energies: Planes
    """Quarter planes."""
    usual_flicker: Plane
    persistence: Plane
    alpha: Plane | None
    """(h, w)."""
    depth: Plane | None
    """(h, w)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Compared:
    """Differences between a moved memory and the current picture, in half planes."""

    change: Plane
    """Difference between the last picture and the current one around each place."""
    flicker: Plane
    """The same without broad changes, such as light."""
    astray: Plane
    """Difference between the anti-aliased picture and the current one."""
    drift: Plane
    """The current picture less the anti-aliased one."""
    between: Plane
    """Loss of sampling between pixels, in [0, 1]; see `aim_cells`."""
    moving: Plane
    """Change by motion alone."""
    fine: Plane
    """Energy of the current picture's finest band, a quarter plane; see `split`."""


@dataclass(frozen=True, eq=False)
class Trust:
    """Trust in the planes moved from the last frame."""

    share: Plane
    """(h / 2, w / 2) in [0, 1]."""
    forgets: slice
    """Rows of the frame that are reset."""
    cells_forget: slice
    """The same rows in half planes."""


@dataclass(frozen=True, eq=False)
class Past:
    """The result of comparing a picture with the last frame, before it is restored."""

    antialiased: Memory
    """Memory of this frame's picture after temporal anti-aliasing."""
    carried: Carried
    compared: Compared
    trust: Trust
    estimated: bool = False
    """Whether the motion is an estimate."""


def revise(restored: Picture, fresh: Memory, fused: Memory) -> Picture:
    """Apply to a restored picture (h, w, 3) the step from its `fresh` memory to the fused."""
    tints = (fused.colors - fresh.colors) + (fused.residual_colors - fresh.residual_colors)
    change = (fused.antialiased, fresh.antialiased, fused.residual, fresh.residual)
    return revised(restored, change, tints)


def carry(memory: Memory, motion: Plane | None) -> tuple[Carried, Plane]:
    """Move a memory along backward `motion` (h, w, 2); with None nothing moves.

    Returns:
        The moved planes, and the loss of sampling between pixels, a half plane in [0, 1].
    """
    if motion is None:
        same = {plane.name: getattr(memory, plane.name) for plane in fields(Carried)}
        return Carried(**same), np.zeros_like(memory.usual_flicker)
    source = aim(motion)
    coarse, between = aim_cells(source)
    quarter, _ = aim_cells(coarse)
    # OpenCV samples four planes that lie together, pixel by pixel, as fast as one
    four = cv2.merge([*memory.residual_colors, memory.usual_flicker, memory.persistence])
    red, blue, usual_flicker, persistence = cv2.split(sample_array(four, coarse))
    alpha, depth = (
        None if p is None else sample_array(p, source) for p in (memory.alpha, memory.depth)
    )
    carried = Carried(
        brightness=sample_array(memory.brightness, source, beyond=(_BEYOND,)),
        antialiased=sample_array(memory.antialiased, source, cubic=True),
        residual=sample_array(memory.residual, source, beyond=(0,)),
        colors=np.stack([sample_array(p, coarse, cubic=True) for p in memory.colors]),
        residual_colors=np.stack([red, blue]),
        energies=np.stack([sample_array(p, quarter) for p in memory.energies]),
        usual_flicker=usual_flicker,
        persistence=persistence,
        alpha=alpha,
        depth=depth,
    )
    return carried, between


def compare(carried: Carried, between: Plane, now: Memory) -> Compared:
    """Compare the moved planes with the current picture."""
    signed, change = difference(now.brightness, carried.brightness)
    drift, astray = difference(now.brightness, carried.antialiased)
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
    """Compute the trust in `carried` for this frame."""
    new = exceeding(compared.change, carried.usual_flicker)
    share = np.exp(new * np.float32(-1 / options.tolerance))
    for before, after, agree in (
        (carried.alpha, now.alpha, alphas_agree), (carried.depth, now.depth, depths_agree),
    ):  # fmt: skip
        if before is not None and after is not None:
            other = ~agree(torch.tensor(before), torch.tensor(after)).numpy()
            # enlarged, a place is a mean with those beside it: they forget too
            share[cv2.dilate(half(other.astype(np.float32)), _AROUND) > 0] = 0
    # a few rows are reset in turn, so that the memory stays bounded without a visible break
    turn = now.age % options.max_age
    rows = [len(now.brightness) * t // options.max_age for t in (turn, turn + 1)]
    return Trust(share, slice(*rows), slice(*(-(-row // 2) for row in rows)))


def antialias_picture(
    seen: Memory, carried: Carried, compared: Compared, trust: Trust, options: TemporalOptions
) -> Memory:
    """Learn the flicker of a picture and anti-alias it over time."""
    usual_flicker = learn(compared.flicker, carried.usual_flicker, seen.age)
    persistence = learn_persistence(
        compared.astray, compared.change, carried.usual_flicker, carried.persistence
    )
    # a wrong picture is more visible than a wrong residual: four times as strict
    strict = trust.share**2
    gain = strict * strict * noise_share(usual_flicker, compared.moving) * persistence
    gain *= np.float32(options.input_gain)
    antialiased = antialias(seen.brightness, carried.antialiased, compared.drift, gain)
    refine(antialiased, compared.fine, compared.between)
    antialiased[trust.forgets] = seen.brightness[trust.forgets]
    tint = box_mean(np.abs(seen.colors - carried.colors).max(0))
    tint_gain = half(gain * noise_share(tint, _TINT * compared.moving))
    colors = np.stack(
        [
            antialias(p, moved, half(p - moved), tint_gain)
            for p, moved in zip(seen.colors, carried.colors, strict=True)
        ]
    )
    colors[:, trust.cells_forget] = seen.colors[:, trust.cells_forget]
    return replace(
        seen,
        usual_flicker=usual_flicker,
        persistence=persistence,
        antialiased=antialiased,
        colors=colors,
    )


def fuse(fresh: Memory, past: Past, options: TemporalOptions) -> Memory:
    """Fuse the `fresh` residual with the last one, on the anti-aliased picture."""
    carried, rows, cells = past.carried, past.trust.forgets, past.trust.cells_forget
    persistence = past.antialiased.persistence
    _, residual_change = difference(fresh.residual, carried.residual)
    # an estimate follows sliding content by its look, and `astray` includes its errors already
    astray = past.compared.astray if past.estimated else _SHARPENED * past.compared.astray
    own = noise_share(around(residual_change), astray)
    trust_gain = np.float32(options.gain) * past.trust.share
    gain = trust_gain * np.maximum(persistence, own)
    # sliding content mixes the energies of several objects; only a persistent one has a usual one
    usual = half(trust_gain * persistence**2)
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
    return replace(past.antialiased, residual=residual, residual_colors=colors, energies=energies)


def _usual(fresh: Plane, past: Plane, share: Plane) -> Plane:
    """Update a usual energy, quarter planes: small changes are chance, large ones are new."""
    nearby = around(fresh)
    least, most = np.minimum(fresh, nearby) / _CHANCE, np.maximum(fresh, nearby) * _CHANCE
    return cast(Plane, fresh + share * (past.clip(least, most) - fresh))


def _fuse_residual(residual: Plane, moved: Plane, wanted: Planes, gain: Plane) -> Plane:
    """Apply the module's formula to the residual's brightness (h, w); k follows `wanted`."""
    mixed = mix(residual, moved, gain)
    low, given = split(mixed)
    fine_more, low_more = (stretch(w, g, gain) for w, g in zip(wanted, given, strict=True))
    raise_bands(mixed, low, fine_more, low_more)
    return mixed
