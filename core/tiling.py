"""Overlapping tiles for pictures that are too large for memory, without visible seams."""

from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.guidance import Guidance
from splatmend.core.restorer import Restorer, RestorerTraits, checked, restore_guided

__all__ = ["Tiled"]

_BLEND = 32  # pixels over which one tile fades into the next


@dataclass(frozen=True)
class Tiled:
    """A restorer that works through larger pictures tile by tile.

    Each tile is restored with a margin of up to `reach` pixels, which is then discarded.
    Neighbouring tiles are blended over 32 pixels. If the margin holds all of `reach`, the
    result equals that of the whole picture. `tile` is the side in pixels that the network
    sees, overlap included. A picture that fits into one tile is not cut.

    Raises:
        InputError: a tile smaller than 128 pixels.
    """

    restorer: Restorer
    tile: int

    def __post_init__(self) -> None:
        if self.tile < 128:
            raise InputError(f"tile must be at least 128 pixels, got {self.tile}")

    @property
    def traits(self) -> RestorerTraits:
        """Return the inner restorer's, with the tile's side in the name: results depend on it."""
        traits = self.restorer.traits
        return replace(traits, name=f"{traits.name}, tiles of {self.tile}")

    @property
    def device(self) -> torch.device:
        """Return the inner restorer's device."""
        return self.restorer.device

    @checked
    def __call__(self, rgb: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Restore (n, 3, h, w), one tile at a time."""
        height, width = rgb.shape[-2:]
        if height <= self.tile and width <= self.tile:
            return restore_guided(self.restorer, rgb, guidance)
        total = torch.zeros_like(rgb, dtype=torch.float32)
        weights = total.new_zeros((height, width))
        for top in self._starts(height):
            for left in self._starts(width):
                area = (..., slice(top, top + self.tile), slice(left, left + self.tile))
                hint = None if guidance is None else guidance.map(itemgetter(area))
                restored = restore_guided(self.restorer, rgb[area].contiguous(), hint)
                rows = self._window(restored.shape[-2], top, height, rgb.device)
                columns = self._window(restored.shape[-1], left, width, rgb.device)
                window = rows[:, None] * columns
                total[area] += restored.float() * window
                weights[area[1:]] += window
        return (total / weights).to(rgb.dtype)

    @property
    def _margin(self) -> int:
        """Return the discarded pixels at a tile's inner edges, at most a quarter of its side."""
        return min(self.restorer.traits.reach, self.tile // 4)

    def _starts(self, length: int) -> list[int]:
        """Return the first pixels of the tiles along one side, on the restorer's grid."""
        if length <= self.tile:
            return [0]
        step = self.tile - 2 * self._margin - _BLEND
        step -= step % self.restorer.traits.period
        if step < 1:
            raise InputError(
                f"tile {self.tile} leaves nothing between its margins of {self._margin} pixels: "
                f"use a larger --tile"
            )
        # a last tile may be shorter than the others, never off the grid
        return list(range(0, length - self.tile + step, step))

    def _window(self, size: int, start: int, length: int, device: torch.device) -> Tensor:
        """Return weights along one side: 0 in the margin, a ramp, 1; 1 up to a picture's edge."""
        position = torch.arange(size, device=device, dtype=torch.float32) + 0.5
        window = torch.ones_like(position)
        if start > 0:
            window = window * ((position - self._margin) / _BLEND).clamp(0, 1)
        if start + size < length:
            window = window * ((size - self._margin - position) / _BLEND).clamp(0, 1)
        return window
