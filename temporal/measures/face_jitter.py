"""Faces along a clip: how much identity and landmarks tremble.

The models are dlib's (King 2009): 68 landmarks by regression trees (Kazemi & Sullivan 2014)
and a face embedding of 128 numbers, in which 0.6 parts two people. They come with the
packages `dlib-bin` and `face-recognition-models`, which are optional.
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
_FACE_SIDE = 480  # pixels of a face box for the landmarks, which come in whole pixels


@dataclass(frozen=True, eq=False)
class Face:
    """What was read off one face."""

    landmarks: NDArray[np.float64]
    """(68, 2) x, y in pixels."""
    embedding: NDArray[np.float64]
    """(128,)"""


class FaceReader(Protocol):
    """Finds a face in an RGB picture, (h, w, 3) uint8, and reads one at a given place."""

    def find(self, picture: NDArray[np.uint8]) -> Box | None:
        """The largest face, if there is one."""
        ...

    def read(self, picture: NDArray[np.uint8], box: Box) -> Face:
        """Landmarks and identity of the face at `box`."""
        ...


class DlibFaces:
    """The reader of the module's docstring; loading takes about a second.

    Raises:
        ModelError: one of the two packages is not installed.
    """

    def __init__(self) -> None:
        self._dlib, models = load_dlib()
        self._detector = self._dlib.get_frontal_face_detector()
        self._landmarks = self._dlib.shape_predictor(str(models / LANDMARKS_FILE))
        self._identity = self._dlib.face_recognition_model_v1(str(models / EMBEDDING_FILE))

    def find(self, picture: NDArray[np.uint8]) -> Box | None:
        """The largest face, if there is one."""
        found = self._detector(np.ascontiguousarray(picture), 0)
        if not found:
            return None
        face = max(found, key=lambda rectangle: rectangle.area())
        return face.left(), face.top(), face.right(), face.bottom()

    def read(self, picture: NDArray[np.uint8], box: Box) -> Face:
        """Landmarks and identity of the face at `box`, to a fraction of a pixel."""
        side = max(box[2] - box[0], box[3] - box[1], 1.0)
        left, top = round(box[0] - side / 2), round(box[1] - side / 2)
        right, bottom = round(box[2] + side / 2), round(box[3] + side / 2)
        height, width = picture.shape[:2]
        left, top = max(left, 0), max(top, 0)
        crop = picture[top : min(bottom, height), left : min(right, width)]
        scale = _FACE_SIDE / side
        large = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        # what OpenCV really did: sides are rounded to whole pixels
        grown = np.array((large.shape[1] / crop.shape[1], large.shape[0] / crop.shape[0]))
        corners = (np.reshape(box, (2, 2)) - (left, top) + 0.5) * grown - 0.5
        rectangle = self._dlib.rectangle(*np.rint(corners).astype(int).flatten().tolist())
        shape = self._landmarks(large, rectangle)
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float64)
        embedding = np.array(self._identity.compute_face_descriptor(large, shape))
        return Face((points + 0.5) / grown - 0.5 + (left, top), embedding)


class JitterMeter:
    """Identity and landmarks of several clips that show the same face at the same time.

    The face is looked for in one of them, the guide, and all are read at that place, so
    that a detector's own jumps fall on all alike.
    """

    def __init__(self, reader: FaceReader) -> None:
        self._reader = reader
        self._box: Box | None = None
        self._past: dict[str, deque[Face]] = {}

    def add(
        self, pictures: Mapping[str, NDArray[np.uint8]], guide: str, *, judge: bool
    ) -> dict[str, dict[str, float]]:
        """One frame of each clip, (h, w, 3) RGB -> the measures of each that can be told by now.

        `identity_jitter` is the distance of an embedding to the last frame's (the VIDD of
        SVFR); `landmark_jitter` the root mean square second difference of the landmarks over
        sqrt(6), in pixels: their standard deviation if they tremble independently. With
        `judge` the guide is the truth: `identity_error` is the distance to its embedding,
        and `landmark_error` the mean difference of the landmarks' motion, in pixels (TLME).
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
    """Mean length of the vectors along the last axis."""
    return float(np.linalg.norm(vectors, axis=-1).mean())
