import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from splatmend.core import InputError, to_tensor
from splatmend.temporal.loss import temporal_difference, temporal_loss
from splatmend.temporal.motion.warping import warp
from splatmend.training.data.camera_paths import View, look, move
from splatmend.training.data.portraits import Portrait, load_portraits
from splatmend.training.data.sequences import (
    Flicker,
    degrade_splatted,
    draw_flicker,
    draw_sequence_batch,
    flicker,
    view_flow,
)
from splatmend.training.degradations.recipes import Recipe
from splatmend.training.degradations.resplatting import SplatOptions, place


@pytest.fixture
def portraits(face: np.ndarray) -> list[Portrait]:
    mask = np.zeros(face.shape[:2], np.uint8)
    cv2.ellipse(mask, (128, 128), (80, 110), 0, 0, 360, 255, -1)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.5), np.uint8)
    return [Portrait("a", face, 1.0, mask), Portrait("b", np.roll(face, 9, 1), 1.0)]


def draw(portraits: list[Portrait], step: int = 0, **options: object) -> tuple[Tensor, ...]:
    size = {"seed": 0, "batch": 2, "frames": 3, "crop": 64} | options
    return draw_sequence_batch(portraits, step=step, **size)


def test_shapes_ranges_and_kinds(portraits: list[Portrait]) -> None:
    degraded, clean, flow, valid = draw(portraits, batch=3, frames=4)
    assert degraded.shape == clean.shape == (3, 4, 3, 64, 64)
    assert flow.shape == (3, 3, 2, 64, 64)
    assert valid.shape == (3, 3, 1, 64, 64)
    assert degraded.dtype == clean.dtype == flow.dtype == torch.float32
    assert valid.dtype == torch.bool
    both = torch.cat((degraded, clean))
    assert both.amin() >= 0
    assert both.amax() <= 1
    assert flow.isfinite().all()


def test_sequences_are_named_by_seed_and_step_and_number(portraits: list[Portrait]) -> None:
    def digest(planes: tuple[Tensor, ...]) -> str:
        return hashlib.sha256(b"".join(p.numpy().tobytes() for p in planes)).hexdigest()

    batch = draw(portraits, step=5)
    assert digest(batch) == digest(draw(portraits, step=5))
    second = tuple(plane[1:] for plane in batch)
    assert digest(second) == digest(draw(portraits, step=5, batch=1, first=1))
    others = [draw(portraits, step=6), draw(portraits, step=5, seed=1), draw(portraits, frames=4)]
    assert len({digest(b) for b in (batch, *others)}) == 4


def test_the_clean_frames_move_as_the_flow_says(portraits: list[Portrait]) -> None:
    explained, raw = [], []
    for step in range(8):
        _, clean, flow, valid = draw(portraits, step=step)
        assert valid.float().mean() > 0.7
        at = valid.expand(-1, -1, 3, -1, -1)
        explained.append(temporal_difference(clean, flow)[at].abs().mean().item())
        raw.append((clean[:, 1:] - clean[:, :-1])[at].abs().mean().item())
        if raw[-1] > 0.01:  # it moves at all
            assert explained[-1] < 0.5 * raw[-1]
    assert np.mean(explained) < 0.25 * np.mean(raw)


@pytest.mark.slow
def test_splats_flicker_though_their_truth_does_not(portraits: list[Portrait]) -> None:
    losses, errors = [], []
    for step in range(12):
        degraded, clean, flow, valid = draw(portraits, step=step)
        losses += temporal_loss(degraded, clean, flow, valid).tolist()
        errors += (degraded - clean).abs().mean((1, 2, 3, 4)).tolist()
    assert np.median(losses) > 0.002
    # what they do wrong mostly stays the same: 1.4 times the error would be all new each frame
    assert np.sum(losses) < 0.8 * np.sum(errors)
    assert max(errors) < 0.25


@pytest.mark.slow
def test_one_in_five_stands_still(portraits: list[Portrait]) -> None:
    still = [
        not flow.any() for step in range(40) for flow in draw([portraits[1]], step=step, crop=32)[2]
    ]
    assert 6 < sum(still) < 28


