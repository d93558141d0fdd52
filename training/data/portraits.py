"""Portraits, split by person, and the training crops drawn from them.

A crop is named by (seed, step, index) alone. No state is kept, so a resumed run sees exactly the
pictures of an uninterrupted one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.pixels import to_tensor
from splatmend.training.config import SPLAT_TARGETS
from splatmend.training.degradations.augmentation import Augmentation, augment
from splatmend.training.degradations.recipes import degrade, draw_recipe
from splatmend.training.degradations.resplatting import SplatOptions, resplat
from splatmend.training.degradations.steps import apply_steps, draw_steps
from splatmend.training.degradations.steps_splat import holes
from splatmend.training.faces.foreground import cached_foreground
from splatmend.training.faces.regions import RegionStrengths

__all__ = [
    "Portrait",
    "Split",
    "draw_batch",
    "draw_ground",
    "draw_pair",
    "draw_relit",
    "draw_window",
    "has_manifest",
    "load_portraits",
]

Split = Literal["train", "val", "test"]

_MANIFEST = "manifest.json"
_STRENGTHS = RegionStrengths(skin=0.8)
"""Strength of the fourteen steps on a head whose regions are unknown."""
_WORSE = Augmentation(blobs=0.4, noise=0.4, noise_sigma=(1.0, 8.0), blob_sigma=(0.002, 0.015))
"""Blobs and noise after the steps: more often and milder than in the seed's table for crops."""
_SKIP_SETS = frozenset({"composite"})  # averages of several people, too smooth for a target


@dataclass(frozen=True, eq=False)
class Portrait:
    """One aligned portrait, its person, and the true fineness of its detail."""

    name: str
    pixels: NDArray[np.uint8]  # (h, w, 3)
    native_scale: float
    """Native pixels over stored pixels; below 1 the file was enlarged."""
    foreground: NDArray[np.uint8] | None = None  # (h, w)
    identity: str = ""
    """The person, as in the manifest; "" where it says nothing."""


def load_portraits(
    folder: Path, split: Split, *, cache: Path | None = None, foreground: bool = False
) -> list[Portrait]:
    """Read the portraits of one split, in the order of the manifest.

    `folder/manifest.json` is a list of {file, split, set, scale}; it splits people, not pictures.
    A folder without a manifest is all training data. With `foreground`, each portrait gets a
    mask, which is kept in `cache`.

    Raises:
        InputError: the folder is missing, a picture is unreadable, or the split is empty.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     stored = cv2.imwrite(f"{folder}/ann.png", np.zeros((64, 64, 3), np.uint8))
    ...     portraits = load_portraits(Path(folder), "train")
    >>> [(portrait.name, portrait.pixels.shape) for portrait in portraits]
    [('ann.png', (64, 64, 3))]
    >>> degraded, clean = draw_batch(portraits, seed=0, step=0, batch=2, crop=32)
    >>> degraded.shape
    torch.Size([2, 3, 32, 32])
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give a folder of aligned portraits")
    entries: list[dict[str, Any]]
    if has_manifest(folder):
        entries = json.loads((folder / _MANIFEST).read_text())
    else:
        files = sorted(p.name for p in folder.iterdir() if p.suffix in {".jpg", ".jpeg", ".png"})
        entries = [{"file": f, "split": "train", "set": "", "scale": 1.0} for f in files]
    chosen = [e for e in entries if e["split"] == split and e["set"] not in _SKIP_SETS]
    if not chosen:
        raise InputError(f"{folder} has no portraits in the split {split!r}")
    portraits = []
    for entry in chosen:
        stored = cv2.imread(str(folder / entry["file"]), cv2.IMREAD_COLOR)
        if stored is None:
            raise InputError(f"{folder / entry['file']} is not a picture that OpenCV can read")
        pixels = np.ascontiguousarray(stored[..., ::-1], np.uint8)
        mask = cached_foreground(entry["file"], pixels, cache) if foreground else None
        portraits.append(
            Portrait(
                entry["file"], pixels, float(entry["scale"]), mask, str(entry.get("identity", ""))
            )
        )
    return portraits


def has_manifest(folder: Path) -> bool:
    """Check that the portraits of a folder are split by person."""
    return (folder / _MANIFEST).exists()


def draw_batch(
    portraits: Sequence[Portrait], *, seed: int, step: int, batch: int, crop: int, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw (degraded, clean), each (batch, 3, crop, crop) in [0, 1].

    Sample i is named by (seed, step, first + i).
    """
    pairs = [draw_pair(portraits, (seed, step, first + index), crop) for index in range(batch)]
    degraded, clean = zip(*pairs, strict=True)
    return torch.cat(degraded), torch.cat(clean)


