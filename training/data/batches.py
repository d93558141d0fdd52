"""The batches of a training run, drawn by number: no state is kept, so resuming needs none."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from splatmend.core.errors import InputError
from splatmend.core.references import Guidance
from splatmend.training.config import TrainConfig
from splatmend.training.data.frame_pool import FramePool
from splatmend.training.data.pair_crops import (
    Pair,
    Part,
    draw_pair_batch,
    folder_poses,
    prepared_pairs,
)
from splatmend.training.data.portraits import (
    Portrait,
    Split,
    draw_batch,
    has_manifest,
    load_portraits,
)
from splatmend.training.data.sequence_pool import SequencePool
from splatmend.training.data.sequences import draw_sequence_batch
from splatmend.training.data.shifted_crops import MOST, draw_shifts
from splatmend.training.degradations.augmentation import augment

__all__ = [
    "CHANCES",
    "Batch",
    "Draw",
    "load_batches",
    "load_people",
    "make_batch",
    "open_data",
    "start_worker",
]

CHANCES = 8
"""Random numbers that come with each sample."""


@dataclass(frozen=True)
class Batch:
    """The crops of one step, each plane (n, 3, h, w) in [0, 1]; sequences come frame by frame."""

    degraded: Tensor
    clean: Tensor
    chance: Tensor
    """(n, 8) uniform numbers in [0, 1) of each sample, for random dropout in a network.
    The frames of a sequence share them."""
    flow: Tensor | None = None
    """(clips, k - 1, 2, h, w) backward motion in pixels, for sequences of k frames."""
    valid: Tensor | None = None
    """(clips, k - 1, 1, h, w) mask of valid motion."""
    guidance: Guidance | None = None
    """Guidance by references, for crops that have any."""

    def to(self, device: str | torch.device) -> "Batch":
        """Copy the batch to another device."""
        degraded, clean, chance = (
            plane.to(device) for plane in (self.degraded, self.clean, self.chance)
        )
        flow, valid = (None if p is None else p.to(device) for p in (self.flow, self.valid))
        hint = None if self.guidance is None else self.guidance.map(lambda p: p.to(device))
        return Batch(degraded, clean, chance, flow, valid, hint)

    def as_clips(self, pictures: Tensor) -> Tensor:
        """View (n, 3, h, w) as (clips, k, 3, h, w)."""
        clips = 1 if self.flow is None else len(self.flow)
        return pictures.view(clips, -1, *pictures.shape[1:])


Draw = Callable[..., tuple[Tensor, ...]]
"""A function of the keywords seed, step, batch, crop and first that can be sent to a worker.

