"""Fixed (degraded, clean) pairs for evaluation: degraded portraits and real renders."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.pixels import to_tensor
from splatmend.training.data.manifest import read_manifest
from splatmend.training.data.portraits import Portrait, Split, load_portraits
from splatmend.training.degradations.recipes import degrade, draw_recipe

__all__ = [
    "PICTURE_SUFFIXES",
    "PairSource",
    "folder_pairs",
    "held_out",
    "manifest_pairs",
    "matched_names",
    "names_to_learn_from",
    "portrait_pairs",
    "read_layers",
    "read_pair",
    "read_picture",
    "split_folders",
    "subject_box",
]

_EVALUATION_SEED = 20_000
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True)
class PairSource:
    """One pair for evaluation, loaded when it is called."""

    name: str
    """File name of the degraded picture."""
    load: Callable[[], tuple[Tensor, Tensor]]
    reference: Path | None = None
    """The file of the whole clean picture, if the pair is only the box around the subject."""
    render: Path | None = None
    """The file of the whole degraded picture, likewise."""

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Load (degraded, clean), each (1, 3, h, w) in [0, 1]."""
        return self.load()


def portrait_pairs(folder: Path) -> list[PairSource]:
    """List the test split of `folder`, each portrait degraded by a fixed recipe of its own.

    Portraits whose recipe does nothing are left out: an infinite PSNR would spoil the mean.
    """
    portraits = load_portraits(folder, "test")
    seeds = range(_EVALUATION_SEED, _EVALUATION_SEED + len(portraits))
    return [
        PairSource(portrait.name, partial(_degraded, portrait, seed))
        for portrait, seed in zip(portraits, seeds, strict=True)
        if not draw_recipe(torch.Generator().manual_seed(seed)).does_nothing
    ]


def _degraded(portrait: Portrait, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = to_tensor([portrait.pixels])
    return degrade(clean, draw_recipe(generator), generator), clean


def split_folders(
    folders: str, form: str = "--pairs takes RENDERS:REFERENCES"
) -> tuple[Path, Path]:
    """Split RENDERS:REFERENCES into both folders; `form` begins the error message.

    Raises:
        InputError: one of them is missing.
    """
    renders, _, references = folders.partition(":")
    if not renders or not references:
        raise InputError(f"{form}, got {folders!r}")
    return Path(renders), Path(references)


def held_out(index: int, every: int) -> bool:
    """Check that pose `index` is held out from training: the last of each `every`."""
    return every > 0 and index % every == every - 1


def folder_pairs(renders: Path, references: Path, *, holdout: int = 0) -> list[PairSource]:
    """List pictures of equal name in two folders, cut to the box around the reference's subject.

    With `holdout` k above 0 only the poses of `held_out` are listed.

    Raises:
        InputError: a folder is missing, or no name is common.
    """
    names = matched_names(renders, references)
    if holdout:
        names = [name for index, name in enumerate(names) if held_out(index, holdout)]
    return [_boxed_pair(renders / name, references / name) for name in names]


def manifest_pairs(manifest: Path, split: Split = "test") -> list[PairSource]:
    """List the pairs of one split of a manifest, cut like those of `folder_pairs`.

    Raises:
        InputError: the manifest cannot be read, or has no pair of that split.
    """
    records = [record for record in read_manifest(manifest) if record.split == split]
    if not records:
        raise InputError(f"{manifest} has no pair of the split {split!r}")
    folder = manifest.parent
    return [_boxed_pair(folder / record.degraded, folder / record.clean) for record in records]


def _boxed_pair(render: Path, reference: Path) -> PairSource:
    return PairSource(render.name, partial(_boxed, render, reference), reference, render)


def matched_names(renders: Path, references: Path) -> list[str]:
    """List the file names of pictures that both folders have, sorted.

    Raises:
        InputError: a folder is missing, or no name is common.
    """
    for folder in (renders, references):
        if not folder.is_dir():
            raise InputError(f"no folder {folder}: pairs are two folders with equal file names")
    names = sorted(
        p.name
        for p in renders.iterdir()
        if p.suffix.lower() in PICTURE_SUFFIXES and (references / p.name).exists()
    )
    if not names:
        raise InputError(f"{renders} and {references} have no picture name in common")
    return names


def names_to_learn_from(renders: Path, references: Path, *, holdout: int) -> list[str]:
    """List the file names of the poses that `folder_pairs` leaves out with the same `holdout`.

    Raises:
        InputError: as `matched_names`.
    """
    names = matched_names(renders, references)
    return [name for index, name in enumerate(names) if not held_out(index, holdout)]


def _boxed(render: Path, reference: Path) -> tuple[Tensor, Tensor]:
    ours, clean = read_pair(render, reference)
    box = subject_box(clean)
    return to_tensor([ours[box]]), to_tensor([clean[box]])


def read_pair(render: Path, reference: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read both pictures of a pair with `read_picture`.

    Raises:
        InputError: one cannot be read, or their sizes differ.
    """
    ours, clean = read_picture(render), read_picture(reference)
    if ours.shape != clean.shape:
        raise InputError(
            f"{render} is {ours.shape[1]}x{ours.shape[0]}, its reference {reference} "
            f"{clean.shape[1]}x{clean.shape[0]}: sizes must agree"
        )
    return ours, clean


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as RGB (h, w, 3); one with alpha is laid over white.

    Raises:
        InputError: it cannot be read.
    """
    layers = read_layers(path)
    if layers.shape[2] == 3:
        return layers
    alpha = layers[..., 3:].astype(np.float32) / 255
    return np.rint(layers[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def read_layers(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit picture as RGB (h, w, 3), or RGB with straight alpha (h, w, 4).

    Raises:
        InputError: it cannot be read.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint8:
        raise InputError(f"{path} is not an 8-bit picture that OpenCV can read")
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, 2)
    order = [2, 1, 0, 3][: picture.shape[2]]
    return np.ascontiguousarray(picture[..., order], np.uint8)


def subject_box(picture: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Find the box around everything that differs from a plain background, with a rim of 8 pixels.

    The background is the colour of the top left pixel. A plain background dilutes every mean.
    """
    difference = np.abs(picture.astype(np.int16) - picture[0, 0]).max(2) > 12
    rows, columns = np.flatnonzero(difference.any(1)), np.flatnonzero(difference.any(0))
    if not rows.size:
        return slice(None), slice(None)
    rim = 8
    return (
        slice(max(0, int(rows[0]) - rim), int(rows[-1]) + 1 + rim),
        slice(max(0, int(columns[0]) - rim), int(columns[-1]) + 1 + rim),
    )
