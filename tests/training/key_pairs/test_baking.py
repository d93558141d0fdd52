"""`splatmend references`: poses that help most, key pairs of both avatars, files as others read."""

import json
import re
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from splatmend.core import InputError
from splatmend.core.references import read_pairs
from splatmend.training.avatars.thinning import merge
from splatmend.training.gaussians.ply import Splats, read_ply, write_ply
from splatmend.training.key_pairs.baking import BakeConfig, bake_keys, main
from splatmend.training.key_pairs.pose_choice import View, choose_keys, view_errors

SMALL = ["--grid", "3", "3", "--size", "96", "112", "--count", "3"]


def texture(center: Tensor) -> Tensor:
    """Stripes and patches around a ball, no two sides alike: (n, 3) -> (n, 3) in [0, 1]."""
    waves = torch.stack(
        [
            (center @ torch.tensor(direction)).sin()
            for direction in ((40.0, 9.0, 21.0), (-13.0, 52.0, 8.0), (61.0, -23.0, 30.0))
        ],
        -1,
    )
    return 0.5 + 0.4 * waves


@pytest.fixture
def avatars(tmp_path: Path) -> tuple[Path, Path]:
    """A ball of coloured texture that fills the frame, and a third of its Gaussians."""
    center = normalize(torch.randn(3000, 3), dim=-1) * 0.16
    center = center[center[:, 2] > -0.02]  # no camera sees the back
    count = len(center)
    whole = Splats(
        center=center,
        log_scale=torch.full((count, 3), -5.0),
        rotation=torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        opacity=torch.full((count,), 3.0),
        harmonics=(texture(center)[:, None] - 0.5) / 0.2821,
    )
    write_ply(tmp_path / "whole.ply", whole)
    light = merge(whole, 0.35, torch.Generator().manual_seed(0))
    write_ply(tmp_path / "light.ply", light)
    return tmp_path / "whole.ply", tmp_path / "light.ply"


