"""Where one scene ends: a picture that the last one cannot be moved into."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_cut"]

_STEP = 4  # every fourth pixel both ways is enough for a mean
_LIMIT = 0.2
_FLAT = 10 / 255  # contrast that a flat picture counts as having: 2 levels of noise are no cut


def is_cut(moved: NDArray[np.float32], brightness: NDArray[np.float32]) -> bool:
    """Whether the last picture, moved as well as it goes, tells nothing of this one.

    Mean difference over the picture's own contrast (mean distance from its mean). On moving heads
    it stays below 0.1 even eight frames apart; from one head to another on the same
    white ground it is 0.3 and more, between scenes about 1.

    Args:
        moved: Brightness of the last picture, moved, (h, w) in [0, 1]; what is below 0 comes
            from beyond the border and does not count.
        brightness: This picture's, (h, w) in [0, 1].
    """
    last, sample = (p[::_STEP, ::_STEP].copy() for p in (moved, brightness))
    known = last >= 0
    if not known.any():
        return True
    contrast = np.abs(sample - sample.mean()).mean()
    return bool(np.abs(last - sample).mean(where=known) > _LIMIT * max(contrast, _FLAT))
