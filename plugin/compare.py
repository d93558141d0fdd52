"""Input and result in one picture, to look at what a restorer did."""

from typing import Literal

import numpy as np

from splatmend.core import Frame, InputError

__all__ = ["CompareMode", "compare", "compared_size"]

CompareMode = Literal["side", "wipe"]


def compared_size(size: tuple[int, int], mode: CompareMode | None) -> tuple[int, int]:
    """(height, width) of the pictures that `compare` returns for frames of `size`."""
    return (size[0], 2 * size[1]) if mode == "side" else size


def compare(before: Frame, after: Frame, mode: CompareMode) -> Frame:
    """Put two frames of one size and dtype into one picture.

    "side" sets `before` left of `after` and doubles the width. "wipe" shows the left
    half of `before` and the right half of `after`, parted by a white line 1/400 of the
    width; the line is opaque. Other planes than colour and alpha are dropped.

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
