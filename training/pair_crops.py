"""Training crops from real (render, reference) pairs of one avatar."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.pixels import to_tensor
from splatmend.training.pairs import matched_names, read_picture, split_folders, subject_box

__all__ = ["Part", "RenderPair", "draw_pair_batch", "load_pairs"]

Part = Literal["train", "held out"]


@dataclass(frozen=True, eq=False)
class RenderPair:
    """One pose: the damaged render, the good one, and where the subject is."""

    name: str
    degraded: NDArray[np.uint8]  # (h, w, 3)
    clean: NDArray[np.uint8]  # (h, w, 3)
    box: tuple[slice, slice]


def load_pairs(folders: str, part: Part, *, holdout: int) -> list[RenderPair]:
    """Read "RENDERS:REFERENCES", matched by file name, into memory.

    With `holdout` k above 0 every k-th pose, in the order of the names, is held out.

    Raises:
        InputError: no folder, no name in common, other sizes, or an empty part.
    """
    renders, references = split_folders(folders)
    names = matched_names(renders, references)
    wanted = [
        name
        for index, name in enumerate(names)
        if (holdout > 0 and index % holdout == holdout - 1) == (part == "held out")
    ]
    if not wanted:
        raise InputError(
            f"{folders} has {len(names)} pairs and leaves none for the part {part!r} "
            f"with --holdout {holdout}"
        )
    pairs = []
    for name in wanted:
        degraded, clean = read_picture(renders / name), read_picture(references / name)
        if degraded.shape != clean.shape:
            raise InputError(
                f"{renders / name} is {degraded.shape}, its reference {clean.shape}: "
                f"sizes must agree"
            )
        pairs.append(RenderPair(name, degraded, clean, subject_box(clean)))
    return pairs


def draw_pair_batch(
    pairs: Sequence[RenderPair], *, seed: int, step: int, batch: int, crop: int
) -> tuple[Tensor, Tensor]:
    """Draw (degraded, clean), each (batch, 3, crop, crop) in [0, 1], named by (seed, step).

    Windows lie around points of the subject; half of them are mirrored.

    Raises:
        InputError: a picture smaller than the crop.
    """
    chosen = []
    for index in range(batch):
        rng = np.random.default_rng((seed, step, index))
        pair = pairs[int(rng.integers(len(pairs)))]
        window = tuple(
            _window(side, length, crop, rng, pair.name)
            for side, length in zip(pair.box, pair.clean.shape[:2], strict=True)
        )
        flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
        both = (pair.degraded[window], pair.clean[window])
        chosen.append([np.ascontiguousarray(picture[:, flip]) for picture in both])
    degraded, clean = zip(*chosen, strict=True)
    return to_tensor(list(degraded)), to_tensor(list(clean))


def _window(side: slice, length: int, crop: int, rng: np.random.Generator, name: str) -> slice:
    """`crop` pixels around a point of the box, inside the picture."""
    if length < crop:
        raise InputError(f"{name} has a side of {length} pixels, less than --crop {crop}")
    low, high, _ = side.indices(length)
    start = int(np.clip(rng.integers(low, high) - crop // 2, 0, length - crop))
    return slice(start, start + crop)
