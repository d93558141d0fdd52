"""Detail floor: a restorer may redraw detail but must not remove it.

A network that removes much of a neighbourhood's fine detail has mistaken hair for splats. This was
measured on people of the validation set, still and moving, where less than 0.6 of strong detail's
energy was left. There the truth had two to three times the input's energy, and the residual did
harm: the mean squared error was 1.2 to 1.7 times the input's. On renders of real avatars compact
rarely removed so much.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.resample import halve, magnify

__all__ = ["FLOOR_REACH", "keep_detail"]

_CELL = 8
"""Side in pixels of the cells; detail is the difference from their mean, measured by cell."""
_FLOOR = 0.9
"""Share of strong detail's energy that must remain."""
_STRONG = 40 / 255**2
"""Energy at which half of that share must remain; weak detail, such as skin, may be smoothed."""
_TINY = 1e-12
FLOOR_REACH = 4 * _CELL
"""Largest distance in pixels at which a pixel still changes the kept share of a residual."""


def keep_detail(rgb: Tensor, residual: Tensor) -> Tensor:
    """Scale a residual down where it would remove the picture's fine detail.

    Let x be the detail of the picture's brightness, r that of the residual's, and E a mean over
    3 x 3 cells. The energy E (x + w r)^2 of the result must be at least floor E x^2, with

        floor = 0.9 E x^2 / (E x^2 + strong).

    Where w = 1 would leave less, the residual is scaled by the largest w in [0, 1] that does not.
    No gradient flows through w.

    Args:
        rgb: (n, 3, h, w) in [0, 1], sides that 8 divides.
        residual: The same shape.
    """
    with torch.no_grad():
        both = torch.cat((rgb.mean(1, keepdim=True), residual.mean(1, keepdim=True)), 1)
        x, r = _detail(both).chunk(2, 1)
        before, cross, change = _around(torch.cat((x * x, x * r, r * r), 1)).chunk(3, 1)
        least = _FLOOR * before.square() / (before + _STRONG)
        too_much = before + 2 * cross + change < least
        # the smaller root of E x^2 + 2 w E x r + w^2 E r^2 = least
        root = (cross.square() - change * (before - least)).clamp(min=0).sqrt()
        share = ((-cross - root) / change.clamp(min=_TINY)).clamp(0, 1)
        share = magnify(torch.where(too_much, share, torch.ones_like(share)), _CELL)
    return residual * share


def _detail(planes: Tensor) -> Tensor:
    return planes - magnify(halve(halve(halve(planes))), _CELL)


def _around(planes: Tensor) -> Tensor:
    """Average over 3 x 3 cells: (n, c, h, w) -> (n, c, h / 8, w / 8)."""
    cells = F.pad(F.avg_pool2d(planes, _CELL), (1, 1, 1, 1), "replicate")
    return F.avg_pool2d(cells, 3, 1)
