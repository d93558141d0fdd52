"""The same crop, seen again whole pixels away."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from splatmend.core import InputError
from splatmend.temporal.loss import temporal_difference, temporal_loss
from splatmend.training.config import TrainConfig
from splatmend.training.data.batches import open_data
from splatmend.training.data.pair_crops import draw_pair_batch, folder_poses
from splatmend.training.data.shifted_crops import MOST, draw_shifts

CROP = 64


def noise(*, seed: int, step: int, batch: int, crop: int, first: int = 0) -> tuple[Tensor, ...]:
    """Crops in which no two places are alike; see `batches.Draw`."""
    names = [(seed, step, first + index) for index in range(batch)]
    crops = [np.random.default_rng(name).random((2, 3, crop, crop), np.float32) for name in names]
    degraded, clean = torch.from_numpy(np.stack(crops, 1))
    return degraded, clean


def draw(step: int = 0, *, batch: int = 8, frames: int = 3, first: int = 0) -> tuple[Tensor, ...]:
    return draw_shifts(noise, seed=0, step=step, batch=batch, crop=CROP, frames=frames, first=first)


def test_nothing_changes_along_the_motion() -> None:
    degraded, clean, flow, valid = draw()
    assert degraded.shape == clean.shape == (8, 3, 3, CROP, CROP)
    assert flow.shape == (8, 2, 2, CROP, CROP)
    assert valid.shape == (8, 2, 1, CROP, CROP)
    assert valid.dtype == torch.bool
    assert torch.equal(flow, flow.round())
    assert flow.abs().amax() <= MOST
    assert 0.1 < valid.float().mean() < 0.9
    for clip in (degraded, clean):
        assert (temporal_difference(clip, flow).abs() * valid).amax() < 1e-4
        assert (clip[:, 1:] - clip[:, :-1]).abs().mean() > 0.1


def test_every_shift_is_met() -> None:
    flow = torch.cat([draw(step, frames=2)[2] for step in range(40)])
    for axis in range(2):
        assert len(flow[:, 0, axis, 0, 0].unique()) > MOST
    assert flow.mean().abs() < 2


def test_edges_are_not_compared() -> None:
    *_, flow, valid = draw()
    line = torch.arange(CROP)
    here = torch.stack(torch.meshgrid(line, line, indexing="xy")).expand_as(flow)
    for place in (here, here + flow):
        edge = ((place < 8) | (place > CROP - 1 - 8)).any(2, keepdim=True)
        assert not (valid & edge).any()


def test_a_sequence_is_named_by_seed_step_and_index() -> None:
    whole, last = draw(3, batch=4), draw(3, batch=2, first=2)
    assert all(torch.equal(a[2:], b) for a, b in zip(whole, last, strict=True))
    assert not torch.equal(whole[0], draw(4, batch=4)[0])


def test_what_hangs_on_a_grid_costs_and_what_moves_along_does_not() -> None:
    """Noise locked to the picture is a steady error, noise locked to the crop boils."""
    degraded, clean, flow, valid = draw()
    on_grid = clean + 0.1 * torch.rand(CROP, CROP)
    steady = temporal_loss(degraded, clean, flow, valid).mean()
    assert steady < 1e-4
    assert temporal_loss(on_grid, clean, flow, valid).mean() > 0.02


@pytest.mark.parametrize("augment", [False, True])
def test_pairs_alone_are_trained_on_as_shifts(pair_folders: str, augment: bool) -> None:
    config = TrainConfig(pairs=(pair_folders,), temporal=True, frames=2, augment=augment)
    opened, _ = open_data(config)
    name = {"seed": 0, "step": 1, "batch": 2, "crop": CROP}
    degraded, clean, flow, valid = opened(**name)
    pairs = partial(draw_pair_batch, folder_poses(pair_folders, "train", holdout=0))
    expected = draw_shifts(pairs, **name, frames=2)
    assert all(torch.equal(a, b) for a, b in zip((clean, flow, valid), expected[1:], strict=True))
    assert torch.equal(degraded, expected[0]) != augment
    # whatever made it worse, both crops of a sequence show the same
    assert (temporal_difference(degraded, flow).abs() * valid).amax() < 1e-4


def test_pictures_without_room_for_shifts_are_refused_at_once(pair_folders: str) -> None:
    open_data(TrainConfig(pairs=(pair_folders,), crop=224, temporal=True))
    open_data(TrainConfig(pairs=(pair_folders,), crop=256))
    with pytest.raises(InputError, match=r"side of 256 pixels; --temporal needs .* 288: give"):
        open_data(TrainConfig(pairs=(pair_folders,), crop=256, temporal=True))