def draw_pair(
    portraits: Sequence[Portrait],
    name: tuple[int, ...],
    crop: int,
    *,
    splat_targets: float = SPLAT_TARGETS,
    steps_share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Draw one pair (degraded, clean), each (1, 3, crop, crop) in [0, 1]; `name` is its seed.

    `splat_targets` of the targets are themselves fine splats, the best that a renderer gives.
    """
    rng = np.random.default_rng(name)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    portrait = portraits[int(rng.integers(len(portraits)))]
    on_ground = portrait.foreground is not None and rng.random() < 0.45
    pixels, mask = draw_window(portrait, rng, crop, small=on_ground)
    color = draw_relit(to_tensor([pixels]), rng)
    if not on_ground:
        alpha = ground = None
        clean = color
    else:
        alpha, ground = to_tensor([mask]), draw_ground(rng, crop)
        clean = color * alpha + ground * (1 - alpha)
    if rng.random() < splat_targets:
        fine = SplatOptions(spacing=rng.uniform(1.3, 2.2), detail=rng.uniform(0.2, 0.8))
        clean, coverage = resplat(clean, fine, generator, alpha=alpha)
        if ground is not None:
            clean = clean * coverage + ground * (1 - coverage)
    if steps_share and rng.random() < steps_share:
        return _apply_drawn_steps(clean, alpha, generator), clean
    degraded = degrade(clean, draw_recipe(generator), generator, alpha=alpha, ground=ground)
    if alpha is not None and rng.random() < 0.5:  # the ground shows through thinned avatars
        degraded = holes(
            degraded,
            strength=(alpha > 0.5).float() * rng.uniform(0.3, 1.0),
            generator=generator,
            alpha=alpha,
            spacing=np.exp(rng.uniform(np.log(6.0), np.log(24.0))),
            loss=rng.uniform(0.1, 0.7),
        )
    return degraded, clean


def _apply_drawn_steps(clean: Tensor, alpha: Tensor | None, generator: torch.Generator) -> Tensor:
    """Apply the fourteen steps of `splatmend prepare`, then the seed's blur blobs and noise."""
    seed = int(torch.randint(2**31, (), generator=generator))
    head = torch.ones_like(clean[:, 0]) if alpha is None else (alpha[:, 0] > 0.5)
    degraded = apply_steps(
        clean,
        draw_steps(seed),
        regions=head.to(torch.uint8),  # 1 is skin: no parser is asked for each crop
        strengths=_STRENGTHS,
        alpha=alpha,
    )
    return augment(degraded, generator, _WORSE)


def draw_window(
    portrait: Portrait, rng: np.random.Generator, crop: int, *, small: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a window of a portrait and its foreground, each `crop` pixels a side.

    It is scaled, and flipped half of the time. The scale lies between that of the whole portrait
    in the window and the portrait's own, and never exceeds its native scale. With `small` it is
    0.4 to 0.9, and part of the portrait may lie outside. Outside the portrait the colour repeats
    and the foreground is 0.
    """
    side = portrait.pixels.shape[0]
    largest = min(1.0, portrait.native_scale)
    low, high = (0.4, 0.9) if small else (min(crop / side, 1.0), 1.0)
    scale = min(largest, np.exp(rng.uniform(np.log(low), np.log(high))))
    size = max(round(side * scale), 16)

    def scaled(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        resized = cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA)
        return np.asarray(resized[:, ::-1] if flip else resized, np.uint8)

    flip = rng.random() < 0.5
    slack = crop // 4 if small else 0
    top, left = (_offset(rng, size, crop, slack) for _ in range(2))
    border = max(0, -top, -left, top + crop - size, left + crop - size)
    rim = (border, border)
    mask = portrait.foreground
    if mask is None:
        mask = np.full(portrait.pixels.shape[:2], 255, np.uint8)
    area = np.s_[top + border : top + border + crop, left + border : left + border + crop]
    return (
        np.ascontiguousarray(np.pad(scaled(portrait.pixels), (rim, rim, (0, 0)), "edge")[area]),
        np.ascontiguousarray(np.pad(scaled(mask), (rim, rim))[area]),
    )


def _offset(rng: np.random.Generator, size: int, crop: int, slack: int) -> int:
    """Draw the start of the window, which may leave the portrait by `slack` pixels."""
    low, high = sorted((-slack, size - crop + slack))
    return int(rng.integers(low, high + 1))


def draw_relit(color: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw exposure, contrast, saturation and white balance of another camera."""
    gain = torch.tensor(rng.uniform(0.94, 1.06, (1, 3, 1, 1)), dtype=color.dtype)
    color = (color * gain * rng.uniform(0.75, 1.1)).clamp(0, 1) ** rng.uniform(0.8, 1.25)
    gray = color.mean(1, keepdim=True)
    return (gray + (color - gray) * rng.uniform(0.7, 1.25)).clamp(0, 1)


def draw_ground(rng: np.random.Generator, crop: int) -> Tensor:
    """Draw a background as in viewers, mostly plain and often white -> (1, 3, crop, crop)."""
    kind = rng.random()
    if kind < 0.45:
        color = np.ones(3)
    elif kind < 0.6:
        color = np.zeros(3)
    else:
        color = rng.uniform(0, 1, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(0, 1))
    ground = torch.tensor(color, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, crop, crop)
    if kind < 0.9:
        return ground
    ramp = torch.linspace(0, rng.uniform(-0.4, 0.4), crop).view(1, 1, crop, 1)
    return (ground + ramp).clamp(0, 1)
