"""Planar pictures blurred, and in other sizes and layouts.

Sizes and layouts are those of PyTorch's own functions, whose general kernels took nearly a third
of compact's time on a CPU. Up to rounding the pictures are the same (tested), on any device, and
gradients flow through.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["blur", "blur_radius", "halve", "magnify", "unshuffle"]


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur (n, c, h, w) by a Gaussian of `sigma` pixels; beyond the edge its pixels go on."""
    radius, channels = blur_radius(sigma), x.shape[1]
    line = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (line / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    rows = F.conv2d(F.pad(x, (radius, radius, 0, 0), "replicate"), kernel, groups=channels)
    rows = F.pad(rows, (0, 0, radius, radius), "replicate")
    return F.conv2d(rows, kernel.transpose(2, 3), groups=channels)


def blur_radius(sigma: float) -> int:
    """Return how many pixels away `blur` looks: three standard deviations, and at least one."""
    return max(1, math.ceil(3 * sigma))


def halve(x: Tensor) -> Tensor:
    """(n, c, h, w) of even sides -> (n, c, h / 2, w / 2), means of 2 x 2: F.avg_pool2d."""
    return F.interpolate(x, scale_factor=0.5, mode="bilinear")


def magnify(x: Tensor, factor: int) -> Tensor:
    """(n, c, h, w) -> (n, c, factor h, factor w): F.interpolate, bilinear; `factor` is even."""
    n, c, height, width = x.shape
    rows = F.interpolate(x, size=(height, factor * width), mode="bilinear")
    rows = F.pad(rows, (0, 0, 1, 1), mode="replicate")[:, :, :, None]
    # new rows lie, as parts of an old one's height, this far below its middle
    below = (torch.arange(factor, dtype=x.dtype, device=x.device)[:, None] + 0.5) / factor - 0.5
    upper, lower = below.chunk(2)
    between = (
        torch.lerp(rows[:, :, :-2], rows[:, :, 1:-1], upper + 1),
        torch.lerp(rows[:, :, 1:-1], rows[:, :, 2:], lower),
    )
    return torch.cat(between, 3).view(n, c, factor * height, factor * width)


def unshuffle(x: Tensor, factor: int) -> Tensor:
    """(n, c, h, w) -> (n, factor**2 c, h / factor, w / factor), channels last.

    The values are F.pixel_unshuffle's.
    """
    n, c, height, width = x.shape
    cells = x.reshape(n, c, height // factor, factor, width // factor, factor)
    # two copies with long runs are sooner done than one with runs of `factor` on both sides
    strips = cells.transpose(1, 2).flatten(2, 3)  # (n, h / factor, factor c, w / factor, factor)
    return strips.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)
