"""The mean of answers to shifted pictures, as what a network is taught."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splatmend.core import InputError
from splatmend.core.compact.network import Compact
from splatmend.temporal.loss import temporal_difference
from splatmend.training import LossWeights, TrainConfig
from splatmend.training.data.batches import open_data
from splatmend.training.data.shifted_crops import draw_shifts
from splatmend.training.losses.shift_mean import shift_mean, shift_mean_loss
from splatmend.training.models.compact import frozen_compact
from splatmend.training.train.loop import train

SIDE = 64
ALONE = LossWeights(
    l1=0, log_mse=0, lpips_vgg=0, lpips_alex=0, gram=0, temporal=0, shift_mean=1
)  # fmt: skip


def noise(*, seed: int, step: int, batch: int, crop: int, first: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + step + first)
    pictures = torch.randn(2, batch, 3, crop, crop, generator=generator)
    return pictures[0], pictures[1]


@pytest.fixture
def moved() -> tuple[Tensor, Tensor, Tensor]:
    """A picture that moves, (2, 8, 3, 64, 64), the flow of its shifts and where it holds."""
    draw = partial(draw_shifts, noise, seed=0, step=0, batch=2, crop=SIDE, frames=8)
    picture, _, flow, valid = draw()
    return picture, flow, valid


def inner(pictures: Tensor) -> Tensor:
    return pictures[..., 20:-20, 20:-20]


def test_what_moves_with_the_picture_is_its_own_mean(moved) -> None:
    picture, flow, _ = moved
    target, holds = shift_mean(picture, flow)
    assert target.shape == picture.shape
    assert holds.shape == (2, 8, 1, SIDE, SIDE)
    assert 0.3 < holds.float().mean() < 0.9
    assert ((target - picture).abs() * holds).max() < 1e-4
    assert shift_mean_loss(picture, picture, flow).max() < 1e-5


def test_what_hangs_on_the_crop_goes_and_what_is_left_is_as_loud(moved) -> None:
    picture, flow, valid = moved
    teacher = picture + torch.randn(3, SIDE, SIDE)
    target, holds = shift_mean(teacher, flow)
    assert inner(target - picture).square().mean() < 0.5 * inner(teacher - picture).square().mean()
    power = (target.square() * holds).sum() / (3 * holds.sum())
    assert power == pytest.approx(teacher.square().mean().item(), rel=0.15)
    change = temporal_difference(target, flow) * valid * (holds[:, 1:] & holds[:, :-1])
    assert change.abs().max() < 1e-4
    # what a crop says at its own edge counts for nothing
    teacher[:, 0, :, :4] = 1e3
    assert torch.equal(shift_mean(teacher, flow)[0], target)


def test_answers_with_nothing_in_common_do_not_become_loud(moved) -> None:
    picture, flow, _ = moved
    target, holds = shift_mean(torch.randn_like(picture), flow)
    assert (target.square() * holds).sum() / (3 * holds.sum()) < 0.8


def test_only_ours_learns(moved) -> None:
    picture, flow, _ = moved
    ours, teacher = picture.clone().requires_grad_(), picture.clone().requires_grad_()
    losses = shift_mean_loss(0.5 * ours, teacher, flow)
    assert losses.shape == (2,)
    losses.sum().backward()
    assert teacher.grad is None
    assert ours.grad is not None
    assert inner(ours.grad).abs().mean() > 0


@pytest.mark.parametrize("motion", [0.5, torch.linspace(0, 3, SIDE)])
def test_other_motion_is_refused(moved, motion) -> None:
    picture, flow, _ = moved
    with pytest.raises(InputError, match=r"whole pixels apart.*--still-share 1"):
        shift_mean(picture, flow + motion)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temporal": False}, "shifts alone"),
        ({"self_conditioning": 0.5}, "--self-conditioning 0"),
        ({"faces": (Path(),), "pool": 4, "still_share": 0.5}, "--still-share 1"),
        ({"rank": 4}, "without --rank"),
        ({"loss": LossWeights(), "teacher": Path()}, "--teacher is for --loss.shift-mean"),
    ],
)
def test_settings_that_do_not_fit(changes, message) -> None:
    fitting = {"pairs": ("a:b",), "temporal": True, "self_conditioning": 0.0, "loss": ALONE}
    TrainConfig(**fitting)
    with pytest.raises(InputError, match=message):
        TrainConfig(**(fitting | changes))


@pytest.mark.slow
def test_compact_learns_its_own_mean(pair_folders, tiny_checkpoint, tmp_path) -> None:
    config = TrainConfig(
        pairs=(pair_folders,), temporal=True, frames=6, batch=1, crop=64, self_conditioning=0.0,
        init=tiny_checkpoint, teacher=tiny_checkpoint, loss=ALONE, learning_rate=3e-3, max_steps=60,
        warmup_steps=2, ema=0.8, validate_every=100, workers=0, device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    after = frozen_compact(train(config))
    rows = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    assert all(row["loss"] == row["shift_mean"] for row in rows)
    draw, _ = open_data(config)
    degraded, _, flow, _ = draw(seed=1, step=0, batch=4, crop=config.crop)
    before = frozen_compact(tiny_checkpoint)

    def error(network: Compact) -> float:
        ours, taught = (net(degraded.flatten(0, 1)).view_as(degraded) for net in (network, before))
        return shift_mean_loss(ours, taught, flow).mean().item()

    assert error(after) < 0.9 * error(before)
