"""Sequences of single pictures: the same crop, seen again whole pixels away.

A network works on a grid of its own (compact: cells of 32 pixels), and what it invents hangs on
where a picture lies on it. So detail boils as a head moves, and shows the grid. Between crops that
are whole pixels apart nothing has to be sampled between pixels: the motion is exact, nothing
blurs, and every change along it is the network's own. See Zhang 2019, "Making Convolutional
Networks Shift-Invariant Again".
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["EDGE", "MOST", "comes_from_inside", "draw_shifts"]

MOST = 32
"""Pixels between two crops, at most: every phase of compact's grid is met."""
EDGE = 8
"""Pixels of a crop where a network sees the border more than the picture."""


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
    """Sequences of the crops that `draw` gives; see `batches.Draw`.

    Returns:
        Degraded and clean, (batch, frames, 3, crop, crop) in [0, 1], the backward flow between
        them in pixels, (batch, frames - 1, 2, crop, crop), and where it holds, beside the crops'
        edges, (batch, frames - 1, 1, crop, crop) bool.

    Raises:
        InputError: a picture of less than crop + 32 pixels a side.
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
    """(c, h, w) -> (k, c, crop, crop), one for each top and left of `corners`, (k, 2)."""
    return torch.stack([picture[:, y : y + crop, x : x + crop] for y, x in corners])


def comes_from_inside(flow: Tensor, edge: int = 0) -> Tensor:
    """(..., 2, n, n) -> (..., 1, n, n): where the crop before shows it too, off both edges."""
    line = torch.arange(flow.shape[-1], dtype=flow.dtype)
    here = torch.stack(torch.meshgrid(line, line, indexing="xy"))
    inside = [(p >= edge) & (p <= line[-1] - edge) for p in (here, here + flow)]
    return (inside[0] & inside[1]).all(-3, keepdim=True)
