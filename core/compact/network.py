"""compact: the small restorer that ships inside the package.

A plain convolutional U-Net on pixel-unshuffled input. It predicts a residual in two parts. The
first is a gain for each band of the input's Laplacian pyramid (Burt & Adelson 1983), which sharpens
soft edges and tames harsh ones. The second is free detail on top of it.

With references (core/references) a listener follows. It reads the U-Net's features, the frame and
the proposed change. It predicts a gain for each band of the change, the share of the U-Net's own
residual to keep, and free detail. Where the confidence is 0 the U-Net's answer stays as it is.

There is no attention and no normalisation over the picture. An output pixel depends on a bounded
neighbourhood only, so tiles and crops change nothing.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splatmend.core.color_lock import LOCK_REACH, lock_colors
from splatmend.core.compact.detail_floor import FLOOR_REACH, keep_detail
from splatmend.core.errors import InputError
from splatmend.core.guidance import Guidance
from splatmend.core.resample import halve, magnify, unshuffle

__all__ = ["Compact", "CompactConfig", "Listener", "laplacian_bands"]

_UNSHUFFLE = 4
_CELL = 8
"""Side in pixels of the largest cells that are averaged or enlarged."""


@dataclass(frozen=True)
class CompactConfig:
    """Shape of the U-Net; level i works at 1 / (4 * 2**i) of the picture's side."""

    widths: tuple[int, ...] = (48, 80, 160, 256)
    encoder_blocks: tuple[int, ...] = (1, 1, 2)
    middle_blocks: int = 2
    decoder_blocks: tuple[int, ...] = (1, 1, 1)
    bands: int = 3
    """Octaves of the Laplacian pyramid that get a gain; with 0 there is only free detail."""
    color_lock: bool = True
    """Whether the residual keeps the input's low frequencies (core/color_lock.py)."""
    detail_floor: bool = True
    """Whether the residual must not remove strong detail (core/compact/detail_floor.py)."""
    references: bool = False
    """Whether it has a listener for references; without guidance the answers are the same."""
    small: int = 320
    """Longest side in pixels of frames that are better restored at twice their size, because their
    faces are smaller than those of the training."""

    def __post_init__(self) -> None:
        levels = len(self.widths) - 1
        if levels < 1 or len(self.encoder_blocks) != levels or len(self.decoder_blocks) != levels:
            raise InputError(
                f"CompactConfig needs one entry of encoder_blocks and decoder_blocks for each of "
                f"the {levels} levels above the last width, got {self}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON header."""
        return asdict(self)


def laplacian_bands(rgb: Tensor, count: int) -> Iterator[Tensor]:
    """Split (n, c, h, w) into octaves, finest first; 2**count must divide both sides."""
    upper = mean = rgb
    for octave in range(1, count + 1):
        mean = halve(mean)
        lower = magnify(mean, 2**octave)
        yield upper - lower
        upper = lower


def _even(x: Tensor) -> Tensor:
    """Repeat the last row and column of (n, c, h, w) where there is an odd number of them."""
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        return F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    return x


class _Block(nn.Module):
    """A residual block: x + conv(lrelu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        # a near-identity start keeps an unnormalised stack of blocks trainable
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.leaky_relu(self.conv1(x), 0.1, inplace=True))
        return x + change


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))


def _amplified(residual: Tensor, gains: Tensor, picture: Tensor, bands: int) -> Tensor:
    """Add to a residual each Laplacian band of a picture times its gain (n, bands, h/4, w/4)."""
    gains = magnify(gains.to(picture.dtype).contiguous(), _UNSHUFFLE)
    for index, band in enumerate(laplacian_bands(picture, bands)):
        residual = torch.addcmul(residual, gains[:, index : index + 1], band)
    return residual


class Listener(nn.Module):
    """A small network that fuses the change from references with the residual of a U-Net."""

    def __init__(self, width: int, bands: int) -> None:
        super().__init__()
        self.bands = bands
        cell = _UNSHUFFLE**2
        self.stem = nn.Conv2d(width + 3 * cell + 4 * cell, width, 3, padding=1)
        self.blocks = _blocks(width, 2)
        self.gain = nn.Conv2d(width, bands + 1, 3, padding=1)
        self.head = nn.Conv2d(width, 3 * cell, 3, padding=1)
        # an untrained listener changes nothing
        for output in (self.gain, self.head):
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]

    def forward(self, residual: Tensor, x: Tensor, cells: Tensor, guidance: Guidance) -> Tensor:
        """Return the residual (n, 3, h, w) with the guidance fused into it.

        Args:
            residual: The U-Net's own, (n, 3, h, w).
            x: The U-Net's last features, (n, width, h/4, w/4).
            cells: The picture, unshuffled, (n, 48, h/4, w/4).
            guidance: Guidance of the picture's size.
        """
        planes = guidance.planes.to(residual.dtype)
        heard = unshuffle(planes.to(x.dtype), _UNSHUFFLE)
        y = self.blocks(self.stem(torch.cat((x, cells, heard), 1)))
        gains = self.gain(y)
        free = F.pixel_shuffle(self.head(y), _UNSHUFFLE).to(residual.dtype).contiguous()
        less = magnify(gains[:, self.bands :].to(residual.dtype).contiguous(), _UNSHUFFLE)
        residual = residual + planes[:, 3:] * (free - less * residual)
        return _amplified(residual, gains[:, : self.bands], planes[:, :3], self.bands)


class Compact(nn.Module):
    """The network: (n, 3, h, w) in [0, 1], sides a multiple of `multiple` -> the residual."""

    def __init__(self, config: CompactConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CompactConfig()
        channels = 3 * _UNSHUFFLE**2
        widths = config.widths
        steps = list(pairwise(widths))
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(map(_blocks, widths, config.encoder_blocks))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in steps)
        self.middle = _blocks(widths[-1], config.middle_blocks)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in steps)
        self.decoder = nn.ModuleList(map(_blocks, widths, config.decoder_blocks))
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.gain = nn.Conv2d(widths[0], config.bands, 3, padding=1) if config.bands else None
        self.listener = Listener(widths[0], config.bands) if config.references else None
        # an untrained network returns its input
        for output in filter(None, (self.head, self.gain)):
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]

    @property
    def multiple(self) -> int:
        """Return the number of pixels that must divide both sides of the input."""
        return int(max(_CELL, 2**self.config.bands))

    @property
    def period(self) -> int:
        """Return the period in pixels of the coarsest level's grid."""
        return int(_UNSHUFFLE * 2 ** len(self.down))

    @property
    def receptive_field(self) -> int:
        """Return the largest distance in pixels at which an input pixel changes an output pixel."""
        config, reach = self.config, _UNSHUFFLE * 3  # stem, head, the unshuffled cell itself
        for level, (before, after) in enumerate(
            zip(config.encoder_blocks, config.decoder_blocks, strict=True)
        ):
            reach += _UNSHUFFLE * 2**level * 2 * (before + after)
        reach += self.period * (2 * config.middle_blocks + 1)
        reach += 2 * 2**config.bands
        reach += FLOOR_REACH if config.detail_floor else 0
        return int(reach + (LOCK_REACH if config.color_lock else 0))

    def forward(self, rgb: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Return the residual of (n, 3, h, w), colour-locked if the configuration asks for it.

        The convolutions run in the precision of the weights, and the picture keeps its own.
        Guidance must have the picture's size; a network without references ignores it.
        """
        # Wide convolutions are fastest with channels last. Resizing three channels is five times
        # faster planar, measured on a CPU. So the picture stays planar and the features do not.
        cells = unshuffle(rgb.to(self.stem.weight.dtype), _UNSHUFFLE)  # (n, 48, h/4, w/4)
        x = self.stem(cells)
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            x = blocks(x)
            skips.append(x)
            x = down(_even(x))
        x = self.middle(x)
        for blocks, up, skip in zip(
            reversed(self.decoder), reversed(self.up), reversed(skips), strict=True
        ):
            height, width = skip.shape[-2:]
            x = blocks(F.pixel_shuffle(up(x), 2)[..., :height, :width] + skip)
        residual = F.pixel_shuffle(self.head(x), _UNSHUFFLE).to(rgb.dtype).contiguous()
        if self.gain is not None:
            residual = _amplified(residual, self.gain(x), rgb, self.config.bands)
        if self.config.detail_floor:
            residual = keep_detail(rgb, residual)
        if self.listener is not None and guidance is not None:
            residual = self.listener(residual, x, cells, guidance)
        return lock_colors(residual) if self.config.color_lock else residual
