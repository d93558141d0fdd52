"""Tells flicker from what is new, from light, and from what moving alone changes.

Planes are (h / 2, w / 2), rounded up, of [0, 1], unless they say otherwise. The change c at a
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
where it changes more than the picture has gone astray, which is the restorer's own doing: there s
has the error of the steadied picture for q.
"""

from typing import Any, cast

import cv2 as typed_cv2
import numpy as np

from splatmend.temporal.planes import Plane, around, detail, half, larger, whole

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = [
    "between_pixels",
    "broad",
    "exceeding",
    "lasting",
    "learn",
    "moving_alone",
    "noise_share",
    "without_light",
]

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
    """What light and shadow make of a signed difference (h, w) or (h, w, c), the same size.

    Its mean over some 36 x 36 pixels, those that have a weight (h / 2, w / 2).
    """
    coarse = half(difference)
    each = weight if coarse.ndim == 2 else cv2.merge([weight] * coarse.shape[2])
    total, count = (cv2.blur(half(p), _BROAD) for p in (cv2.multiply(coarse, each), each))
    return whole(total / (count + _FEW), difference)


def without_light(difference: Plane) -> Plane:
    """How large a signed difference (h, w) is around each place, beside what changes broadly."""
    same = (np.abs(half(difference)) < _MOST_LIGHT).astype(np.float32)
    return around(cv2.absdiff(difference, broad(difference, same)))


def exceeding(change: Plane, usual: Plane) -> Plane:
    """What of the change is new: d of the module."""
    return np.maximum(change - _GATE * usual, 0)


def learn(change: Plane, usual: Plane, age: int) -> Plane:
    """What is usual, u of the module, after one frame more; `age` counts frames from 0."""
    share = np.float32(max(1 / max(age, 1), _LEARN))
    seen = np.minimum(change, _MOST)
    if age > 1:  # what is new happens once, and must not pass for flicker
        seen = np.minimum(seen, _GATE * usual + _NEWS)
    return usual + share * (seen - usual)


def lasting(astray: Plane, change: Plane, usual: Plane, before: Plane) -> Plane:
    """Whether the past lasts, after one frame more: l of the module, in [0, 1].

    Args:
        astray: How far the steadied picture, moved, is from the current one around each place.
        change: The same of the last picture as it came.
        usual: What `learn` makes of that; codecs repeat what they have and then replace it.
        before: What this returned for the last frame, moved.
    """
    of_last = np.maximum(change, _USUAL * usual)
    # beyond the border any difference is large
    errors = (cv2.blur(np.minimum(p, _MOST_LIGHT), _WIDE) + _STEP for p in (astray, of_last))
    found = np.clip((_WORSE - np.divide(*errors)) / (_WORSE - 1), 0, 1)
    return cast(Plane, before + _PATIENCE * (found - before))


def moving_alone(fine: Plane, between: Plane) -> Plane:
    """What moving alone changes where `detail` is (h, w): q of the module; see `between_pixels`."""
    # once more, so that shading, which moving keeps, does not count
    finest = np.abs(detail(fine))
    return (around(finest) * _DETAIL + _LEVEL) * between


def noise_share(change: Plane, bound: Plane) -> Plane:
    """Share of a change that is flicker, where `bound` is what else makes it: s of the module."""
    c, q = change, np.maximum(bound, _LEAST)
    for _ in range(3):  # squaring is many times faster than numpy's power
        c, q = cv2.multiply(c, c), cv2.multiply(q, q)
    return cast(Plane, c / (c + q))


def between_pixels(source: Plane) -> Plane:
    """How much positions (h, w, 2) lose between pixels: 0 on one, 1 from a fifth off on."""
    off = larger(np.abs(source - np.rint(source)))
    return cast(Plane, np.minimum(6 * off * (1 - off), np.float32(1)))
