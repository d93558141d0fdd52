"""Which references of a set guide a frame: the nearest ones, without pops from frame to frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splatmend.core.references.placement import Placement, Thumbnail

__all__ = ["Choice", "Pick", "choose", "pack_choice", "unpack_choice"]

_HELD = 0.8
"""A reference in use counts as so much nearer: two that are equally near do not take turns."""
_STEP = 0.125
"""Most that a weight changes from one frame to the next."""
_NEAR = 1e-3
"""Least squared distance of a reference: one that equals the frame takes nearly all the weight."""


@dataclass(frozen=True, eq=False)
class Pick:
    """One reference in use."""

    index: int
    weight: float
    placement: Placement | None
    """Where it lies on the frame; None where it could not be found there."""
    trust: float = 0.0
    """The highest mean confidence that this placement has had."""


Choice = tuple[Pick, ...]


def pack_choice(choice: Choice) -> NDArray[np.float64]:
    """Turn a choice into rows of (index, weight, trust, whether placed, score, matrix of 6)."""
    rows = np.zeros((len(choice), 11))
    for row, pick in zip(rows, choice, strict=True):
        row[:3] = pick.index, pick.weight, pick.trust
        if pick.placement is not None:
            row[3:] = 1, pick.placement.score, *pick.placement.matrix.ravel()
    return rows


def unpack_choice(rows: NDArray[np.float64]) -> Choice:
    """Undo `pack_choice`."""
    return tuple(
        Pick(
            int(row[0]),
            float(row[1]),
            Placement(row[5:].reshape(2, 3).copy(), float(row[4])) if row[3] else None,
            float(row[2]),
        )
        for row in rows
    )


def choose(
    references: Sequence[Thumbnail], frame: Thumbnail, before: Choice, *, count: int
) -> list[tuple[int, float]]:
    """Choose up to `count` references and their weights, as pairs (index, weight).

    Nearness is the correlation of both thumbnails as they are. Without an earlier choice the
    nearest are taken at once. Else weights move by at most an eighth a frame, and another
    reference comes in when the weight of one in use has fallen to 0.
    """
    held = {pick.index: pick.weight for pick in before}
    distance = np.array([_distance(frame, reference) for reference in references])
    distance[list(held)] *= _HELD
    nearest = np.argsort(distance, kind="stable")[:count].tolist()
    shares = 1 / np.maximum(distance[nearest], _NEAR)
    wanted = dict(zip(nearest, (shares / shares.sum()).tolist(), strict=True))
    if not held:
        return list(wanted.items())
    weights = {
        index: weight + float(np.clip(wanted.get(index, 0.0) - weight, -_STEP, _STEP))
        for index, weight in held.items()
    }
    kept = {index: weight for index, weight in weights.items() if weight > 0 or index in wanted}
    for index, weight in wanted.items():
        if index not in kept and len(kept) < count:
            kept[index] = min(weight, _STEP)
    return list(kept.items())


def _distance(frame: Thumbnail, reference: Thumbnail) -> float:
    """1 - correlation of the descriptors, in [0, 2]."""
    return 1 - float(frame.descriptor @ reference.descriptor)
