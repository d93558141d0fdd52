"""Rough placement: how far a reference has to be scaled, tilted and moved to lie on a frame.

A photograph shows a face two to four times larger than a render does, tilted, elsewhere in the
picture. Dense flow cannot bridge that. So both are shrunk to 64 pixels and brought to local
contrast, and the reference is correlated with the frame at every scale, tilt and shift (masked
normalised cross-correlation: Padfield 2012, "Masked object registration in the Fourier domain").
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Part", "Placement", "Thumbnail", "fit_size", "place_reference", "seen_through"]

Matrix = NDArray[np.float64]
_Spectra = tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.complex128]]

_SIDE = 64
"""Pixels: the longest side of the pictures that are correlated."""
_CUT = 128
"""Pixels: the longest side of a frame that is cut as a reference is."""
_ROOM = 160
"""Side of the spectra: room for a thumbnail and for one that is tilted."""
_BLUR, _NOISE, _MOST = 4.0, 10.0, 2.0
"""Local contrast: standard deviation of the neighbourhood in pixels, levels added to its deviation,
and the largest value."""
_SCALES = np.exp(np.linspace(np.log(0.25), np.log(2.8), 18))
_TILTS = np.arange(-30.0, 31.0, 10.0)
_FINER = (1.0, 0.5)
"""Rounds around the best: 7 % and 5 degrees either way, then half of that."""
_OVERLAP = 0.1
"""Share of the frame that has to be covered."""
_HELD = 1.25
"""Of one of both pictures 1 / 1.25 of the structure has to overlap; less counts less."""
_GOOD, _ENOUGH = 0.5, 0.35
"""Correlation from which a reference is taken as it lies, and below which it is not used."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Maps places of a frame to places of a reference, and says how well both then agree."""

    matrix: Matrix
    """(2, 3): x, y of the reference from x, y, 1 of the frame; whole numbers are pixel centres."""
    score: float
    """Correlation in [-1, 1]; 0.6 is the same face, 0.3 is chance."""

    @property
    def scale(self) -> float:
        """Return the pixels of the reference for each pixel of the frame."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A picture as `place_reference` sees it."""

    contrast: NDArray[np.float32]
    """(h, w), the longest side 64 pixels, mean about 0."""
    size: tuple[int, int]
    """(height, width) of the picture itself."""

    @classmethod
    def of(cls, picture: NDArray[np.uint8]) -> "Thumbnail":
        """Shrink (h, w, 3) RGB."""
        height, width = picture.shape[:2]
        shrink = _SIDE / max(height, width)
        size = max(round(width * shrink), 4), max(round(height * shrink), 4)
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        mean = cv2.GaussianBlur(gray, (0, 0), _BLUR)
        deviation = np.sqrt(cv2.GaussianBlur((gray - mean) ** 2, (0, 0), _BLUR)) + _NOISE
        return cls(np.clip((gray - mean) / deviation, -_MOST, _MOST), (height, width))

    @cached_property
    def descriptor(self) -> NDArray[np.float32]:
        """Return (1024,) of length 1: the contrast at 32 x 32, for comparing many pictures."""
        small = cv2.resize(self.contrast, (32, 32), interpolation=cv2.INTER_AREA).ravel()
        return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)

    def likeness(self, other: "Thumbnail") -> float:
        """Correlation of both as they are, stretched to one size, in [-1, 1]."""
        return float(self.descriptor @ other.descriptor)

    def spectra(self, shrink: float = 1.0) -> _Spectra:
        """Transform the picture so many times smaller, its square and its extent."""
        if shrink not in self._spectra:
            height, width = self.contrast.shape
            turn = np.array(
                ((1 / shrink, 0, 0.5 / shrink - 0.5), (0, 1 / shrink, 0.5 / shrink - 0.5))
            )
            size = max(round(width / shrink), 1), max(round(height / shrink), 1)
            small: Any = cv2.warpAffine(
                self.contrast, turn, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
            )
            self._spectra[shrink] = _spectra(small, np.ones_like(small))
        return self._spectra[shrink]

    @cached_property
    def _spectra(self) -> dict[float, _Spectra]:
        return {}


