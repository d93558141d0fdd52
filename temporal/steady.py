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

from splatmend.temporal.planes import Plane, detail, half, mix, whole
from splatmend.temporal.unrest import broad

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = ["refine", "steady", "stretch"]

_AROUND = np.ones((3, 3), np.uint8)
_MOST = np.float32(2.0)  # most that detail is raised in one frame; it may be lowered to nothing
_QUIET = 1e-7  # energy far below what 8 bits show: keeps 0 / 0 at 1


def steady(picture: Plane, moved: Plane, gain: Plane) -> Plane:
    """The module's formula but for energy: x, w, (h, w) or (h, w, c), and h, (h, w), give p."""
    moved = cv2.add(moved, broad(cv2.subtract(picture, moved), half(gain)))
    moved = cv2.max(moved, cv2.erode(picture, _AROUND))
    cv2.min(moved, cv2.dilate(picture, _AROUND), dst=moved)
    return mix(picture, moved, gain)


def refine(steadied: Plane, wanted: Plane, between: Plane) -> Plane:
    """Give the finest band of p, (h, w), the energy that it has in x, where it is `wanted`.

    Only as far as the memory came from `between` pixels, (h / 2, w / 2) in [0, 1]: from whole ones
    it comes without loss, and what x has more is noise.
    """
    fine = detail(steadied)
    cv2.multiply(fine, stretch(wanted, fine, between), dst=fine)
    return cast(Plane, cv2.add(steadied, fine, dst=fine))


def stretch(wanted: Plane, given: Plane, share: Plane | None = None) -> Plane:
    """What to multiply a band by, less 1, to give it the local energy of another; all (h, w).

    Or only a `share` (h / 2, w / 2) of it.
    """
    # Neighbourhoods must weigh with no negative frequency, as a box has: ripples in the factor
    # would feed on themselves from frame to frame.
    wanted_energy, energy = (cv2.GaussianBlur(_energy(x), (3, 3), 0) for x in (wanted, given))
    factor = np.minimum(np.sqrt(wanted_energy / energy), _MOST) - 1
    if share is not None:
        factor = cv2.multiply(whole(factor, share), share)
    return whole(factor, wanted)


def _energy(band: Plane) -> Plane:
    """(h, w) -> mean squares of cells of 4 x 4 pixels, (h / 4, w / 4) rounded up."""
    square = cv2.multiply(band, band)
    for _ in range(2):  # halving bilinearly is a mean of 2 x 2, and OpenCV's fastest one
        square = half(square)
    return cast(Plane, cv2.add(square, _QUIET))
