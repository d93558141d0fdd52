"""A picture with structure of every size, and the same moved by a known field."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


@pytest.fixture(scope="session")
def scene() -> Picture:
    """(160, 192, 3): blobs of many sizes, each in a colour of its own."""
    dice = np.random.default_rng(5)
    picture = np.full((160, 192, 3), 120, np.uint8)
    for _ in range(420):
        place = tuple(int(v) for v in dice.integers(0, (192, 160)))
        axes = tuple(int(v) for v in dice.integers(2, 14, 2))
        color = tuple(int(v) for v in dice.integers(20, 236, 3))
        cv2.ellipse(picture, place, axes, float(dice.uniform(0, 180)), 0, 360, color, -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.7), np.uint8)


@pytest.fixture(scope="session")
def blurred(scene: Picture) -> Picture:
    return np.asarray(cv2.GaussianBlur(scene, (0, 0), 1.6), np.uint8)
