"""Confidence in the last frame, and the light that changed since.

The change c at a place is the difference between the last picture, moved, and this one. Its causes
are:

- Light. One contrast and one offset for the whole picture explain a fade or a flash: `fit_light`.
  A shadow changes its neighbourhood alike: `broad`. Both are applied to the past, so that it
  follows at once.
- Flicker comes again in every frame. So the usual change u is learned along the motion, and only
  the excess over twice u counts as new, d = max(c - 2 u, 0). The filter learns the spread of its
  innovations, after Mehra 1970, "On the Identification of Variances and Adaptive Kalman
  Filtering". The confidence is exp(-d / tolerance).
- Motion by fractions of a pixel changes the finest detail by q or more. Averaging there would cost
  detail and remove little flicker. So the past of the picture gets the share
  s = u^4 / (u^4 + q^4).
- Things slide over one another, as Gaussians do where a head turns. Two frames cannot tell this
  from flicker; several can. The mean of trembling content is nearer to each frame than the last
  frame is, and the mean of sliding content is further off. So the past of the picture is kept by
  its persistence. That falls where, for some frames, the mean has been a fifth further off.
- The rest is new content, and so is everything whose source lies outside the last picture, or
  differs in alpha or depth.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from splatmend.temporal.motion.validity import alphas_agree, depths_agree
from splatmend.temporal.stabilizer.memory import Look
from splatmend.temporal.stabilizer.planes import (
    box,
    erode,
    half,
    inside,
    sample,
    shrink,
    soften,
    whole,
)

__all__ = [
    "Light",
    "broad",
    "fit_light",
    "flicker",
    "is_cut",
    "known",
    "learn",
    "learn_persistence",
    "noise_share",
    "trust",
]

_CELLS = 32  # a side of the picture, for the fit of light
_ROUNDS = 3
_FLAT = 1e-4  # variance, in [0, 1]: a flat picture tells no contrast
_CONTRASTS, _OFFSETS = (0.75, 1.35), 0.25  # stronger light is another scene
_CUT = 0.2
_LEAST_CONTRAST = 10 / 255  # so that 2 levels of noise are not a cut
_GATE = 2.0
_MOST = 8 / 255  # stronger flicker is not told from change
_MOST_SHADOW = 16 / 255  # a larger difference is another object
_LEARN = 0.15  # share of the newest frame in the usual change
_NEWS = 1 / 255  # largest excess over the usual change that one frame adds
_WORSE, _SOFT = 1.2, 0.1  # multiple of the last picture's error at which nothing persists
_PATIENCE = 0.3  # share of the newest frame in the persistence
_USUAL = 0.75  # least error of the last picture, as a share of the usual one
_STEP = 1 / 255  # errors below a step of 8 bits hardly count
_LEVEL = 0.125 / 255  # change by motion alone anywhere
_DETAIL = 0.4  # and as a multiple of the finest detail
_FEW = 1e-3  # keeps 0 / 0 at 0
_AROUND = 9  # quarter pixels: 36 pixels


@dataclass(frozen=True, eq=False)
class Light:
    """The change of light between two pictures: now = contrast * last + offset, both ()."""

    contrast: Tensor
    offset: Tensor


def fit_light(last: Tensor, now: Tensor, seen: Tensor) -> Light:
    """Fit the light of the whole picture by least squares, reweighted against new content.

    Args:
        last: Brightness of the last picture, moved, (1, h, w).
        now: Brightness of this picture, (1, h, w).
        seen: Half plane in [0, 1]: where `last` is known.

    Returns:
        Contrast 1 and offset 0 where the fit is no plausible light.
    """
    height, width = (min(_CELLS, side) for side in seen.shape[-2:])
    x, y, known = (shrink(plane, (height, width)).flatten() for plane in (last, now, seen))
    weight = known = (known > 0.99).float()
    terms = torch.stack((torch.ones_like(x), x, y, x * x, x * y))
    count = known.sum().clamp(min=1)
    for _ in range(_ROUNDS):
        total, sum_x, sum_y, sum_xx, sum_xy = (terms @ weight).unbind()
        middle_x, middle_y = sum_x / total.clamp(min=_FEW), sum_y / total.clamp(min=_FEW)
        spread = sum_xx - sum_x * middle_x + _FLAT * count
        contrast = (sum_xy - sum_x * middle_y + _FLAT * count) / spread
        offset = middle_y - contrast * middle_x
        error = torch.addcmul(y - offset, x, contrast, value=-1).abs_()
        usual = (known @ error / count).clamp(min=0.25 / 255)
        weight = known / (1 + (error / usual).square_())
    least, most = _CONTRASTS
    light = (contrast > least) & (contrast < most) & (offset.abs() < _OFFSETS)
    return Light(torch.where(light, contrast, 1.0), torch.where(light, offset, 0.0))


def is_cut(last: Tensor, now: Tensor, light: Light, seen: Tensor) -> Tensor:
    """Tell whether the last picture, moved and relit, differs so much that there is a cut; () bool.

    The measure is the mean difference over the picture's contrast (mean distance from its mean). On
    moving heads it stays below 0.1 even eight frames apart. From one head to another on the same
    white ground it is 0.3 and more. Between scenes it is about 1.
    """
    # every fourth pixel both ways is enough for a mean
    after, known = now[..., ::4, ::4], seen[..., ::2, ::2]
    before = light.contrast * last[..., ::4, ::4] + light.offset
    contrast = (after - after.mean()).abs().mean().clamp(min=_LEAST_CONTRAST)
    total = known.sum()
    error = (known * (before - after).abs()).sum() / total.clamp(min=1)
    return (error > _CUT * contrast) | (total < 1)


def known(last: Look, now: Look, places: Tensor, at_half: Tensor) -> Tensor:
    """Return 1 where the last picture shows the same surface, else 0: a half plane.

    Alpha on the other side of one half is new, and so is depth that is further apart than a
    twentieth.

    Args:
        last: The last picture, not moved.
        now: This picture.
        places: Where its motion points to, (h, w, 2).
        at_half: The same for half planes.
    """
    same = inside(at_half)
    for before, after, agree in (
        (last.alpha, now.alpha, alphas_agree), (last.depth, now.depth, depths_agree),
    ):  # fmt: skip
        if before is not None and after is not None:
            same = same * _all_of(agree(sample(before, places), after))
    # enlarged, a place is a mean with those beside it: they are new too
    return erode(same)


def _all_of(plane: Tensor) -> Tensor:
    return (half(plane.float()) > 0.99).float()


def broad(difference: Tensor, weight: Tensor) -> Tensor:
    """Average a difference by weight over 36 x 36 pixels; half planes of (c, h, w), (1, h, w)."""
    total = box(half(difference * weight), _AROUND)
    return whole(total / (box(half(weight), _AROUND) + _FEW), difference)


def trust(change: Tensor, usual: Tensor, tolerance: float) -> Tensor:
    """Compute the confidence in (0, 1] from a change and the usual one, half planes.

    A place is trusted no more than those around it: at the edge of new content, a place of half
    planes shows both.
    """
    new = (change - _GATE * usual).clamp_(min=0)
    return erode(torch.exp(new.mul_(-1 / tolerance)))


def flicker(signed: Tensor) -> Tensor:
    """Return the change (1, h / 2, w / 2) in a signed difference (1, h, w), without shadows."""
    small, size = half(signed), half(signed.abs())
    shadow = broad(small, (small.abs() < _MOST_SHADOW).float())
    return soften(torch.maximum(size - shadow.abs(), (small - shadow).abs_()))


def learn(change: Tensor, usual: Tensor, age: Tensor) -> Tensor:
    """Update the usual change u by one frame; `age` counts frames of the scene from 0."""
    # new content appears once, and must not pass for flicker
    news = torch.where(age > 1, _NEWS, 1.0)
    share = torch.clamp(1 / age.clamp(min=1), min=_LEARN)
    return usual + share * (torch.minimum(change.clamp(max=_MOST), _GATE * usual + news) - usual)


def learn_persistence(mean: Tensor, last: Tensor, usual: Tensor, before: Tensor) -> Tensor:
    """Update the persistence of the module, in [0, 1], by one frame.

    Args:
        mean: This picture less the anti-aliased one, moved, (1, h, w).
        last: This picture less the last one, moved, (1, h, w).
        usual: The usual change, a half plane. Codecs repeat a block and then replace it.
        before: The persistence up to the last frame, moved, a half plane.
    """
    of_mean = box(half(mean.abs()).clamp_(max=_MOST_SHADOW), _AROUND)
    of_last = torch.maximum(half(last.abs()), _USUAL * usual).clamp_(max=_MOST_SHADOW)
    ratio = (of_mean + _STEP) / (box(of_last, _AROUND) + _STEP)
    return torch.lerp(before, ((_WORSE - ratio) / _SOFT).clamp_(0, 1), _PATIENCE)


def noise_share(usual: Tensor, bright: Tensor, places: Tensor) -> Tensor:
    """Return the share of flicker in the usual change, s of the module, a half plane.

    Args:
        usual: The usual change u.
        bright: The brightness of this picture, (1, h, w).
        places: Where its motion points to; on a pixel, sampling loses nothing.
    """
    off_x, off_y = places[::2, ::2].unbind(-1)
    off = torch.maximum((off_x - off_x.round()).abs_(), (off_y - off_y.round()).abs_())
    between = (5 * off[None]).clamp_(max=1)
    finest = soften(half((bright - box(bright, 3)).abs_()))
    alone = ((_DETAIL * finest + _LEVEL) * between).clamp_(min=2.5e-5)
    ratio = (usual / alone).square_().square_()
    return ratio / (1 + ratio)
