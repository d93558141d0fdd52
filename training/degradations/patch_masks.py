"""Band-limited anisotropic noise, and the patchy masks that limit a step to parts of a picture.

Degradation in renders is never even: a cheek that few cameras saw falls apart beside an intact
one, and patches are longer where the surface is slanted. Both functions work on the spectrum of
white noise, so a patch of any size and direction costs the same.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatmend.core.errors import InputError

__all__ = ["PatchOptions", "anisotropic_noise", "patch_mask"]

_OCTAVES = 0.5  # half width of the band: narrower ones ring, wider ones mix several sizes


@dataclass(frozen=True)
class PatchOptions:
    """The patches in which a step applies. Lengths are in pixels.

    Raises:
        InputError: an option out of its range.
    """

    cover: float = 0.6
    """Share of the picture that is degraded, in (0, 1]; 1 is everywhere."""
    wavelength: float = 96.0
    """Distance from one patch to the next, along their short axis; at least 2."""
    ratio: float = 2.0
    """Length of the patches over their width, at least 1."""
    angle: float = 0.0
    """Direction of their long axis, radians, from x to y (down)."""
    softness: float = 0.4
    """Width of a patch's edge, in standard deviations of the noise; above 0."""

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
    """Draw Gaussian noise (n, c, h, w) of one size and direction.

    Each plane has mean 0 and variance 1. White noise from `generator` is filtered by an elliptic
    log-Gaussian ring of the spectrum: waves along `angle` are `ratio` times longer.

    Source: Field 1987, "Relations between the statistics of natural images and the response
    properties of cortical cells" (the log-Gaussian filter).
    """
    height, width = shape[-2:]
    white = torch.randn(shape, generator=generator)
    y = torch.fft.fftfreq(height)[:, None]
    x = torch.fft.rfftfreq(width)
    along = ratio * (x * math.cos(angle) + y * math.sin(angle))
    across = y * math.cos(angle) - x * math.sin(angle)
    # a picture smaller than a wave gets the longest wave that fits
    radius = torch.hypot(along, across) * min(wavelength, float(max(height, width)))
    band = torch.exp(-0.5 * (radius.clamp(min=1e-6).log2() / _OCTAVES) ** 2)
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * band, s=(height, width))
    field = field - field.mean((2, 3), keepdim=True)
    return field / field.std((2, 3), keepdim=True).clamp(min=1e-12)


def patch_mask(
    size: tuple[int, int], batch: int, generator: torch.Generator, options: PatchOptions
) -> Tensor:
    """Draw soft patches (batch, 1, height, width) in [0, 1] over a share `options.cover`."""
    if options.cover == 1:
        return torch.ones(batch, 1, *size)
    field = anisotropic_noise(
        (batch, 1, *size),
        generator,
        wavelength=options.wavelength,
        ratio=options.ratio,
        angle=options.angle,
    )
    # threshold by rank, not by value: few waves fit in, so their distribution is not normal
    rank = max(round((1 - options.cover) * (size[0] * size[1] - 1)), 0) + 1
    threshold = field.flatten(1).kthvalue(rank).values[:, None, None, None]
    return ((field - threshold) / options.softness + 0.5).clamp(0, 1)
