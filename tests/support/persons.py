"""Pictures of invented persons: rich in detail, and unlike each other."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core import load_restorer
from splatmend.plugin.server import Engine, engine_of
from splatmend.temporal import Stream

SIDE = 96


def person(seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Make a picture (side, side, 3)."""
    dice = np.random.default_rng(seed)
    picture = sum(
        cv2.resize(dice.random((cells, cells, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
        for cells in (4, 12, 32)
    )
    low, high = picture.min(), picture.max()  # type: ignore[union-attr]
    return np.asarray(((picture - low) / (high - low) * 255).round(), np.uint8)


def soft(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Remove the fine detail of a picture."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.5))


def file_of(picture: NDArray[np.uint8], suffix: str = ".png") -> bytes:
    """Encode a picture, RGB or RGBA, as a file."""
    order = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
    return bytes(cv2.imencode(suffix, cv2.cvtColor(picture, order))[1])


def is_sharpened(answer: NDArray[np.uint8], picture: NDArray[np.uint8]) -> bool:
    """Return whether most of the detail that `soft` removed is back."""
    return _apart(answer, picture) < 0.2 * _apart(soft(picture), picture)


def copying(*, temporal: bool = True, max_batch: int = 1) -> Engine:
    """Make an engine that changes frames only by references."""
    stream: Callable[..., Any] | None = Stream if temporal else None
    return engine_of(load_restorer("copy", device="cpu"), max_batch=max_batch, stream=stream)


def _apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(((one.astype(float) - other) ** 2).mean())
