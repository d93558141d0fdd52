"""A greedy choice of the poses at which key pairs help most.

After the first, each key is the pose that lowers the error of all poses most. This gain is
estimated by trials with that key alone, for the poses near it.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from splatmend.core.references import Guide, Reference, References
from splatmend.training.data.pairs import subject_box

__all__ = ["REACH", "Key", "View", "choose_keys", "degrees_between", "view_errors"]

Picture = NDArray[np.uint8]
Errors = NDArray[np.float64]

REACH = 20.0
"""Degrees: at this distance a key removes two fifths of the error; farther poses are not tried."""
_LEAST_GAIN = 0.002
"""Share of the error that a key must remove to be chosen."""
_TRIES = 3
"""Poses tried before the choice ends, because gains of single keys do not simply add."""


@dataclass(frozen=True, eq=False)
class View:
    """One pose of the light and of the full avatar."""

    yaw: float
    """Degrees."""
    pitch: float
    """Degrees."""
    render: Picture
    """(h, w, 3) RGB on white, of the light avatar."""
    truth: Picture
    """(h, w, 3) RGB on white, of the full avatar."""


@dataclass(frozen=True)
class Key:
    """A chosen pose and its gain."""

    index: int
    before: float
    """Mean squared error of all views in [0, 1], inside the box around the subject."""
    after: float
    """The same error with this key as well."""


def choose_keys(views: Sequence[View], count: int, *, first: int) -> Iterator[Key]:
    """Choose up to `count` of the views as keys, beginning with `first`.

    The choice ends early if no other key removes a five-hundredth of the error.

    Raises:
        InputError: a view is empty, or too small for a reference.
    """
    errors = view_errors(views, ())
    chosen: list[int] = []
    alone: Errors | None = None
    tried = [first]
    while len(chosen) < count:
        for index in tried:
            after = view_errors(views, (*chosen, index))
            if after.mean() < (1 - _LEAST_GAIN) * errors.mean():
                break
        else:
            return
        yield Key(index, float(errors.mean()), float(after.mean()))
        chosen.append(index)
        errors = after
        if alone is None and len(chosen) < count:
            alone = _errors_alone(views)
        if alone is not None:
            gains = np.maximum(errors - alone, 0).sum(1)
            gains[chosen] = 0
            order = np.argsort(-gains, kind="stable")[:_TRIES]
            tried = [int(i) for i in order if gains[i] > 0]


def view_errors(views: Sequence[View], chosen: Sequence[int]) -> Errors:
    """Compute the mean squared error of each view in [0, 1] if some are keys, without a network."""
    guide = _guide([views[index] for index in chosen]) if chosen else None
    return np.array([_error(view, guide) for view in views])


def degrees_between(views: Sequence[View]) -> NDArray[np.float64]:
    """Compute the angles between the lines of sight of all views, (n, n)."""
    yaw, pitch = np.deg2rad([(view.yaw, view.pitch) for view in views]).T
    sight = np.stack((np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)), 1)
    return np.asarray(np.rad2deg(np.arccos(np.clip(sight @ sight.T, -1, 1))))


def _errors_alone(views: Sequence[View]) -> Errors:
    """Compute the error of view j with only view i as a key, (i, j); infinite beyond `REACH`."""
    near = degrees_between(views) <= REACH
    errors = np.full(near.shape, np.inf)
    for index in tqdm(range(len(views)), "trials", disable=not sys.stderr.isatty()):
        guide = _guide([views[index]])
        for other in np.flatnonzero(near[index]).tolist():
            errors[index, other] = _error(views[other], guide)
    return errors


def _guide(keys: Sequence[View]) -> Guide:
    return Guide(
        References(
            Reference(
                picture=key.truth,
                render=key.render,
                name=f"the view at yaw {key.yaw:g}, pitch {key.pitch:g}",
            )
            for key in keys
        )
    )


def _error(view: View, guide: Guide | None) -> float:
    box = subject_box(view.truth)
    restored = view.render.astype(np.float32) / 255
    if guide is not None:
        guidance = guide.guide(view.render).guidance
        change = (guidance.confidence * guidance.change)[0].permute(1, 2, 0).numpy()
        restored = np.clip(restored + change, 0, 1)
    wrong = restored[box] - view.truth[box].astype(np.float32) / 255
    return float(np.mean(wrong * wrong, dtype=np.float64))
