"""The state passed from one frame to the next: picture, residual, and usual values."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatmend.temporal.planes.operations import Picture, Plane, Planes, brighten, split

__all__ = ["Memory", "add_residual", "look", "place"]

Box = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Memory:
    """The state that one frame passes to the next."""

    seen: NDArray[np.uint8]
    """(h, w, 3): the picture as the network saw it, in 8 bits."""
    brightness: Plane
    """(h, w) in [0, 1]: brightness of the picture, by which the next frame aligns the rest."""
    antialiased: Plane
    """(h, w): the same after temporal anti-aliasing."""
    residual: Plane
    """(h, w): of brightness."""
    colors: Planes
    """(2, h / 2, w / 2), rounded up: Cr and Cb of the anti-aliased picture, 0 for gray."""
    residual_colors: Planes
    """(2, h / 2, w / 2): likewise the residual."""
    energies: Planes
    """(2, h / 4, w / 4): usual energies of the residual's two bands; see `split`."""
    usual_flicker: Plane
    """(h / 2, w / 2) in [0, 1]: usual change of the picture along its motion."""
    persistence: Plane
    """(h / 2, w / 2) in [0, 1]: 1 where the anti-aliased picture has stayed right so far."""
    alpha: Plane | None = None
    """(h, w) in [0, 1]."""
    depth: Plane | None = None
    """(h, w), the renderer's units."""
    age: int = 0
    """Frames since the stream began."""


def look(seen: NDArray[np.uint8], rgb: Picture, **more: Any) -> Memory:
    """Make the memory of a picture (h, w, 3) in [0, 1] that is not restored yet."""
    brightness, colors = brighten(rgb)
    quarter = [-(-side // 4) for side in brightness.shape]
    usual_flicker = np.zeros(colors.shape[1:], np.float32)
    return Memory(
        seen=seen,
        brightness=brightness,
        antialiased=brightness,
        residual=np.zeros_like(brightness),
        colors=colors,
        residual_colors=np.zeros_like(colors),
        energies=np.zeros((2, *quarter), np.float32),
        usual_flicker=usual_flicker,
        persistence=1 - usual_flicker,
        **more,
    )


def add_residual(seen: Memory, restored: Picture) -> Memory:
    """Add the residual of a restored picture, (h, w, 3) in [0, 1], to its memory."""
    residual, colors = brighten(restored)
    residual -= seen.brightness
    colors -= seen.colors
    _, energies = split(residual)
    return replace(seen, residual=residual, residual_colors=colors, energies=energies)


def place(memory: Memory, old: Box, new: Box, *, ground: tuple[float, float, float]) -> Memory:
    """Move a memory from the box `old` of a frame to the box `new`; `ground` is the matte."""

    def moved(plane: NDArray[Any], fill: Any, boxes: tuple[Box, Box] = (old, new)) -> NDArray[Any]:
        sides = [s.stop - s.start for s in boxes[1]]
        result = np.full((*sides, *plane.shape[2:]), fill, plane.dtype)
        source, target = [], []
        for a, b in zip(*boxes, strict=True):
            first = max(a.start, b.start)
            last = max(first, min(a.stop, b.stop))
            source.append(slice(first - a.start, last - a.start))
            target.append(slice(first - b.start, last - b.start))
        result[tuple(target)] = plane[tuple(source)]
        return result

    bright, tints = brighten(np.array(ground, np.float32).reshape(1, 1, 3))
    halves, quarters = ((_within(old, cell), _within(new, cell)) for cell in (2, 4))
    alpha, depth = (None if p is None else moved(p, 0) for p in (memory.alpha, memory.depth))
    return Memory(
        seen=moved(memory.seen, [round(255 * value) for value in ground]),
        brightness=moved(memory.brightness, bright),
        antialiased=moved(memory.antialiased, bright),
        residual=moved(memory.residual, 0),
        colors=np.stack([moved(p, t, halves) for p, t in zip(memory.colors, tints, strict=True)]),
        residual_colors=np.stack([moved(p, 0, halves) for p in memory.residual_colors]),
        energies=np.stack([moved(p, 0, quarters) for p in memory.energies]),
        usual_flicker=moved(memory.usual_flicker, 0, halves),
        persistence=moved(memory.persistence, 1, halves),
        alpha=alpha,
        depth=depth,
        age=memory.age,
    )


def _within(box: Box, cell: int) -> Box:
    """Convert a box in pixels to cells; it begins at a whole cell."""
    rows, columns = (slice(s.start // cell, -(-s.stop // cell)) for s in box)
    return rows, columns
