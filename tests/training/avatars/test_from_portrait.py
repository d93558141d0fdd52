"""Avatars made of portraits alone."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.training.avatars.from_portrait import (
    ReliefConfig,
    _draw_subject,
    lift,
    main,
    make_avatar,
)
from splatmend.training.avatars.rendered_pairs import SIDE, front_camera
from splatmend.training.data.pairs import folder_pairs
from splatmend.training.data.portraits import Portrait, load_portraits
from splatmend.training.degradations.resplatting import Gaussians
from splatmend.training.gaussians.rasterizer import Camera, render

CAMERA = front_camera(ReliefConfig(faces=Path("faces"), out=Path("out")))


@pytest.fixture
def portrait(portraits_folder: Path) -> Portrait:
    small = load_portraits(portraits_folder, "train")[0]
    pixels = cv2.resize(small.pixels, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(mask, (256, 270), (150, 200), 0, 0, 360, 255, -1)
    return Portrait("face.png", np.asarray(pixels, np.uint8), 1.0, mask)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
def test_from_the_front_the_avatar_is_the_portrait(portrait: Portrait, seed: int) -> None:
    color, alpha = _draw_subject(portrait, np.random.default_rng(seed))
    with torch.inference_mode():
        avatar = make_avatar(portrait, np.random.default_rng(seed), CAMERA)
        shown = render(avatar, CAMERA)
    inside = torch.from_numpy(cv2.erode(alpha[0, 0].numpy(), np.ones((33, 33)))) == 1
    outside = torch.from_numpy(cv2.dilate(alpha[0, 0].numpy(), np.ones((33, 33)))) == 0
    assert shown.alpha[0][inside].min() > 0.95
    assert (shown.alpha[0][outside] > 0.1).float().mean() < 0.005  # a stray hair at most
    error = (shown.color - color[0])[:, inside].square().mean().item()
    assert -10 * math.log10(error) > 30


@pytest.mark.slow
def test_it_has_depth_and_holds_together_from_the_side(portrait: Portrait) -> None:
    side = Camera.orbit(0.35, 0.1, 0.8, fov_y=30, size=(SIDE, SIDE))
    with torch.inference_mode():
        avatar = make_avatar(portrait, np.random.default_rng(1), CAMERA)
        front, turned = render(avatar, CAMERA), render(avatar, side)
    reach = avatar.center.quantile(0.98, 0) - avatar.center.quantile(0.02, 0)
    assert reach[2] > 0.4 * reach[0]
    assert turned.alpha[0, 180:360, 230:300].min() > 0.95
    nose, cheek = front.depth[0, 290:310, 250:262].mean(), front.depth[0, 290:310, 150:162].mean()
    assert nose < cheek - 0.02


def test_a_lifted_gaussian_keeps_its_footprint() -> None:
    """Seen from the same camera, also on a slope and off the middle."""
    gaussians = Gaussians(
        center=torch.tensor([[[180.0, 300.0]]]),
        sigma=torch.tensor([[[12.0, 5.0]]]),
        angle=torch.tensor([[0.6]]),
        weight=torch.ones(1, 1),
        color=torch.ones(1, 1, 3),
    )
    y, x = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    depth = 0.7 + 3e-4 * x - 2e-4 * y
    splats = lift(gaussians, depth, CAMERA, opacity=torch.tensor([0.5]), flat=0.01)
    shown = render(splats, CAMERA, low_pass=0.0)
    weight = (shown.alpha[0] / shown.alpha.sum()).double()
    center = torch.stack(((weight * x).sum(), (weight * y).sum()))
    torch.testing.assert_close(center.float(), gaussians.center[0, 0], atol=0.1, rtol=0)
    dx, dy = x - center[0], y - center[1]
    xx, yy, xy = ((weight * p).sum().item() for p in (dx * dx, dy * dy, dx * dy))
    cos, sin = math.cos(0.6), math.sin(0.6)
    expected = (144 * cos**2 + 25 * sin**2, 144 * sin**2 + 25 * cos**2, (144 - 25) * cos * sin)
    assert (xx, yy, xy) == pytest.approx(expected, rel=0.08)  # its far tail is cut off
    assert shown.depth[0, 300, 180].item() == pytest.approx(depth[300, 180].item(), abs=1e-4)


@pytest.mark.slow
def test_pairs_come_in_matching_files(
    portraits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs"
    main([str(portraits_folder), "--out", str(out), "--count", "2"])
    assert "2 pairs in" in capsys.readouterr().out
    (first, second) = folder_pairs(out / "thin", out / "whole")
    for pair in (first, second):
        degraded, clean = pair()
        assert 0.001 < (degraded - clean).abs().mean() < 0.3
    assert cv2.imread(str(out / "whole" / "00000.png"), cv2.IMREAD_UNCHANGED).shape[2] == 4
