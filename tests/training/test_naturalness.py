from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import save_file

from splatmend.core import CheckpointError, ModelError, to_tensor
from splatmend.training import naturalness
from splatmend.training.naturalness import Niqe, find_niqe, load_niqe


@pytest.fixture(scope="module")
def niqe() -> Niqe:
    """A model of three photographs; that of the paper is fitted to 125, in the same way."""
    pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket())
    features = torch.cat(
        [naturalness._block_features(naturalness._luma(_double(p))[0]) for p in pictures]
    )
    textured = features[~features.isnan().any(1)]
    return Niqe(textured.mean(0), textured.T.cov())


def _double(picture: np.ndarray) -> torch.Tensor:
    return to_tensor([picture]).double()


def test_features_are_those_of_the_reference() -> None:
    # with these features the paper's model gives 2.62552, calculate_niqe of BasicSR 1.4.2
    features = naturalness._block_features(naturalness._luma(_double(skimage.data.chelsea()))[0])
    assert features.shape == (12, 36)
    means = features.nanmean(0)[[0, 1, 2, 5, 18, 35]].tolist()
    expected = [2.061833, 0.706503, 0.683667, 0.113593, 2.187000, 0.109322]
    assert means == pytest.approx(expected, abs=1e-5)


def test_damage_makes_a_picture_less_natural(niqe: Niqe) -> None:
    picture = skimage.data.chelsea()
    noise = np.random.default_rng(0).normal(0, 40, picture.shape)
    noisy = np.clip(picture + noise, 0, 255).astype(np.uint8)
    clean, blurred, spoilt = niqe(
        to_tensor([picture, cv2.GaussianBlur(picture, (0, 0), 3), noisy])
    ).tolist()
    assert clean < blurred
    assert clean < spoilt


def test_each_picture_stands_alone(niqe: Niqe) -> None:
    pictures = to_tensor([skimage.data.chelsea(), skimage.data.chelsea()[::-1].copy()])
    together = niqe(pictures)
    assert together.shape == (2,)
    assert torch.equal(together[1:], niqe(pictures[1:]))


def test_plain_ground_around_a_subject_does_not_break_it(niqe: Niqe) -> None:
    picture = np.full((384, 480, 3), 255, np.uint8)
    picture[96:288, 96:384] = skimage.data.chelsea()[:192, :288]
    assert niqe(to_tensor([picture])).isfinite().all()


@pytest.mark.parametrize("size", [(95, 400), (96, 191), (40, 40)])
def test_pictures_without_two_textured_blocks_have_no_figure(
    niqe: Niqe, size: tuple[int, int]
) -> None:
    assert niqe(torch.rand(1, 3, *size)).isnan().all()
    assert niqe(torch.full((1, 3, 300, 300), 0.5)).isnan().all()


def test_models_are_read_as_ours_and_as_the_authors(niqe: Niqe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"put niqe_pris_params\.npz into the folder"):
        find_niqe(tmp_path)
    numbers = {"mu_pris_param": niqe.mean.numpy()[None], "cov_pris_param": niqe.covariance.numpy()}
    np.savez(tmp_path / "niqe_pris_params.npz", **numbers)
    theirs = load_niqe(find_niqe(tmp_path))
    save_file({"mean": niqe.mean, "covariance": niqe.covariance}, tmp_path / "niqe.safetensors")
    ours = load_niqe(find_niqe(tmp_path))
    for model in (theirs, ours):
        assert torch.equal(model.mean, niqe.mean)
        assert torch.equal(model.covariance, niqe.covariance)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"mean": torch.zeros(36), "covariance": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"covariance of \(2, 2\), needed are 36 features"):
        load_niqe(path)
    with pytest.raises(CheckpointError, match="no model of NIQE"):
        load_niqe(tmp_path / "none.safetensors")
