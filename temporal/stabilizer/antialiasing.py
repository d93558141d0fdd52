"""Temporal anti-aliasing of the input: popping splats, changes of their order, noise.

Let x be the input, w its anti-aliased predecessor, moved to this frame and relit, and h a gain for
each pixel. The gain has the fourth power of the confidence, because a wrong picture is more visible
than a wrong residual. It also has the share of flicker and the persistence of confidence.py. Then

    p = x + h (w - x - broad(w - x)),

and the restorer sees p. `broad` is the mean of the neighbourhood, so shadows do not lag.

This is temporal anti-aliasing as renderers do it: Karis 2014, "High-Quality Temporal
Supersampling", and Yang, Liu and Salvi 2020, "A Survey of Temporal Antialiasing Techniques". As
there, the history is sampled bicubically, which keeps its detail. They clip it to the darkest and
brightest pixel around. Splats that tremble leave that range, so the clip cost a fifth of the
effect. It removed no ghost that the confidence leaves (benchmarks/steadiness.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from splatmend.temporal.stabilizer.confidence import (
    Light,
    broad,
    fit_light,
    flicker,
    is_cut,
    known,
    learn,
    learn_persistence,
    noise_share,
    trust,
)
from splatmend.temporal.stabilizer.memory import Look, Memory, join_colors
from splatmend.temporal.stabilizer.planes import (
    half,
    half_positions,
    positions,
    sample,
    whole,
)

__all__ = ["Past", "antialias"]


@dataclass(frozen=True, eq=False)
class Past:
    """The last memory, moved to this frame, and the picture that it anti-aliased."""

    antialiased: Tensor
    """(1, h, w): p of the module."""
    tints: Tensor
    """(2, h, w): likewise."""
    residual: Tensor
    """(3, h, w): the accumulated residual, moved and relit."""
    energy: Tensor
    """(1, h / 4, w / 4): likewise the usual fine energy."""
    usual_flicker: Tensor
    """(1, h / 2, w / 2): learned up to this frame."""
    persistence: Tensor
    """(1, h / 2, w / 2) in [0, 1]: likewise."""
    trust: Tensor
    """(1, h / 2, w / 2) in [0, 1]: confidence in the past."""
    age: Tensor
    """(): frames of the scene before this one."""
    cut: Tensor
    """() bool: whether a scene begins here; then `trust` is 0 everywhere."""


def antialias(
    memory: Memory,
    motion: Tensor,
    rgb: Tensor,
    now: Look,
    *,
    gain: float,
    tolerance: float,
) -> tuple[Past, Tensor]:
    """Move a memory to this frame and anti-alias its picture.

    Args:
        memory: The state after the last frame.
        motion: Backward motion in pixels, (h, w, 2), x first; not finite where there is no source.
        rgb: The picture, (3, h, w) in [0, 1].
        now: The same, split.
        gain: Share of the past where it is fully trusted, in [0, 1).
        tolerance: Change beyond the usual flicker at which the confidence is 1/e.

    Returns:
        The past, and the anti-aliased picture, (3, h, w).
    """
    places = positions(motion)
    at_half = half_positions(places)
    seen = _compare(memory, now, places, at_half, tolerance)
    contrast, offset = seen.light.contrast, seen.light.offset
    history = contrast * sample(memory.antialiased, places, cubic=True) + offset
    persistence = learn_persistence(
        now.brightness - history, seen.difference, seen.before,
        sample(memory.persistence, at_half),
    )  # fmt: skip
    share = gain * noise_share(seen.usual, now.brightness, places) * persistence
    share *= seen.trust.square().square()
    change_of_bright = _change(now.brightness, history, share)
    change_of_tints = _change(now.tints, contrast * sample(memory.tints, places), share)
    past = Past(
        antialiased=now.brightness + change_of_bright,
        tints=now.tints + change_of_tints,
        residual=sample(memory.residual, places).mul_(contrast),
        energy=contrast.square() * sample(memory.energy, half_positions(at_half)),
        usual_flicker=seen.usual,
        persistence=torch.where(seen.cut, 1.0, persistence),
        trust=seen.trust,
        age=seen.age,
        cut=seen.cut,
    )
    return past, join_colors(change_of_bright, change_of_tints).add_(rgb).clamp_(0, 1)


@dataclass(frozen=True, eq=False)
class _Compared:
    """The last picture, moved, compared with this one; half planes but for `difference`."""

    light: Light
    difference: Tensor
    """(1, h, w): this picture less the last one, relit."""
    before: Tensor
    """The usual flicker up to the last frame, relit."""
    usual: Tensor
    """The same up to this frame."""
    trust: Tensor
    age: Tensor
    cut: Tensor


def _compare(
    memory: Memory, now: Look, places: Tensor, at_half: Tensor, tolerance: float
) -> _Compared:
    last = sample(memory.last.brightness, places)
    same = known(memory.last, now, places, at_half)
    light = fit_light(last, now.brightness, same)
    cut = is_cut(last, now.brightness, light, same) | (memory.age < 0)
    alive = (~cut).float()
    difference = now.brightness - light.contrast * last - light.offset
    before = light.contrast * sample(memory.usual_flicker, at_half)
    change, age = flicker(difference), (memory.age + 1) * alive
    return _Compared(
        light=light,
        difference=difference,
        before=before,
        usual=learn(change, before, age) * alive,
        trust=trust(change, before, tolerance) * (same * alive),
        age=age,
        cut=cut,
    )


def _change(now: Tensor, history: Tensor, gain: Tensor) -> Tensor:
    """Compute p - x of the module; the gain is a half plane."""
    away = history - now
    away -= whole(broad(half(away), gain), now)
    return away.mul_(whole(gain, now))