@pytest.mark.slow
def test_what_the_head_uncovers_is_not_valid(portraits: list[Portrait]) -> None:
    seen = 0
    for step in range(40):
        _, clean, flow, valid = draw(portraits[:1], step=step, batch=1)
        covers = (flow != 0).any(2, keepdim=True)
        edge = covers.float().mean()
        if not 0.1 < edge < 0.9 or flow.abs().amax() < 1:
            continue  # no silhouette in the window, or no motion
        seen += 1
        hidden = ~valid
        error = temporal_difference(clean, flow).abs().amax(2, keepdim=True)
        if hidden.any():
            assert error[valid].mean() < error[hidden].mean()
        # the ground does not move, even where the head just was
        ground = ~covers & valid
        assert error[ground].mean() < 0.02
    assert seen >= 3


def test_flow_between_views_is_exact(face: np.ndarray) -> None:
    picture = cv2.GaussianBlur(face, (0, 0), 3)
    before, now = View((126.0, 130.0), 0.9, 0.05), View((123.5, 131.0), 0.93, -0.02)
    shown = [look(to_tensor([picture]), v, 160) for v in (before, now)]
    flow = view_flow(now, before, 160)
    moved, inside = warp(shown[0], flow)
    error = (moved - shown[1]).abs()[inside.expand_as(moved)]
    assert error.mean() < 2e-3
    assert (shown[0] - shown[1]).abs().mean() > 0.02
    # the same points by the way splats go: from the picture into both frames
    gaussians = place(to_tensor([picture]), SplatOptions(spacing=12), torch.Generator())
    here, there = (move(gaussians, v, 160).center[0] for v in (now, before))
    cell = here.round().long()
    kept = ((cell >= 0) & (cell < 160)).all(1)
    here, there, cell = here[kept], there[kept], cell[kept]
    stretch = (there - here).T - flow[0][:, cell[:, 1], cell[:, 0]]
    assert stretch.abs().max() < 0.1  # half a pixel off the grid, times what flow changes there


def test_a_view_does_not_move_against_itself() -> None:
    view = View((50.0, 60.0), 0.7, 0.4)
    assert view_flow(view, view, 32).abs().max() < 1e-5


def test_without_flicker_the_gaussians_stay_as_they_are(face: np.ndarray) -> None:
    gaussians = place(to_tensor([face]), SplatOptions(), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    same = flicker(gaussians, Flicker(), generator)
    for name in ("center", "sigma", "angle", "weight", "color"):
        assert torch.equal(getattr(same, name), getattr(gaussians, name))
    shaken = flicker(gaussians, Flicker(jitter=0.2, drop=0.3, color=0.02), generator)
    assert (shaken.weight == 0).float().mean() == pytest.approx(0.3, abs=0.03)
    offset = (shaken.center - gaussians.center) / gaussians.sigma.prod(-1, keepdim=True).sqrt()
    assert offset.std() == pytest.approx(0.2, rel=0.05)
    assert (shaken.color - gaussians.color).std() == pytest.approx(0.02, rel=0.05)


def test_kinds_of_flicker() -> None:
    drawn = [draw_flicker(torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert 15 < sum(f == Flicker() for f in drawn) < 50
    assert 25 < sum(f.redraw for f in drawn) < 70


def test_only_noise_is_new_in_every_frame() -> None:
    clean = torch.rand(1, 3, 48, 48).expand(3, -1, -1, -1)
    splatted = clean * 0.5
    steady = Recipe(blur_sigma=0.8, floater_count=3, patchiness=0.8, amount=0.7, jpeg_quality=70)
    frames = degrade_splatted(splatted, clean, steady, torch.Generator().manual_seed(3))
    assert torch.equal(frames[0], frames[1])
    assert torch.equal(frames[0], frames[2])
    assert not torch.equal(frames[0], clean[0])
    noisy = replace(steady, noise=0.01, jpeg_quality=0)
    frames = degrade_splatted(splatted, clean, noisy, torch.Generator().manual_seed(3))
    assert (frames[0] - frames[1]).std() == pytest.approx(0.014, rel=0.2)


def test_nothing_done_is_nothing_changed() -> None:
    clean = torch.rand(3, 3, 16, 16)
    assert torch.equal(degrade_splatted(clean, clean, Recipe(), torch.Generator()), clean)


def test_what_cannot_be_drawn_is_refused(portraits: list[Portrait]) -> None:
    with pytest.raises(InputError, match="at least 2 frames"):
        draw(portraits, frames=1)
    with pytest.raises(InputError, match="and 0 portraits"):
        draw([])


def test_portraits_from_a_folder(portraits_folder: Path) -> None:
    portraits = load_portraits(portraits_folder, "train", foreground=True)
    degraded, clean, flow, valid = draw(portraits, batch=1)
    assert (degraded - clean).abs().mean() < 0.25
    assert temporal_loss(clean, clean, flow, valid).item() == 0
