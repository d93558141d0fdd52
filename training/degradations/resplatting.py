"""Re-splatting of pictures: a degradation with real Gaussian-splat artifacts.

It places N anisotropic 2-D Gaussians where a picture has detail, gives each the local colour and
splats them, normalised. Too few Gaussians merge hair and teeth, and needle-shaped ones scratch.
Hard ones leave facets, and badly placed ones move features. The 3-D original is Kerbl et al.
2023, "3D Gaussian Splatting". Thinned avatars look the same (compare data/avatars, d25 and d10).

Everything is batched torch, seeded by a generator, and runs on any device.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.training.gaussians.morton import morton_code

__all__ = [
    "Gaussians",
    "SplatOptions",
    "normalize",
    "place",
    "rasterize",
    "read_at",
    "resplat",
    "thin",
]

_CUT = 2.2  # radius of a Gaussian's patch in standard deviations
# (step of the grid, largest standard deviation drawn on it): a patch grows with its Gaussian up to
# a limit, beyond which the grid gets coarser instead
_TIERS = ((1, 1.4), (1, 3.2), (2, 6.4), (4, 12.8), (8, 25.6), (16, math.inf))


@dataclass(frozen=True)
class SplatOptions:
    """Options of re-splatting. Lengths are in pixels."""

    spacing: float = 4.0
    """Mean distance of neighbouring Gaussians; 2 is a fine avatar, 8 a bad one."""
    detail: float = 0.8
    """Power by which their density follows edge strength: 0 spreads them evenly."""
    keep: float = 1.0
    """Share that `thin` leaves: 0.1 merges beard and pores and keeps eyelids crisp."""
    spread: float = 0.8
    """Standard deviation over the local distance of neighbours; below 0.4 leaves holes."""
    anisotropy: float = 0.3
    """Spread of the log of the axes' ratio; 0 is round, 1 gives needles."""
    misalign: float = 0.0
    """Distance to the wrong place that the colour is taken from, in local distances."""
    hardness: float = 0.5
    """Spread of the log priority; 0 blends softly, at 3 the front Gaussian hides the others."""
    color_noise: float = 0.0
    """Standard deviation of each Gaussian's own colour error, of [0, 1]."""
    opacity: float = 4.0
    """Optical depth where one Gaussian lies on another; below 1 the background shines through."""


@dataclass(frozen=True)
class Gaussians:
    """The Gaussians of n pictures, m for each; lengths in pixels, x right, y down."""

    center: Tensor  # (n, m, 2) x, y
    sigma: Tensor  # (n, m, 2) standard deviations along and across `angle`
    angle: Tensor  # (n, m) radians
    weight: Tensor  # (n, m) priority in the normalised sum
    color: Tensor  # (n, m, c)


