"""Tells flicker from what is new, from light, and from what moving alone changes.

All planes here are half planes (h / 2, w / 2), rounded up, of [0, 1]. The change c at a
place is how far the moved last frame is from this one. Four things make it:

- Flicker comes again in every frame. So the usual change u is learned along the motion, and only
  what exceeds twice of it is taken for something new: d = max(c - 2 u, 0). A filter that learns
  the spread of its innovations, after Mehra 1970, "On the Identification of Variances and Adaptive
  Kalman Filtering".
- Light and shadow change broadly, and are followed at once: `broad`. They are not learned.
- Moving by fractions of a pixel changes the finest detail by q and more. Averaging would cost it,
  and has little to steady. So the past gets the share s = c^8 / (c^8 + q^8), a switch with a soft
  edge. (Wiener's c^2 / (c^2 + q^2) was measured to cost more detail, and to steady less.) From
  whole pixels nothing is lost, and q is next to 0.
- What is left is new.

No two frames tell flicker from things that slide over one another, as Gaussians do where a head
turns; more of them do. The mean of what only trembles is nearer to each frame than the frame before
is, the mean of what slides is further off. So the past is kept as far as it lasts: l is 1 where the
steadied picture, moved, has for some frames been no further from the current one than the last
picture was, or usually is, and 0 where it is a tenth further. A restoration's past is also kept
where it changes clearly more than the picture has gone astray, which is the restorer's own doing:
there s has the error of the steadied picture for q; 1.7 times of it along a renderer's motion,
because a restorer sharpens what slides, too.
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
    "lasting",
    "learn",
    "moving_alone",
    "noise_share",
]

_ONE, _NOTHING = np.float32(1), np.float32(0)
_GATE = np.float32(2)
_MOST = np.float32(8 / 255)  # stronger flicker is not told from change
_MOST_LIGHT = np.float32(16 / 255)  # a larger difference is another thing
_BROAD = (9, 9)
_FEW = np.float32(1e-3)  # keeps 0 / 0 at 0
_LEARN = 0.15  # share of the newest frame in what is usual
_NEWS = np.float32(1 / 255)  # most that one frame tells beyond what is usual
_LEVEL = np.float32(0.125 / 255)  # what moving alone changes anywhere
_DETAIL = np.float32(0.4)  # and how many times the finest detail
_LEAST = np.float32(2.5e-5)  # keeps 0 / 0 at 0
_WIDE = (9, 9)  # some 20 pixels a side: errors of fewer are too uncertain to compare
_WORSE = np.float32(1.1)  # times as far astray as the last picture: the past does not last
_USUAL = np.float32(0.75)  # and by how much of what is usual the last picture is off at least
_PATIENCE = np.float32(0.3)  # at once, kept and forgotten would take turns
_STEP = np.float32(1 / 255)  # errors below a step of 8 bits hardly count


def broad(difference: Plane, weight: Plane) -> Plane:
    """What light and shadow make of a signed difference: its mean over some 18 x 18 of its pixels.

    Those count that have a weight.
    """
    total, count = (cv2.blur(half(p), _BROAD) for p in (cv2.multiply(difference, weight), weight))
    return whole(total / (count + _FEW), difference)


@elementwise
def is_light(difference: np.float32) -> np.float32:
    """1 where a difference is small enough for light and shadow, else 0."""
    return _ONE if abs(difference) < _MOST_LIGHT else _NOTHING


@elementwise
def exceeding(change: np.float32, usual: np.float32) -> np.float32:
    """What of the change is new: d of the module."""
    return max(change - _GATE * usual, _NOTHING)


def learn(change: Plane, usual: Plane, age: int) -> Plane:
    """What is usual, u of the module, after one frame more; `age` counts frames from 0."""
    # what is new happens once, and must not pass for flicker
    news = _NEWS if age > 1 else _ONE
    return cast(Plane, _learned(change, usual, np.float32(max(1 / max(age, 1), _LEARN)), news))


@elementwise
def _learned(
    change: np.float32, usual: np.float32, share: np.float32, news: np.float32
) -> np.float32:
    return usual + share * (min(min(change, _MOST), _GATE * usual + news) - usual)


def lasting(astray: Plane, change: Plane, usual: Plane, before: Plane) -> Plane:
    """Whether the past lasts, after one frame more: l of the module, in [0, 1].

    Args:
        astray: How far the steadied picture, moved, is from the current one around each place.
        change: The same of the last picture as it came.
        usual: What `learn` makes of that; codecs repeat what they have and then replace it.
        before: What this returned for the last frame, moved.
    """
    wide = cv2.blur(np.minimum(astray, _MOST_LIGHT), _WIDE)  # beyond the border any is large
    return cast(Plane, _lasts(wide, cv2.blur(_of_last(change, usual), _WIDE), before))


@elementwise
def _of_last(change: np.float32, usual: np.float32) -> np.float32:
    return min(max(change, _USUAL * usual), _MOST_LIGHT)


@elementwise
def _lasts(astray: np.float32, of_last: np.float32, before: np.float32) -> np.float32:
    found = (_WORSE - (astray + _STEP) / (of_last + _STEP)) / (_WORSE - _ONE)
    return before + _PATIENCE * (min(max(found, _NOTHING), _ONE) - before)


@elementwise
def moving_alone(finest: np.float32, between: np.float32) -> np.float32:
    """What moving alone changes: q of the module.

    `finest` is the strength of the finest detail around a place, `between` how far
    between pixels it comes from (see `aim_cells`).
    """
    return (finest * _DETAIL + _LEVEL) * between


@elementwise
def noise_share(change: np.float32, bound: np.float32) -> np.float32:
    """Share of a change that is flicker, where `bound` is what else makes it: s of the module."""
    c, q = change * change, max(bound, _LEAST) * max(bound, _LEAST)
    c, q = c * c, q * q
    return c * c / (c * c + q * q)
