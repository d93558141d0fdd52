"""A picture with structure of every size, and the same without its fine detail."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blobs import blobs

Picture = NDArray[np.uint8]


@pytest.fixture(scope="session")
def scene() -> Picture:
    """(160, 192, 3)."""
    return blobs((160, 192), seed=5)


@pytest.fixture(scope="session")
def blurred(scene: Picture) -> Picture:
    return np.asarray(cv2.GaussianBlur(scene, (0, 0), 1.6), np.uint8)
