import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from splatmend.training.gaussians.ply import Splats, write_ply


@pytest.fixture(scope="session")
def face() -> np.ndarray:
    """A real portrait, 256 x 256 RGB."""
    return np.ascontiguousarray(cv2.resize(astronaut()[:256, 100:356], (256, 256)))


@pytest.fixture
def portraits_folder(tmp_path: Path, face: np.ndarray) -> Path:
    """Six portraits of six people, split by a manifest; the fifth is a composite."""
    folder = tmp_path / "faces"
    folder.mkdir()
    entries = []
    for index, split in enumerate(("train", "train", "train", "val", "train", "test")):
        name = f"p{index}.png"
        cv2.imwrite(str(folder / name), np.roll(face, 7 * index, 1)[..., ::-1])
        kind = "composite" if index == 4 else "studio"
        entries.append({"file": name, "split": split, "set": kind, "scale": 1.0})
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def pair_folders(tmp_path: Path, face: np.ndarray) -> str:
    """One pair of 256 x 256 pixels, as `--pairs` names it."""
    for name, picture in (("thin", cv2.blur(face, (5, 5))), ("whole", face)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "0.png"), picture)
    return f"{tmp_path / 'thin'}:{tmp_path / 'whole'}"


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """A translucent grey plate that faces +z, 0.36 wide, in two layers."""
    line = torch.linspace(-0.18, 0.18, 60)
    y, x = torch.meshgrid(line, line, indexing="ij")
    layers = [torch.stack((x, y, torch.full_like(x, z)), -1).view(-1, 3) for z in (0.0, -0.02)]
    center = torch.cat(layers)
    n = len(center)
    write_ply(
        tmp_path / "plate.ply",
        Splats(
            center=center,
            log_scale=torch.tensor((-5.5, -5.5, -8.0)).repeat(n, 1),
            rotation=torch.tensor([[1.0, 0, 0, 0]]).expand(n, 4),
            opacity=torch.full((n,), 0.5),
            harmonics=torch.zeros(n, 1, 3),
        ),
    )
    return tmp_path / "plate.ply"


@pytest.fixture
def ball(tmp_path: Path) -> Path:
    """A ball of random colours, 0.2 across."""
    center = torch.nn.functional.normalize(torch.randn(900, 3), dim=-1) * 0.1
    write_ply(
        tmp_path / "ball.ply",
        Splats(
            center=center,
            log_scale=torch.full((900, 3), -5.0),
            rotation=torch.tensor([[1.0, 0, 0, 0]]).expand(900, 4),
            opacity=torch.full((900,), 3.0),
            harmonics=torch.rand(900, 1, 3) * 3 - 1.5,
        ),
    )
    return tmp_path / "ball.ply"
