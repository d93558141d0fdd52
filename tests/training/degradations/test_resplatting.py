import math

import numpy as np
import pytest
import torch

from splatmend.core import to_tensor
from splatmend.training import Gaussians, SplatOptions, place, rasterize, resplat, thin


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one(x: float, y: float, sigma: tuple[float, float], angle: float = 0.0) -> Gaussians:
    return Gaussians(
        center=torch.tensor([[[x, y]]]),
        sigma=torch.tensor([[sigma]]),
        angle=torch.tensor([[angle]]),
        weight=torch.ones(1, 1),
        color=torch.tensor([[[1.0, 0.5, 0.25]]]),
    )


@pytest.mark.parametrize("sigma", [1.0, 2.5, 5.0, 11.0])
def test_a_gaussian_lands_where_it_stands_at_its_size(sigma: float) -> None:
    color, weight, plain = rasterize(one(40.0, 70.0, (sigma, sigma)), (128, 96))
    assert torch.equal(weight, plain)
    torch.testing.assert_close(color[:, 1:2], 0.5 * weight)
    mass = weight[0, 0].double()
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(96.0), indexing="ij")
    assert (mass * x).sum() / mass.sum() == pytest.approx(40, abs=0.15)
    assert (mass * y).sum() / mass.sum() == pytest.approx(70, abs=0.15)
    spread = ((mass * (x - 40) ** 2).sum() / mass.sum()).sqrt().item()
    # cut off at 2.2 standard deviations, where a Gaussian has lost some of its width
    assert spread == pytest.approx(0.83 * sigma, rel=0.1)


def test_the_long_axis_points_along_the_angle() -> None:
    _, weight, _ = rasterize(one(32.0, 32.0, (6.0, 1.5), math.pi / 2), (64, 64))
    assert weight[0, 0, 38, 32] > 0.3 > 0.05 > weight[0, 0, 32, 38]


def test_finer_splats_are_nearer_to_the_picture(face: np.ndarray) -> None:
    picture = to_tensor([face])
    errors = [
        (resplat(picture, SplatOptions(spacing=s), generator())[0] - picture).abs().mean().item()
        for s in (1.5, 3.0, 6.0)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.02 < errors[2]


def test_a_seed_names_its_result(face: np.ndarray) -> None:
    picture = to_tensor([face])
    first, again, other = (resplat(picture, SplatOptions(), generator(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_may_hold_different_pictures(face: np.ndarray) -> None:
    pictures = to_tensor([face, face[::-1].copy()])
    splatted, coverage = resplat(pictures, SplatOptions(spacing=3), generator())
    assert splatted.shape == pictures.shape
    assert coverage.shape == (2, 1, 256, 256)
    for ours, source in zip(splatted, pictures, strict=True):
        assert (ours - source).abs().mean() < 0.06


def test_inside_a_silhouette_the_ground_does_not_bleed_in(face: np.ndarray) -> None:
    alpha = torch.zeros(1, 1, 256, 256)
    alpha[..., 64:192, 64:192] = 1
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    picture = to_tensor([face // 2]) * alpha + red * (1 - alpha)
    gaussians = place(picture, SplatOptions(spacing=5), generator(), alpha=alpha)
    assert (gaussians.color[..., 0] < 0.75).all()
    _, coverage = resplat(picture, SplatOptions(spacing=5), generator(), alpha=alpha)
    assert coverage[..., 100:150, 100:150].mean() > 0.95
    assert coverage[..., :32, :32].max() < 0.05


def test_detail_draws_gaussians_to_edges() -> None:
    picture = torch.zeros(1, 3, 128, 128)
    picture[..., 64:] = 1

    def share_on_edge(detail: float) -> float:
        options = SplatOptions(spacing=4, detail=detail)
        x = place(picture, options, generator()).center[..., 0]
        return ((x - 63.5).abs() < 5).float().mean().item()

    assert share_on_edge(0.0) == pytest.approx(10 / 128, abs=0.03)
    assert share_on_edge(1.2) > 0.3


def test_thinning_leaves_the_share_asked_for(face: np.ndarray) -> None:
    pictures = to_tensor([face, face[::-1].copy()])
    fine = place(pictures, SplatOptions(spacing=2), generator())
    count = fine.center.shape[1]
    for keep in (1.0, 0.5, 0.07):
        left = thin(fine, keep, generator())
        assert left.center.shape == (2, round(keep * count), 2)
        assert left.sigma.isfinite().all()
        assert left.sigma.amin() > 0
        assert left.color.amin() >= fine.color.amin()
        assert left.color.amax() <= fine.color.amax()


def test_thinning_melts_texture_before_outlines() -> None:
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    weave = 0.08 * (((x // 2 + y // 2) % 2) - 0.5)
    picture = (0.3 + 0.5 * (x >= 64) + weave * (x < 48)).expand(1, 3, -1, -1).contiguous()

    def error(options: SplatOptions) -> torch.Tensor:
        splatted, _ = resplat(picture, options, generator())
        return (splatted - picture).abs().mean((0, 1, 2))  # by column

    thinned = error(SplatOptions(spacing=1.5, spread=0.6, keep=0.1))
    # as few Gaussians, but placed instead of merged: they smear the outline
    sparse = error(SplatOptions(spacing=1.5 / 0.1**0.5, detail=0.0, spread=0.6))
    assert thinned[8:40].mean() > 0.5 * 0.04  # the weave is gone: its mean deviation is 0.04
    assert thinned[60:68].mean() < 0.5 * sparse[60:68].mean()


def test_a_merged_pair_has_the_moments_of_both() -> None:
    x = torch.tensor([10.0, 14.0, *range(100, 800, 100)])
    far = Gaussians(
        center=torch.stack((x, torch.full((9,), 30.0)), -1)[None],
        sigma=torch.full((1, 9, 2), 2.0),
        angle=torch.zeros(1, 9),
        weight=torch.ones(1, 9),
        color=torch.tensor([0.2, 0.6, 0, 1, 0, 1, 0, 1, 0])[None, :, None].expand(1, 9, 3),
    )
    # of nine to eight: one merge, of the nearest pair once a shift of the curve lets it meet
    tries = (thin(far, 8 / 9, generator(seed)) for seed in range(20))
    merged = next(t for t in tries if (t.center[0, :, 0] - 12).abs().min() < 1)
    index = (merged.center[0, :, 0] - 12).abs().argmin()
    torch.testing.assert_close(merged.center[0, index], torch.tensor([12.0, 30.0]))
    # along the line 2**2 of each and 2**2 of their distance, across it 2**2
    torch.testing.assert_close(merged.sigma[0, index], torch.tensor([8.0**0.5, 2.0]))
    torch.testing.assert_close(merged.color[0, index], torch.full((3,), 0.4))
