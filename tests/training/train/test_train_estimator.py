"""Training of the estimator: what the truth is, what a tiny run learns, what the report says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core import InputError, load_checkpoint, to_tensor
from splatmend.core.estimator.network import artifact_score, load_estimator
from splatmend.core.resample import blur
from splatmend.training.degradations.recipes import add_noise
from splatmend.training.train.train_estimator import (
    EstimatorTrainConfig,
    agreement,
    correlation,
    degradation_cells,
    degradation_targets,
    train_estimator,
)

TINY = {
    "pool": 40,
    "max_steps": 20,
    "warmup_steps": 5,
    "batch": 8,
    "crop": 64,
    "held_out": 4,
    "held_out_crop": 64,
    "workers": 0,
}


@pytest.fixture
def picture(face: np.ndarray) -> Tensor:
    return to_tensor([face])


def worse(picture: Tensor, sigmas: tuple[float, ...], step: str) -> Tensor:
    """The targets of `picture` under growing blur or noise, rounded to 8 bits -> (n, 2)."""
    generator = torch.Generator().manual_seed(0)
    ruined = [
        blur(picture, s) if step == "blur" else add_noise(picture, s, generator) for s in sigmas
    ]
    rounded = torch.cat(ruined).clamp(0, 1).mul(255).round() / 255
    return degradation_targets(rounded, picture.expand(len(sigmas), -1, -1, -1))


def test_a_clean_pair_scores_nothing(picture: Tensor) -> None:
    assert degradation_targets(picture, picture).tolist() == [[0, 0]]


def test_blur_raises_blur_and_hardly_noise(picture: Tensor) -> None:
    targets = worse(picture, (0.4, 0.8, 1.5, 3.0, 6.0), "blur")
    assert (targets[:, 0].diff() > 0.02).all()
    assert targets[-1, 0] > 0.7
    assert targets[:, 1].max() < 0.1


def test_noise_raises_noise_and_hardly_blur(picture: Tensor) -> None:
    targets = worse(picture, (0.005, 0.01, 0.02, 0.05, 0.1), "noise")
    assert (targets[:, 1].diff() > 0.02).all()
    assert targets[-1, 1] > 0.4
    assert targets[:, 0].max() < 0.1


def test_both_at_once_raise_both_and_all_stays_bounded(picture: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    both = degradation_targets(add_noise(blur(picture, 2), 0.05, generator), picture)
    assert (both > 0.3).all()
    for other in (1 - picture, picture.flip(3), torch.rand(picture.shape)):
        targets = degradation_targets(other, picture)
        assert ((targets >= 0) & (targets <= 1)).all()


def test_plain_pictures_and_plain_grounds_count_for_nothing(picture: Tensor) -> None:
    plain = torch.full((1, 3, 128, 128), 0.5)
    rounding = plain + (torch.rand(plain.shape) - 0.5) / 255
    assert degradation_targets(rounding, plain).max() < 0.05
    # nor must a plain ground around a head dilute its scores
    ramp = torch.linspace(0, np.pi, 256).sin()
    vignette = 1 - (1 - picture) * ramp * ramp[:, None]
    pair = blur(vignette, 2), vignette
    framed = (F.pad(x, (128, 128, 128, 128), value=1) for x in pair)
    torch.testing.assert_close(
        degradation_targets(*framed), degradation_targets(*pair), rtol=0, atol=0.02
    )


def test_damage_is_found_where_it_is(picture: Tensor) -> None:
    half = picture.clone()
    half[..., :128] = blur(picture, 3)[..., :128]
    lost, seen, _, _ = degradation_cells(half, picture)[0]
    assert lost.shape == (16, 16)
    visible = seen > 0.5
    assert lost[:, :7][visible[:, :7]].min() > 0.2
    assert lost[:, 12:][visible[:, 12:]].max() < 0.01


@pytest.mark.parametrize("size", [(3, 5), (33, 70), (100, 100)])
def test_targets_of_any_size(picture: Tensor, size: tuple[int, int]) -> None:
    crop = picture[..., : size[0], : size[1]]
    assert degradation_targets(blur(crop, 1), crop).isfinite().all()
    with pytest.raises(InputError, match="agree in shape"):
        degradation_targets(picture, crop)


def test_correlations_are_those_of_the_textbook() -> None:
    a, b = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([1.0, 8.0, 9.0, 1000.0])
    found = correlation(a, b)
    ours, theirs = [1, 2.5, 2.5, 4], [1, 2, 3, 4]  # ranks; ties share theirs
    assert found["spearman"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
    assert found["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert correlation(torch.ones(4), b)["spearman"] == 0


def test_agreement_sets_errors_beside_a_constants() -> None:
    truth = torch.tensor([0.0, 0.5, 1.0])
    figures = agreement(truth + 0.1, truth, constant=0.5)
    assert figures["mae"] == pytest.approx(0.1)
    assert figures["mae_constant"] == pytest.approx(1 / 3)
    assert figures["mse_constant"] == pytest.approx(1 / 6)
    assert figures["spearman"] == 1


@pytest.mark.slow
def test_a_tiny_run_tells_ruined_pictures_from_clean_ones(
    portraits_folder: Path, tmp_path: Path, picture: Tensor, capsys: pytest.CaptureFixture
) -> None:
    options = TINY | {"pool": 96, "max_steps": 300}
    config = EstimatorTrainConfig(faces=(portraits_folder,), out=tmp_path / "run", **options)
    path = train_estimator(config)
    estimator = load_estimator(path)
    generator = torch.Generator().manual_seed(0)
    ruined = torch.cat((blur(picture, 3), add_noise(picture, 0.06, generator).clamp(0, 1)))
    with torch.no_grad():
        clean, (soft, rough) = estimator(picture)[0], estimator(ruined)
    assert (artifact_score(torch.stack((soft, rough))) > artifact_score(clean) + 0.1).all()
    # the two have next to the same mean: what tells them apart is no linear fit of it
    assert soft[0] - soft[1] > rough[0] - rough[1] + 0.1
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(report) == ["val", "test"]
    assert list(report["test"]) == ["blur", "noise", "artifact"]
    table = (tmp_path / "run" / "report.md").read_text()
    assert "| test | noise | 4 |" in table
    assert table in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_config_gives_the_same_weights(portraits_folder: Path, tmp_path: Path) -> None:
    options = TINY | {"pool": 8, "max_steps": 6, "held_out": 1}
    runs = [
        train_estimator(
            EstimatorTrainConfig(faces=(portraits_folder,), out=tmp_path / n, seed=s, **options)
        )
        for n, s in (("a", 0), ("b", 0), ("c", 1))
    ]
    first, again, other = (load_checkpoint(path)[1] for path in runs)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
def test_the_report_knows_lpips_and_real_pairs(
    portraits_folder: Path, tmp_path: Path, backbones: Path
) -> None:
    options = TINY | {"pool": 8, "max_steps": 6}
    train_estimator(
        EstimatorTrainConfig(
            faces=(portraits_folder,),
            out=tmp_path / "run",
            pairs=(f"{portraits_folder}:{portraits_folder}",),
            lpips_weights=backbones,
            **options,
        )
    )
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["renders"]["artifact"]["n"] == 6
    assert report["renders"]["artifact"]["spearman"] == 0  # equal pairs: the truth is constant
    assert abs(report["test"]["artifact, against lpips_alex"]["spearman"]) <= 1


def test_options_that_cannot_work_are_refused(portraits_folder: Path) -> None:
    for wrong in ({"max_steps": 5}, {"pool": 0}, {"crop": 16}):
        with pytest.raises(InputError):
            EstimatorTrainConfig(faces=(portraits_folder,), **wrong)
