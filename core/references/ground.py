"""Estimates the plain ground that a renderer draws an avatar on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Matte", "plain_ground"]

Matte = tuple[float, ...]

_RING = 4
"""Pixels: the ground is looked for along the top and both sides; a bust covers the bottom."""
_SAME = 8
"""Levels by which a pixel of the ground may differ from the median."""
_MOST = 0.8
"""Share of those pixels that have to show the ground."""
_STEP = 5
"""Levels: grounds are rounded to multiples, so that noise does not make new ones."""


def plain_ground(picture: NDArray[np.uint8]) -> Matte | None:
    """Find the one colour behind the subject of (h, w, 3), as RGB in [0, 1]; None if it has none.

    The colour is rounded to steps of 5 levels of 255.
    """
    sides = (picture[:_RING], picture[:, :_RING], picture[:, -_RING:])
    ring: Any = np.concatenate([side.reshape(-1, 3) for side in sides]).astype(np.int16)
    color = np.median(ring, 0)
    if (np.abs(ring - color).max(1) <= _SAME).mean() < _MOST:
        return None
    return tuple(float(round(level / _STEP) * _STEP / 255) for level in color)
