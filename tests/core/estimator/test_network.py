"""The degradation estimator: its contract, its file, and what the embedded one can tell apart."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor
from torch.nn import functional as F

from splatmend.core import CheckpointError, CheckpointHeader, InputError, save_checkpoint, to_tensor
from splatmend.core.estimator import network as estimator_module
from splatmend.core.estimator.network import (
    DegradationEstimator,
    EstimatorConfig,
    artifact_score,
    load_estimator,
)


@pytest.fixture
def tiny() -> DegradationEstimator:
    return DegradationEstimator(EstimatorConfig(widths=(8, 8), blocks=1)).eval()


@pytest.fixture(scope="module")
def face() -> Tensor:
    return to_tensor([np.ascontiguousarray(astronaut()[:256, 100:356])])


def blurred(rgb: Tensor, side: int) -> Tensor:
    rim = side // 2
    return F.avg_pool2d(F.pad(rgb, (rim, rim, rim, rim), "replicate"), side, stride=1)


def noisy(rgb: Tensor, sigma: float) -> Tensor:
    return (rgb + sigma * torch.randn(rgb.shape)).clamp(0, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 9), (64, 64), (65, 130)])
@torch.no_grad()
def test_any_size_gives_two_scores_between_0_and_1(
    tiny: DegradationEstimator, size: tuple[int, int]
) -> None:
    for rgb in (torch.zeros(2, 3, *size), torch.ones(2, 3, *size), torch.rand(2, 3, *size)):
        scores = tiny(rgb)
        assert scores.shape == (2, 2)
        assert ((scores > 0) & (scores < 1)).all()


@torch.no_grad()
def test_pictures_of_a_batch_are_judged_alone_and_the_same_every_time(
    tiny: DegradationEstimator,
) -> None:
    rgb = torch.rand(3, 3, 40, 56)
    scores = tiny(rgb)
    assert torch.equal(scores, tiny(rgb))
    torch.testing.assert_close(scores, torch.cat([tiny(x) for x in rgb.split(1)]))
    assert tiny(rgb.half()).dtype == torch.float32


@torch.no_grad()
def test_scores_see_structure_beyond_brightness_and_contrast(
    tiny: DegradationEstimator, face: Tensor
) -> None:
    order = torch.randperm(256 * 256)
    shuffled = face.flatten(2)[..., order].view_as(face)  # the same colours, so mean and spread
    assert (tiny(face) - tiny(shuffled)).abs().max() > 1e-3
    one, other = face, shuffled
    middle = (tiny(one) + tiny(other)) / 2
    assert (tiny((one + other) / 2) - middle).abs().max() > 1e-3  # nor is it linear in pixels


def test_the_artifact_score_is_bounded_and_rises_with_either_score() -> None:
    assert artifact_score(torch.tensor([[0.0, 0.0], [1.0, 0.2], [0.5, 0.5]])).tolist() == [
        0.0,
        1.0,
        0.75,
    ]
    scores = torch.rand(100, 2)
    score = artifact_score(scores)
    assert ((score >= scores.max(1).values) & (score <= 1)).all()
    for index in range(2):
        worse = scores.clone()
        worse[:, index] = (worse[:, index] + 0.05).clamp(max=1)
        assert (artifact_score(worse) > score).all()


def test_a_frame_is_refused_unless_it_is_float_rgb(tiny: DegradationEstimator) -> None:
    for wrong in (torch.rand(1, 4, 8, 8), torch.rand(3, 8, 8), torch.rand(1, 3, 0, 8)):
        with pytest.raises(InputError, match="RGB as floats"):
            tiny(wrong)
    with pytest.raises(InputError, match="uint8"):
        tiny(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@torch.no_grad()
def test_a_checkpoint_rebuilds_the_estimator(tiny: DegradationEstimator, tmp_path: Path) -> None:
    path = tmp_path / "estimator.safetensors"
    save_checkpoint(path, CheckpointHeader("estimator", tiny.config.to_dict()), tiny.state_dict())
    loaded = load_estimator(path)
    rgb = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(rgb), tiny(rgb))
    assert loaded.config == tiny.config
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_files_that_are_no_estimator_are_refused(
    tiny: DegradationEstimator,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CheckpointError, match="holds a 'compact', not an estimator"):
        load_estimator(tiny_checkpoint)
    path = tmp_path / "wrong.safetensors"
    for config in ({"widths": [8, 16], "blocks": 1}, {"widths": [8]}, {"depth": 3}):
        save_checkpoint(path, CheckpointHeader("estimator", config), tiny.state_dict())
        with pytest.raises(CheckpointError, match="does not fit the estimator"):
            load_estimator(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_estimator(tmp_path / "nowhere.safetensors")
    monkeypatch.setattr(estimator_module, "_EMBEDDED", "nowhere.safetensors")
    with pytest.raises(CheckpointError, match="splatmend train-estimator"):
        load_estimator()


def test_the_default_network_is_small() -> None:
    assert sum(p.numel() for p in DegradationEstimator().parameters()) <= 150_000


@torch.no_grad()
def test_the_embedded_estimator_tells_blur_from_noise_from_neither(face: Tensor) -> None:
    assert (files("splatmend.core.estimator") / "weights.safetensors").stat().st_size < 400_000
    estimator = load_estimator()
    clean, soft, rough = (estimator(x)[0] for x in (face, blurred(face, 7), noisy(face, 0.05)))
    assert soft[0] > clean[0] + 0.1
    assert rough[1] > clean[1] + 0.1
    assert soft[1] < 0.5 * rough[1]
    assert rough[0] < 0.5 * soft[0]
    assert artifact_score(clean[None]) < artifact_score(torch.stack((soft, rough))).min()
