"""Training crops from pairs on disk: real renders with their truths, or prepared pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from splatmend.core.errors import InputError
from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.training.data.manifest import read_manifest
from splatmend.training.data.pairs import (
    held_out,
    matched_names,
    read_layers,
    read_pair,
    split_folders,
    subject_box,
)
from splatmend.training.data.portraits import Split, draw_ground

__all__ = ["Pair", "Part", "draw_pair_batch", "draw_pair_frame", "folder_poses", "prepared_pairs"]

Part = Literal["train", "held out"]
_FARTHEST = 0.45  # scales a head that fills a frame of 512 to its usual size in viewers
_read = lru_cache(maxsize=64)(read_layers)  # an avatar has few poses, and a pose many crops


@dataclass(frozen=True)
class Pair:
    """A degraded picture, the clean one, and the box around the subject."""

    degraded: Path
    clean: Path
    size: tuple[int, int]
    box: tuple[slice, slice]
    other: Path | None = None
    """Another clean picture of the same person, as a reference."""


def folder_poses(folders: str, part: Part, *, holdout: int, skip_bad: bool = False) -> list[Pair]:
    """List the poses of "RENDERS:TRUTHS" or "RENDERS:TRUTHS:OTHERS", matched by file name.

    OTHERS are further clean pictures of the same people, for training with references. With
    `holdout` k above 0 every k-th pose, in the order of the names, is held out.

    Raises:
        InputError: a folder is missing, no name is common, the part is empty, or a pair cannot
            be used. `skip_bad` leaves such a pair out instead.
    """
    both, third = _split_third(folders)
    renders, references = split_folders(both)
    names = matched_names(renders, references)
    wanted = [n for i, n in enumerate(names) if held_out(i, holdout) == (part == "held out")]
    files = [(renders / name, references / name) for name in wanted]
    pairs = _checked(files, folders, skip_bad=skip_bad)
    if third:
        pairs = [replace(pair, other=Path(third) / pair.clean.name) for pair in pairs]
        missing = [str(p.other) for p in pairs if p.other is not None and not p.other.exists()]
        if missing:
            raise InputError(f"{folders}: no picture {missing[0]} for the truth of the same name")
    if not pairs:
        raise InputError(
            f"{folders} has {len(names)} pairs and leaves none for the part {part!r} "
            f"with --holdout {holdout}"
        )
    return pairs


def _split_third(folders: str) -> tuple[str, str]:
    """Split RENDERS:TRUTHS[:OTHERS] into RENDERS:TRUTHS and OTHERS, which may be ""."""
    parts = folders.split(":")
    return (folders, "") if len(parts) != 3 else (":".join(parts[:2]), parts[2])


def prepared_pairs(manifest: Path, split: Split, *, skip_bad: bool = False) -> list[Pair]:
    """List the pairs of one split of a manifest of `splatmend prepare`.

    Raises:
        InputError: a line or a pair cannot be used, and `skip_bad` does not leave it out.
    """
    if skip_bad:
        records, complaints = read_manifest(manifest, skip=True)
    else:
        records, complaints = read_manifest(manifest), []
    folder = manifest.parent
    files = [(folder / r.degraded, folder / r.clean) for r in records if r.split == split]
    return _checked(files, str(manifest), skip_bad=skip_bad, complaints=complaints)


def _checked(
    files: Iterable[tuple[Path, Path]],
    source: str,
    *,
    skip_bad: bool,
    complaints: Sequence[str] = (),
) -> list[Pair]:
    """Read every pair once, so that errors are reported before the first step."""
    pairs, complaints = [], list(complaints)
    for degraded, clean in tqdm(list(files), desc=f"reading {source}", leave=False):
        try:
            _, reference = read_pair(degraded, clean)
        except InputError as error:
            if not skip_bad:
                raise
            complaints.append(str(error))
            continue
        height, width = reference.shape[:2]
        pairs.append(Pair(degraded, clean, (height, width), subject_box(reference)))
    for complaint in complaints:
        tqdm.write(f"left out: {complaint}")
    if complaints:
        tqdm.write(f"{source}: {len(complaints)} left out, {len(pairs)} pairs used")
    return pairs


def draw_pair_batch(
    pairs: Sequence[Pair], *, seed: int, step: int, batch: int, crop: int, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw (degraded, clean), each (batch, 3, crop, crop) in [0, 1].

    Sample i is named by (seed, step, first + i). Windows lie around points of the subject, and
    half of them are mirrored. Pictures with alpha are laid over a random background.

    Raises:
        InputError: a picture smaller than the crop.
    """
    drawn = [_draw(pairs, (seed, step, first + index), crop) for index in range(batch)]
    degraded, clean = zip(*drawn, strict=True)
    return torch.cat(degraded), torch.cat(clean)


def draw_pair_frame(
    pair: Pair, rng: np.random.Generator, crop: int
) -> tuple[NDArray[np.uint8], ...]:
    """Draw a whole pair (degraded, clean), (h, w, 3), on one background; also `pair.other`, if any.

    Some keep only part of the degradation. Half are scaled down, as seen from further away, as
    far as the crop size allows.

    Raises:
        InputError: the pair is smaller than the crop.
    """
    _check_room(min(pair.size), crop, pair.degraded)
    height, width = pair.size
    ground = draw_ground(rng, max(height, width))[..., :height, :width]
    paths = (pair.degraded, pair.clean, *filter(None, (pair.other,)))
    degraded, clean, *other = (_on_ground(_read(path), ground) for path in paths)
    if rng.random() < 0.25:
        degraded = clean + rng.uniform(0.3, 1.0) * (degraded - clean)
    frames = from_tensor(torch.cat([degraded, clean, *other]), np.uint8)
    if rng.random() < 0.5:
        least = max(_FARTHEST, crop / min(pair.size))
        scale = np.exp(rng.uniform(np.log(least), 0.0))
        size = round(width * scale), round(height * scale)
        frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return tuple(frames)


def _draw(pairs: Sequence[Pair], name: tuple[int, ...], crop: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(name)
    pair = pairs[int(rng.integers(len(pairs)))]
    window = tuple(
        _window(side, length, crop, rng, pair.degraded)
        for side, length in zip(pair.box, pair.size, strict=True)
    )
    flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
    layers = [_read(path)[window][:, flip] for path in (pair.degraded, pair.clean)]
    if all(layer.shape[2] == 3 for layer in layers):
        degraded, clean = (to_tensor([np.ascontiguousarray(layer)]) for layer in layers)
        return degraded, clean
    ground = draw_ground(rng, crop)
    degraded, clean = (_on_ground(layer, ground) for layer in layers)
    return degraded, clean


def _on_ground(layer: NDArray[np.uint8], ground: Tensor) -> Tensor:
    if layer.shape[2] == 3:
        return to_tensor([np.ascontiguousarray(layer)])
    color = to_tensor([np.ascontiguousarray(layer[..., :3])])
    alpha = to_tensor([np.ascontiguousarray(layer[..., 3])])
    return color * alpha + ground * (1 - alpha)


def _check_room(length: int, crop: int, file: Path) -> None:
    if length < crop:
        raise InputError(f"{file} has a side of {length} pixels, less than --crop {crop}")


def _window(side: slice, length: int, crop: int, rng: np.random.Generator, file: Path) -> slice:
    """Draw `crop` pixels around a point of the box, inside the picture."""
    _check_room(length, crop, file)
    low, high, _ = side.indices(length)
    start = int(np.clip(rng.integers(low, high) - crop // 2, 0, length - crop))
    return slice(start, start + crop)
