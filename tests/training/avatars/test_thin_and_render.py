import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import InputError
from splatmend.training.avatars.thin_and_render import (
    RenderConfig,
    ThinConfig,
    render_avatar,
    render_main,
    thin_main,
)
from splatmend.training.data.pairs import folder_pairs
from splatmend.training.gaussians.ply import read_ply


def test_from_one_avatar_to_pairs(
    ball: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thin_main([str(ball), str(tmp_path / "thin.ply"), "--keep", "0.2"])
    assert "180 of 900 Gaussians" in capsys.readouterr().out
    for source in ("ball", "thin"):
        render_main(
            [str(tmp_path / f"{source}.ply"), str(tmp_path / source), "--frames", "3",
             "--size", "64", "80"]
        )  # fmt: skip
    pairs = folder_pairs(tmp_path / "thin", tmp_path / "ball")
    assert len(pairs) == 3
    degraded, clean = pairs[1]()
    assert degraded.shape == clean.shape
    assert (degraded - clean).abs().mean() > 0.02


def test_frames_have_straight_alpha_and_cameras(ball: Path, tmp_path: Path) -> None:
    render_avatar(RenderConfig(ball, tmp_path / "out", frames=2, size=(48, 48), planes=True))
    frame = cv2.imread(str(tmp_path / "out" / "0001.png"), cv2.IMREAD_UNCHANGED)
    assert frame.shape == (48, 48, 4)
    alpha = frame[..., 3]
    assert alpha[0, 0] == 0 < 200 < alpha.max()
    # straight: colours at the faint rim are as bright as inside
    rim = frame[(alpha > 20) & (alpha < 120)][:, :3]
    assert rim.mean() > 0.7 * frame[alpha > 180][:, :3].mean()
    cameras = json.loads((tmp_path / "out" / "cameras.json").read_text())
    assert len(cameras) == 2
    first, second = (np.load(tmp_path / "out" / f"000{i}.npz") for i in (0, 1))
    assert set(first) == {"depth"}
    assert second["motion"].shape == (2, 48, 48)
    assert second["depth"][24, 24] == pytest.approx(0.7, abs=0.02)


def test_nothing_is_overwritten(ball: Path) -> None:
    with pytest.raises(InputError, match="exists: remove it or name another"):
        thin_main([str(ball), str(ball)])
    assert len(read_ply(ball)) == 900


def test_steps_combine(ball: Path, tmp_path: Path) -> None:
    options = ["--prune", "0.5", "--jitter", "1", "--grow", "2", "--fade", "0.5", "--seed", "3"]
    thin_main([str(ball), str(tmp_path / "a.ply"), *options])
    damaged = read_ply(tmp_path / "a.ply")
    assert len(damaged) == 450
    torch.testing.assert_close(damaged.log_scale.exp(), torch.full((450, 3), 2 * np.exp(-5)))
    assert damaged.opacity.sigmoid().max() < 0.5


def test_impossible_arcs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="render needs frames"):
        RenderConfig(tmp_path / "a.ply", tmp_path, frames=0)


def test_a_missing_avatar_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        thin_main([str(ThinConfig(tmp_path / "no.ply", tmp_path / "b.ply").source), "b.ply"])
