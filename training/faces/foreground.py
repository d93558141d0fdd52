"""Foreground masks of portraits, which allow plain backgrounds like those of renders."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["cached_foreground", "cut_out", "without_ground"]

_WORK_SIZE = 256  # GrabCut's cost grows with the area, and the soft edge hides the difference


def cut_out(portrait: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Segment the foreground of an aligned (h, w, 3) RGB portrait as (h, w) coverage, 0 to 255.

    This is GrabCut (Rother et al. 2004), started from the usual place of the head in FFHQ-style
    alignment.
    """
    height, width = portrait.shape[:2]
    small = cv2.resize(portrait, (_WORK_SIZE, _WORK_SIZE), interpolation=cv2.INTER_AREA)
    mask, no_rectangle = _alignment_prior(), (0, 0, 0, 0)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(small, mask, no_rectangle, background, foreground, 4, cv2.GC_INIT_WITH_MASK)
    inside = np.where((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)
    element = np.ones((5, 5), np.uint8)
    opened = cv2.morphologyEx(inside, cv2.MORPH_OPEN, element)
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, element)
    soft = cv2.resize(closed, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.GaussianBlur(soft, (0, 0), width / 400), np.uint8)


def _alignment_prior() -> NDArray[np.uint8]:
    """Mark the face as certain, head and shoulders as probable, and exclude the upper corners."""
    size = _WORK_SIZE
    mask = np.full((size, size), cv2.GC_PR_BGD, np.uint8)
    cv2.ellipse(mask, (size // 2, int(0.5 * size)), (int(0.33 * size), int(0.48 * size)),
                0, 0, 360, cv2.GC_PR_FGD, -1)  # fmt: skip
    mask[int(0.85 * size) :, int(0.1 * size) : int(0.9 * size)] = cv2.GC_PR_FGD
    cv2.ellipse(mask, (size // 2, int(0.56 * size)), (int(0.2 * size), int(0.3 * size)),
                0, 0, 360, cv2.GC_FGD, -1)  # fmt: skip
    mask[: int(0.6 * size), : int(0.03 * size)] = cv2.GC_BGD
    mask[: int(0.6 * size), -int(0.03 * size) :] = cv2.GC_BGD
    return mask


def cached_foreground(
    name: str, portrait: NDArray[np.uint8], cache: Path | None
) -> NDArray[np.uint8]:
    """Call `cut_out`, and keep its result as a PNG in `cache` for later runs."""
    file = cache / f"{Path(name).stem}.png" if cache else None
    if file and file.exists():
        stored = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if stored is not None and stored.shape == portrait.shape[:2]:
            return np.asarray(stored, np.uint8)
    mask = cut_out(portrait)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), mask)
    return mask


def without_ground(portrait: NDArray[np.uint8], foreground: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Extend the subject of a portrait (h, w, 3) beyond its outline, over the background."""
    outside = cv2.erode(foreground, np.ones((7, 7), np.uint8)) < 250
    if outside.all():
        return portrait
    _, nearest = cv2.distanceTransformWithLabels(
        outside.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    known = portrait[~outside]  # labels number the pixels inside from 1, row by row
    return np.asarray(known[nearest - 1])
