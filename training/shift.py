"""Results must move with the picture: a term against texture that is locked to a grid.

A network that works on cells of pixels may print the same pattern into every cell of a plain
area. LPIPS likes it, a moving head shows it as a screen door. The same in networks that
generate: Karras et al. 2021, "Alias-Free Generative Adversarial Networks".
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["shift_loss"]

_LARGEST = 7  # pixels: every phase of cells of 8
_RIM = 8  # pixels that see the window's edge and are not compared
_GRID = 32  # sides that every model takes


def shift_loss(model: Callable[[Tensor], Tensor], degraded: Tensor, *, seed: int) -> Tensor:
    """Mean |change| of what `model` adds, between two windows a few pixels apart; a scalar.

    Args:
        model: Restores (n, 3, s, s), s a multiple of 32.
        degraded: (n, 3, h, w) in [0, 1], sides of 64 pixels at least.
        seed: Names the shift.
    """
    dice = torch.Generator().manual_seed(seed)
    down, right = torch.randint(1, _LARGEST + 1, (2,), generator=dice).tolist()
    height, width = ((side - _LARGEST) // _GRID * _GRID for side in degraded.shape[2:])
    here = degraded[..., :height, :width]
    there = degraded[..., down : down + height, right : right + width]
    first, second = (model(window.contiguous()) - window for window in (here, there))
    rows, columns = slice(_RIM, height - down - _RIM), slice(_RIM, width - right - _RIM)
    moved = first[..., down:, right:][..., rows, columns]
    return (moved - second[..., rows, columns]).abs().mean()
