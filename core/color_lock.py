"""Colour lock: a restorer may add detail, not move the colours of the picture."""

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.resample import magnify

__all__ = ["LOCK_REACH", "lock_colors", "low_frequencies"]

_CELL = 4  # the mean is one of cells of 4 x 4 pixels: a sixth of the time, no visible change
_BOX = 9  # cells a side, 36 pixels
LOCK_REACH = _CELL * (_BOX // 2 + 2)
"""Pixels beyond which a pixel does not take part in `low_frequencies`."""


def low_frequencies(x: Tensor) -> Tensor:
    """Mean over a box of 36 pixels, without the pixels beyond the border. (n, c, h, w)."""
    height, width = x.shape[-2:]
    cells = F.avg_pool2d(x, _CELL, ceil_mode=True, count_include_pad=False)
    mean = _box_mean(cells)
    return magnify(mean, _CELL)[..., :height, :width]


def _box_mean(x: Tensor) -> Tensor:
    """Mean over `_BOX` x `_BOX`, of the values that exist. (n, c, h, w)."""
    for _ in range(2):  # columns, then rows
        x = (_box_sum(x) / _box_sum(torch.ones_like(x[:1, :1]))).transpose(2, 3)
    return x


def _box_sum(x: Tensor) -> Tensor:
    """Sum over `_BOX` neighbours in a row: of 2, 4 and 8 of them, then the ninth."""
    single = total = F.pad(x, (_BOX // 2, _BOX // 2))
    for count in (1, 2, 4):
        total = total[..., :-count] + total[..., count:]
    return total[..., :-1] + single[..., _BOX - 1 :]


def lock_colors(residual: Tensor) -> Tensor:
    """Remove from a residual what changes the colour of a whole neighbourhood.

    r - low_frequencies(r): the low frequencies of the input survive, the detail
    of the output is kept.
    """
    return residual - low_frequencies(residual)
