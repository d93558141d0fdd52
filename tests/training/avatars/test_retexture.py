"""One avatar's Gaussians in the colours of many portraits."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import InputError
from splatmend.training.avatars.retexture import RetextureConfig, Wardrobe, main
from splatmend.training.config import TrainConfig
from splatmend.training.data.batches import open_data
from splatmend.training.data.frame_pool import FramePool
from splatmend.training.data.pairs import folder_pairs
from splatmend.training.gaussians.ply import Splats, read_ply
from splatmend.training.gaussians.rasterizer import Camera, blend_weights, render
from splatmend.training.gaussians.spherical_harmonics import plain_harmonics

EYES = ("--eyes", "218", "199", "299", "199")


def test_a_frame_is_its_weights_times_the_colours(plate: Path) -> None:
    splats = read_ply(plate)
    colors = torch.rand(len(splats), 3)
    camera = Camera.look_at((0.1, 0.05, 0.7), fov_y=30, size=(200, 180))
    dressed = Splats(**{**vars(splats), "harmonics": plain_harmonics(colors)})
    shown = render(dressed, camera)
    weights = blend_weights(splats, camera)
    assert weights.shape == (200 * 180, len(splats))
    product = (weights @ colors).T.reshape(3, 200, 180)
    torch.testing.assert_close(product, shown.color, atol=0.01, rtol=0)


@pytest.mark.slow
def test_the_avatar_looks_like_the_portrait_eye_on_eye(plate: Path, tmp_path: Path) -> None:
    eyes = (218.0, 199.0), (299.0, 203.0)
    config = RetextureConfig(source=plate, faces=tmp_path, out=tmp_path, eyes=eyes)
    face = np.full((512, 512, 3), 150, np.uint8)
    cv2.circle(face, (196, 240), 22, (230, 40, 40), -1)  # where FFHQ has eyes
    cv2.circle(face, (316, 240), 22, (40, 40, 230), -1)
    rng = np.random.default_rng(0)  # its first number mirrors nothing
    assert np.random.default_rng(0).random() >= 0.5
    dressed = Wardrobe(read_ply(plate), config).dress(face, rng)
    shown = render(dressed, Camera.look_at((0, 0, 0.8), fov_y=30, size=(512, 512)))
    picture = (shown.color / shown.alpha.clamp(min=1e-3)).numpy()
    (x0, y0), (x1, y1) = ((round(v) for v in eye) for eye in eyes)
    assert picture[0, y0, x0] > picture[2, y0, x0] + 0.4
    assert picture[2, y1, x1] > picture[0, y1, x1] + 0.4
    assert np.ptp(picture[:, 250, 230:280]) < 0.25  # between and below: the plain colour


@pytest.mark.slow
def test_pairs_are_written_named_and_not_written_twice(
    plate: Path, portraits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs"
    command = [str(plate), str(portraits_folder), *EYES, "--out", str(out), "--count"]
    main([*command, "2"])
    assert "2 pairs in" in capsys.readouterr().out
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.png") if p.parent.name != "foreground"}
    assert {f"{p.parent.name}/{p.name}" for p in stamps} == {
        "thin/00000.png", "thin/00001.png", "whole/00000.png", "whole/00001.png",
    }  # fmt: skip
    main([*command, "3"])
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    with pytest.raises(InputError, match="has pairs of other settings"):
        main([*command, "3", "--seed", "1"])
    again = tmp_path / "again"
    main([str(plate), str(portraits_folder), *EYES, "--out", str(again), "--count", "1"])
    for name in ("thin", "whole"):
        first, second = (folder / name / "00000.png" for folder in (out, again))
        assert first.read_bytes() == second.read_bytes()
    pairs = folder_pairs(out / "thin", out / "whole")
    assert len(pairs) == 3
    for pair in pairs:
        degraded, clean = pair()
        assert 0.001 < (degraded - clean).abs().mean() < 0.3


@pytest.mark.slow
def test_an_avatar_without_a_face_is_refused(plate: Path, portraits_folder: Path) -> None:
    pytest.importorskip("dlib")
    with pytest.raises(InputError, match=r"no face was found .* --eyes"):
        main([str(plate), str(portraits_folder), "--out", str(plate.parent / "out")])


@pytest.mark.slow
def test_the_pool_mixes_pairs_with_portraits(
    plate: Path, portraits_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pairs"
    main([str(plate), str(portraits_folder), *EYES, "--out", str(out), "--count", "2"])

    def draw(share: float, crop: int) -> FramePool:
        made, _ = open_data(
            TrainConfig(faces=(portraits_folder,), pairs=(f"{out / 'thin'}:{out / 'whole'}",),
                        out=tmp_path / "run", pool=4, pair_share=share)
        )  # fmt: skip
        assert isinstance(made, FramePool)
        made(seed=0, step=0, batch=16, crop=crop)
        return made

    crop = 300  # the fixture's portraits are smaller and continued, the pairs' 512 leave room
    assert {f[0].shape[0] > crop for f in draw(1.0, crop)._pool._pieces.values()} == {True}
    assert {f[0].shape[0] > crop for f in draw(0.0, crop)._pool._pieces.values()} == {False}
    with pytest.raises(InputError, match=r"has a side of 512 pixels, less than --crop 544"):
        draw(1.0, crop=544)
