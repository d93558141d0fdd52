"""Pictures with structure of every size: blobs, each in a colour of its own."""

import cv2
import numpy as np
from numpy.typing import NDArray


def blobs(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Make a picture (h, w, 3) with a blob for every 73 pixels."""
    dice = np.random.default_rng(seed)
    picture = np.full((*size, 3), 120, np.uint8)
    for _ in range(size[0] * size[1] // 73):
        place = tuple(int(v) for v in dice.integers(0, size[::-1]))
        axes = tuple(int(v) for v in dice.integers(2, 14, 2))
        color = tuple(int(v) for v in dice.integers(20, 236, 3))
        cv2.ellipse(picture, place, axes, float(dice.uniform(0, 180)), 0, 360, color, -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.7), np.uint8)
