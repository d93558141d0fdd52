"""Steps on planes: float32 arrays (h, w) on the CPU.

"Half" planes are (h / 2, w / 2) and "quarter" planes (h / 4, w / 4), rounded up: brightness is kept
whole, colours and whatever says how much of the past to keep at half the size. What goes over
whole planes is compiled (kernels.py); half planes are small enough for OpenCV.
"""

from typing import Any, cast

import cv2 as typed_cv2
import numpy as np

from splatmend.temporal.planes.kernels import (
    aim_cells_rows,
    aim_rows,
    brighten_rows,
    clip_mix_rows,
    difference_rows,
    finest_rows,
    flicker_rows,
    mix_rows,
    raise_bands_rows,
    raise_fine_rows,
    rest_rows,
    revise_rows,
    split_rows,
)
from splatmend.temporal.planes.numba_support import Picture, Plane, Planes, in_bands

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = [
    "Picture",
    "Plane",
    "Planes",
    "aim",
    "aim_cells",
    "around",
    "box_mean",
    "brighten",
    "clip_mix",
    "difference",
    "finest",
    "flicker",
    "half",
    "mix",
    "raise_bands",
    "raise_fine",
    "rest",
    "revised",
    "split",
    "whole",
]


def half(plane: Plane) -> Plane:
    """(h, w, ...) -> (h / 2, w / 2, ...), rounded up."""
    size = -(-plane.shape[1] // 2), -(-plane.shape[0] // 2)
    return cast(Plane, cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR))


def whole(plane: Plane, like: Plane) -> Plane:
    """A smaller plane enlarged to the size of another."""
    return cast(Plane, cv2.resize(plane, like.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def around(plane: Plane) -> Plane:
    """Weighted mean of 3 x 3 pixels: one of them may look alike by chance, all hardly.

    It has no negative frequency, as a box has: ripples in what multiplies a picture would feed on
    themselves from frame to frame.
    """
    return cast(Plane, cv2.GaussianBlur(plane, (3, 3), 0))


def box_mean(plane: Plane) -> Plane:
    """Mean of 3 x 3 pixels."""
    return cast(Plane, cv2.blur(plane, (3, 3)))


def aim(motion: Plane) -> Plane:
    """Backward motion (h, w, 2) -> where each pixel comes from, x first."""
    source = np.empty_like(motion)
    in_bands(aim_rows, motion.shape[:2], motion, source)
    return source


def aim_cells(source: Plane) -> tuple[Plane, Plane]:
    """What `aim` gives -> the same for half planes, and how far between their pixels that is.

    The latter is 0 on a pixel and 1 from a fifth off on: how much sampling there loses.
    """
    height, width = source.shape[:2]
    coarse = np.empty((_half(height), _half(width), 2), np.float32)
    between = np.empty(coarse.shape[:2], np.float32)
    in_bands(aim_cells_rows, (height, width), source, coarse, between)
    return coarse, between


def rest(motion: Plane, here: Plane, there: Plane, slow: float) -> None:
    """Stop motion (h, w, 2), in place, slower than `slow`, where `here` is not above `there`.

    Both are half planes, and so is what stops: cells of 2 x 2 pixels, by their mean motion.
    """
    in_bands(rest_rows, motion.shape[:2], motion, here, there, np.float32(slow))


def brighten(rgb: Picture) -> tuple[Plane, Planes]:
    """(h, w, 3) -> brightness (h, w), and Cr and Cb around 0, half planes (2, h / 2, w / 2)."""
    height, width, _ = rgb.shape
    brightness = np.empty((height, width), np.float32)
    colors = np.empty((2, _half(height), _half(width)), np.float32)
    in_bands(brighten_rows, (height, width), rgb, brightness, colors)
    return brightness, colors


def difference(now: Plane, before: Plane) -> tuple[Plane, Plane]:
    """Half planes of `now` less `before`, and of how large that is."""
    height, width = now.shape
    signed, size = np.empty((2, _half(height), _half(width)), np.float32)
    in_bands(difference_rows, now.shape, now, before, signed, size)
    return signed, size


def flicker(now: Plane, before: Plane, light: Plane) -> Plane:
    """A half plane of how large `now` less `before` is, beside the half plane `light`."""
    size = np.empty_like(light)
    in_bands(flicker_rows, now.shape, now, before, light, size)
    return size


def split(plane: Plane) -> tuple[Plane, Planes]:
    """The mean of 3 x 3 pixels (h, w), and the energies of what it leaves out and of itself.

    Energies are quarter planes (2, h / 4, w / 4): the mean squares of cells.
    """
    height, width = plane.shape
    low, energies = np.empty_like(plane), np.empty((2, -(-height // 4), -(-width // 4)), np.float32)
    in_bands(split_rows, plane.shape, plane, low, energies)
    return low, energies


def finest(plane: Plane, low: Plane) -> Plane:
    """A half plane of how strong the finest detail is, without shading; `low` is of `split`."""
    strength = np.empty((_half(plane.shape[0]), _half(plane.shape[1])), np.float32)
    in_bands(finest_rows, plane.shape, plane, low, strength)
    return strength


def mix(fresh: Plane, past: Plane, gain: Plane) -> Plane:
    """(1 - g) fresh + g past; the gain is a half plane."""
    mixed = np.empty_like(fresh)
    in_bands(mix_rows, fresh.shape, fresh, past, gain, mixed)
    return mixed


def clip_mix(fresh: Plane, past: Plane, light: Plane, gain: Plane) -> Plane:
    """`mix` of what is fresh and past + light, kept within what is fresh around each pixel.

    Light and gain are half planes.
    """
    mixed = np.empty_like(fresh)
    in_bands(clip_mix_rows, fresh.shape, fresh, past, light, gain, mixed)
    return mixed


def raise_fine(plane: Plane, low: Plane, more: Plane) -> None:
    """Add, in place, `more` times what `low` leaves out of a plane; `more` is a half plane."""
    in_bands(raise_fine_rows, plane.shape, plane, low, more)


def raise_bands(plane: Plane, low: Plane, fine_more: Plane, low_more: Plane) -> None:
    """`raise_fine`, and likewise `low_more` times `low` itself."""
    in_bands(raise_bands_rows, plane.shape, plane, low, fine_more, low_more)


def revised(rgb: Picture, change: tuple[Plane, Plane, Plane, Plane], tints: Planes) -> Picture:
    """A picture (h, w, 3) with another brightness and colours, within [0, 1].

    Added are `change[0] - change[1] + change[2] - change[3]` of brightness (h, w), and `tints` of
    Cr and Cb, half planes (2, h / 2, w / 2).
    """
    out = np.empty_like(rgb)
    in_bands(revise_rows, rgb.shape[:2], rgb, change, tints, out)
    return out


def _half(side: int) -> int:
    return -(-side // 2)
