"""Input and result in one picture, for comparison."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core import Frame, InputError

__all__ = ["CompareMode", "compare", "compared_size", "inset"]

CompareMode = Literal["side", "wipe"]


def compared_size(size: tuple[int, int], mode: CompareMode | None) -> tuple[int, int]:
    """Return (height, width) of the results of `compare` for frames of `size`."""
    return (size[0], 2 * size[1]) if mode == "side" else size


def compare(before: Frame, after: Frame, mode: CompareMode) -> Frame:
    """Put two frames of one size and dtype into one picture.

    "side" sets `before` left of `after` and doubles the width. "wipe" shows the left half of
    `before` and the right half of `after`, with an opaque white line of 1/400 of the width
    between them. Planes other than colour and alpha are dropped.

    Raises:
        InputError: the frames differ in size, dtype or alpha.
    """
    if before.size != after.size or before.color.dtype != after.color.dtype:
        raise InputError(
            f"compare needs two frames of one size and dtype, got {before!r} and {after!r}"
        )
    if (before.alpha is None) != (after.alpha is None):
        raise InputError("compare needs two frames with alpha or two without, got one of each")
    planes = [(before.color, after.color)]
    if before.alpha is not None and after.alpha is not None:
        planes.append((before.alpha, after.alpha))
    if mode == "side":
        joined = [np.concatenate(pair, axis=1) for pair in planes]
    else:
        width = before.size[1]
        middle, line = width // 2, max(1, width // 400)
        joined = []
        for left, right in planes:
            plane = right.copy()
            plane[:, :middle] = left[:, :middle]
            white = 1.0 if plane.dtype == np.float32 else np.iinfo(plane.dtype).max
            plane[:, middle : middle + line] = white
            joined.append(plane)
    return Frame(
        color=joined[0],
        alpha=joined[1] if len(joined) > 1 else None,
        alpha_kind=after.alpha_kind,
        pts=after.pts,
        stream_id=after.stream_id,
    )


def inset(frame: Frame, picture: NDArray[np.uint8]) -> Frame:
    """Show a picture (h, w, 3) in the lower left corner of a frame, a quarter as large.

    The picture is opaque, with a white line between it and the frame. Planes other than colour and
    alpha are dropped.
    """
    height, width = frame.size
    share = min(height / picture.shape[0], width / picture.shape[1]) / 4
    rows, columns = (max(1, round(side * share)) for side in picture.shape[:2])
    small = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    line = max(1, width // 400)
    rows, columns = min(rows + line, height), min(columns + line, width)
    corner = slice(height - rows, height), slice(0, columns)
    color, alpha = frame.color.copy(), None if frame.alpha is None else frame.alpha.copy()
    top = 1.0 if color.dtype == np.float32 else np.iinfo(color.dtype).max
    color[corner] = top
    shown = small[: rows - line, : columns - line] * (top / 255)
    color[corner][line:, :-line] = np.rint(shown) if color.dtype != np.float32 else shown
    if alpha is not None:
        alpha[corner] = top
    return Frame(
        color=color,
        alpha=alpha,
        alpha_kind=frame.alpha_kind,
        pts=frame.pts,
        stream_id=frame.stream_id,
    )
