"""Flicker, told from new content, from light, and from the effect of motion alone.

All planes here are half planes (h / 2, w / 2), rounded up, in [0, 1]. The change c at a
place is the difference between the moved last frame and this one. It has four causes:

- Flicker comes again in every frame. So the usual change u is learned along the motion, and only
  the excess over twice u counts as new: d = max(c - 2 u, 0). The filter learns the spread of its
  innovations, after Mehra 1970, "On the Identification of Variances and Adaptive Kalman
  Filtering".
- Light and shadow change broadly, and are followed at once: `broad`. They are not learned.
- Motion by fractions of a pixel changes the finest detail by q or more. Averaging there would cost
  detail and remove little flicker. So the past gets the share s = c^8 / (c^8 + q^8), a switch with
  a soft edge. Wiener's c^2 / (c^2 + q^2) cost more detail and removed less flicker when measured.
  Motion by whole pixels loses nothing, and q is almost 0.
- The rest is new content.

Two frames cannot tell flicker from things that slide over one another, as Gaussians do where a head
turns. Several frames can. The mean of trembling content is nearer to each frame than the last
frame is. The mean of sliding content is further off. So the past is kept by its persistence l.
It is 1 where, for some frames, the moved anti-aliased picture has been no further from the current
one than the last picture is, or usually is. It is 0 where it is a tenth further.

The past of a restoration is also kept where the residual changes clearly more than the anti-aliased
picture errs. That change is the restorer's own. There s takes that error for q. Along a
renderer's motion it takes 1.7 times the error, because a restorer sharpens sliding content too.
"""

from typing import Any, cast

import cv2 as typed_cv2
import numpy as np

from splatmend.temporal.planes.numba_support import elementwise
from splatmend.temporal.planes.operations import Plane, half, whole

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = [
    "broad",
    "exceeding",
    "is_light",
    "learn",
    "learn_persistence",
    "moving_alone",
    "noise_share",
]

_ONE, _NOTHING = np.float32(1), np.float32(0)
_GATE = np.float32(2)
_MOST = np.float32(8 / 255)  # stronger flicker is not told from change
_MOST_LIGHT = np.float32(16 / 255)  # a larger difference is another object
_BROAD = (9, 9)
_FEW = np.float32(1e-3)  # keeps 0 / 0 at 0
_LEARN = 0.15  # share of the newest frame in the usual change
_NEWS = np.float32(1 / 255)  # largest excess over the usual change that one frame adds
_LEVEL = np.float32(0.125 / 255)  # change by motion alone anywhere
_DETAIL = np.float32(0.4)  # and as a multiple of the finest detail
_LEAST = np.float32(2.5e-5)  # keeps 0 / 0 at 0
_WIDE = (9, 9)  # some 20 pixels a side: errors of fewer are too uncertain to compare
_WORSE = np.float32(1.1)  # multiple of the last picture's error at which persistence is 0
_USUAL = np.float32(0.75)  # least error of the last picture, as a share of its usual one
_PATIENCE = np.float32(0.3)  # with 1, keeping and forgetting would alternate
_STEP = np.float32(1 / 255)  # errors below a step of 8 bits hardly count


def broad(difference: Plane, weight: Plane) -> Plane:
    """Estimate light and shadow in a signed difference: its weighted mean over 18 x 18 pixels."""
    total, count = (cv2.blur(half(p), _BROAD) for p in (cv2.multiply(difference, weight), weight))
    return whole(total / (count + _FEW), difference)


@elementwise
def is_light(difference: np.float32) -> np.float32:
    """Return 1 where a difference is small enough for light and shadow, else 0."""
    return _ONE if abs(difference) < _MOST_LIGHT else _NOTHING


@elementwise
def exceeding(change: np.float32, usual: np.float32) -> np.float32:
    """Return the new part of a change, d of the module."""
    return max(change - _GATE * usual, _NOTHING)


def learn(change: Plane, usual: Plane, age: int) -> Plane:
    """Update the usual change u by one frame; `age` counts frames from 0."""
    # new content appears once, and must not pass for flicker
    news = _NEWS if age > 1 else _ONE
    return cast(Plane, _learned(change, usual, np.float32(max(1 / max(age, 1), _LEARN)), news))


@elementwise
def _learned(
    change: np.float32, usual: np.float32, share: np.float32, news: np.float32
) -> np.float32:
    return usual + share * (min(min(change, _MOST), _GATE * usual + news) - usual)


def learn_persistence(astray: Plane, change: Plane, usual: Plane, before: Plane) -> Plane:
    """Update the persistence l of the module, in [0, 1], by one frame.

    Args:
        astray: Difference of the moved anti-aliased picture from the current one at each place.
        change: The same for the last input picture.
        usual: The result of `learn` for that. Codecs repeat a block and then replace it.
        before: The persistence of the last frame, moved.
    """
    # beyond the border every error is large
    wide = cv2.blur(np.minimum(astray, _MOST_LIGHT), _WIDE)
    return cast(Plane, _persistence(wide, cv2.blur(_of_last(change, usual), _WIDE), before))


@elementwise
def _of_last(change: np.float32, usual: np.float32) -> np.float32:
    return min(max(change, _USUAL * usual), _MOST_LIGHT)


@elementwise
def _persistence(astray: np.float32, of_last: np.float32, before: np.float32) -> np.float32:
    found = (_WORSE - (astray + _STEP) / (of_last + _STEP)) / (_WORSE - _ONE)
    return before + _PATIENCE * (min(max(found, _NOTHING), _ONE) - before)


@elementwise
def moving_alone(finest: np.float32, between: np.float32) -> np.float32:
    """Return the change by motion alone, q of the module.

    `finest` is the strength of the finest detail around a place. `between` is the loss of sampling
    between pixels (see `aim_cells`).
    """
    return (finest * _DETAIL + _LEVEL) * between


@elementwise
def noise_share(change: np.float32, bound: np.float32) -> np.float32:
    """Return the share of flicker in a change, s of the module; `bound` is its q."""
    c, q = change * change, max(bound, _LEAST) * max(bound, _LEAST)
    c, q = c * c, q * q
    return c * c / (c * c + q * q)
