"""Random augmentation of the degraded picture of a pair, drawn anew at each use.

The table is the one that the seed of this project publishes. It changes the input only; the
target stays as it was.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.resample import blur
from splatmend.training.degradations.steps_camera import desaturate

__all__ = ["Augmentation", "augment"]


@dataclass(frozen=True)
class Augmentation:
    """Probability and strength of each entry; pairs are ranges of a uniform draw.

    Raises:
        InputError: a range that is reversed, or a probability outside [0, 1].
    """

    blobs: float = 0.10
    """Probability of patches that are blurred beyond recognition."""
    blob_count: tuple[int, int] = (1, 4)
    blob_radius: tuple[float, float] = (0.04, 0.12)
    """Share of the picture's shorter side; the seed does not give it."""
    blob_sigma: tuple[float, float] = (0.01, 0.03)
    """Sigma of the blur as a share of the picture's shorter side; the seed does not give it."""
    noise: float = 0.15
    """Probability of noise."""
    noise_sigma: tuple[float, float] = (5.0, 10.0)
    """Standard deviation in levels of 255."""
    brightness: float = 0.10
    """Probability of an offset of the brightness."""
    brightness_offset: tuple[float, float] = (-10.0, 10.0)
    """Offset in levels of 255."""
    desaturation: float = 0.10
    """Probability of a loss of colour."""
    desaturation_amount: tuple[float, float] = (0.05, 0.15)
    """Share of the colour that is lost."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, tuple):
                if len(value) != 2 or value[0] > value[1]:
                    raise InputError(f"{entry.name} is a range (low, high), got {value}")
            elif not 0 <= value <= 1:
                raise InputError(f"{entry.name} is a probability in [0, 1], got {value}")


def augment(
    rgb: Tensor, generator: torch.Generator, table: Augmentation = Augmentation()
) -> Tensor:
    """Augment degraded pictures (n, 3, h, w) in [0, 1], each by its own draw.

    A picture without any drawn entry comes back bit for bit.
    """
    chances = (table.blobs, table.noise, table.brightness, table.desaturation)
    hits = torch.rand((rgb.shape[0], len(chances)), generator=generator) < torch.tensor(chances)
    pictures = []
    for index, (blobs, noise, brightness, desaturation) in enumerate(hits.tolist()):
        picture = rgb[index : index + 1]
        if blobs:
            picture = _blur_blobs(picture, generator, table)
        if brightness:
            picture = picture + _uniform(table.brightness_offset, generator) / 255
        if desaturation:
            amount = _uniform(table.desaturation_amount, generator)
            everywhere = torch.ones_like(picture[:, :1])
            picture = desaturate(picture, strength=everywhere, generator=generator, amount=amount)
        if noise:
            sigma = _uniform(table.noise_sigma, generator) / 255
            picture = picture + sigma * torch.randn(picture.shape, generator=generator).to(picture)
        pictures.append(picture.clamp(0, 1))
    return torch.cat(pictures)


def _blur_blobs(picture: Tensor, generator: torch.Generator, table: Augmentation) -> Tensor:
    """Blur a few soft ellipses of (1, 3, h, w) so strongly that no feature is left."""
    height, width = picture.shape[-2:]
    shorter = min(height, width)
    low, high = table.blob_count
    count = int(torch.randint(low, high + 1, (), generator=generator))
    blurred = blur(picture, _uniform(table.blob_sigma, generator) * shorter)
    y = torch.arange(height).to(picture)[:, None]
    x = torch.arange(width).to(picture)
    for _ in range(count):
        dy = y - _uniform((0, height), generator)
        dx = x - _uniform((0, width), generator)
        angle = _uniform((0, math.pi), generator)
        long_axis = _uniform(table.blob_radius, generator) * shorter
        short_axis = long_axis * _uniform((0.4, 1.0), generator)
        along = (dx * math.cos(angle) + dy * math.sin(angle)) / long_axis
        across = (dy * math.cos(angle) - dx * math.sin(angle)) / short_axis
        mask = (1.5 - torch.hypot(along, across)).clamp(0, 1)
        picture = picture + mask * (blurred - picture)
    return picture


def _uniform(limits: tuple[float, float], generator: torch.Generator) -> float:
    low, high = limits
    return low + (high - low) * torch.rand((), generator=generator).item()
