"""Degradations by tracking, viewing and recording: misplaced features, colours, blur, noise.

Every step maps `rgb` (n, 3, h, w) in [0, 1] to the same shape and range. `strength` (n, 1, h, w)
in [0, 1] is local: where it is 0 the picture stays as it is. `alpha` (n, 1, h, w) is part of the
signature that all steps share. Randomness comes from `generator` alone. Lengths are in pixels.
Further arguments are drawn for each picture from the ranges in `steps`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.resample import blur
from splatmend.training.degradations import recipes
from splatmend.training.degradations.patch_masks import anisotropic_noise
from splatmend.training.gaussians.spherical_harmonics import evaluate_harmonics

__all__ = [
    "compress",
    "desaturate",
    "floaters",
    "ghost",
    "misplace",
    "noise",
    "smear",
    "view_color",
]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def misplace(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,  # noqa: ARG001
    reach: float,
    wavelength: float,
) -> Tensor:
    """Displace features smoothly, as a slightly wrong tracking of the head model does.

    Source: elastic distortion (Simard et al. 2003, "Best practices for convolutional neural
    networks applied to visual document analysis").

    Drawn:
        reach: standard deviation of the displacement at strength 1.
        wavelength: size of the parts that move together; more than 6 times the reach, or it folds.
    """
    n, _, height, width = rgb.shape
    field = anisotropic_noise((n, 2, height, width), generator, wavelength=wavelength)
    return _warp(rgb, reach * strength * field.to(rgb).clamp(-2, 2))


def ghost(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,
    shift: float,
    opacity: float,
) -> Tensor:
    """Add a softer, shifted copy of the surface: a layer on which the views disagree.

    The copy takes its own alpha along.

    Source: Huang et al. 2024, "2D Gaussian Splatting for geometrically accurate radiance
    fields" (surfaces of 3-D Gaussians are not consistent between views).

    Drawn:
        shift: distance of the copy, in a direction drawn for each picture.
        opacity: opacity of the copy at strength 1, in [0, 1].
    """
    n = rgb.shape[0]
    angle = 2 * math.pi * torch.rand(n, generator=generator).to(rgb)
    offset = shift * torch.stack((angle.cos(), angle.sin()), 1)[:, :, None, None]
    cover = torch.ones_like(strength) if alpha is None else alpha
    copy = _warp(torch.cat((rgb, cover), 1), offset.expand(-1, -1, *rgb.shape[2:]))
    layer = blur(copy[:, :3], 0.8 + shift / 8)
    return rgb + opacity * strength * copy[:, 3:].clamp(0, 1) * (layer - rgb)


def floaters(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,  # noqa: ARG001
    count: float,
) -> Tensor:
    """Add `count` faint large Gaussians that float before the head.

    Source: Kerbl et al. 2023, section 5.2 (floaters close to the cameras).
    """
    return _mix(rgb, recipes.floaters(rgb, round(count), generator), strength)


def view_color(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,  # noqa: ARG001
    amount: float,
) -> Tensor:
    """Change colours as if fitted to other views: random harmonics on a ball in the head's place.

    Source: Kerbl et al. 2023 (colour by direction as spherical harmonics); degrees 1 and 2 here.

    Drawn:
        amount: root mean square of the colour error on the ball, of [0, 1].
    """
    n, _, height, width = rgb.shape
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    z = (3 - x**2 - y**2).sqrt()  # a ball wider than the frame: colours would be steep at its rim
    direction = torch.stack((x, y, z), -1).flatten(0, 1) / math.sqrt(3)
    coefficients = torch.randn((n, 9, 3), generator=generator)
    coefficients[:, 0] = 0  # degree 0 is the colour itself
    # orthonormal functions: n of them with unit coefficients have n / 4 pi in the mean square
    coefficients *= amount * math.sqrt(4 * math.pi / 8)
    error = torch.stack([evaluate_harmonics(each[None], direction) for each in coefficients])
    return _mix(rgb, rgb + error.transpose(1, 2).view(n, 3, height, width).to(rgb), strength)


def desaturate(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,  # noqa: ARG001
    alpha: Tensor | None = None,  # noqa: ARG001
    amount: float,
) -> Tensor:
    """Remove a share `amount` of the colour at strength 1, as low opacities mix towards grey.

    Source: ITU-R BT.601 (the weights of luma, which stays unchanged).
    """
    luma = (rgb * rgb.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    return rgb + amount * strength * (luma - rgb)


def smear(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,  # noqa: ARG001
    along: float,
    across: float,
) -> Tensor:
    """Blur more along one direction, which is drawn for each picture.

    Source: anisotropic Gaussian kernels (Zhang et al. 2021, "Designing a practical degradation
    model for deep blind image super-resolution").

    Drawn:
        along: standard deviation along that direction.
        across: standard deviation at right angles to it, at most `along`.
    """
    n, channels, height, width = rgb.shape
    angle = math.pi * torch.rand(n, generator=generator).to(rgb)[:, None, None]
    radius = max(1, math.ceil(3 * along))
    line = torch.arange(-radius, radius + 1).to(rgb)
    y, x = torch.meshgrid(line, line, indexing="ij")
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernel = torch.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    kernel = (kernel / kernel.sum((1, 2), keepdim=True)).repeat_interleave(channels, 0)[:, None]
    padded = F.pad(rgb, (radius, radius, radius, radius), "replicate")
    flat = padded.reshape(1, n * channels, *padded.shape[2:])
    smeared = F.conv2d(flat, kernel, groups=n * channels).view(n, channels, height, width)
    return _mix(rgb, smeared, strength)


def noise(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,
    alpha: Tensor | None = None,  # noqa: ARG001
    sigma: float,
) -> Tensor:
    """Add white Gaussian noise of standard deviation `sigma` at strength 1.

    It stands for stochastic transparency and for the sensors of filmed references. Source: Zhang
    et al. 2021, as `smear`.
    """
    return _mix(rgb, recipes.add_noise(rgb, sigma, generator), strength)


def compress(
    rgb: Tensor,
    *,
    strength: Tensor,
    generator: torch.Generator,  # noqa: ARG001
    alpha: Tensor | None = None,  # noqa: ARG001
    quality: float,
) -> Tensor:
    """Compress as JPEG at `quality` in [1, 100], like frames from a network.

    Source: ITU-T T.81.
    """
    return _mix(rgb, recipes.compress(rgb.clamp(0, 1), quality), strength)


def _mix(rgb: Tensor, degraded: Tensor, strength: Tensor) -> Tensor:
    return rgb + strength * (degraded - rgb)


def _warp(planes: Tensor, offset: Tensor) -> Tensor:
    """Read (n, c, h, w) at positions moved by (n, 2, h, w) pixels, x then y."""
    height, width = planes.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack((x, y)).to(planes) + offset
    size = planes.new_tensor((width, height))[:, None, None]
    grid = ((2 * place + 1) / size - 1).permute(0, 2, 3, 1)
    read = F.grid_sample(planes, grid, mode="bicubic", padding_mode="border", align_corners=False)
    still = (offset == 0).all(1, keepdim=True)  # interpolation would round here as well
    return torch.where(still, planes, read)
