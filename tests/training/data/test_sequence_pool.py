"""Sequences cut from a pool of larger ones."""

import numpy as np
import pytest
import torch
from torch import Tensor

from splatmend.temporal.loss import temporal_difference, temporal_loss
from splatmend.training.data import sequence_pool
from splatmend.training.data.frame_pool import FramePool
from splatmend.training.data.portraits import Portrait
from splatmend.training.data.sequence_pool import SequencePool
from splatmend.training.data.shifted_crops import draw_shifts

CROP = 32


@pytest.fixture
def portraits(face: np.ndarray) -> list[Portrait]:
    return [Portrait("a", face, 1.0), Portrait("b", np.roll(face, 9, 1), 1.0)]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the sequences that were drawn."""
    made: list[int] = []
    draw = sequence_pool.draw_sequence_batch

    def counted(chosen: list[Portrait], *, step: int, **options: int) -> tuple[Tensor, ...]:
        made.append(step)
        return draw(chosen, step=step, **options)

    monkeypatch.setattr(sequence_pool, "draw_sequence_batch", counted)
    return made


def cut(portraits: list[Portrait], step: int = 0, **options: int) -> tuple[Tensor, ...]:
    pool = SequencePool(portraits, frames=3, size=4, renew=2)
    return pool(**{"seed": 0, "step": step, "batch": 4, "crop": CROP} | options)


def test_shapes_are_those_of_sequences_that_are_drawn(portraits: list[Portrait]) -> None:
    degraded, clean, flow, valid = cut(portraits)
    assert degraded.shape == clean.shape == (4, 3, 3, CROP, CROP)
    assert flow.shape == (4, 2, 2, CROP, CROP)
    assert valid.shape == (4, 2, 1, CROP, CROP)
    assert valid.dtype == torch.bool
    assert 0 < (degraded - clean).abs().mean() < 0.2


def test_a_crop_is_named_by_seed_step_and_index(portraits: list[Portrait]) -> None:
    pool = SequencePool(portraits, frames=3, size=4, renew=2)
    for step in range(4):
        used = pool(seed=0, step=step, batch=4, crop=CROP)
    fresh, last = cut(portraits, 3), cut(portraits, 3, first=2, batch=2)
    assert all(torch.equal(a, b) for a, b in zip(used, fresh, strict=True))
    assert all(torch.equal(a[2:], b) for a, b in zip(fresh, last, strict=True))
    assert not torch.equal(fresh[0], cut(portraits, 2)[0])
    assert not torch.equal(fresh[0], cut(portraits, 3, seed=1)[0])


def test_a_sequence_is_drawn_once_and_goes(portraits: list[Portrait], made: list[int]) -> None:
    pool = SequencePool(portraits, frames=2, size=3, renew=2)
    for step in range(10):
        pool(seed=0, step=step, batch=8, crop=CROP)
    assert sorted(made) == list(range(3 + 4))
    assert len(pool._pool) <= 3


@pytest.mark.slow
def test_the_motion_of_a_window_is_its_own(portraits: list[Portrait]) -> None:
    """Mirrored or not, the flow explains how the clean frames move, where it is called valid."""
    explained, raw, beyond = [], [], 0
    for step in range(0, 24, 2):
        _, clean, flow, valid = cut(portraits, step)
        at = valid.expand(-1, -1, 3, -1, -1)
        explained.append(temporal_difference(clean, flow)[at].abs().mean().item())
        raw.append((clean[:, 1:] - clean[:, :-1])[at].abs().mean().item())
        line = torch.arange(CROP)
        source = flow + torch.stack(torch.meshgrid(line, line, indexing="xy"))
        outside = ((source < 0) | (source > CROP - 1)).any(2, keepdim=True)
        assert not (valid & outside).any()
        beyond += int(outside.sum())
    assert np.mean(explained) < 0.3 * np.mean(raw)
    assert beyond > 0


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_some_sequences_are_stills(
    portraits: list[Portrait], share: float, made: list[int]
) -> None:
    stills = FramePool(portraits, size=4, renew=2)
    pool = SequencePool(portraits, frames=2, size=4, renew=2, stills=stills, still_share=share)
    found = 0
    for step in range(10):
        degraded, clean, flow, valid = pool(seed=0, step=step, batch=4, crop=CROP)
        assert temporal_loss(degraded, clean, flow, valid).isfinite().all()
        for index in range(4):
            still = draw_shifts(
                stills, seed=0, step=step, batch=1, crop=CROP, frames=2, first=index
            )
            planes = (degraded, clean, flow, valid)
            found += all(torch.equal(a[index], b[0]) for a, b in zip(planes, still, strict=True))
    assert abs(found / 40 - share) < 0.25
    assert bool(made) == (share < 1)
