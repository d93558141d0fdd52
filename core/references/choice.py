"""Which references of a set guide a frame: the nearest ones, without pops from frame to frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatmend.core.references.alignment import Course
from splatmend.core.references.placement import Placement, Thumbnail

__all__ = ["Choice", "Pick", "choose", "pack_choice", "unpack_choice"]

_HELD = 0.8
"""A reference in use counts as so much nearer: two that are equally near do not take turns."""
_STEP = 0.125
"""Most that a weight changes from one frame to the next."""
_NEAR = 1e-3
"""Least squared distance of a reference: one that equals the frame takes nearly all the weight."""
_JUMP, _CLEAR = 3.0, 0.1
"""References in use are left at once where another is nearer by this factor and this much more:
the view has jumped, so nothing is there to pop."""


@dataclass(frozen=True, eq=False)
class Pick:
    """One reference in use."""

    index: int
    weight: float
    placement: Placement | None
    """Where it lies on the frame; None where it could not be found there."""
    trust: float = 0.0
    """The highest mean confidence that this placement has had."""
    course: Course | None = None
    """Where each pixel of the last frame lay in the placed reference."""


Choice = tuple[Pick, ...]


def pack_choice(choice: Choice) -> dict[str, NDArray[Any]]:
    """Turn a choice into arrays.

    "choice" has a row of (index, weight, trust, whether placed, score, matrix of 6, whether there
    is a course) for each reference. "seen" is the frame of all courses, "courses" their flow and
    trust, (n, h, w, 3); both are left out where there is no course.
    """
    rows = np.zeros((len(choice), 12))
    for row, pick in zip(rows, choice, strict=True):
        row[:3] = pick.index, pick.weight, pick.trust
        if pick.placement is not None:
            row[3:11] = 1, pick.placement.score, *pick.placement.matrix.ravel()
        row[11] = pick.course is not None
    courses = [pick.course for pick in choice if pick.course is not None]
    if not courses:
        return {"choice": rows}
    planes = np.stack([np.dstack((course.flow, course.trust)) for course in courses])
    return {"choice": rows, "seen": courses[0].seen, "courses": planes}


def unpack_choice(arrays: Mapping[str, NDArray[Any]]) -> Choice:
    """Undo `pack_choice`; other arrays beside its own are let be."""
    courses = iter(arrays.get("courses", ()))
    picks = []
    for row in arrays["choice"]:
        placement = Placement(row[5:11].reshape(2, 3).copy(), float(row[4])) if row[3] else None
        course = None
        if row[11]:
            planes = next(courses)
            flow, trust = np.ascontiguousarray(planes[..., :2]), planes[..., 2].copy()
            course = Course(arrays["seen"].copy(), flow, trust)
        picks.append(Pick(int(row[0]), float(row[1]), placement, float(row[2]), course))
    return tuple(picks)


def choose(
    references: Sequence[Thumbnail], frame: Thumbnail, before: Choice, *, count: int
) -> tuple[list[tuple[int, float]], bool]:
    """Choose up to `count` references: pairs (index, weight), and whether these weights stay.

    Nearness is the correlation of both thumbnails as they are. Without an earlier choice, or where
    others are much nearer than all in use, the nearest are taken at once. Else weights move by at
    most an eighth a frame, and another reference comes in when the weight of one in use has fallen
    to 0. The weights stay for a frame that is the same again, unless they are still moving.
    """
    held = {pick.index: pick.weight for pick in before}
    distance = np.array([1 - frame.likeness(reference) for reference in references])
    if held and distance[list(held)].min() > _JUMP * distance.min() + _CLEAR:
        held = {}
    distance[list(held)] *= _HELD
    nearest = np.argsort(distance, kind="stable")[:count].tolist()
    shares = 1 / np.maximum(distance[nearest], _NEAR)
    wanted = dict(zip(nearest, (shares / shares.sum()).tolist(), strict=True))
    if not held:
        return list(wanted.items()), True
    weights = {
        index: weight + float(np.clip(wanted.get(index, 0.0) - weight, -_STEP, _STEP))
        for index, weight in held.items()
    }
    kept = {index: weight for index, weight in weights.items() if weight > 0 or index in wanted}
    for index, weight in wanted.items():
        if index not in kept and len(kept) < count:
            kept[index] = min(weight, _STEP)
    stays = all(abs(wanted.get(i, 0.0) - kept.get(i, 0.0)) < 1e-6 for i in {*wanted, *kept})
    return list(kept.items()), stays
