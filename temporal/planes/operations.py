"""Steps on planes: float32 arrays (h, w) on the CPU.

"Half" planes are (h / 2, w / 2) and "quarter" planes (h / 4, w / 4), rounded up. Brightness has
the full size; colours and gains are half planes. Loops over whole planes are compiled (kernels.py).
Half planes are small enough for OpenCV.
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
    """Halve (h, w, ...) to (h / 2, w / 2, ...), rounded up."""
    size = -(-plane.shape[1] // 2), -(-plane.shape[0] // 2)
    return cast(Plane, cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR))


def whole(plane: Plane, like: Plane) -> Plane:
    """Enlarge a plane to the size of another."""
    return cast(Plane, cv2.resize(plane, like.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def around(plane: Plane) -> Plane:
    """Average 3 x 3 pixels by weight: a single pixel may look alike by chance.

    Unlike a box, the filter has no negative response. Ripples in a factor on a picture would
    grow from frame to frame.
    """
    return cast(Plane, cv2.GaussianBlur(plane, (3, 3), 0))


def box_mean(plane: Plane) -> Plane:
    """Average 3 x 3 pixels."""
    return cast(Plane, cv2.blur(plane, (3, 3)))


def aim(motion: Plane) -> Plane:
    """Convert backward motion (h, w, 2) to source positions, x first."""
    source = np.empty_like(motion)
    in_bands(aim_rows, motion.shape[:2], motion, source)
    return source


def aim_cells(source: Plane) -> tuple[Plane, Plane]:
    """Convert positions of `aim` to half planes, with the loss of sampling between pixels.

    The loss is 0 on a pixel and 1 from a fifth of a pixel off.
    """
    height, width = source.shape[:2]
    coarse = np.empty((_half(height), _half(width), 2), np.float32)
    between = np.empty(coarse.shape[:2], np.float32)
    in_bands(aim_cells_rows, (height, width), source, coarse, between)
    return coarse, between


def rest(motion: Plane, here: Plane, there: Plane, slow: float) -> None:
    """Stop motion (h, w, 2) slower than `slow`, in place, where `here` is not above `there`.

    Both are half planes; motion stops in cells of 2 x 2 pixels, by their mean.
    """
    in_bands(rest_rows, motion.shape[:2], motion, here, there, np.float32(slow))


def brighten(rgb: Picture) -> tuple[Plane, Planes]:
    """Split (h, w, 3) into brightness (h, w) and half planes (2, h / 2, w / 2) of Cr and Cb."""
    height, width, _ = rgb.shape
    brightness = np.empty((height, width), np.float32)
    colors = np.empty((2, _half(height), _half(width)), np.float32)
    in_bands(brighten_rows, (height, width), rgb, brightness, colors)
    return brightness, colors


def difference(now: Plane, before: Plane) -> tuple[Plane, Plane]:
    """Return half planes of `now` less `before`, and of its absolute value."""
    height, width = now.shape
    signed, size = np.empty((2, _half(height), _half(width)), np.float32)
    in_bands(difference_rows, now.shape, now, before, signed, size)
    return signed, size


def flicker(now: Plane, before: Plane, light: Plane) -> Plane:
    """Return a half plane of |now - before - light|; `light` is a half plane."""
    size = np.empty_like(light)
    in_bands(flicker_rows, now.shape, now, before, light, size)
    return size


def split(plane: Plane) -> tuple[Plane, Planes]:
    """Split a plane into its mean of 3 x 3 pixels (h, w) and the rest; return mean and energies.

    Energies are quarter planes (2, h / 4, w / 4): mean squares of the rest and of the mean.
    """
    height, width = plane.shape
    low, energies = np.empty_like(plane), np.empty((2, -(-height // 4), -(-width // 4)), np.float32)
    in_bands(split_rows, plane.shape, plane, low, energies)
    return low, energies


def finest(plane: Plane, low: Plane) -> Plane:
    """Return the strength of the finest detail, a half plane; `low` is from `split`."""
    strength = np.empty((_half(plane.shape[0]), _half(plane.shape[1])), np.float32)
    in_bands(finest_rows, plane.shape, plane, low, strength)
    return strength


def mix(fresh: Plane, past: Plane, gain: Plane) -> Plane:
    """Compute (1 - g) fresh + g past; the gain is a half plane."""
    mixed = np.empty_like(fresh)
    in_bands(mix_rows, fresh.shape, fresh, past, gain, mixed)
    return mixed


def clip_mix(fresh: Plane, past: Plane, light: Plane, gain: Plane) -> Plane:
    """Compute `mix` of fresh and past + light, clipped to the range of fresh pixels around.

    Light and gain are half planes.
    """
    mixed = np.empty_like(fresh)
    in_bands(clip_mix_rows, fresh.shape, fresh, past, light, gain, mixed)
    return mixed


def raise_fine(plane: Plane, low: Plane, more: Plane) -> None:
    """Add `more` times (plane - low) to a plane, in place; `more` is a half plane."""
    in_bands(raise_fine_rows, plane.shape, plane, low, more)


def raise_bands(plane: Plane, low: Plane, fine_more: Plane, low_more: Plane) -> None:
    """Apply `raise_fine`, and add `low_more` times `low`."""
    in_bands(raise_bands_rows, plane.shape, plane, low, fine_more, low_more)


def revised(rgb: Picture, change: tuple[Plane, Plane, Plane, Plane], tints: Planes) -> Picture:
    """Change the brightness and colours of a picture (h, w, 3), clipped to [0, 1].

    The change of brightness (h, w) is `change[0] - change[1] + change[2] - change[3]`. That of Cr
    and Cb is `tints`, half planes (2, h / 2, w / 2).
    """
    out = np.empty_like(rgb)
    in_bands(revise_rows, rgb.shape[:2], rgb, change, tints, out)
    return out


def _half(side: int) -> int:
    return -(-side // 2)
