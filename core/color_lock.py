"""Colour lock: a restorer may add detail but must not shift the picture's colours."""

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.resample import magnify

__all__ = ["LOCK_REACH", "lock_colors", "low_frequencies"]

_CELL = 4  # averaging cells of 4 x 4 pixels takes a sixth of the time, without visible change
_BOX = 9  # cells a side, 36 pixels
LOCK_REACH = _CELL * (_BOX // 2 + 2)
"""Largest distance in pixels at which `low_frequencies` still reads a pixel."""


def low_frequencies(x: Tensor) -> Tensor:
    """Average (n, c, h, w) over a box of 36 pixels; pixels beyond the border do not count."""
    height, width = x.shape[-2:]
    cells = F.avg_pool2d(x, _CELL, ceil_mode=True, count_include_pad=False)
    mean = _box_mean(cells)
    return magnify(mean, _CELL)[..., :height, :width]


def _box_mean(x: Tensor) -> Tensor:
    """Average (n, c, h, w) over `_BOX` x `_BOX` values, leaving out those beyond the border."""
    for _ in range(2):  # columns, then rows
        x = (_box_sum(x) / _box_sum(torch.ones_like(x[:1, :1]))).transpose(2, 3)
    return x


def _box_sum(x: Tensor) -> Tensor:
    """Sum `_BOX` neighbours in a row: 2, 4 and 8 of them, then the ninth."""
    single = total = F.pad(x, (_BOX // 2, _BOX // 2))
    for count in (1, 2, 4):
        total = total[..., :-count] + total[..., count:]
    return total[..., :-1] + single[..., _BOX - 1 :]


def lock_colors(residual: Tensor) -> Tensor:
    """Remove the low frequencies of a residual (n, c, h, w): r - low_frequencies(r).

    The restored picture then keeps the broad colours of the input and the detail of the output.
    """
    return residual - low_frequencies(residual)
