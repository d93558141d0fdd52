"""Detection of a face, and the square around it that aligned portraits show.

The landmarks are dlib's 68 (Kazemi and Sullivan 2014, "One millisecond face alignment with
an ensemble of regression trees"), in iBUG's order: 0-16 jaw, 17-26 brows, 27-35 nose,
36-41 and 42-47 eyes, 48-59 outer and 60-67 inner lip. Left means left in the picture.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.perceptual.dlib_models import LANDMARKS_FILE, load_dlib

__all__ = [
    "DlibLandmarker",
    "Landmarker",
    "Landmarks",
    "Square",
    "centre_square",
    "cut_square",
    "eye_centers",
    "face_square",
    "share_outside",
]

Landmarks = NDArray[np.float32]
"""(68, 2) x, y in pixels; whole numbers are pixel centres."""

_DETECTION_SIDE = 1024  # longest side of the detector's input; it finds faces of 80 pixels and more


class Landmarker(Protocol):
    """Finds the largest face of a picture."""

    def __call__(self, pixels: NDArray[np.uint8]) -> Landmarks | None:
        """Find the landmarks of (h, w, 3) RGB, or return None where there is no face."""
        ...


class DlibLandmarker:
    """dlib's frontal detector and its 68 landmarks, with the models of face-recognition-models.

    Both are CC0. However, the landmarks were trained on iBUG 300-W, whose own terms exclude
    commercial use.

    Raises:
        ModelError: dlib or the models are not installed.
    """

    def __init__(self) -> None:
        dlib, models = load_dlib()
        self._detect = dlib.get_frontal_face_detector()
        self._predict = dlib.shape_predictor(str(models / LANDMARKS_FILE))

    def __call__(self, pixels: NDArray[np.uint8]) -> Landmarks | None:
        """See `Landmarker`."""
        shrink = max(1.0, max(pixels.shape[:2]) / _DETECTION_SIDE)
        height, width = (max(round(side / shrink), 1) for side in pixels.shape[:2])
        small = pixels
        if shrink > 1:
            small = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))
        small = np.ascontiguousarray(small)
        # enlarging finds smaller faces at four times the cost, so it comes second
        faces = self._detect(small, 0) or self._detect(small, 1)
        if not faces:
            return None
        found = self._predict(small, max(faces, key=lambda box: box.area()))
        points = np.array([(point.x, point.y) for point in found.parts()], np.float32)
        ratio = np.array((pixels.shape[1] / width, pixels.shape[0] / height), np.float32)
        return np.asarray((points + 0.5) * ratio - 0.5, np.float32)


@dataclass(frozen=True)
class Square:
    """A rotated square of a picture, in pixels; whole numbers are pixel centres."""

    center: tuple[float, float]
    axis: tuple[float, float]
    """Vector from the centre to the middle of the right side."""

    @property
    def side(self) -> float:
        """Return the side length in pixels of the picture."""
        return 2 * float(np.hypot(*self.axis))


def eye_centers(landmarks: Landmarks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute x, y of the left and the right eye."""
    points = landmarks.astype(np.float64)
    return points[36:42].mean(0), points[42:48].mean(0)


def face_square(landmarks: Landmarks) -> Square:
    """Compute the square of CelebA-HQ and FFHQ, upright along eyes and mouth.

    Half of its side is the larger of 2.0 times the distance between the eyes and 1.8 times that
    from eyes to mouth. Its centre lies a tenth of the way from the eyes to the mouth.

    Source: Karras et al. 2018, "Progressive growing of GANs", appendix C.
    """
    points = landmarks.astype(np.float64)
    left_eye, right_eye = eye_centers(landmarks)
    eyes = (left_eye + right_eye) / 2
    across = right_eye - left_eye
    down = (points[48] + points[54]) / 2 - eyes
    direction = across + np.array((down[1], -down[0]))  # the mean of two estimates of "right"
    direction /= np.hypot(*direction)
    half = max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down))
    center, axis = eyes + 0.1 * down, half * direction
    return Square((float(center[0]), float(center[1])), (float(axis[0]), float(axis[1])))


def centre_square(height: int, width: int) -> Square:
    """Compute the largest upright square in the middle, on whole pixels."""
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return Square((left + side / 2 - 0.5, top + side / 2 - 0.5), (side / 2, 0.0))


def cut_square(picture: NDArray[np.uint8], square: Square, size: int) -> NDArray[np.uint8]:
    """Cut a square from (h, w) or (h, w, c) as `size` x `size` pixels, mirrored beyond the edge.

    The picture is shrunk by averaging before it is rotated, so there is no aliasing. A square on
    whole pixels of exactly this size is copied unchanged.
    """
    height, width = picture.shape[:2]
    shrink = max(1.0, square.side / size)
    ratio = np.ones(2)
    if shrink > 1:
        small = (max(round(width / shrink), 1), max(round(height / shrink), 1))
        picture = np.asarray(cv2.resize(picture, small, interpolation=cv2.INTER_AREA), np.uint8)
        ratio = np.array((small[0] / width, small[1] / height))
    center = (np.array(square.center) + 0.5) * ratio - 0.5
    right = np.array(square.axis)
    down = np.array((-right[1], right[0]))
    step = np.stack((right * ratio, down * ratio), 1) * 2 / size  # source pixels per target pixel
    start = center + step @ np.full(2, (1 - size) / 2)
    matrix = np.concatenate((step, start[:, None]), 1)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(
        picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(cut, np.uint8)


def share_outside(square: Square, height: int, width: int) -> float:
    """Compute the share of the square, 0 to 1, that lies outside the picture and is mirrored."""
    center, right = np.array(square.center), np.array(square.axis)
    down = np.array((-right[1], right[0]))
    corners = [center + x * right + y * down for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    frame = np.array(((0, 0), (width, 0), (width, height), (0, height)), np.float32) - 0.5
    inside, _ = cv2.intersectConvexConvex(np.array(corners, np.float32), frame)
    return float(np.clip(1 - inside / square.side**2, 0, 1))
