"""Accumulation of the residual: what a restorer adds, averaged over time, then sharp again.

Let r be the residual of this frame (restored - p), w the accumulated one, moved to this frame, and
g the gain times the confidence. Then

    a = (1 - g) r + g w,    answer = p + a + k band(p + a).

`band` is the finest detail: a picture less its mean of 3 x 3 pixels. Averages fade where frames do
not agree to a fraction of a pixel. k gives the answer the usual fine energy of frames that are
restored alone; it is never negative and at most 1. That detail enters the memory, so it moves
with the picture.

The mean is the scheme of KEEP (Feng et al. 2024, "Kalman-Inspired Feature Propagation for Video
Face Super-Resolution"), which averages codes. Nothing is kept where the confidence is 0.
"""

import torch
from torch import Tensor

from splatmend.temporal.stabilizer.antialiasing import Past
from splatmend.temporal.stabilizer.memory import Look, Memory, brightness
from splatmend.temporal.stabilizer.planes import box, half, soften, whole

__all__ = ["accumulate", "begin"]

_SIDE = 3  # pixels
_USUAL = 0.85  # share of the past in the usual energy
_CHANCE = 4.0  # factor between energies that may still be chance
_MOST = 1.0
_QUIET = 1e-7  # energy far below one step of 8 bits: keeps 0 / 0 at 1


def begin(rgb: Tensor, now: Look, restored: Tensor) -> Memory:
    """Make the memory of the first frame, (3, h, w) in [0, 1], from the same split and restored."""
    _, energy = _band(brightness(restored))
    return Memory(
        last=now,
        antialiased=now.brightness,
        tints=now.tints,
        residual=restored - rgb,
        energy=energy,
        usual_flicker=torch.zeros_like(half(now.brightness)),
        persistence=torch.ones_like(half(now.brightness)),
        age=energy.new_zeros(()),
    )


def accumulate(
    past: Past,
    antialiased: Tensor,
    now: Look,
    restored: Tensor,
    *,
    gain: float,
    fresh: Tensor | None = None,
) -> tuple[Memory, Tensor]:
    """Average the residual of a restored picture with the past's.

    Args:
        past: The first result of `antialias`.
        antialiased: The second, (3, h, w) in [0, 1].
        now: This picture before anti-aliasing, split.
        restored: The anti-aliased picture, restored, (3, h, w) in [0, 1].
        gain: Share of the past where it is fully trusted, in [0, 1).
        fresh: Half plane in [0, 1]: the part of this frame's own residual that is kept.

    Returns:
        The state after this frame, and the answer, (3, h, w) in [0, 1].
    """
    residual = restored - antialiased
    share = past.trust if fresh is None else past.trust * (1 - fresh)
    step = (past.residual - residual).mul_(whole(gain * share, now.brightness))
    answer = restored + step

    _, alone = _band(now.brightness + brightness(residual))
    within = torch.minimum(torch.maximum(past.energy, alone / _CHANCE), alone * _CHANCE)
    energy = torch.lerp(alone, within, _USUAL * half(past.trust))
    band, given = _band(brightness(answer))
    more = (soften(energy) + _QUIET) / (soften(given) + _QUIET)
    more = whole(more.sqrt_().sub_(1).clamp_(0, _MOST), share) * share
    detail = band.mul_(whole(more, band))

    answer = answer.add_(detail).clamp_(0, 1)
    sound = torch.isfinite(answer.sum())  # a network that overflows once spoils one frame
    memory = Memory(
        last=now,
        antialiased=past.antialiased,
        tints=past.tints,
        residual=torch.where(sound, residual.add_(step).add_(detail), 0.0),
        energy=torch.where(sound, energy, 0.0),
        usual_flicker=past.usual_flicker,
        persistence=past.persistence,
        age=torch.where(sound, past.age, -1.0),
    )
    return memory, answer


def _band(bright: Tensor) -> tuple[Tensor, Tensor]:
    """Return the finest detail (1, h, w) and its energy, (1, h / 4, w / 4)."""
    band = bright - box(bright, _SIDE)
    return band, half(half(band.square()))
