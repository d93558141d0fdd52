"""Conversion between upright pictures and coded ones: phones film sideways.

Frames are restored as they are coded, so references must be turned in the same way.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatmend.core import Reference, References

__all__ = ["as_coded", "references_as_coded", "upright"]

Matrix = Sequence[int]
"""Nine integers, see `Clip.display_matrix`."""


def upright(plane: NDArray[Any], matrix: Matrix | None) -> NDArray[Any]:
    """Turn and mirror (h, w) or (h, w, c) as a display matrix says, by quarter turns alone."""
    if matrix is None:
        return plane
    swapped, down, right = _parts(matrix)
    if swapped:
        plane = plane.swapaxes(0, 1)
    return np.ascontiguousarray(plane[::down, ::right])


def as_coded(plane: NDArray[Any], matrix: Matrix | None) -> NDArray[Any]:
    """Undo `upright`."""
    if matrix is None:
        return plane
    swapped, down, right = _parts(matrix)
    plane = plane[::down, ::right]
    return np.ascontiguousarray(plane.swapaxes(0, 1) if swapped else plane)


def references_as_coded(references: References | None, matrix: Matrix | None) -> References | None:
    """Turn upright references like the coded frames of a clip; None stays None."""
    if references is None or matrix is None:
        return references

    def turned(plane: NDArray[np.uint8] | None) -> Any:
        return None if plane is None else as_coded(plane, matrix)

    return References(
        Reference(
            picture=turned(r.picture),
            render=turned(r.render),
            alpha=turned(r.alpha),
            render_alpha=turned(r.render_alpha),
            name=r.name,
        )
        for r in references
    )


def _parts(matrix: Matrix) -> tuple[bool, int, int]:
    """Return whether rows become columns, and the steps then down and right, 1 or -1."""
    # x' = a x + c y and y' = b x + d y
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    swapped = abs(b) > abs(a)
    right, down = (c, b) if swapped else (a, d)
    return swapped, -1 if down < 0 else 1, -1 if right < 0 else 1
