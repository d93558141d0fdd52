from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from skimage.metrics import structural_similarity

from splatmend.core import CheckpointError, to_tensor
from splatmend.core.perceptual.lpips import Lpips, load_lpips
from splatmend.training.evaluate.metrics import psnr, ssim
from splatmend.training.losses.terms import gram_distance, log_mse


@pytest.fixture
def alex(backbones: Path) -> Lpips:
    return load_lpips("alex", backbones)


def test_equal_pictures_are_at_distance_zero_others_are_not(alex: Lpips) -> None:
    a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    assert alex(a, a).abs().amax() == 0
    assert (alex(a, b) > 1e-4).all()
    assert alex(a, b).shape == (2,)


def test_distance_agrees_with_the_lpips_package(alex: Lpips) -> None:
    a, b = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64)
    theirs = alex.lpips(2 * a - 1, 2 * b - 1).flatten()
    torch.testing.assert_close(alex(a, b), theirs)


def test_backbone_weights_are_those_of_the_file_and_frozen(alex: Lpips, backbones: Path) -> None:
    stored = load_file(backbones / "lpips_alex_features.fp16.safetensors")
    torch.testing.assert_close(
        dict(alex.lpips.net.slice3.named_parameters())["6.weight"], stored["6.weight"].float()
    )
    assert not any(p.requires_grad for p in alex.parameters())
    ours = torch.rand(1, 3, 64, 64, requires_grad=True)
    alex(ours, torch.rand(1, 3, 64, 64)).sum().backward()
    assert ours.grad is not None
    assert ours.grad.abs().amax() > 0


def test_incomplete_and_missing_backbones_are_refused(backbones: Path, tmp_path: Path) -> None:
    weights = load_file(backbones / "lpips_alex_features.fp16.safetensors")
    del weights["6.weight"]
    broken = tmp_path / "lpips_alex_features.fp16.safetensors"
    save_file(weights, broken)
    with pytest.raises(CheckpointError, match=r"lacks 6\.weight"):
        load_lpips("alex", tmp_path)
    with pytest.raises(CheckpointError, match=r"no file .*vgg"):
        load_lpips("vgg", tmp_path)
    broken.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="not a safetensors backbone"):
        load_lpips("alex", tmp_path)


def test_gram_compares_samples_one_by_one() -> None:
    a, b = torch.rand(2, 8, 6, 6), torch.rand(2, 8, 6, 6)
    together = gram_distance([a], [b])
    alone = torch.cat([gram_distance([a[i : i + 1]], [b[i : i + 1]]) for i in range(2)])
    torch.testing.assert_close(together, alone)
    # where things are does not matter, what texture they are does
    torch.testing.assert_close(gram_distance([a], [a.flip(3)]), torch.full((2,), 1e-4))


def test_log_mse_is_psnr_turned_round_and_level_near_perfection() -> None:
    clean = torch.full((1, 3, 8, 8), 0.5)
    assert log_mse(clean + 0.1, clean).item() == pytest.approx(-2, abs=1e-3)  # 20 dB
    assert log_mse(clean, clean).item() == pytest.approx(-5)  # 50 dB
    mild, heavy = (clean + e for e in (0.02, 0.2))
    # a tenth less error is worth the same, however large the error was
    gains = [log_mse(p, clean) - log_mse(clean + 0.9 * (p - clean), clean) for p in (mild, heavy)]
    assert gains[0].item() == pytest.approx(gains[1].item(), rel=0.05)


def test_psnr_of_a_known_error() -> None:
    clean = torch.full((1, 3, 4, 4), 0.5)
    assert psnr(clean + 0.1, clean).item() == pytest.approx(20, abs=1e-3)
    assert psnr(clean, clean).item() == pytest.approx(60)


def test_ssim_is_that_of_scikit_image(face: np.ndarray) -> None:
    worse = cv2.GaussianBlur(face, (0, 0), 2)
    expected = structural_similarity(
        face / 255,
        worse / 255,
        channel_axis=2,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    ours, target = to_tensor([face]), to_tensor([worse])
    assert ssim(ours, target).item() == pytest.approx(expected, abs=1e-6)
    assert ssim(ours, ours).item() == pytest.approx(1)
    assert ssim(ours[..., :10], target[..., :10]).isnan().all()
