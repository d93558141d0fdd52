"""Fixed (degraded, clean) pairs for judging: degraded portraits and real renders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.pixels import to_tensor
from splatmend.training.dataset import Portrait, load_portraits
from splatmend.training.degradations import degrade, draw_recipe

__all__ = [
    "PairSource",
    "folder_pairs",
    "matched_names",
    "portrait_pairs",
    "read_picture",
    "split_folders",
    "subject_box",
]

PairSource = Callable[[], tuple[Tensor, Tensor]]
"""Loads one pair (degraded, clean), each (1, 3, h, w) in [0, 1]."""

_EVALUATION_SEED = 20_000
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def portrait_pairs(folder: Path) -> list[PairSource]:
    """The test split of `folder`, each portrait degraded by a fixed recipe of its own.

    Portraits whose recipe does nothing are left out: there is nothing to mend in them, and
    an infinite PSNR would spoil the mean.
    """
    portraits = load_portraits(folder, "test")
    seeds = range(_EVALUATION_SEED, _EVALUATION_SEED + len(portraits))
    return [
        partial(_degraded, portrait, seed)
        for portrait, seed in zip(portraits, seeds, strict=True)
        if not draw_recipe(torch.Generator().manual_seed(seed)).does_nothing
    ]


def _degraded(portrait: Portrait, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = to_tensor([portrait.pixels])
    return degrade(clean, draw_recipe(generator), generator), clean


def split_folders(folders: str) -> tuple[Path, Path]:
    """RENDERS:REFERENCES -> both folders.

    Raises:
        InputError: one of them is missing.
    """
    renders, _, references = folders.partition(":")
    if not renders or not references:
        raise InputError(f"--pairs takes RENDERS:REFERENCES, got {folders!r}")
    return Path(renders), Path(references)


def folder_pairs(renders: Path, references: Path) -> list[PairSource]:
    """Pictures of equal name in two folders, cut to the box around what the reference shows.

    Raises:
        InputError: no folder, or no name that both have.
    """
    names = matched_names(renders, references)
    return [partial(_read_pair, renders / name, references / name) for name in names]


def matched_names(renders: Path, references: Path) -> list[str]:
    """File names of pictures that both folders have, sorted.

    Raises:
        InputError: no folder, or no name that both have.
    """
    for folder in (renders, references):
        if not folder.is_dir():
            raise InputError(f"no folder {folder}: pairs are two folders with equal file names")
    names = sorted(
        p.name
        for p in renders.iterdir()
        if p.suffix.lower() in _PICTURES and (references / p.name).exists()
    )
    if not names:
        raise InputError(f"{renders} and {references} have no picture name in common")
    return names


def _read_pair(render: Path, reference: Path) -> tuple[Tensor, Tensor]:
    ours, clean = read_picture(render), read_picture(reference)
    if ours.shape != clean.shape:
        raise InputError(f"{render} is {ours.shape}, its reference {clean.shape}: sizes must agree")
    box = subject_box(clean)
    return to_tensor([ours[box]]), to_tensor([clean[box]])


def read_picture(path: Path) -> NDArray[np.uint8]:
    """RGB (h, w, 3); a picture with alpha is laid over white.

    Raises:
        InputError: it cannot be read.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint8:
        raise InputError(f"{path} is not an 8-bit picture that OpenCV can read")
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, 2)
    color = picture[..., 2::-1]
    if picture.shape[2] == 4:
        alpha = picture[..., 3:].astype(np.float32) / 255
        color = np.rint(color * alpha + 255 * (1 - alpha))
    return np.ascontiguousarray(color, np.uint8)


def subject_box(picture: NDArray[np.uint8]) -> tuple[slice, slice]:
    """The box around everything that differs from a plain ground, with a rim of 8 pixels.

    The ground is the colour of the top left pixel; a plain ground dilutes every mean.
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
