"""Preparation of one picture: align, parse, cut out, degrade, write; and replay of a pair."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from splatmend.core.errors import InputError, SplatmendError
from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.training.data.manifest import PairRecord
from splatmend.training.data.pairs import read_picture
from splatmend.training.data.portraits import Split, draw_ground
from splatmend.training.degradations.steps import Drawn, apply_steps, draw_steps
from splatmend.training.faces.align import (
    DlibLandmarker,
    Landmarker,
    centre_square,
    cut_square,
    face_square,
    share_outside,
)
from splatmend.training.faces.foreground import cut_out
from splatmend.training.faces.regions import (
    RegionParser,
    RegionStrengths,
    has_face,
    load_parser,
    upper_sides,
)
from splatmend.training.prepare.inputs import Item, hash_share, read_item

__all__ = ["Align", "Job", "PairMaker", "degraded_path", "replay"]

Align = Literal["face", "none"]

_MOST_OUTSIDE = 0.35  # share of a crop that may lie outside the picture and be mirrored


@dataclass(frozen=True)
class Job:
    """An item and its variants to make."""

    item: Item
    variants: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Crop:
    """An aligned picture with its regions and alpha."""

    clean: NDArray[np.uint8]  # (h, w, 3)
    regions: NDArray[np.uint8]  # (h, w)
    alpha: NDArray[np.uint8] | None  # (h, w)
    native_scale: float


def degraded_path(item: Item, variant: int) -> Path:
    """Return the path of a pair's degraded picture, relative to the manifest; it names the pair."""
    return Path("degraded") / f"{item.stem}_{variant}.png"


@dataclass(frozen=True)
class PairMaker:
    """A function that makes the pairs of one item; the first call loads the networks."""

    out: Path
    size: int
    align: Align
    parser: str
    cut_out: float
    """Share of the crops that are cut out, if the cut succeeds."""
    strengths: RegionStrengths
    val: float
    test: float
    smallest: int
    seed: int

    @cached_property
    def region_parser(self) -> RegionParser:
        """Load the parser that draws the region maps."""
        return load_parser(self.parser)

    @cached_property
    def landmarker(self) -> Landmarker:
        """Load the detector of faces to align."""
        return DlibLandmarker()

    def __call__(self, job: Job) -> list[PairRecord]:
        """Write the files of every variant; final names appear only when the files are complete.

        Raises:
            InputError: the picture is unreadable, too small, or shows no face.
            SplatmendError: a file cannot be written.
        """
        crop = self._crop(job.item)
        name = f"{job.item.stem}.png"
        clean, regions, alpha = (Path(folder) / name for folder in ("clean", "regions", "alpha"))
        _write_png(self.out / clean, crop.clean)
        _write_png(self.out / regions, crop.regions)
        if crop.alpha is not None:
            _write_png(self.out / alpha, crop.alpha)
        records = []
        for variant in job.variants:
            seed = _seed(f"{self.seed}:{job.item.key}:{variant}")
            steps = draw_steps(seed)
            degraded = degraded_path(job.item, variant)
            picture = _degrade(crop.clean, crop.regions, crop.alpha, steps, self.strengths)
            _write_png(self.out / degraded, picture)
            records.append(
                PairRecord(
                    degraded=degraded,
                    clean=clean,
                    alpha=None if crop.alpha is None else alpha,
                    regions=regions,
                    split=self._split(job.item),
                    identity=job.item.identity,
                    seed=seed,
                    parser=self.region_parser.name,
                    native_scale=crop.native_scale,
                    strengths=self.strengths,
                    steps=steps,
                )
            )
        return records

    def _split(self, item: Item) -> Split:
        """Choose the input's split, else one by the person's name: no person is in two splits."""
        if item.split is not None:
            return item.split
        place = hash_share(f"split:{item.identity}")
        if place < self.val:
            return "val"
        return "test" if place < self.val + self.test else "train"

    def _crop(self, item: Item) -> Crop:
        picture, alpha = read_item(item)
        height, width = picture.shape[:2]
        square = centre_square(height, width)
        if self.align == "face":
            landmarks = self.landmarker(picture)
            if landmarks is None:
                raise InputError("no face found")
            square = face_square(landmarks)
            if (outside := share_outside(square, height, width)) > _MOST_OUTSIDE:
                raise InputError(f"{outside:.0%} of the face's square lie outside the picture")
        native = square.side * item.native_scale
        if native < self.smallest:
            raise InputError(f"too small: {native:.0f} native pixels across, not {self.smallest}")
        clean = cut_square(picture, square, self.size)
        regions = self.region_parser(clean)
        if not has_face(regions):
            raise InputError("no face found in the crop")
        mask = None if alpha is None else cut_square(alpha, square, self.size)
        if mask is None and hash_share(f"{self.seed}:cut out:{item.key}") < self.cut_out:
            mask = _cut_head(clean, regions)
        if mask is not None:
            clean = _on_ground(clean, mask, _seed(f"{self.seed}:ground:{item.key}"))
            regions = np.where(mask > 127, regions, 0).astype(np.uint8)
        return Crop(clean, regions, mask, round(native / self.size, 4))


