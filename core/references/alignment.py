"""Dense alignment of a reference picture to a frame, with a confidence for every pixel.

Brightness is normalised by its local mean and deviation, so that light does not matter. Dense
inverse search (Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search") then runs
three times at half the size: from the frame to the reference, back, and once more to refine the
first. A pixel is trusted as far as it comes back to where it began, and as far as the aligned
reference agrees with the frame there. So closed eyes, another gaze and open mouths get 0.

Splats that tremble make the flow tremble. In a stream it is averaged with the flow of the frames
before, moved along with the picture; agreement is always that of the frame itself.
"""

from dataclasses import dataclass
from functools import lru_cache
from threading import local
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Alignment", "Contrast", "Course", "align", "local_contrast", "sample"]

Picture = NDArray[np.uint8]
Plane = NDArray[np.float32]

_SIDE = 96
"""Pixels at half size: dense inverse search goes wrong on pictures with a shorter side."""
_CELL = 8
"""Pixels: means and deviations are those of cells of 8 x 8, blurred over their neighbours."""
_REACH = 12 / _CELL
"""Standard deviation of that blur, in cells."""
_FLAT = 8.0
"""Levels added to the deviation: noise on plain ground must not pass for structure."""
_CONTRAST = 40.0
"""Levels of a standard deviation in the normalised picture, whose mean is 128."""
_RETURN = 1.5
"""Pixels at half size: a pixel that misses itself by so much is trusted to 1/e."""
_DISAGREE = 13.0
"""Normalised levels of disagreement at which a pixel is trusted to 1/e."""
_STRAIN = 0.7
"""Pixels that the flow changes from a pixel to the next where it is trusted to 1/e."""
_FINE, _AROUND = 1.5, 2.5
"""Standard deviations, pixels at half size: finer than the first is damage and does not count as
disagreement; the rest is averaged over the second."""
_PATCH, _FINE_PATCH = 16, 8
"""Side of the patches that are matched, pixels; the step between them is half of it. Patches of 8
follow the trembling of single splats, which raises the flicker from 2.2 to 2.8
(`benchmarks/reference_flicker.py`). For key pairs they are the better ones: both renders tremble
alike (+0.3 dB)."""
_NEW = 0.25
"""Share of a frame's own flow in the average where nothing moves; the past has the rest."""
_ALIKE = 12.0
"""Standard deviation, pixels at half size, over which the picture's motion is smoothed. Its errors
would add up from frame to frame."""
_APART = 2.0
"""Pixels at half size by which the past may differ from a frame's own flow to be kept to 1/e."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """A picture prepared for `align`."""

    gray: Picture
    """(ceil(h / 2), ceil(w / 2)), or larger where it was padded to the least side; mean 128."""
    size: tuple[int, int]
    """(height, width) of the picture itself."""


@dataclass(frozen=True, eq=False)
class Course:
    """An alignment at half the size, for the next frame of a stream to go on from."""

    seen: Picture
    """(h / 2, w / 2): the frame's `Contrast.gray`."""
    flow: Plane
    """(h / 2, w / 2, 2), pixels of that size."""
    trust: Plane
    """(h / 2, w / 2) in [0, 1]: how far the flow is sure, whether or not the pictures agree."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where each pixel of a frame lies in a reference."""

    flow: Plane
    """(h, w, 2), pixels, x first: the place in the reference minus the place in the frame."""
    confidence: Plane
    """(h, w) in [0, 1]."""
    course: Course
    """For the next frame."""


