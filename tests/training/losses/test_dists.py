from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from splatmend.core import CheckpointError, InputError, ModelError
from splatmend.core.perceptual.lpips import load_lpips
from splatmend.training.losses import dists as dists_module
from splatmend.training.losses.dists import DistsLoss, find_dists_weights


@pytest.fixture(scope="module")
def weights(backbones: Path) -> Path:
    return backbones / "dists.safetensors"


@pytest.fixture(scope="module")
def dists(backbones: Path, weights: Path) -> DistsLoss:
    return DistsLoss(load_lpips("vgg", backbones), weights)


def test_equal_pictures_are_at_distance_zero_and_worse_ones_further(dists: DistsLoss) -> None:
    clean = torch.rand(2, 3, 48, 40)
    mild, heavy = (clean + e * torch.randn_like(clean) for e in (0.05, 0.5))
    assert dists(clean, clean).abs().amax() < 1e-6
    assert dists(mild, clean).shape == (2,)
    assert (dists(heavy, clean) > dists(mild, clean)).all()
    assert (dists(mild, clean) > 1e-4).all()
    torch.testing.assert_close(dists(mild, clean), dists(clean, mild))


def test_distance_is_the_formula_of_the_paper(dists: DistsLoss, weights: Path) -> None:
    a, b = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    stored = {name: value.double().numpy() for name, value in load_file(weights).items()}
    total, similarity, channel = sum(w.sum() for w in stored.values()), 0.0, 0
    for x, y in zip(dists.features(a), dists.features(b), strict=True):
        for u, v in zip(x[0].double().numpy(), y[0].double().numpy(), strict=True):
            texture = (2 * u.mean() * v.mean() + 1e-6) / (u.mean() ** 2 + v.mean() ** 2 + 1e-6)
            covariance = ((u - u.mean()) * (v - v.mean())).mean()
            structure = (2 * covariance + 1e-6) / (u.var() + v.var() + 1e-6)
            shares = [stored[name][channel] / total for name in ("alpha", "beta")]
            similarity += np.dot(shares, (texture, structure))
            channel += 1
    assert channel == 1475
    assert dists(a, b).item() == pytest.approx(1 - similarity, abs=1e-5)


def test_pooling_is_a_root_mean_square_that_does_not_alias(dists: DistsLoss) -> None:
    assert dists._pooled(torch.full((1, 2, 9, 9), 3.0))[..., 1:-1, 1:-1].allclose(torch.tensor(3.0))
    # stripes one pixel wide: a maximum would see them all or, one pixel further, none
    stripes = torch.arange(16.0).remainder(2).expand(1, 1, 16, 16)
    even, odd = (dists._pooled(s)[..., 1:-1, 1:-1] for s in (stripes, 1 - stripes))
    torch.testing.assert_close(even, odd)


def test_gradients_reach_the_picture_and_nothing_else(dists: DistsLoss) -> None:
    ours = torch.rand(1, 3, 32, 32, requires_grad=True)
    dists(ours, torch.rand(1, 3, 32, 32)).sum().backward()
    assert ours.grad is not None
    assert ours.grad.isfinite().all()
    assert ours.grad.abs().amax() > 0
    assert not any(p.requires_grad for p in dists.parameters())


def test_a_step_down_its_gradient_brings_a_picture_nearer(dists: DistsLoss) -> None:
    clean = torch.rand(1, 3, 32, 32)
    ours = torch.rand(1, 3, 32, 32, requires_grad=True)
    before = dists(ours, clean).sum()
    before.backward()
    assert ours.grad is not None
    after = dists(ours.detach() - 0.05 * ours.grad / ours.grad.norm(), clean)
    assert after.item() < before.item()


def test_weights_are_found_in_the_folder_or_in_the_authors_package(
    weights: Path, dists: DistsLoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_dists_weights(weights.parent) == weights
    with pytest.raises(ModelError, match=r"pip install dists-pytorch, or put dists\.safetensors"):
        find_dists_weights(tmp_path)

    class Entry:  # as importlib.metadata.PackagePath
        name = "weights.pt"

        def locate(self) -> Path:
            return tmp_path / self.name

    class Package:
        files = (Entry(),)

    stored = {name: value[:, None, None] for name, value in load_file(weights).items()}
    torch.save(stored, tmp_path / "weights.pt")
    monkeypatch.setattr(dists_module, "distribution", lambda _: Package())
    theirs = DistsLoss(dists.vgg, find_dists_weights(tmp_path))
    assert torch.equal(theirs.alpha, dists.alpha)


def test_other_backbones_and_weights_are_refused(
    dists: DistsLoss, weights: Path, backbones: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="13 convolutions of VGG-16, this backbone has 5"):
        DistsLoss(load_lpips("alex", backbones), weights)
    path = tmp_path / "weights.safetensors"
    save_file({"alpha": torch.ones(7), "beta": torch.ones(1475)}, path)
    with pytest.raises(CheckpointError, match="7 and 1475 weights of DISTS, needed are 1475"):
        DistsLoss(dists.vgg, path)
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="no weights of DISTS"):
        DistsLoss(dists.vgg, path)
