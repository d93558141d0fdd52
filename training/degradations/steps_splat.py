"""Degradations of the Gaussians themselves: too few, merged, too large, too thin, missing.

Every step maps `rgb` (n, 3, h, w) in [0, 1] to the same shape and range. `strength` (n, 1, h, w)
in [0, 1] is local: where it is 0 the picture stays as it is. With `alpha` (n, 1, h, w) the
Gaussians stand inside the silhouette, and their fringe lies over the background around it.
Randomness comes from `generator` alone. Lengths are in pixels. Further arguments are drawn for
each picture from the ranges in `steps`.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.resample import blur
from splatmend.training.degradations.resplatting import (
    Gaussians,
    SplatOptions,
    normalize,
    place,
    rasterize,
    thin,
)

__all__ = ["clump", "coarsen", "decimate", "holes", "melt", "needles"]

_FINE = 1.7  # spacing at strength 0, as fine as in good avatars
_BEADS = tuple(share / 4 for share in range(-3, 4))  # along half a needle or strand
_LONGEST = 3.2  # standard deviation up to which `rasterize` draws on the picture's own grid
_RIM = 3.0  # standard deviation of the rim within which a silhouette frays
_FULL = 0.2  # from this strength on nothing of the clean picture shines through


def coarsen(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,
    spacing: float,
    misalign: float,
    hardness: float,
    color_noise: float,
) -> Tensor:
    """Use too few Gaussians, `spacing` apart at strength 1: a small budget or a short training.

    Source: Kerbl et al. 2023, "3D Gaussian Splatting", section 5.2 (under-reconstruction).

    Drawn:
        spacing: mean distance of neighbours; 2 is fine, 8 very bad.
        misalign: distance to the wrong place that a colour comes from, in mean distances.
        hardness: spread of the log priority; above 1 the front ones leave facets.
        color_noise: standard deviation of each Gaussian's own colour error at strength 1.
    """
    options = SplatOptions(misalign=misalign, hardness=hardness)
    gaussians = _place_graded(rgb, options, spacing, strength, generator, alpha)
    error = torch.randn(gaussians.color.shape, generator=generator).to(rgb)
    error = color_noise * _read(strength, gaussians.center) * error
    gaussians = replace(gaussians, color=gaussians.color + error)
    return _replace(rgb, _draw(rgb, gaussians, options.opacity, alpha), strength)


def decimate(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,
    spacing: float,
    keep: float,
) -> Tensor:
    """Merge neighbours of similar colour until a share `keep` is left at high strength.

    Tools that shrink a trained avatar do the same: texture smears, outlines stay.

    Source: moment matching of Gaussian mixtures (Runnalls 2007, "Kullback-Leibler approach to
    Gaussian mixture reduction"); compare the public tool splat-transform.

    Drawn:
        spacing: mean distance of neighbours before merging.
        keep: share left from strength 0.8 on; at 0.4 and below its square root is left.
    """
    options = SplatOptions(spacing=spacing, detail=0.4)
    half = thin(place(rgb, options, generator, alpha=alpha), keep**0.5, generator)
    whole = thin(half, keep**0.5, generator)
    some, most = (_draw(rgb, g, options.opacity, alpha) for g in (half, whole))
    merged = some + ((strength - 0.4) / 0.4).clamp(0, 1) * (most - some)
    return _replace(rgb, merged, strength)


def melt(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,
    share: float,
    growth: float,
) -> Tensor:
    """Enlarge some Gaussians by `growth`, which puts a haze over detail and makes edges leak.

    Source: Kerbl et al. 2023, section 5.2 (over-reconstruction); Yu et al. 2024,
    "Mip-Splatting" (dilation).

    Drawn:
        share: share that is too large at strength 1, in [0, 1].
        growth: factor of their size, above 1.
    """
    options = SplatOptions()
    gaussians = _place_graded(rgb, options, 3.0, strength, generator, alpha)
    chance = share * _read(strength, gaussians.center)[..., 0]
    grown = torch.rand(chance.shape, generator=generator).to(rgb) < chance
    factor = torch.where(grown, growth, 1.0)
    # the same total weight, spread over more of the picture
    melted = replace(
        gaussians, sigma=gaussians.sigma * factor[..., None], weight=gaussians.weight / factor
    )
    return _replace(rgb, _draw(rgb, melted, options.opacity, alpha), strength)


def clump(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,
    spacing: float,
    length: float,
    hardness: float,
) -> Tensor:
    """Clump strands: hard Gaussians along them, each in the mean colour of its strand.

    Source: Luo et al. 2024, "GaussianHair" (hair without a strand model). The mean along a strand
    is a line integral convolution (Cabral and Leedom 1993).

    Drawn:
        spacing: mean distance of neighbours at strength 1, and so the width of a clump.
        length: length of the strand that lends its colour, at strength 1.
        hardness: spread of the log priority.
    """
    options = SplatOptions(detail=0.6, spread=0.6, anisotropy=0.8, hardness=hardness)
    gaussians = _place_graded(rgb, options, spacing, strength, generator, alpha)
    along = torch.stack((gaussians.angle.cos(), gaussians.angle.sin()), -1)
    reach = 0.5 * length * _read(strength, gaussians.center) * along
    samples = [_read(rgb, gaussians.center + share * reach) for share in _BEADS]
    # longer Gaussians would be drawn on a coarser grid and get wider
    clumped = replace(
        gaussians, color=torch.stack(samples).mean(0), sigma=gaussians.sigma.clamp(max=_LONGEST)
    )
    return _replace(rgb, _draw(rgb, clumped, options.opacity, alpha), strength)


def needles(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,
    density: float,
    length: float,
    opacity: float,
) -> Tensor:
    """Add thin Gaussians that stick out of the surface, lighter or darker than around them.

    They start inside alpha.

    Source: Xie et al. 2024, "PhysGaussian" (over-skinny kernels, its anisotropy regulariser).

    Drawn:
        density: needles for each 10,000 pixels at strength 1.
        length: median standard deviation along a needle; across it is less than a pixel.
        opacity: opacity in a needle's middle, in [0, 1].
    """
    where = strength if alpha is None else strength * alpha
    n = rgb.shape[0]
    count = math.ceil(density * where.sum().item() / n / 10_000)
    if not count:
        return rgb
    center = _scatter(where, count, generator)

    def normal(*extra: int) -> Tensor:
        return torch.randn((n, count, *extra), generator=generator).to(rgb)

    reach = length * torch.exp(0.5 * normal())
    angle = torch.pi * torch.rand((n, count), generator=generator).to(rgb)
    color = _read(rgb, center + 0.5 * reach[..., None] * normal(2)) * torch.exp(0.35 * normal(1))
    # a row of short Gaussians that thins out: a long one would be drawn on a coarser grid, wider
    along = torch.stack((angle.cos(), angle.sin()), -1) * reach[..., None]
    beads = len(_BEADS)
    row = Gaussians(
        center=torch.cat([center + 1.5 * share * along for share in _BEADS], 1),
        sigma=torch.stack((reach / 2.5, torch.full_like(reach, 0.6)), -1)
        .clamp(max=_LONGEST)
        .repeat(1, beads, 1),
        angle=angle.repeat(1, beads),
        weight=torch.cat([torch.full_like(reach, 1 - abs(share)) for share in _BEADS], 1),
        color=color.repeat(1, beads, 1),
    )
    summed, total, _ = rasterize(row, (rgb.shape[2], rgb.shape[3]))
    cover = opacity * (1 - torch.exp(-2 * total)) * (where / _FULL).clamp(max=1)
    return rgb + cover * (summed / total.clamp(min=1e-6) - rgb)


def holes(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,
    spacing: float,
    loss: float,
) -> Tensor:
    """Reduce the opacity of each Gaussian by its own draw, so the background shows in blotches.

    With alpha the background is the ground, else a grey drawn for each picture. This is most of
    the mean error of a thinned real avatar (data/avatars, d10 against ref).

    Source: Kerbl et al. 2023, section 5.2 (opacity reset and pruning).

    Drawn:
        spacing: distance of neighbours, and so the size of a blotch.
        loss: loss of opacity at strength 1 for the Gaussian that loses most, in [0, 1]; the mean
            is a third of it.
    """
    options = SplatOptions(spacing=spacing, detail=0.3, anisotropy=0.5)
    gaussians = place(rgb, options, generator, alpha=alpha)
    n, count = gaussians.angle.shape
    lost = loss * torch.rand((n, count, 1), generator=generator).to(rgb) ** 2
    lost = lost * _read(strength, gaussians.center)
    summed, total, _ = rasterize(replace(gaussians, color=lost), (rgb.shape[2], rgb.shape[3]))
    grey = torch.rand((n, 1, 1, 1), generator=generator).to(rgb)
    behind = grey if alpha is None else _ground(rgb, alpha)
    share = summed / total.clamp(min=1e-6)
    return rgb + (strength / _FULL).clamp(max=1) * share * (behind - rgb)


def _place_graded(
    rgb: Tensor,
    options: SplatOptions,
    coarse: float,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None,
) -> Gaussians:
    """Place Gaussians that are `coarse` apart at strength 1, and finely at strength 0."""
    rate = (_FINE * (coarse / _FINE) ** strength) ** -2  # Gaussians for each pixel
    inside = torch.ones_like(rate) if alpha is None else (alpha > 0.5).to(rate)
    mean = (rate * inside).sum().item() / max(inside.sum().item(), 1.0) or _FINE**-2
    options = replace(options, spacing=mean**-0.5)
    return place(rgb, options, generator, alpha=alpha, density=rate / mean)


def _draw(rgb: Tensor, gaussians: Gaussians, opacity: float, alpha: Tensor | None) -> Tensor:
    """Draw the Gaussians over the background of `rgb` -> (n, 3, h, w)."""
    color, total, depth = rasterize(gaussians, (rgb.shape[2], rgb.shape[3]))
    splatted = normalize(color, total, rgb)
    if alpha is None:
        return splatted
    # gaps inside the head would show its far side, which is unknown; only the rim may fray
    core = (10 * blur(alpha, _RIM) - 9).clamp(0, 1)
    coverage = core + (1 - core) * (1 - torch.exp(-opacity * depth))
    return splatted * coverage + _ground(rgb, alpha) * (1 - coverage)


def _ground(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Extend the background under the silhouette by its local mean -> (n, 3, h, w)."""
    outside = (alpha < 0.02).to(rgb)
    planes = torch.cat((rgb * outside, outside), 1)
    size = (rgb.shape[2], rgb.shape[3])
    cells = F.adaptive_avg_pool2d(planes, (max(size[0] // 32, 1), max(size[1] // 32, 1)))
    cells = cells + 1e-3 * planes.mean((2, 3), keepdim=True)  # far inside: the mean of everything
    filled = F.interpolate(cells, size, mode="bilinear")
    below = filled[:, :3] / filled[:, 3:].clamp(min=1e-9)
    return torch.where(outside > 0, rgb, below)


def _replace(rgb: Tensor, degraded: Tensor, strength: Tensor) -> Tensor:
    """Take the degraded picture where the strength is above 0, with a short transition.

    The degradation itself grows with the strength; a mixture throughout would be a double image.
    """
    return rgb + (strength / _FULL).clamp(max=1) * (degraded - rgb)


def _scatter(density: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw positions (n, count, 2) x, y with a density (n, 1, h, w)."""
    n, _, _, width = density.shape
    cumulative = density.flatten(1).double().cumsum(1)
    draw = torch.rand((n, count), generator=generator, dtype=torch.float64).to(cumulative)
    found = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True)
    found = found.clamp(max=cumulative.shape[1] - 1)
    offset = torch.rand((n, count, 2), generator=generator).to(density) - 0.5
    return torch.stack((found % width, found // width), -1) + offset


def _read(plane: Tensor, center: Tensor) -> Tensor:
    """Read (n, c, h, w) at the nearest pixels of (n, m, 2) x, y -> (n, m, c)."""
    height, width = plane.shape[-2:]
    x = center[..., 0].round().long().clamp(0, width - 1)
    y = center[..., 1].round().long().clamp(0, height - 1)
    index = (y * width + x)[:, None].expand(-1, plane.shape[1], -1)
    return plane.flatten(2).gather(2, index).transpose(1, 2)