def local_contrast(picture: Picture) -> Contrast:
    """Prepare (h, w, 3) RGB for `align`."""
    height, width = picture.shape[:2]
    half = (max((width + 1) // 2, 1), max((height + 1) // 2, 1))
    gray: Any = cv2.resize(
        cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), half, interpolation=cv2.INTER_AREA
    ).astype(np.float32)
    mean: Any
    square: Any
    cells = tuple(max(2 * side // _CELL, 1) for side in half)
    mean, square = (
        cv2.GaussianBlur(cv2.resize(x, cells, interpolation=cv2.INTER_AREA), (0, 0), _REACH)
        for x in (gray, gray * gray)
    )
    gain: Any = _CONTRAST / (np.sqrt(np.maximum(square - mean * mean, 0)) + _FLAT)
    mean, gain = (cv2.resize(x, half, interpolation=cv2.INTER_LINEAR) for x in (mean, gain))
    normal: Any = np.clip(128 + gain * (gray - mean), 0, 255).astype(np.uint8)
    below, right = (max(0, _SIDE - side) for side in normal.shape)
    if below or right:
        normal = cv2.copyMakeBorder(normal, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return Contrast(normal, (height, width))


def align(
    frame: Contrast,
    reference: Contrast,
    before: Course | None = None,
    *,
    fine: bool = False,
) -> Alignment:
    """Find where each pixel of `frame` lies in `reference`; both must have one size.

    `before` is the course of the frame before, in a stream, with the same reference laid the same
    way. `fine` matches smaller patches: for two renders of one kind. The same pictures give the
    same bytes, for any number of threads.
    """
    there, back, refine = _searches(_FINE_PATCH if fine else _PATCH)
    flow = there.calc(frame.gray, reference.gray, None)
    home = back.calc(reference.gray, frame.gray, None)
    doubt, inside = _misses_itself(flow, home)
    flow = refine.calc(frame.gray, reference.gray, flow)
    trust: Any = np.asarray(cv2.exp(-doubt - _strains(flow))) * inside
    if before is not None and before.seen.shape == frame.gray.shape:
        flow, trust = _averaged(flow, trust, _carried(before, frame.gray, back))
    course = Course(frame.gray, flow, trust)
    trust = trust * cv2.exp(-_disagrees(frame.gray, reference.gray, flow))
    height, width = frame.size
    flow, trust = (x[: (height + 1) // 2, : (width + 1) // 2] for x in (flow, trust))
    flow, trust = (
        np.asarray(cv2.resize(x, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        for x in (2 * flow, trust)
    )
    return Alignment(flow, trust, course)


def _carried(before: Course, gray: Picture, search: Any) -> tuple[Plane, Plane]:
    """Flow and trust of the frame before, moved along with the picture."""
    motion = cv2.GaussianBlur(search.calc(gray, before.seen, None), (0, 0), _ALIKE)
    flow = motion + sample(before.flow, motion, cubic=False)
    return flow, sample(before.trust, motion, cubic=False)


def _averaged(flow: Plane, trust: Plane, past: tuple[Plane, Plane]) -> tuple[Plane, Plane]:
    """Average a frame's own flow and the past's, where they are about the same."""
    carried, lasting = past
    apart = _squared(carried - flow) / np.float32(_APART**2)
    kept = (1 - _NEW) * lasting * np.asarray(cv2.exp(-apart))
    share: Any = kept / (kept + _NEW * trust + np.float32(1e-3))
    return flow + share[..., None] * (carried - flow), trust + share * (lasting - trust)


def sample(picture: NDArray[Any], flow: Plane, *, cubic: bool = True) -> NDArray[Any]:
    """Read (h, w) or (h, w, c) at each pixel plus `flow` (h', w', 2), repeating the border."""
    sampling = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    places: Any = flow + _places(*flow.shape[:2])
    nothing: Any = None  # OpenCV's types have no word for "no second map"
    return np.asarray(
        cv2.remap(picture, places, nothing, sampling, borderMode=cv2.BORDER_REPLICATE)
    )


def _misses_itself(flow: Plane, home: Plane) -> tuple[Plane, NDArray[np.bool_]]:
    """Measure how far each pixel ends from its start after both ways, (h, w), and where inside.

    This and the next two are squares over those that are trusted to 1/e.
    """
    missed = flow + sample(home, flow, cubic=False)
    x, y = cv2.split(flow + _places(*flow.shape[:2]))
    height, width = x.shape
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return _squared(missed) / np.float32(_RETURN**2), np.asarray(inside)


def _disagrees(frame: Picture, reference: Picture, flow: Plane) -> Plane:
    """Measure how much both differ except in fine detail, (h, w)."""
    apart = cv2.subtract(frame, sample(reference, flow, cubic=False), dtype=cv2.CV_32F)
    apart = cv2.GaussianBlur(apart, (0, 0), _FINE)
    around = cv2.GaussianBlur(apart * apart, (0, 0), _AROUND)
    return np.asarray(around / np.float32(_DISAGREE**2), np.float32)


def _strains(flow: Plane) -> Plane:
    """Measure how much the flow of neighbours differs, (h, w): faces do not tear."""
    smooth = cv2.GaussianBlur(flow, (0, 0), _FINE)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, x, 1 - x, scale=1 / 8) for x in (1, 0))
    return (_squared(across) + _squared(down)) / np.float32(_STRAIN**2)


def _squared(vectors: Any) -> Plane:
    """Squared length of (h, w, 2)."""
    x, y = cv2.split(vectors)
    return np.asarray(x * x + y * y, np.float32)


@lru_cache(maxsize=4)  # bounded: frames of a viewer may change their size all the time
def _places(height: int, width: int) -> Plane:
    """Return each pixel's own x and y, (h, w, 2)."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack((x, y), -1)


_own = local()


def _searches(patch: int) -> tuple[Any, Any, Any]:
    """Return the searches there, back and once more for patches of one size.

    Each has its finest scale, descents and rounds of refinement. Each thread has its own, because
    OpenCV keeps the pyramids inside a search.
    """
    if not hasattr(_own, "searches"):
        _own.searches = {}
    if patch not in _own.searches:
        _own.searches[patch] = [
            _search(patch, *steps) for steps in ((1, 16, 5), (1, 12, 3), (0, 4, 2))
        ]
    there, back, refine = _own.searches[patch]
    return there, back, refine


def _search(patch: int, finest: int, descents: int, rounds: int) -> Any:
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setFinestScale(finest)
    search.setGradientDescentIterations(descents)
    search.setVariationalRefinementIterations(rounds)
    search.setPatchSize(patch)
    search.setPatchStride(patch // 2)
    return search