It gives (degraded, clean), with references (degraded, clean, proposal and confidence), and for
sequences (degraded, clean, flow, valid)."""


def open_data(config: TrainConfig) -> tuple[Draw, Draw | None]:
    """Open the training data of a run and its validation data, if any.

    Raises:
        InputError: a folder, a manifest or a pair cannot be used.
    """
    if config.faces:
        work = config.out.parent
        portraits = [p for folder in config.faces for p in load_people(folder, "train", work)]
        people = [folder for folder in config.faces if has_manifest(folder)]
        judged = [p for folder in people for p in load_people(folder, "val", work)]
        draw: Draw = draw_batch
        if config.temporal:
            draw = partial(draw_sequence_batch, frames=config.frames)
        crops = _pool(config, portraits) if config.pool else partial(draw, portraits)
        return crops, partial(draw, judged) if judged else None
    train, held = _pairs(config, "train"), _pairs(config, "val")
    if not train:
        raise InputError("the manifests hold no pair of the split 'train'")
    draw = partial(draw_pair_batch, train)
    if config.augment:
        draw = partial(_augmented, draw)
    if config.temporal:
        _check_sides(train, config.crop)
        draw = partial(draw_shifts, draw, frames=config.frames)
    return draw, partial(draw_pair_batch, held) if held else None


def _check_sides(pairs: list[Pair], crop: int) -> None:
    smallest = min(pairs, key=lambda pair: min(pair.size))
    if min(smallest.size) < crop + MOST:
        raise InputError(
            f"{smallest.degraded} has a side of {min(smallest.size)} pixels; --temporal needs "
            f"{MOST} more than --crop, {crop + MOST}: give larger pictures, or a smaller --crop"
        )


def load_people(folder: Path, split: Split, work: Path) -> list[Portrait]:
    """Load the portraits of one split, with foreground masks for training; `work` caches these."""
    cut_out = split == "train" and has_manifest(folder)
    return load_portraits(folder, split, cache=work / "foreground", foreground=cut_out)


def _pool(config: TrainConfig, portraits: list[Portrait]) -> Draw:
    pairs = _pairs(config, "train")
    stills = FramePool(
        portraits,
        size=config.pool,
        renew=config.renew,
        pairs=pairs,
        pair_share=config.pair_share,
        undamaged=config.undamaged,
        splat_targets=config.splat_targets,
        steps_share=config.steps_share,
        references=config.references,
    )
    if not config.temporal:
        return stills
    return SequencePool(
        portraits,
        frames=config.frames,
        size=config.pool,
        renew=config.renew,
        stills=stills,
        still_share=config.still_share,
    )


def _pairs(config: TrainConfig, split: Split) -> list[Pair]:
    skip = config.skip_bad
    found = [p for file in config.manifests for p in prepared_pairs(file, split, skip_bad=skip)]
    if split == "val" and not config.holdout:
        return found
    part: Part = "train" if split == "train" else "held out"
    for folders in config.pairs:
        found += folder_poses(folders, part, holdout=config.holdout, skip_bad=skip)
    return found


def _augmented(
    draw: Draw, *, seed: int, step: int, first: int = 0, **size: int
) -> tuple[Tensor, Tensor]:
    degraded, clean = draw(seed=seed, step=step, first=first, **size)
    worse = [
        augment(sample[None], _generator(seed, step, first + index, 1))
        for index, sample in enumerate(degraded)
    ]
    return torch.cat(worse), clean


def _generator(*name: int) -> torch.Generator:
    """Create a generator from a name."""
    return torch.Generator().manual_seed(int(np.random.default_rng(name).integers(2**62)))


class _Steps(Dataset[Batch]):
    """The batches of one process, by number: a worker needs nothing else.

    An update of p processes with a accumulated batches of b crops consists of the crops
    0 .. p a b - 1 of its step, independent of their distribution to processes.
    """

    def __init__(self, draw: Draw, config: TrainConfig, rank: int, processes: int) -> None:
        self.draw, self.config = draw, config
        self.rank, self.processes = rank, processes

    def __getitem__(self, number: int) -> Batch:
        config = self.config
        step, part = divmod(number, config.accumulate)
        first = (part * self.processes + self.rank) * config.batch
        drawn = self.draw(
            seed=config.seed, step=step, batch=config.batch, crop=config.crop, first=first
        )
        names = range(first, first + config.batch)
        chances = [
            torch.rand(CHANCES, generator=_generator(config.seed, step, name, 2)) for name in names
        ]
        return make_batch(drawn, torch.stack(chances))


def make_batch(drawn: tuple[Tensor, ...], chance: Tensor) -> Batch:
    """Make a batch of a `Draw`'s result and the numbers (samples, 8) of its crops or sequences."""
    if len(drawn) == 2:
        degraded, clean = drawn
        return Batch(degraded, clean, chance)
    if len(drawn) == 3:
        degraded, clean, planes = drawn
        hint = Guidance(planes[:, :3] - degraded, planes[:, 3:])
        return Batch(degraded, clean, chance, guidance=hint)
    degraded, clean, flow, valid = drawn
    frames = chance.repeat_interleave(degraded.shape[1], 0)
    return Batch(degraded.flatten(0, 1), clean.flatten(0, 1), frames, flow, valid)


def load_batches(
    draw: Draw, config: TrainConfig, *, start: int, rank: int = 0, processes: int = 1
) -> DataLoader[Batch]:
    """Load the batches from update `start` on, in order, with any number of workers."""
    return DataLoader(
        _Steps(draw, config, rank, processes),
        batch_size=None,
        sampler=range(start * config.accumulate, config.max_steps * config.accumulate),
        num_workers=config.workers,
        worker_init_fn=start_worker,
    )


def start_worker(_: int) -> None:
    """Switch off OpenCV's threads, which do not survive a fork."""
    cv2.setNumThreads(0)
