"""Sequences of single pictures: the same crop, seen again whole pixels away.

A network works on a grid of its own (compact: cells of 32 pixels), and the detail that it adds
depends on the picture's position on this grid. So detail flickers as a head moves, and shows the
grid. Crops that are whole pixels apart need no interpolation: their motion is exact, nothing
blurs, and every change along it comes from the network.

Source: Zhang 2019, "Making Convolutional Networks Shift-Invariant Again" (the problem).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["EDGE", "MOST", "comes_from_inside", "draw_shifts"]

MOST = 32
"""Most pixels between two crops: this covers every phase of compact's grid."""
EDGE = 8
"""Width in pixels of a crop's rim, where a network sees more border than picture."""


def draw_shifts(
    draw: Callable[..., tuple[Tensor, ...]],
    *,
    seed: int,
    step: int,
    batch: int,
    crop: int,
    frames: int,
    first: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw sequences of the crops that `draw` gives; see `batches.Draw`.

    Returns:
        Degraded and clean, each (batch, frames, 3, crop, crop) in [0, 1]; the backward flow in
        pixels, (batch, frames - 1, 2, crop, crop); and its validity away from the crops' edges,
        (batch, frames - 1, 1, crop, crop) bool.

    Raises:
        InputError: a picture has less than crop + 32 pixels a side.
    """
    larger = draw(seed=seed, step=step, batch=batch, crop=crop + MOST, first=first)
    names = [(seed, step, first + index, MOST) for index in range(batch)]
    corners = [np.random.default_rng(n).integers(0, MOST + 1, (frames, 2)) for n in names]
    degraded, clean = (
        torch.stack([_windows(p, own, crop) for p, own in zip(pictures, corners, strict=True)])
        for pictures in larger
    )
    motion = np.diff(np.stack(corners), axis=1)[..., ::-1].copy()  # rows, columns -> x, y
    flow = torch.from_numpy(motion).float()[..., None, None].expand(-1, -1, -1, crop, crop)
    return degraded, clean, flow, comes_from_inside(flow, EDGE)


def _windows(picture: Tensor, corners: NDArray[np.int64], crop: int) -> Tensor:
    """Cut (c, h, w) to (k, c, crop, crop), one for each top and left of `corners`, (k, 2)."""
    return torch.stack([picture[:, y : y + crop, x : x + crop] for y, x in corners])


def comes_from_inside(flow: Tensor, edge: int = 0) -> Tensor:
    """Find the pixels of flow (..., 2, n, n) that both crops show off the edges, (..., 1, n, n)."""
    line = torch.arange(flow.shape[-1], dtype=flow.dtype)
    here = torch.stack(torch.meshgrid(line, line, indexing="xy"))
    inside = [(p >= edge) & (p <= line[-1] - edge) for p in (here, here + flow)]
    return (inside[0] & inside[1]).all(-3, keepdim=True)
