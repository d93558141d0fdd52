import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.data import astronaut
from torchvision.models import alexnet, vgg16


@pytest.fixture(scope="session")
def face() -> np.ndarray:
    """A real portrait, 256 x 256 RGB."""
    return np.ascontiguousarray(cv2.resize(astronaut()[:256, 100:356], (256, 256)))


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of LPIPS and DISTS, random, laid out as real ones: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    for name, network in (("alex", alexnet(weights=None)), ("vgg", vgg16(weights=None))):
        weights = {k: v.half() for k, v in network.features.state_dict().items()}
        save_file(weights, folder / f"lpips_{name}_features.fp16.safetensors")
    shares = {name: torch.rand(1475) for name in ("alpha", "beta")}
    save_file(shares, folder / "dists.safetensors")
    return folder


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