def replay(folder: Path, record: PairRecord) -> NDArray[np.uint8]:
    """Degrade a record's clean picture again, to the same bytes -> RGB (h, w, 3).

    Args:
        folder: the manifest's folder.
        record: a record of `splatmend prepare`.

    Raises:
        InputError: a picture cannot be read, or the record has no region map.
    """
    if record.regions is None:
        raise InputError(f"{record.degraded} has no region map: it was not made by prepare")
    alpha = None
    if record.alpha is not None:
        alpha = read_picture(folder / record.alpha)[..., 0]
    return _degrade(
        read_picture(folder / record.clean),
        read_picture(folder / record.regions)[..., 0],
        alpha,
        record.steps,
        record.strengths or RegionStrengths(),
    )


def _degrade(
    clean: NDArray[np.uint8],
    regions: NDArray[np.uint8],
    alpha: NDArray[np.uint8] | None,
    steps: tuple[Drawn, ...],
    strengths: RegionStrengths,
) -> NDArray[np.uint8]:
    degraded = apply_steps(
        to_tensor([clean]),
        steps,
        regions=torch.from_numpy(np.ascontiguousarray(regions)),
        strengths=strengths,
        alpha=None if alpha is None else to_tensor([alpha]),
    )
    return np.asarray(from_tensor(degraded, np.uint8)[0], np.uint8)


def _cut_head(picture: NDArray[np.uint8], regions: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Cut out the head's alpha, (h, w); None if the cut failed and includes the background."""
    # the parser finds hair that GrabCut misses
    head = cv2.GaussianBlur(np.uint8(255) * (regions > 0), (0, 0), picture.shape[1] / 400)
    alpha = np.maximum(cut_out(picture), head)
    return None if upper_sides(alpha > 127).mean() > 0.1 else alpha


def _on_ground(
    picture: NDArray[np.uint8], alpha: NDArray[np.uint8], seed: int
) -> NDArray[np.uint8]:
    """Composite the cut-out head over a background as in viewers."""
    ground = draw_ground(np.random.default_rng(seed), picture.shape[0])
    cover = to_tensor([alpha])
    laid = to_tensor([picture]) * cover + ground * (1 - cover)
    return np.asarray(from_tensor(laid, np.uint8)[0], np.uint8)


def _seed(name: str) -> int:
    """Hash a name to 48 bits, which JSON readers of every language keep exactly."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    stored = picture[..., ::-1] if picture.ndim == 3 else picture
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(stored))
    # named by process: a worker may outlive a killed command for some seconds, still writing
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(encoded.tobytes())
        unfinished.replace(path)
    except OSError as error:
        # not an InputError: the picture is fine, and the next one would fail as well
        raise SplatmendError(
            f"{path} cannot be written ({error.strerror}): the pairs that were made are whole, and "
            f"the same command goes on from there"
        ) from error