@dataclass(frozen=True, eq=False)
class Part:
    """The part of a frame that shows its subject, and its first column and row there."""

    thumbnail: Thumbnail
    left: int
    top: int


def fit_size(frame: tuple[int, int], reference: tuple[int, int]) -> Matrix:
    """Lay a reference (height, width) on a frame as large as it fits, centred."""
    scale = max(r / f for r, f in zip(reference, frame, strict=True))
    y, x = ((r - 1 - scale * (f - 1)) / 2 for r, f in zip(reference, frame, strict=True))
    return np.array(((scale, 0.0, x), (0.0, scale, y)))


def seen_through(
    picture: NDArray[np.uint8], placement: Placement, reference: tuple[int, int]
) -> Thumbnail:
    """Shrink a frame (h, w, 3), cut as a reference of (height, width) shows the person.

    `placement` is that reference's. So frames of another shape or distance become comparable with
    references.
    """
    size = [max(round(_CUT * side / max(reference)), 4) for side in reference]
    shrink = min(size[0] / reference[0] * placement.scale, 1.0)
    height, width = picture.shape[:2]
    sides = max(round(width * shrink), 1), max(round(height * shrink), 1)
    small = cv2.resize(picture, sides, interpolation=cv2.INTER_AREA)
    matrix = placement.matrix * (size[0] / reference[0])
    matrix[:, :2] /= shrink
    cut = cv2.warpAffine(small, matrix, size[::-1], borderMode=cv2.BORDER_REPLICATE)
    return Thumbnail.of(np.asarray(cut, np.uint8))


def place_reference(
    frame: Thumbnail, reference: Thumbnail, *, part: "Part | None" = None
) -> Placement | None:
    """Find where a reference lies on a frame; None where nothing of it is to be found.

    A reference that fits as it is, scaled to the frame's size, is left so. Else it is sought, in
    the part of the frame that shows the subject where that is known.
    """
    as_it_is = fit_size(frame.size, reference.size)
    score = _correlation(frame, reference, as_it_is)
    if score >= _GOOD:
        return Placement(as_it_is, score)
    frame, left, top = (frame, 0, 0) if part is None else (part.thumbnail, part.left, part.top)
    found = max((_shifted(frame, reference, s, t) for s in _SCALES for t in _TILTS), key=_score)
    for step in _FINER:
        _, scale, tilt, _ = found
        near = [
            _shifted(frame, reference, scale * (1 + 0.07 * s * step), tilt + 5 * t * step)
            for s in (-1, 0, 1)
            for t in (-1, 0, 1)
        ]
        found = max(near, key=_score)
    if found[0] < max(_ENOUGH, score):
        return Placement(as_it_is, score) if score >= _ENOUGH else None
    matrix = found[3]
    matrix[:, 2] -= matrix[:, :2] @ (left, top)
    return Placement(matrix, found[0])


_Candidate = tuple[float, float, float, Matrix]


def _score(candidate: _Candidate) -> float:
    return candidate[0]


