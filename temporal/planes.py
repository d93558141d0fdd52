"""Small steps on planes: float32 arrays (h, w) or (h, w, c) on the CPU.

"Half" planes are (h / 2, w / 2), rounded up: brightness is kept whole, colours and whatever says
how much of the past to keep at half the size.
"""

from typing import Any, cast

import cv2 as typed_cv2
import numpy as np
from numpy.typing import NDArray

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = ["Plane", "around", "box_mean", "detail", "half", "larger", "mix", "whole"]

Plane = NDArray[np.float32]

_THIRDS = np.full(3, 1 / 3, np.float32)


def half(plane: Plane) -> Plane:
    """(h, w, ...) -> (h / 2, w / 2, ...), rounded up."""
    size = -(-plane.shape[1] // 2), -(-plane.shape[0] // 2)
    return cast(Plane, cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR))


def whole(plane: Plane, like: Plane) -> Plane:
    """A smaller plane enlarged to the size of another."""
    return cast(Plane, cv2.resize(plane, like.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def larger(pair: Plane) -> Plane:
    """(h, w, 2) -> (h, w): the larger of the two; numpy's `max` over so few is slow."""
    return np.maximum(pair[..., 0], pair[..., 1])


def around(plane: Plane) -> Plane:
    """Weighted mean of some 5 x 5 pixels of (h, w), at half the size.

    One pixel may look alike by chance, all hardly.
    """
    return cast(Plane, cv2.GaussianBlur(half(plane), (3, 3), 0))


def box_mean(plane: Plane) -> Plane:
    """Mean of 3 x 3 pixels; OpenCV's `blur` of float32 takes half as long again."""
    return cast(Plane, cv2.sepFilter2D(plane, -1, _THIRDS, _THIRDS))


def detail(picture: Plane) -> Plane:
    """The finest band of (h, w): what a mean of 3 x 3 leaves out."""
    return cast(Plane, cv2.subtract(picture, box_mean(picture)))


def mix(fresh: Plane, past: Plane, gain: Plane) -> Plane:
    """(1 - g) fresh + g past, both (h, w) or (h, w, c); the gain is (h, w)."""
    return cast(Plane, cv2.blendLinear(past, fresh, gain, 1 - gain))
