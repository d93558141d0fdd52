"""Band-limited anisotropic noise, and the patchy masks that say where a step strikes.

Damage in renders is never even: a cheek that few cameras saw falls apart beside one that is
whole, and the patches are as long as the surface is slanted. Both functions work on the
spectrum of white noise, so that a patch may have any size and direction at the same cost.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatmend.core.errors import InputError

__all__ = ["PatchOptions", "anisotropic_noise", "patch_mask"]

_OCTAVES = 0.5  # half width of the band: narrower rings, wider is no longer one size


@dataclass(frozen=True)
class PatchOptions:
    """Where a step strikes. Lengths in pixels."""

    cover: float = 0.6
    """Share of the picture that is struck, in (0, 1]; 1 is everywhere."""
    wavelength: float = 96.0
    """From one patch to the next, along their short axis."""
    ratio: float = 2.0
    """How much longer than wide patches are, at least 1."""
    angle: float = 0.0
    """Of their long axis, radians, from x to y (down)."""
    softness: float = 0.4
    """Width of a patch's edge, in standard deviations of the noise."""

    def __post_init__(self) -> None:
        if not 0 < self.cover <= 1 or self.wavelength < 2 or self.ratio < 1 or self.softness <= 0:
            raise InputError(
                f"patches need cover in (0, 1], wavelength of at least 2 pixels, ratio of at least "
                f"1 and softness above 0, got {self}"
            )


def anisotropic_noise(
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    *,
    wavelength: float,
    ratio: float = 1.0,
    angle: float = 0.0,
) -> Tensor:
    """Gaussian noise (n, c, h, w) of one size and direction: mean 0, variance 1 in each plane.

    White noise from `generator`, filtered by a log-Gaussian ring of the spectrum (Field 1987,
    "Relations between the statistics of natural images and the response properties of cortical
    cells") that is an ellipse: `ratio` times longer waves along `angle`.
    """
    height, width = shape[-2:]
    white = torch.randn(shape, generator=generator)
    y = torch.fft.fftfreq(height)[:, None]
    x = torch.fft.rfftfreq(width)
    along = ratio * (x * math.cos(angle) + y * math.sin(angle))
    across = y * math.cos(angle) - x * math.sin(angle)
    # a picture smaller than a wave still gets the longest one that it can hold
    radius = torch.hypot(along, across) * min(wavelength, float(max(height, width)))
    band = torch.exp(-0.5 * (radius.clamp(min=1e-6).log2() / _OCTAVES) ** 2)
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * band, s=(height, width))
    field = field - field.mean((2, 3), keepdim=True)
    return field / field.std((2, 3), keepdim=True).clamp(min=1e-12)


def patch_mask(
    size: tuple[int, int], batch: int, generator: torch.Generator, options: PatchOptions
) -> Tensor:
    """Soft patches (batch, 1, height, width) in [0, 1] that cover the share asked for."""
    if options.cover == 1:
        return torch.ones(batch, 1, *size)
    field = anisotropic_noise(
        (batch, 1, *size),
        generator,
        wavelength=options.wavelength,
        ratio=options.ratio,
        angle=options.angle,
    )
    # the rank decides and not the value: few waves fit in, so their distribution is not normal
    rank = max(round((1 - options.cover) * (size[0] * size[1] - 1)), 0) + 1
    threshold = field.flatten(1).kthvalue(rank).values[:, None, None, None]
    return ((field - threshold) / options.softness + 0.5).clamp(0, 1)
