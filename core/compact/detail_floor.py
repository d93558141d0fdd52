"""Detail floor: a restorer may redraw detail, not wipe it off.

Where a network takes much of a neighbourhood's fine detail away it has mistaken hair for splats.
On validation people, still and moving, where less than 0.6 of strong detail's energy was left, the
truth had two to three times as much as the input, and the residual did harm (mean squared error 1.2
to 1.7 times the input's). On renders of real avatars compact hardly ever did it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.resample import halve, magnify

__all__ = ["FLOOR_REACH", "keep_detail"]

_CELL = 8
"""Pixels: detail is what a mean over cells of 8 x 8 leaves out, and is measured cell by cell."""
_FLOOR = 0.9
"""Share of strong detail's energy that has to stay."""
_STRONG = 40 / 255**2
"""Energy of which half that share has to stay; weak detail, as that of skin, may be calmed."""
_TINY = 1e-12
FLOOR_REACH = 4 * _CELL
"""Pixels beyond which a pixel does not take part in how much of a residual is kept."""


def keep_detail(rgb: Tensor, residual: Tensor) -> Tensor:
    """As much of a residual as leaves the picture its fine detail.

    With x the detail of the brightness, r that of the residual's and E a mean over 3 x 3 cells, the
    residual is scaled by the largest w in [0, 1] that keeps E (x + w r)^2 at

        floor E x^2,    floor = 0.9 E x^2 / (E x^2 + strong)

    where the whole residual would leave less. No gradient flows through w.

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
    """(n, c, h, w) -> means over 3 x 3 cells, (n, c, h / 8, w / 8)."""
    cells = F.pad(F.avg_pool2d(planes, _CELL), (1, 1, 1, 1), "replicate")
    return F.avg_pool2d(cells, 3, 1)
