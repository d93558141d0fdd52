"""Colour lock: a restorer may add detail, not move the colours of the picture."""

from torch import Tensor
from torch.nn import functional as F

__all__ = ["LOCK_REACH", "lock_colors", "low_frequencies"]

_CELL = (
    4  # the mean is taken on a grid of 4 x 4 pixel cells: a sixth of the time, no visible change
)
_BOX = 9  # cells a side, 36 pixels
LOCK_REACH = _CELL * (_BOX // 2 + 2)
"""Pixels beyond which a pixel does not take part in `low_frequencies`."""


def low_frequencies(x: Tensor) -> Tensor:
    """Mean over a box of 36 pixels, without the pixels beyond the border. (n, c, h, w)."""
    height, width = x.shape[-2:]
    cells = F.avg_pool2d(x, _CELL, ceil_mode=True, count_include_pad=False)
    mean = F.avg_pool2d(cells, _BOX, 1, _BOX // 2, count_include_pad=False)
    return F.interpolate(mean, scale_factor=_CELL, mode="bilinear")[..., :height, :width]


def lock_colors(residual: Tensor) -> Tensor:
    """Remove from a residual what changes the colour of a whole neighbourhood.

    r - low_frequencies(r): the low frequencies of the input survive, the detail
    of the output is kept.
    """
    return residual - low_frequencies(residual)
