"""The state that one frame of a stream passes to the next."""

from dataclasses import dataclass

import torch
from torch import Tensor

from splatmend.temporal.stabilizer.planes import constant

__all__ = ["Look", "Memory", "brightness", "join_colors", "place", "split_colors"]

Box = tuple[slice, slice]

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Look:
    """One picture, split into brightness and tints."""

    brightness: Tensor
    """(1, h, w) in [0, 1]."""
    tints: Tensor
    """(2, h, w): red and blue less brightness."""
    alpha: Tensor | None = None
    """(1, h, w) in [0, 1]."""
    depth: Tensor | None = None
    """(1, h, w), the renderer's units."""


@dataclass(frozen=True, eq=False)
class Memory:
    """The state that one frame passes to the next, all on one device."""

    last: Look
    """The input picture, by which the next frame finds change and light."""
    antialiased: Tensor
    """(1, h, w): its brightness after temporal anti-aliasing."""
    tints: Tensor
    """(2, h, w): likewise its tints."""
    residual: Tensor
    """(3, h, w): the accumulated residual."""
    energy: Tensor
    """(1, h / 4, w / 4): usual fine energy of a frame restored alone."""
    usual_flicker: Tensor
    """(1, h / 2, w / 2) in [0, 1]: usual change of the picture along its motion."""
    persistence: Tensor
    """(1, h / 2, w / 2) in [0, 1]: 1 where the anti-aliased picture has stayed right so far."""
    age: Tensor
    """(): frames since the stream or the scene began; below 0 the memory is not to be used."""


def brightness(rgb: Tensor) -> Tensor:
    """Return the brightness (1, h, w) of (3, h, w), or of a change of it."""
    return (constant(_LUMA, rgb.device) @ rgb.float().flatten(1)).view(1, *rgb.shape[1:])


def split_colors(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Split (3, h, w) into brightness (1, h, w) and tints (2, h, w)."""
    bright = brightness(rgb)
    return bright, rgb[::2] - bright


def join_colors(bright: Tensor, tints: Tensor) -> Tensor:
    """Invert `split_colors`, for pictures or for changes of them."""
    red, blue = tints + bright
    green = (bright[0] - _LUMA[0] * red).sub_(blue, alpha=_LUMA[2]) / _LUMA[1]
    return torch.stack((red, green, blue))


def place(
    memory: Memory,
    shown: Tensor,
    old: Box,
    new: Box,
    *,
    ground: tuple[float, float, float],
) -> tuple[Memory, Tensor]:
    """Move a memory and its picture from the box `old` of a frame to the box `new`.

    Args:
        memory: Planes of the size of `old`.
        shown: Its picture, (3, h, w).
        old: Rows and columns of the frame.
        new: Likewise.
        ground: The matte, for places outside `old`.
    """
    red, green, blue = ground
    bright = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    boxes = {size: (_within(old, size), _within(new, size)) for size in (1, 2, 4)}

    def moved(plane: Tensor, cell: int = 1, fill: float = 0.0) -> Tensor:
        return _moved(plane, *boxes[cell], fill)

    def tint(plane: Tensor) -> Tensor:
        parts = [moved(p[None], 1, v - bright) for p, v in zip(plane, (red, blue), strict=True)]
        return torch.cat(parts)

    last = memory.last
    look = Look(
        brightness=moved(last.brightness, 1, bright),
        tints=tint(last.tints),
        alpha=None if last.alpha is None else moved(last.alpha),
        depth=None if last.depth is None else moved(last.depth),
    )
    parts = zip(shown[:, None], ground, strict=True)
    picture = torch.cat([moved(plane, 1, value) for plane, value in parts])
    moved_memory = Memory(
        last=look,
        antialiased=moved(memory.antialiased, 1, bright),
        tints=tint(memory.tints),
        residual=moved(memory.residual),
        energy=moved(memory.energy, 4),
        usual_flicker=moved(memory.usual_flicker, 2),
        persistence=moved(memory.persistence, 2, 1.0),
        age=memory.age,
    )
    return moved_memory, picture


def _moved(plane: Tensor, old: Box, new: Box, fill: float) -> Tensor:
    result = plane.new_full((len(plane), *(s.stop - s.start for s in new)), fill)
    here, there = [], []
    for a, b in zip(old, new, strict=True):
        first = max(a.start, b.start)
        last = max(first, min(a.stop, b.stop))
        there.append(slice(first - a.start, last - a.start))
        here.append(slice(first - b.start, last - b.start))
    result[:, *here] = plane[:, *there]
    return result


def _within(part: Box, cell: int) -> Box:
    """Convert a box in pixels to cells; it begins at a whole cell."""
    rows, columns = (slice(s.start // cell, -(-s.stop // cell)) for s in part)
    return rows, columns
