"""Faces along a clip: jitter of identity and landmarks.

The models are dlib's (King 2009): 68 landmarks by regression trees (Kazemi & Sullivan 2014)
and a face embedding of 128 numbers, in which a distance of 0.6 separates two people. The
optional packages `dlib-bin` and `face-recognition-models` provide them.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.perceptual.dlib_models import EMBEDDING_FILE, LANDMARKS_FILE, load_dlib

__all__ = ["Box", "DlibFaces", "Face", "FaceReader", "JitterMeter"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
_FOLLOW = 0.3  # share of a new detection: detectors jump by whole steps of their pyramid
_FACE_SIDE = 480  # side in pixels of a face box for landmarks, which are whole pixels


@dataclass(frozen=True, eq=False)
class Face:
    """Landmarks and identity of one face."""

    landmarks: NDArray[np.float64]
    """(68, 2) x, y in pixels."""
    embedding: NDArray[np.float64]
    """(128,)"""


class FaceReader(Protocol):
    """A reader that finds a face in a picture, (h, w, 3) uint8 RGB, and reads its landmarks."""

    def find(self, picture: NDArray[np.uint8]) -> Box | None:
        """Find the largest face, if there is one."""
        ...

    def read(self, picture: NDArray[np.uint8], box: Box) -> Face:
        """Read landmarks and identity of the face at `box`."""
        ...


class DlibFaces:
    """A face reader with dlib's models; loading takes about a second.

    Raises:
        ModelError: one of the two packages is not installed.
    """

    def __init__(self) -> None:
        self._dlib, models = load_dlib()
        self._detector = self._dlib.get_frontal_face_detector()
        self._landmarks = self._dlib.shape_predictor(str(models / LANDMARKS_FILE))
        self._identity = self._dlib.face_recognition_model_v1(str(models / EMBEDDING_FILE))

    def find(self, picture: NDArray[np.uint8]) -> Box | None:
        """Find the largest face, if there is one."""
        found = self._detector(np.ascontiguousarray(picture), 0)
        if not found:
            return None
        face = max(found, key=lambda rectangle: rectangle.area())
        return face.left(), face.top(), face.right(), face.bottom()

    def read(self, picture: NDArray[np.uint8], box: Box) -> Face:
        """Read landmarks, to a fraction of a pixel, and identity of the face at `box`."""
        side = max(box[2] - box[0], box[3] - box[1], 1.0)
        left, top = round(box[0] - side / 2), round(box[1] - side / 2)
        right, bottom = round(box[2] + side / 2), round(box[3] + side / 2)
        height, width = picture.shape[:2]
        left, top = max(left, 0), max(top, 0)
        crop = picture[top : min(bottom, height), left : min(right, width)]
        scale = _FACE_SIDE / side
        large = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        # the true scale: OpenCV rounds sides to whole pixels
        grown = np.array((large.shape[1] / crop.shape[1], large.shape[0] / crop.shape[0]))
        corners = (np.reshape(box, (2, 2)) - (left, top) + 0.5) * grown - 0.5
        rectangle = self._dlib.rectangle(*np.rint(corners).astype(int).flatten().tolist())
        shape = self._landmarks(large, rectangle)
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float64)
        embedding = np.array(self._identity.compute_face_descriptor(large, shape))
        return Face((points + 0.5) / grown - 0.5 + (left, top), embedding)


class JitterMeter:
    """Jitter of identity and landmarks in several clips of one face.

    The face is detected in one of them, the guide, and all are read at that place. So jumps of
    the detector affect all clips alike.
    """

    def __init__(self, reader: FaceReader) -> None:
        self._reader = reader
        self._box: Box | None = None
        self._past: dict[str, deque[Face]] = {}

    def add(
        self, pictures: Mapping[str, NDArray[np.uint8]], guide: str, *, judge: bool
    ) -> dict[str, dict[str, float]]:
        """Add one frame of each clip, (h, w, 3) RGB, and return its measures.

        `identity_jitter` is the distance of an embedding to the last frame's (the VIDD of
        SVFR). `landmark_jitter` is the root mean square second difference of the landmarks over
        sqrt(6), in pixels. It equals their standard deviation if they jitter independently.

        With `judge` the guide is the truth. Then `identity_error` is the distance to its
        embedding, and `landmark_error` the mean difference of the landmarks' motion, in pixels
        (TLME).
        """
        found = self._reader.find(pictures[guide])
        if found is None:
            self._box = None
            self._past.clear()
            return {}
        old = self._box or found
        self._box = (
            old[0] + _FOLLOW * (found[0] - old[0]),
            old[1] + _FOLLOW * (found[1] - old[1]),
            old[2] + _FOLLOW * (found[2] - old[2]),
            old[3] + _FOLLOW * (found[3] - old[3]),
        )
        for name, picture in pictures.items():
            past = self._past.setdefault(name, deque(maxlen=3))
            past.append(self._reader.read(picture, self._box))
        truth = self._past[guide] if judge else None
        return {name: _jitter(past, truth) for name, past in self._past.items()}


def _jitter(past: deque[Face], truth: deque[Face] | None) -> dict[str, float]:
    values = {}
    if truth is not None:
        values["identity_error"] = _length(past[-1].embedding - truth[-1].embedding)
    if len(past) > 1:
        values["identity_jitter"] = _length(past[-1].embedding - past[-2].embedding)
        if truth is not None:
            motion, true = (p[-1].landmarks - p[-2].landmarks for p in (past, truth))
            values["landmark_error"] = _length(motion - true)
    if len(past) > 2:
        first, second, third = (face.landmarks for face in past)
        bend = third - 2 * second + first
        values["landmark_jitter"] = float(np.sqrt(np.square(bend).mean() / 6))
    return values


def _length(vectors: NDArray[np.float64]) -> float:
    """Return the mean length of vectors along the last axis."""
    return float(np.linalg.norm(vectors, axis=-1).mean())