def resplat(
    picture: Tensor,
    options: SplatOptions,
    generator: torch.Generator,
    *,
    alpha: Tensor | None = None,
    density: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Splat (n, c, h, w) in [0, 1] -> (splatted picture, its coverage (n, 1, h, w)).

    With `alpha` (n, 1, h, w) the Gaussians stand inside it only, and the coverage is the splatted
    silhouette. Without it the coverage is 1. `density` (n, 1, h, w) multiplies the local number
    of Gaussians: below 1 it thins out a region (hair, mouth).

    >>> picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> options = SplatOptions(spacing=4.0)
    >>> splatted, coverage = resplat(picture, options, torch.Generator().manual_seed(1))
    >>> splatted.shape, coverage.shape
    (torch.Size([1, 3, 64, 64]), torch.Size([1, 1, 64, 64]))
    >>> bool(splatted.std() < picture.std())  # fine detail is gone
    True
    """
    gaussians = place(picture, options, generator, alpha=alpha, density=density)
    if options.keep < 1:
        gaussians = thin(gaussians, options.keep, generator)
    height, width = picture.shape[-2:]
    color, total, depth = rasterize(gaussians, (height, width))
    splatted = normalize(color, total, picture)
    if alpha is None:
        return splatted, torch.ones_like(total)
    return splatted, 1 - torch.exp(-options.opacity * depth)


def normalize(color: Tensor, total: Tensor, picture: Tensor) -> Tensor:
    """Divide the sums of `rasterize` to a weighted mean colour, (n, c, h, w) like `picture`.

    Far from every Gaussian the local mean of the picture shows, instead of a division by 0.
    """
    height, width = picture.shape[-2:]
    floor = 1e-3
    cells = F.adaptive_avg_pool2d(picture, (max(height // 32, 1), max(width // 32, 1)))
    backdrop = F.interpolate(cells, (height, width), mode="bilinear")
    return (color + floor * backdrop) / (total + floor)


def place(
    picture: Tensor,
    options: SplatOptions,
    generator: torch.Generator,
    *,
    alpha: Tensor | None = None,
    density: Tensor | None = None,
) -> Gaussians:
    """Choose the Gaussians of (n, c, h, w); see `resplat`."""
    n, _, height, width = picture.shape
    strength, tangent = _edges(picture)
    rate = (strength / _mean(strength)) ** options.detail  # (n, 1, h, w)
    if density is not None:
        rate = rate * density
    inside = torch.ones_like(strength) if alpha is None else (alpha > 0.5).float()
    rate = rate.clamp(0.03, 16.0) * inside + 1e-6
    # one count for the whole batch: the mean of the pictures' counts
    count = max(int(inside.mean().item() * height * width / options.spacing**2), 16)
    center = _stratified(rate, count, generator)
    at = _grid(center, height, width)
    local = _sample(rate / rate.sum((2, 3), keepdim=True), at)[..., 0]  # Gaussians per pixel / m
    distance = (1 / (local * count).clamp(min=1e-4)).sqrt().clamp(max=24.0)

    def normal(*extra: int) -> Tensor:
        shape = (n, count, *extra)
        return torch.randn(shape, generator=generator).to(picture)

    ratio = torch.exp(options.anisotropy * normal().abs())
    sigma = options.spread * distance[..., None] * torch.stack((ratio, 1 / ratio), -1)
    source = center + options.misalign * distance[..., None] * normal(2)
    color = _footprint_color(picture * inside, source, options.spread * distance)
    # only pixels inside the silhouette lend their colour: the background must not bleed in
    share = _footprint_color(inside, source, options.spread * distance)
    color = color / share.clamp(min=1e-3)
    color = color + options.color_noise * normal(picture.shape[1])
    # small Gaussians weigh more: large ones must not haze over fine detail
    weight = torch.exp(options.hardness * normal()) / distance
    angle = _sample(tangent, at)
    return Gaussians(
        center=center,
        sigma=sigma.clamp(min=0.45),
        angle=0.5 * torch.atan2(angle[..., 1], angle[..., 0]) + 0.3 * normal(),
        weight=weight / weight.mean(1, keepdim=True),
        color=color,
    )


def thin(gaussians: Gaussians, keep: float, generator: torch.Generator) -> Gaussians:
    """Merge neighbours of similar colour until a share `keep` in (0, 1] is left.

    As in tools that decimate a 3-D avatar, a pair becomes the Gaussian of its moments. Texture
    smears and outlines stay, as in data/avatars, d25 and d10.
    """
    target = max(round(keep * gaussians.center.shape[1]), 8)
    while (count := gaussians.center.shape[1]) > target:
        merges = min(max(count // 5, 1), count - target)
        gaussians = _merge_pairs(gaussians, merges, generator)
    return gaussians


def _merge_pairs(gaussians: Gaussians, merges: int, generator: torch.Generator) -> Gaussians:
    """Merge the `merges` most similar of the disjoint pairs along a shifted Morton curve."""
    center, color = gaussians.center, gaussians.color
    n, count = center.shape[:2]
    shift = 64 * torch.rand(2, generator=generator).to(center)
    order = morton_code((2 * (center + shift)).clamp(min=0).long()).argsort(1)
    first, second = order[:, 0 : count - 1 : 2], order[:, 1::2]

    def pick(plane: Tensor, index: Tensor) -> Tensor:
        return plane.gather(1, index[..., None].expand(-1, -1, plane.shape[2]))

    area = gaussians.sigma.prod(-1, keepdim=True)
    apart = (pick(center, first) - pick(center, second)).square().sum(-1, keepdim=True)
    unlike = (pick(color, first) - pick(color, second)).square().sum(-1, keepdim=True)
    cost = (unlike + 1e-4) * (pick(area, first) + pick(area, second) + apart)
    ranked = cost[..., 0].argsort(1)[:, :merges]
    first, second = first.gather(1, ranked), second.gather(1, ranked)
    gone = torch.zeros((n, count), dtype=torch.long, device=center.device)
    gone.scatter_(1, first, 1).scatter_(1, second, 1)
    rest = gone.argsort(dim=1, stable=True)[:, : count - 2 * merges]
    planes = _moments(gaussians)  # (n, m, 5 + 1 + c)
    a, b = pick(planes, first), pick(planes, second)
    share = (pick(area, first) / (pick(area, first) + pick(area, second))).clamp(0, 1)
    union = share * a + (1 - share) * b
    delta = a[..., :2] - b[..., :2]
    outer = torch.stack((delta[..., 0] ** 2, delta.prod(-1), delta[..., 1] ** 2), -1)
    union[..., 2:5] += share * (1 - share) * outer
    united = _from_moments(torch.cat((pick(planes, rest), union), 1))
    # small Gaussians weigh more, as in `place`: merged ones must not haze over their neighbours
    grown = united.sigma[:, -merges:].prod(-1) * 2
    united.weight[:, -merges:] *= ((pick(area, first) + pick(area, second))[..., 0] / grown).sqrt()
    return united


def _moments(gaussians: Gaussians) -> Tensor:
    """Concatenate centre, covariance (xx, xy, yy), weight and colour to (n, m, 6 + c)."""
    along, across = gaussians.sigma.square().unbind(-1)
    mean, half = (along + across) / 2, (along - across) / 2
    cos, sin = half * (2 * gaussians.angle).cos(), half * (2 * gaussians.angle).sin()
    covariance = torch.stack((mean + cos, sin, mean - cos), -1)
    return torch.cat(
        (gaussians.center, covariance, gaussians.weight[..., None], gaussians.color), -1
    )


def _from_moments(planes: Tensor) -> Gaussians:
    """Invert `_moments`."""
    xx, xy, yy = planes[..., 2:5].unbind(-1)
    mean, half = (xx + yy) / 2, torch.hypot((xx - yy) / 2, xy)
    sigma = torch.stack((mean + half, (mean - half).clamp(min=0.2)), -1).sqrt()
    return Gaussians(
        center=planes[..., :2],
        sigma=sigma,
        angle=0.5 * torch.atan2(2 * xy, xx - yy),
        weight=planes[..., 5],
        color=planes[..., 6:],
    )


def rasterize(gaussians: Gaussians, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Sum w * g * color (n, c, h, w), w * g and g (n, 1, h, w) over all Gaussians g.

    Gaussians too large for one patch are drawn on a coarser grid that is scaled up, so each
    Gaussian costs the same.
    """
    n, _, channels = gaussians.color.shape
    widest = gaussians.sigma.amax(-1)
    total = gaussians.color.new_zeros((n, channels + 2, *size))
    lower = 0.0
    for step, upper in _TIERS:
        chosen = (widest > lower) & (widest <= upper)
        lower = upper
        if not chosen.any():
            continue
        radius = math.ceil(_CUT * min(upper / step, 3.2))
        layer = _draw(gaussians, chosen, step, radius, (-(-size[0] // step), -(-size[1] // step)))
        if step > 1:
            layer = F.interpolate(layer, scale_factor=step, mode="bilinear")
        total = total + layer[..., : size[0], : size[1]]
    return total[:, :channels], total[:, -2:-1], total[:, -1:]


def _draw(
    gaussians: Gaussians, chosen: Tensor, step: int, radius: int, size: tuple[int, int]
) -> Tensor:
    """Accumulate the chosen Gaussians on one grid -> (n, c + 2, h, w)."""
    n = chosen.shape[0]
    # with a rim as wide as a patch, no pixel of a patch needs a bounds check
    height, width = size[0] + 2 * radius, size[1] + 2 * radius
    picture = torch.arange(n, device=chosen.device)[:, None].expand_as(chosen)[chosen]
    center = (gaussians.center[chosen] + 0.5) / step - 0.5 + radius  # (k, 2)
    sigma = (gaussians.sigma[chosen] / step).clamp(min=0.45)
    cos, sin = gaussians.angle[chosen].cos(), gaussians.angle[chosen].sin()
    side = torch.arange(-radius, radius + 1, device=center.device)
    corner = center.round().long().clamp(min=radius)  # (k, 2)
    corner = corner.minimum(corner.new_tensor((width, height)) - 1 - radius)
    x, y = corner[:, :1] + side, corner[:, 1:] + side  # (k, p)
    dx, dy = x - center[:, :1], y - center[:, 1:]
    # the exponent is a quadratic form: three products of vectors, not a rotation of each pixel
    p, q = (0.5**0.5 / sigma).T
    xx, yy = (p * cos) ** 2 + (q * sin) ** 2, (p * sin) ** 2 + (q * cos) ** 2
    xy = 2 * cos * sin * (p * p - q * q)
    rows, columns = yy[:, None] * dy * dy, xx[:, None] * dx * dx
    power = torch.baddbmm(
        rows[:, :, None] + columns[:, None, :], (xy[:, None] * dy)[:, :, None], dx[:, None, :]
    )  # (k, p, p)
    # shifted down, so the patch ends at exactly 0 without a visible rim
    value = power.neg_().exp_().sub_(math.exp(-0.5 * _CUT**2)).clamp_(min=0)
    index = ((picture * height)[:, None] + y)[:, :, None] * width + x[:, None, :]
    index = index.flatten()
    weight = gaussians.weight[chosen][:, None]
    planes = torch.cat((weight * gaussians.color[chosen], weight, torch.ones_like(weight)), 1)
    layer = planes.new_zeros((planes.shape[1], n * height * width))
    for plane, column in zip(layer, planes.T, strict=True):
        plane.index_add_(0, index, (column[:, None, None] * value).flatten())
    layer = layer.view(-1, n, height, width).transpose(0, 1)
    return layer[..., radius : radius + size[0], radius : radius + size[1]]


def _edges(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Measure edge strength (n, 1, h, w) and the doubled tangent angle as a vector (n, 2, h, w)."""
    gray = picture.mean(1, keepdim=True)
    dx = F.pad(gray[..., 1:] - gray[..., :-1], (0, 1, 0, 0))
    dy = F.pad(gray[..., 1:, :] - gray[..., :-1, :], (0, 0, 0, 1))
    tensor = _smooth(torch.cat((dx * dx, dy * dy, dx * dy), 1))
    strength = _smooth((tensor[:, :1] + tensor[:, 1:2]).clamp(min=0).sqrt())
    # the structure tensor's minor axis, as (cos 2a, sin 2a)
    tangent = torch.cat((tensor[:, 1:2] - tensor[:, :1], -2 * tensor[:, 2:]), 1)
    return strength + 1e-3, tangent


def _smooth(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def _stratified(rate: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` places a picture by systematic sampling along a Morton curve.

    Independent draws would clump. Equal steps of the cumulative rate along a space-filling curve
    keep neighbours apart, as in optimised splats.
    """
    n, _, height, width = rate.shape
    order = _morton(height, width).to(rate.device)
    cumulative = rate.flatten(1)[:, order].double().cumsum(1)
    jitter = torch.rand((n, count), generator=generator, dtype=torch.float64).to(rate.device)
    steps = (torch.arange(count, device=rate.device) + jitter) / count
    found = torch.searchsorted(cumulative, steps * cumulative[:, -1:]).clamp(max=order.numel() - 1)
    pixel = order[found]
    offset = torch.rand((n, count, 2), generator=generator).to(rate) - 0.5
    return torch.stack((pixel % width, pixel // width), -1) + offset


@lru_cache
def _morton(height: int, width: int) -> Tensor:
    """List flat pixel indices along a Z-order curve."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return morton_code(torch.stack((x, y), -1)).flatten().argsort()


def read_at(plane: Tensor, center: Tensor) -> Tensor:
    """Read (n, c, h, w) at pixels (n, m, 2) -> (n, m, c), bilinearly, with a repeated border."""
    return _sample(plane, _grid(center, *plane.shape[-2:]))


def _grid(center: Tensor, height: int, width: int) -> Tensor:
    """Convert pixel coordinates (n, m, 2) to grid_sample's [-1, 1] (n, m, 1, 2)."""
    size = center.new_tensor((width, height))
    return ((2 * center + 1) / size - 1)[:, :, None]


def _sample(plane: Tensor, at: Tensor) -> Tensor:
    """Read (n, c, h, w) at a grid -> (n, m, c)."""
    read = F.grid_sample(plane, at, padding_mode="border", align_corners=False)
    return read[..., 0].transpose(1, 2)


def _footprint_color(picture: Tensor, center: Tensor, sigma: Tensor) -> Tensor:
    """Read the mean colour under each Gaussian (n, m, c) from its level of an averaging pyramid."""
    at = _grid(center, *picture.shape[-2:])
    level = sigma.clamp(min=1).log2()[..., None]  # one standard deviation spans one cell
    color = torch.zeros((*center.shape[:2], picture.shape[1])).to(picture)
    for depth in range(5):
        share = (1 - (level - depth).abs()).clamp(min=0)
        if depth == 4:
            share = (level - 3).clamp(0, 1)
        color = color + share * _sample(picture, at)
        if min(picture.shape[-2:]) < 2:
            return color
        picture = F.avg_pool2d(picture, 2, ceil_mode=True)
    return color