def _shifted(frame: Thumbnail, reference: Thumbnail, scale: float, tilt: float) -> _Candidate:
    """Find the best shift of a reference that is `scale` times as large and tilted by degrees."""
    turn = _turned(reference.contrast.shape, tilt, min(scale, 1.0))
    turned: Any
    extent: Any
    turned, extent = (
        cv2.warpAffine(plane, turn.matrix, turn.size, flags=cv2.INTER_AREA)
        for plane in (reference.contrast, np.ones_like(reference.contrast))
    )
    shrink = max(scale, 1.0)  # instead of a larger reference a smaller frame: all stays small
    ours, square, covered = frame.spectra(shrink)
    theirs, their_square, their_extent = _spectra(turned, extent)
    product, energy, their_energy, overlap = (
        np.fft.irfft2(a * b.conj(), (_ROOM, _ROOM))
        for a, b in (
            (ours, theirs), (square, their_extent), (covered, their_square),
            (covered, their_extent),
        )
    )  # fmt: skip
    scores = product / np.sqrt(np.maximum(energy * their_energy, 1e-3))
    # corners that happen to look alike hold little of the structure of either
    ours_held, theirs_held = (e / max(float(e.max()), 1e-6) for e in (energy, their_energy))
    held = np.maximum(ours_held, theirs_held)
    scores *= np.sqrt(np.clip(_HELD * held, 0, 1))
    scores[overlap < _OVERLAP * frame.contrast.size / shrink**2] = -1
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    shift = [int(v) - _ROOM if v >= _SIDE else int(v) for v in (column, row)]
    to_frame = turn.matrix.copy()
    to_frame[:, 2] += shift  # thumbnail of the reference -> shrunken thumbnail of the frame
    to_frame[:, 2] = (to_frame[:, 2] + 0.5) * shrink - 0.5
    to_frame[:, :2] *= shrink
    matrix = np.asarray(cv2.invertAffineTransform(to_frame), np.float64)
    return float(scores.max()), scale, tilt, _in_pixels(matrix, frame, reference)


@dataclass(frozen=True, eq=False)
class _Turn:
    """A turned and shrunken picture: the map to it, and its (width, height)."""

    matrix: Matrix
    size: tuple[int, int]


def _turned(shape: tuple[int, ...], tilt: float, scale: float) -> _Turn:
    height, width = shape
    centre = (width - 1) / 2, (height - 1) / 2
    turn = np.asarray(cv2.getRotationMatrix2D(centre, tilt, scale), np.float64)
    corners = turn @ np.array(
        ((0, width - 1, 0, width - 1), (0, 0, height - 1, height - 1), (1, 1, 1, 1)), np.float64
    )
    low, high = np.floor(corners.min(1)), np.ceil(corners.max(1))
    turn[:, 2] -= low
    columns, rows = (int(v) + 1 for v in high - low)
    return _Turn(turn, (columns, rows))


def _in_pixels(matrix: Matrix, frame: Thumbnail, reference: Thumbnail) -> Matrix:
    """Return the same map between the pictures that the thumbnails were made of."""
    shrink = [max(t.contrast.shape) / max(t.size) for t in (frame, reference)]
    whole = matrix.copy()
    # pixel centres: (x + 0.5) of a picture is (x + 0.5) * shrink of its thumbnail
    inner = matrix[:, :2] @ np.full(2, 0.5 * shrink[0] - 0.5) + matrix[:, 2]
    whole[:, :2] *= shrink[0] / shrink[1]
    whole[:, 2] = (inner + 0.5) / shrink[1] - 0.5
    return whole


def _correlation(frame: Thumbnail, reference: Thumbnail, matrix: Matrix) -> float:
    """Correlate the overlap of both as they lie."""
    shrink = [max(t.contrast.shape) / max(t.size) for t in (frame, reference)]
    small = matrix.copy()
    small[:, :2] *= shrink[1] / shrink[0]
    start = matrix[:, :2] @ np.full(2, 0.5 / shrink[0] - 0.5) + matrix[:, 2]
    small[:, 2] = (start + 0.5) * shrink[1] - 0.5
    size = frame.contrast.shape[::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    theirs, covered = (
        cv2.warpAffine(plane, small, size, flags=flags)
        for plane in (reference.contrast, np.ones_like(reference.contrast))
    )
    ours = frame.contrast * covered
    energy = float((ours * ours).sum() * (theirs * theirs).sum())
    return float((ours * theirs).sum() / np.sqrt(max(energy, 1e-6)))


def _spectra(picture: NDArray[np.float32], extent: NDArray[np.float32]) -> _Spectra:
    planes = (picture, picture * picture, extent)
    first, second, third = (np.fft.rfft2(plane, (_ROOM, _ROOM)) for plane in planes)
    return first, second, third
