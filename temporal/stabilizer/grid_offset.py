"""Anchors a network's grid to what moves, so that its texture moves along.

What a network draws hangs on where a picture lies on the grid of its strides: half of what compact
draws does (core/compact/README.md). A head that moves over a grid at rest therefore boils. So the
picture is laid on the grid some whole pixels further right and down, and with each frame these go
along with the motion of most of what is restored, rounded: its median, for a ground at rest behind
a head that moves would boil for their mean. Nothing is sampled between pixels; what the
grid shows above and on the left is the picture mirrored.

The numbers stay below the restorer's `multiple`, 8 pixels for compact, whose coarser cells of 16
and 32 do not go along. Most hangs on the finer ones: with 32 the warping error of sticking splats
fell by half a hundredth to two more, for a tenth more of the network's time.

Motion of less than half a pixel leaves the grid at rest, and what rounding left over is not made up
for: parts that hardly move, or apart as those of a turning head do, would boil for it. (Measured:
the position followed exactly gave 1 to 4 % more warping error, on turning heads 2 % more than
a grid at rest.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from splatmend.core import Guidance, RestoreOptions, Restorer, restore_pixels

__all__ = ["Anchor", "restore_anchored"]

_STEP = 4  # every fourth pixel both ways is enough
_FAR = 4096  # pixels; faster is lost


@dataclass(frozen=True)
class Anchor:
    """How many pixels further a picture lies on the grid than a frame alone."""

    right: int = 0
    down: int = 0

    def along(
        self, motion: NDArray[np.float32], residual: NDArray[np.float32], multiple: int
    ) -> "Anchor":
        """The next frame's anchor, both numbers below `multiple`.

        Args:
            motion: Backward flow in pixels, (h, w, 2); where it is not finite it does not count.
            residual: What restoring changed, (h, w); the motion counts as much as this is large.
            multiple: The restorer's.
        """
        flow = motion[::_STEP, ::_STEP].astype(np.float64).reshape(-1, 2)
        weight = np.abs(residual[::_STEP, ::_STEP]).ravel()
        lost = ~(np.isfinite(flow[:, 0]) & np.isfinite(flow[:, 1]))
        flow[lost], weight[lost] = 0, 0
        if not weight.any():
            return self
        x, y = (_median_step(flow[:, axis], weight) for axis in (0, 1))
        return Anchor((self.right + x) % multiple, (self.down + y) % multiple)


def _median_step(motion: NDArray[np.float64], weight: NDArray[np.float32]) -> int:
    """Whole pixels nearest to the motion that half of the weight does not exceed."""
    steps = np.rint(motion.clip(-_FAR, _FAR)).astype(np.int64)
    total = np.cumsum(np.bincount(steps + _FAR, weight))
    return int(np.searchsorted(total, total[-1] / 2)) - _FAR


def restore_anchored(
    restorer: Restorer,
    rgb: Tensor,
    anchor: Anchor,
    options: RestoreOptions,
    guidance: Guidance | None = None,
) -> Tensor:
    """`restore_pixels` of (n, 3, h, w) in [0, 1], with the grid where the anchor has it.

    Costs the network the restorer's `multiple` more pixels in height and width, wherever the
    anchor is: a network that is compiled or captured for each size sees one more, not three.
    """
    height, width = rgb.shape[-2:]
    options = options.sized(restorer, (height, width))  # and not by what the grid adds
    left, top, more = anchor.right, anchor.down, restorer.traits.multiple
    if not left and not top:
        return restore_pixels(restorer, rgb, options, guidance)
    mode = "reflect" if more < min(height, width) else "replicate"

    def grown(plane: Tensor) -> Tensor:
        return F.pad(plane, (left, more - left, top, more - top), mode=mode)

    hint = None if guidance is None else guidance.map(grown)
    restored = restore_pixels(restorer, grown(rgb), options, hint)
    return restored[..., top : top + height, left : left + width]
