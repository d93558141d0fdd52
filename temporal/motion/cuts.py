"""Detection of cuts: pictures that the moved last picture does not resemble."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_cut"]

_STEP = 4  # every fourth pixel both ways is enough for a mean
_LIMIT = 0.2
_FLAT = 10 / 255  # least contrast of a picture, so that 2 levels of noise are not a cut


def is_cut(moved: NDArray[np.float32], brightness: NDArray[np.float32]) -> bool:
    """Tell whether the moved last picture differs so much from this one that there is a cut.

    The measure is the mean difference over the picture's contrast (mean distance from its mean). On
    moving heads it stays below 0.1 even eight frames apart. From one head to another on the same
    white ground it is 0.3 and more. Between scenes it is about 1.

    Args:
        moved: Brightness of the last picture, moved, (h, w) in [0, 1]; values below 0 come from
            beyond the border and do not count.
        brightness: Brightness of this picture, (h, w) in [0, 1].
    """
    last, sample = (p[::_STEP, ::_STEP].copy() for p in (moved, brightness))
    known = last >= 0
    if not known.any():
        return True
    contrast = np.abs(sample - sample.mean()).mean()
    return bool(np.abs(last - sample).mean(where=known) > _LIMIT * max(contrast, _FLAT))
