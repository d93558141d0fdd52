"""Steadies the input itself: splats that pop, an order of splats that changes, noise.

With x the picture as it came, w its steadied predecessor moved to where this frame sees the same
things, and h a gain for each pixel (little where the pictures differ),

    p <- (1 - h) x + h clip(w + broad(x - w), darkest and brightest of x around the pixel)

which is temporal anti-aliasing as games do it: Karis 2014, "High-Quality Temporal Supersampling",
and Yang, Liu and Salvi 2020, "A Survey of Temporal Antialiasing Techniques". What is not in
the current picture cannot come from the last one, so nothing ghosts. The blur that moving by
fractions of a pixel brings is met twice: the memory is sampled bicubically, and the finest band
of p is given the local energy that it has in x.
"""

from typing import Any, cast

import cv2 as typed_cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.temporal.unrest import broad

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = ["refine", "steady", "stretch"]

Plane = NDArray[np.float32]

_AROUND = np.ones((3, 3), np.uint8)
_MOST = np.float32(2.0)  # most that detail is raised in one frame; it may be lowered to nothing
_QUIET = 1e-7  # energy far below what 8 bits show: keeps 0 / 0 at 1


def steady(picture: Plane, moved: Plane, gain: Plane) -> Plane:
    """The module's formula but for energy: x, w, (h, w) or (h, w, c), and h, (h, w), give p."""
    moved = cv2.add(moved, broad(cv2.subtract(picture, moved), gain))
    moved = cv2.max(moved, cv2.erode(picture, _AROUND))
    cv2.min(moved, cv2.dilate(picture, _AROUND), dst=moved)
    return cast(Plane, cv2.blendLinear(moved, picture, gain, 1 - gain))


def refine(steadied: Plane, picture: Plane, between: Plane) -> Plane:
    """Give the finest band of p the energy that it has in x; both (h, w).

    Only as far as the memory came from `between` pixels, (h, w) in [0, 1]: from whole ones it comes
    without loss, and what x has more is noise.
    """
    fine, wanted = (cv2.subtract(p, cv2.blur(p, (3, 3))) for p in (steadied, picture))
    cv2.multiply(fine, cv2.multiply(stretch(wanted, fine), between), dst=fine)
    return cast(Plane, cv2.add(steadied, fine, dst=fine))


def stretch(wanted: Plane, given: Plane) -> Plane:
    """What to multiply a band by, less 1, to give it the local energy of another; all (h, w)."""
    # Neighbourhoods must weigh with no negative frequency, as a box has: ripples in the factor
    # would feed on themselves from frame to frame.
    wanted_energy, energy = (cv2.GaussianBlur(_energy(x), (3, 3), 0) for x in (wanted, given))
    factor = np.minimum(np.sqrt(wanted_energy / energy), _MOST) - 1
    return cast(Plane, cv2.resize(factor, wanted.shape[::-1], interpolation=cv2.INTER_LINEAR))


def _energy(band: Plane) -> Plane:
    """(h, w) -> mean squares of cells of 4 x 4 pixels, (h / 4, w / 4) rounded up."""
    square = cv2.multiply(band, band)
    for _ in range(2):  # halving bilinearly is a mean of 2 x 2, and OpenCV's fastest one
        size = -(-square.shape[1] // 2), -(-square.shape[0] // 2)
        square = cv2.resize(square, size, interpolation=cv2.INTER_LINEAR)
    return cast(Plane, cv2.add(square, _QUIET))
