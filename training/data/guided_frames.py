"""Training frames with a reference, and the guidance by `splatmend.core.references`.

A reference is another clean picture of the person where there is one. Otherwise it is the target
itself as another camera might have seen it: moved by a smooth warp, in other light. Some
references are missing, show a stranger, or are blurred or compressed, so that the network learns
to ignore bad ones.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.core.references import Guide, Reference, References
from splatmend.training.data.portraits import Portrait, draw_relit

__all__ = ["draw_guided", "draw_moved", "other_pictures"]

Picture = NDArray[np.uint8]
Guided = tuple[Picture, Picture, Picture, Picture]
"""Degraded, clean and proposed (h, w, 3), and the confidence in the proposal (h, w)."""

_MISSING, _STRANGER, _OTHER = 0.05, 0.08, 0.4
"""Shares without a reference, with a stranger's, and (of the rest) with another picture of the
person, if there is one."""
_RELIT, _COMPRESSED, _BLURRED = 0.6, 0.3, 0.08
"""Shares of references in other light, as JPEG, and out of focus."""


def other_pictures(portraits: Sequence[Portrait]) -> Mapping[str, Picture]:
    """Map each portrait's name to another picture of the same person, if there is one."""
    people: dict[str, list[Portrait]] = {}
    for portrait in portraits:
        if portrait.identity:
            people.setdefault(portrait.identity, []).append(portrait)
    return {
        portrait.name: others[(index + 1) % len(others)].pixels
        for others in people.values()
        if len(others) > 1
        for index, portrait in enumerate(others)
    }


def draw_guided(
    degraded: Picture,
    clean: Picture,
    rng: np.random.Generator,
    *,
    other: Picture | None = None,
    stranger: Picture | None = None,
) -> Guided:
    """Draw a reference for a degraded frame and align it.

    Args:
        degraded: (h, w, 3).
        clean: its target, of the same size.
        rng: draws the kind of reference.
        other: another clean picture of the person, of any size.
        stranger: a picture of another person, of any size.
    """
    reference = _draw_reference(clean, rng, other, stranger)
    if reference is None:
        return degraded, clean, degraded, np.zeros(degraded.shape[:2], np.uint8)
    guide = Guide(References([Reference(picture=reference)]))
    guidance = guide.guide(degraded).guidance
    proposed = to_tensor([degraded]) + guidance.change
    return (
        degraded,
        clean,
        from_tensor(proposed, np.uint8)[0],
        from_tensor(guidance.confidence, np.uint8)[0],
    )


def _draw_reference(
    clean: Picture,
    rng: np.random.Generator,
    other: Picture | None,
    stranger: Picture | None,
) -> Picture | None:
    kind = rng.random()
    if kind < _MISSING:
        return None
    if kind < _MISSING + _STRANGER and stranger is not None:
        picture = stranger
    elif other is not None and rng.random() < _OTHER:
        picture = draw_moved(other, rng) if rng.random() < 0.5 else other
    else:
        picture = draw_moved(clean, rng)
    if rng.random() < _RELIT:
        picture = from_tensor(draw_relit(to_tensor([picture]), rng), np.uint8)[0]
    if rng.random() < _BLURRED:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.7, 3.0)), np.uint8)
    if rng.random() < _COMPRESSED:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(70, 95))]
        stored = cv2.imencode(".jpg", np.ascontiguousarray(picture), quality)[1]
        picture = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR), np.uint8)
    # a picture of one plain colour is useless as a reference
    return picture if cv2.meanStdDev(picture)[1].max() > 4 else None


def draw_moved(picture: Picture, rng: np.random.Generator) -> Picture:
    """Warp a picture (h, w, 3) as if by another camera or at another moment.

    It is tilted, scaled and sheared a little, bulged around the middle like a turning head, and
    bent by smooth waves like a moving face. Half of the time the motion is a quarter of this.
    """
    height, width = picture.shape[:2]
    side, much = min(height, width), 1.0 if rng.random() < 0.5 else 0.25
    turn, scale = np.deg2rad(rng.normal(0, 5 * much)), np.exp(rng.normal(0, 0.06 * much))
    shear, shift = rng.normal(0, 0.05 * much, 2), rng.normal(0, 0.02 * side * much, 2)
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    bulge = np.clip(1 - (x**2 + y**2) / (0.38 * side) ** 2, 0, 1)
    yaw, pitch = rng.normal(0, (0.024 * side * much, 0.014 * side * much))
    waves = np.zeros((height, width, 2), np.float32)
    for most, cells in ((0.008, 5), (0.003, 12)):
        waves += _field(rng, (height, width), rng.uniform(0, most * side * much), cells)
    source_x = cos * (1 + shear[0]) * x - sin * y + shift[0] + yaw * bulge + waves[..., 0]
    source_y = sin * x + cos * (1 + shear[1]) * y + shift[1] + pitch * bulge + waves[..., 1]
    moved = cv2.remap(
        picture,
        (source_x + (width - 1) / 2).astype(np.float32),
        (source_y + (height - 1) / 2).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(moved, np.uint8)


def _field(
    rng: np.random.Generator, size: tuple[int, int], amplitude: float, cells: int
) -> NDArray[np.float32]:
    """Draw a smooth vector field (h, w, 2) of `cells` waves a side, in pixels."""
    draw = rng.normal(0, amplitude, (cells, cells, 2)).astype(np.float32)
    return np.asarray(cv2.resize(draw, size[::-1], interpolation=cv2.INTER_CUBIC))
