import importlib.util
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from splatmend.core import CheckpointError, to_tensor
from splatmend.training.losses.identity import (
    FaceModels,
    IdentityLoss,
    load_embedder,
    load_face_models,
)


class TinyEmbedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, rgb: Tensor) -> Tensor:
        return self.norm(self.conv(rgb)).relu().mean((2, 3))


class Everything(nn.Module):
    def forward(self, rgb: Tensor) -> Tensor:
        return rgb


def saved(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        torch.jit.script(module).save(str(path))
    return path


def test_the_same_face_costs_nothing_and_gradients_reach_ours_alone() -> None:
    loss = IdentityLoss(TinyEmbedder())
    ours, target = (torch.rand(2, 3, 24, 24, requires_grad=True) for _ in range(2))
    assert loss(target, target).abs().amax() < 1e-6
    value = loss(ours, target)
    assert value.shape == (2,)
    assert (value > 1e-4).all()
    value.sum().backward()
    assert ours.grad is not None
    assert ours.grad.abs().amax() > 0
    assert target.grad is None


def test_the_embedder_is_frozen_and_keeps_its_statistics() -> None:
    loss = IdentityLoss(TinyEmbedder())
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.train()
    loss(torch.rand(2, 3, 24, 24), torch.rand(2, 3, 24, 24))
    assert not any(p.requires_grad for p in loss.parameters())
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_an_embedder_comes_from_torchscript(tmp_path: Path) -> None:
    module = TinyEmbedder().eval()
    loss = IdentityLoss(load_embedder(saved(module, tmp_path / "tiny.pt")))
    ours = torch.rand(1, 3, 24, 24, requires_grad=True)
    target = torch.rand(1, 3, 24, 24)
    torch.testing.assert_close(loss(ours, target), IdentityLoss(module)(ours, target))
    loss(ours, target).sum().backward()
    assert ours.grad is not None
    assert ours.grad.abs().amax() > 0


def test_files_that_are_no_embedder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt is not an embedder in TorchScript"):
        load_embedder(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt is not an embedder in TorchScript"):
        load_embedder(tmp_path / "text.pt")
    gray = saved(nn.Conv2d(1, 4, 3), tmp_path / "gray.pt")
    with pytest.raises(CheckpointError, match=r"takes \(n, 3, h, w\)"):
        load_embedder(gray)
    with pytest.raises(CheckpointError, match=r"gives \(2, 3, 160, 160\) for two faces"):
        load_embedder(saved(Everything(), tmp_path / "everything.pt"))


def fake_models(*, seen: int) -> FaceModels:
    """A face whose landmarks are 68 steps of the picture's mean, embedded by its first pixels."""

    class Shape:
        def __init__(self, shift: float) -> None:
            self.shift = shift

        def parts(self) -> list[Any]:
            return [SimpleNamespace(x=i + self.shift, y=0.0) for i in range(68)]

    boxes = [SimpleNamespace(area=lambda area=area: area) for area in range(seen)]
    embedding = SimpleNamespace(
        compute_face_descriptor=lambda picture, _: picture.reshape(-1)[:6].astype(float)
    )
    return FaceModels(
        lambda _, enlarged: boxes if enlarged else [],  # found at the second look
        lambda picture, box: Shape(float(picture.mean()) + box.area()),
        embedding,
    )


def test_faces_are_compared_in_the_box_of_the_target() -> None:
    compare = fake_models(seen=3).against(torch.full((1, 3, 8, 8), 100 / 255))
    row = compare(torch.full((1, 3, 8, 8), 103 / 255))
    assert row["identity"] == pytest.approx(1)
    # three pixels, over six from the centre of points 36 to 41 to that of 42 to 47
    assert row["landmarks"] == pytest.approx(3 / 6)


def test_where_no_face_is_found_there_is_no_figure() -> None:
    row = fake_models(seen=0).against(torch.rand(1, 3, 8, 8))(torch.rand(1, 3, 8, 8))
    assert np.isnan([row["identity"], row["landmarks"]]).all()


@pytest.mark.slow
def test_a_real_face_that_blurs_and_moves_loses_identity_and_landmarks(face: np.ndarray) -> None:
    pytest.importorskip("dlib")
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("needs face-recognition-models")
    compare = load_face_models().against(to_tensor([face]))
    same, blurred, moved = (
        compare(to_tensor([picture]))
        for picture in (face, cv2.GaussianBlur(face, (0, 0), 4), np.roll(face, 6, 1))
    )
    assert same == pytest.approx({"identity": 1.0, "landmarks": 0.0})
    assert blurred["identity"] < 0.99
    assert 0 < blurred["landmarks"] < 0.1
    assert moved["landmarks"] > blurred["landmarks"]
    nobody = load_face_models().against(torch.rand(1, 3, 64, 64))
    assert np.isnan(nobody(torch.rand(1, 3, 64, 64))["identity"])
