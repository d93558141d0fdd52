"""Crops cut from a pool of degraded portraits."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.training import load_portraits
from splatmend.training.config import TrainConfig
from splatmend.training.data import frame_pool as frame_pool_module
from splatmend.training.data.batches import open_data
from splatmend.training.data.frame_pool import FramePool
from splatmend.training.data.pair_crops import draw_pair_frame, folder_poses

CROP = 64


@pytest.fixture
def drawn(portraits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FramePool, list[int]]:
    """A pool of three frames, one renewed every two steps, and the numbers of those it made."""
    made: list[int] = []
    draw = FramePool._draw_frame

    def counted(pool: FramePool, seed: int, number: int, crop: int) -> frame_pool_module._Frames:
        made.append(number)
        return draw(pool, seed, number, crop)

    monkeypatch.setattr(FramePool, "_draw_frame", counted)
    pool = FramePool(load_portraits(portraits_folder, "train", foreground=True), size=3, renew=2)
    return pool, made


@pytest.mark.slow
def test_a_frame_lends_many_crops_before_it_goes(drawn: tuple[FramePool, list[int]]) -> None:
    pool, made = drawn
    for step in range(20):
        pool(seed=0, step=step, batch=8, crop=CROP)
    assert sorted(made) == list(range(3 + 9))  # each once, though 160 crops were cut
    assert len(pool._pool) <= 3


@pytest.mark.slow
def test_a_crop_is_named_by_seed_step_and_index(portraits_folder: Path) -> None:
    portraits = load_portraits(portraits_folder, "train", foreground=True)

    def batch(step: int, *, first: int = 0, count: int = 4, seed: int = 0) -> torch.Tensor:
        pool = FramePool(portraits, size=4, renew=2)
        degraded, clean = pool(seed=seed, step=step, batch=count, crop=CROP, first=first)
        assert degraded.shape == clean.shape == (count, 3, CROP, CROP)
        return torch.cat((degraded, clean), 1)

    used = FramePool(portraits, size=4, renew=2)
    for step in range(6):
        last = torch.cat(used(seed=0, step=step, batch=4, crop=CROP), 1)
    assert torch.equal(last, batch(5))  # nothing depends on what was drawn before
    assert torch.equal(batch(5, first=2, count=2), batch(5)[2:])  # nor on who draws the others
    assert not torch.equal(batch(5), batch(4))
    assert not torch.equal(batch(5), batch(5, seed=1))


@pytest.mark.slow
def test_both_halves_of_a_pair_show_the_same_window(portraits_folder: Path) -> None:
    portraits = load_portraits(portraits_folder, "train", foreground=True)
    pool = FramePool(portraits, size=6, renew=1)
    apart, elsewhere = [], []
    for step in range(6):
        degraded, clean = pool(seed=1, step=step, batch=4, crop=CROP)
        apart.append((degraded - clean).abs().mean())
        elsewhere.append((degraded - clean.flip(3)).abs().mean())
    assert np.mean(apart) < 0.5 * np.mean(elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_some_frames_come_as_they_should_be(portraits_folder: Path, share: float) -> None:
    portraits = load_portraits(portraits_folder, "train", foreground=True)
    plain, pool = (FramePool(portraits, size=20, renew=1, undamaged=u) for u in (0.0, share))
    same = []
    for number in range(20):
        degraded, clean = pool._draw_frame(3, number, CROP)
        assert np.array_equal(clean, plain._draw_frame(3, number, CROP)[1])  # of the same frames
        same.append(np.array_equal(degraded, clean))
    expected = {0.0: (0, 0.25), 0.5: (0.3, 0.75), 1.0: (1, 1)}[share]  # recipes leave some alone
    assert expected[0] <= np.mean(same) <= expected[1]


@pytest.mark.slow
def test_targets_are_fine_splats_as_often_as_asked(portraits_folder: Path) -> None:
    portraits = load_portraits(portraits_folder, "train")

    def grain(share: float) -> float:
        pool = FramePool(portraits, size=10, renew=1, splat_targets=share)
        targets = (pool._draw_frame(3, number, CROP)[1] for number in range(10))
        return float(np.mean([np.abs(np.diff(t.astype(float), axis=1)).mean() for t in targets]))

    none, half, all_of_them = grain(0.0), grain(0.5), grain(1.0)
    assert all_of_them < half < none
    assert all_of_them < 0.9 * none


def test_portraits_smaller_than_the_crop_are_continued(portraits_folder: Path) -> None:
    portraits = load_portraits(portraits_folder, "train")
    side = portraits[0].pixels.shape[0] // 32 * 32 + 64
    degraded, clean = FramePool(portraits, size=2, renew=1)(seed=0, step=0, batch=3, crop=side)
    assert degraded.shape == clean.shape == (3, 3, side, side)


def test_the_option_replaces_drawing_crop_by_crop(portraits_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(faces=(portraits_folder,), out=tmp_path / "run", pool=2)
    draw, validation = open_data(config)
    assert isinstance(draw, FramePool)
    assert validation is not None
    assert not isinstance(validation, FramePool)


def test_half_of_the_pairs_are_seen_from_further_away(tmp_path: Path, face: np.ndarray) -> None:
    for folder in ("thin", "whole"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "0.png"), cv2.resize(face, (160, 120)))
    (pair,) = folder_poses(f"{tmp_path / 'thin'}:{tmp_path / 'whole'}", "train", holdout=0)
    frames = [draw_pair_frame(pair, np.random.default_rng(i), crop=64) for i in range(40)]
    heights = [degraded.shape[0] for degraded, _ in frames]
    assert 10 < heights.count(120) < 30
    assert 64 <= min(heights) < 80
    for degraded, clean in frames:
        assert degraded.shape == clean.shape
        assert degraded.shape[1] == pytest.approx(degraded.shape[0] * 160 / 120, abs=1)
        assert clean.mean() == pytest.approx(frames[0][1].mean(), abs=2)  # all of it is there
