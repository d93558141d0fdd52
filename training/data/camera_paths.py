"""Moving clips made from one picture: a camera path over its splats, and the clean truth.

The Gaussians are placed once and then moved, like an avatar's. So the degradation sticks to the
head and does not flicker.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.training.degradations.resplatting import (
    Gaussians,
    SplatOptions,
    normalize,
    place,
    rasterize,
)

__all__ = ["CameraPath", "View", "look", "move", "splat_clip"]


@dataclass(frozen=True)
class View:
    """A similarity from picture to frame: rotation and scale about a focus, which is centred."""

    focus: tuple[float, float]
    """Position x, y in pixels of the picture."""
    zoom: float
    """Frame pixels over picture pixels."""
    roll: float
    """Angle in radians, clockwise on the screen."""


@dataclass(frozen=True)
class CameraPath:
    """A slow hand-held orbit: closed, so that a clip loops."""

    focus: tuple[float, float]
    zoom: float = 1.0
    sway: float = 0.03
    """Amplitude of the pan, as a share of the frame's side."""
    breathe: float = 0.06
    """Relative amplitude of the zoom."""
    roll: float = 0.03
    """Amplitude of the roll in radians."""

    def at(self, phase: float, side: int) -> View:
        """Compute the view at `phase` in [0, 1) of the loop, for frames of `side` pixels."""
        turn = 2 * math.pi * phase
        reach = self.sway * side / self.zoom
        x = self.focus[0] + reach * math.sin(turn)
        y = self.focus[1] + reach * 0.5 * math.sin(2 * turn)
        zoom = self.zoom * (1 + self.breathe * (0.5 - 0.5 * math.cos(turn)))
        return View((x, y), zoom, self.roll * math.sin(turn))


def splat_clip(
    picture: Tensor,
    path: CameraPath,
    options: SplatOptions,
    *,
    frames: int,
    side: int = 512,
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Splat a picture (1, 3, h, w) and yield (degraded, clean) frames along a path.

    Each frame is (1, 3, side, side) in [0, 1].
    """
    gaussians = place(picture, options, torch.Generator().manual_seed(seed))
    for index in range(frames):
        view = path.at(index / frames, side)
        color, total, _ = rasterize(move(gaussians, view, side), (side, side))
        clean = look(picture, view, side)
        yield normalize(color, total, clean).clamp(0, 1), clean


def move(gaussians: Gaussians, view: View, side: int) -> Gaussians:
    """Transform the Gaussians to their places in a view, on a frame of `side` pixels."""
    cos, sin = math.cos(view.roll) * view.zoom, math.sin(view.roll) * view.zoom
    rotation = gaussians.center.new_tensor(((cos, sin), (-sin, cos)))
    middle = (side - 1) / 2
    center = (gaussians.center - gaussians.center.new_tensor(view.focus)) @ rotation + middle
    return replace(
        gaussians,
        center=center,
        sigma=gaussians.sigma * view.zoom,
        angle=gaussians.angle + view.roll,
    )


def look(picture: Tensor, view: View, side: int) -> Tensor:
    """Look at (1, c, h, w) through the view -> (1, c, side, side); the edge repeats outside."""
    height, width = picture.shape[-2:]
    line = torch.arange(side, device=picture.device, dtype=picture.dtype) - (side - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    cos, sin = math.cos(view.roll) / view.zoom, math.sin(view.roll) / view.zoom
    source_x = x * cos + y * sin + view.focus[0]
    source_y = y * cos - x * sin + view.focus[1]
    grid = torch.stack(((2 * source_x + 1) / width - 1, (2 * source_y + 1) / height - 1), -1)
    return F.grid_sample(
        picture, grid[None], mode="bicubic", padding_mode="border", align_corners=False
    ).clamp(0, 1)