@pytest.mark.slow
def test_from_two_avatars_to_key_pairs(
    avatars: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "keys"
    words = [*map(str, avatars), str(out), *SMALL]
    main(words)
    said, stages = capsys.readouterr()
    assert said.startswith("0000: yaw +0.0, pitch +0.0: PSNR of all 9 poses ")
    assert f"--keys {out / 'renders'}:{out / 'photos'}" in said
    assert f"splatmend serve --references {out}\n" in said
    assert [line for line in stages.splitlines() if line.startswith("stage")] == [
        "stage 1 of 3: 18 renders of 112 x 96 pixels, to choose by",
        "stage 2 of 3: up to 3 of 9 poses; the first is the frontal one",
        "stage 3 of 3: 6 renders of 112 x 96 pixels",
    ]
    assert re.search(r"\d+ trials of one key on one view, then 2 keys .*: about \d+ s more", stages)
    pairs = read_pairs(out / "renders", out / "photos")
    assert (len(pairs), pairs.kind) == (3, "pairs")
    assert all(pair.picture.shape == (96, 112, 3) for pair in pairs)
    assert all(np.any(pair.picture != pair.render) for pair in pairs)
    cameras = json.loads((out / "cameras.json").read_text())
    poses = [(camera["yaw"], camera["pitch"]) for camera in cameras]
    assert poses[0] == (0, 0)
    assert len(set(poses)) == 3
    assert {p.name for p in out.rglob("*.*")} == {
        "settings.json", "cameras.json", "0000.png", "0001.png", "0002.png"
    }  # fmt: skip
    stored = cv2.imread(str(out / "photos" / "0000.png"), cv2.IMREAD_UNCHANGED)
    assert stored.shape == (96, 112, 4)
    assert stored[0, 0, 3] == 0 < 200 < stored[48, 56, 3]


@pytest.mark.slow
def test_an_interrupted_run_goes_on(
    avatars: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "keys"
    words = [*map(str, avatars), str(out), *SMALL]
    main(words)
    made = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.glob("*/*.png")}
    lost = out / "renders" / "0001.png"
    lost.unlink()
    capsys.readouterr()
    main(words)
    assert "PSNR" not in capsys.readouterr().out  # the poses are known
    assert {p: p.read_bytes() for p in made} == {p: data for p, (data, _) in made.items()}
    kept = [p for p in made if p != lost]
    assert all(p.stat().st_mtime_ns == made[p][1] for p in kept)
    with pytest.raises(InputError, match="has keys of other settings"):
        main([*words, "--fov", "25"])


def test_what_others_made_is_left_alone(avatars: tuple[Path, Path], tmp_path: Path) -> None:
    photo = tmp_path / "keys" / "photos" / "0000.png"
    photo.parent.mkdir(parents=True)
    photo.write_text("mine")
    with pytest.raises(InputError, match=r"photos was not made by this command: name another"):
        main([*map(str, avatars), str(tmp_path / "keys"), *SMALL])
    assert [p for p in (tmp_path / "keys").rglob("*") if p.is_file()] == [photo]


@pytest.fixture
def views(face: np.ndarray) -> list[View]:
    """Nine poses of a face that slides by; its detail changes within some fifteen degrees."""
    rng, soft = np.random.default_rng(0), cv2.GaussianBlur(face, (0, 0), 2)
    angles = np.linspace(-20, 20, 9)
    details = [cv2.GaussianBlur(rng.normal(0, 60, face.shape), (0, 0), 1.2) for _ in angles]
    made = []
    for step, angle in enumerate(angles):
        shares = np.exp(-(((angles - angle) / 12) ** 2))
        detail = sum(share * plane for share, plane in zip(shares, details, strict=True))
        sharp = np.clip(soft + detail, 0, 255).astype(np.uint8)
        part = np.s_[80:176, 60 + step : 156 + step]
        made.append(View(float(angle), 0.0, soft[part].copy(), sharp[part].copy()))
    return made


@pytest.mark.slow
def test_every_key_lowers_the_error_and_beats_keys_side_by_side(views: list[View]) -> None:
    keys = list(choose_keys(views, 3, first=4))
    chosen = [key.index for key in keys]
    assert chosen[0] == 4
    assert len(set(chosen)) == 3
    assert all(key.after < key.before for key in keys)
    assert all(one.after == two.before for one, two in pairwise(keys))
    assert keys[-1].after == pytest.approx(view_errors(views, chosen).mean())
    assert keys[-1].after < 0.7 * keys[0].after
    assert keys[-1].after < 0.9 * view_errors(views, (3, 4, 5)).mean()
    assert list(choose_keys(views, 2, first=4)) == keys[:2]


def test_the_choice_ends_where_nothing_is_gained(views: list[View]) -> None:
    seen = views[4]
    same = [View(angle, 0.0, seen.render, seen.truth) for angle in (-4.0, 0.0, 4.0)]
    assert len(list(choose_keys(same, 3, first=1))) == 1
    whole = [View(v.yaw, v.pitch, v.truth, v.truth) for v in views[:3]]
    assert not list(choose_keys(whole, 3, first=1))


def test_what_cannot_be_baked_is_said(avatars: tuple[Path, Path], tmp_path: Path) -> None:
    whole, light = avatars
    out = tmp_path / "keys"
    with pytest.raises(InputError, match=r"none\.ply"):
        bake_keys(BakeConfig(whole, tmp_path / "none.ply", out))
    with pytest.raises(InputError, match=r"see next to nothing of .*whole.*--target .*--distance"):
        bake_keys(BakeConfig(whole, light, out, target=(5.0, 0.0, 0.0), size=(64, 64)))
    far = read_ply(light)
    far.center.add_(9)
    write_ply(tmp_path / "far.ply", far)
    with pytest.raises(InputError, match=r"see next to nothing of .*far"):
        bake_keys(BakeConfig(whole, tmp_path / "far.ply", out, size=(64, 64)))
    assert not out.exists()
    with pytest.raises(InputError, match="must be a light copy of"):
        bake_keys(BakeConfig(whole, whole, out, grid=(2, 1), count=1, size=(64, 64)))
    with pytest.raises(InputError, match="count must lie in 1 to 6, the poses of the grid, got 7"):
        BakeConfig(whole, light, out, grid=(3, 2), count=7)
    with pytest.raises(InputError, match="size must be at least 32 a side"):
        BakeConfig(whole, light, out, size=(512, 16))
    with pytest.raises(InputError, match="needs grid and distance above 0"):
        BakeConfig(whole, light, out, grid=(0, 2))
