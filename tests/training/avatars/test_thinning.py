import math

import pytest
import torch
from torch.nn import functional as F

from splatmend.core import InputError
from splatmend.training.avatars.thinning import fade, grow, jitter, merge, prune
from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.rasterizer import rotation_matrices


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(n: int = 400) -> Splats:
    return Splats(
        center=torch.randn(n, 3),
        log_scale=torch.randn(n, 3) * 0.3 - 3,
        rotation=torch.randn(n, 4),
        opacity=torch.randn(n),
        harmonics=torch.rand(n, 4, 3),
    )


def covariance(splats: Splats) -> torch.Tensor:
    turn = rotation_matrices(splats.rotation)
    return turn @ torch.diag_embed((2 * splats.log_scale).exp()) @ turn.mT


@pytest.mark.parametrize("step", [merge, prune])
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.1])
def test_the_share_asked_for_is_left(step, keep: float) -> None:
    left = step(cloud(), keep, generator())
    assert len(left) == round(400 * keep)
    assert all(value.isfinite().all() for value in vars(left).values())


def test_nearest_neighbours_merge_first() -> None:
    """Pairs that stand close together become one each; none merges across the gaps."""
    one = cloud(50)
    places = torch.arange(50.0)[:, None] * torch.tensor([1.0, 0, 0])
    offset = torch.tensor([0.01, 0, 0])
    pairs = Splats(
        center=torch.cat((places, places + offset)),
        **{
            name: getattr(one, name).repeat(2, *[1] * (getattr(one, name).ndim - 1))
            for name in ("log_scale", "rotation", "opacity", "harmonics")
        },
    )
    left = merge(pairs, 0.5, generator(), pairing="nearest").center[:, 0].sort().values
    torch.testing.assert_close(left, torch.arange(50.0) + 0.005, atol=1e-3, rtol=0)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.1])
def test_nearest_pairing_leaves_the_share_asked_for(keep: float) -> None:
    left = merge(cloud(), keep, generator(), pairing="nearest")
    assert len(left) == round(400 * keep)
    assert all(value.isfinite().all() for value in vars(left).values())


@pytest.mark.parametrize(
    "step",
    [lambda s, g: merge(s, 0.3, g), lambda s, g: prune(s, 0.3, g), lambda s, g: jitter(s, 1, g)],
)
def test_a_seed_names_its_result(step) -> None:
    ours = cloud()
    first, again, other = (step(ours, generator(s)).center for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_merged_pair_has_the_moments_of_both() -> None:
    pair = Splats(
        center=torch.tensor([[0.0, 0, 0], [0.2, 0, 0]]),
        log_scale=torch.tensor([[0.1, 0.05, 0.01]]).log().expand(2, 3),
        rotation=torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4),
        opacity=torch.zeros(2),
        harmonics=torch.tensor([[[0.2, 0.4, 0.6]], [[0.4, 0.6, 0.8]]]),
    )
    one = merge(pair, 0.5, generator())
    torch.testing.assert_close(one.center, torch.tensor([[0.1, 0, 0]]))
    torch.testing.assert_close(one.harmonics, torch.tensor([[[0.3, 0.5, 0.7]]]))
    expected = torch.diag(torch.tensor([0.1**2 + 0.1**2, 0.05**2, 0.01**2]))
    torch.testing.assert_close(covariance(one)[0], expected, atol=1e-6, rtol=1e-4)
    # as much is covered as before: opacity times the surface
    surface = math.sqrt(0.02) * 0.05
    assert one.opacity.sigmoid().item() == pytest.approx(2 * 0.5 * 0.1 * 0.05 / surface, rel=1e-3)


def test_merging_takes_likes_first() -> None:
    """Two colours in one place: the same colour merges, the edge between them stays."""
    left, right = cloud(200), cloud(200)
    ours = Splats(
        center=torch.cat((left.center - 1, right.center + 1)) * 0.1,
        log_scale=torch.cat((left.log_scale, right.log_scale)),
        rotation=torch.cat((left.rotation, right.rotation)),
        opacity=torch.cat((left.opacity, right.opacity)),
        harmonics=torch.cat((torch.zeros(200, 1, 3), torch.ones(200, 1, 3))),
    )
    value = merge(ours, 0.3, generator()).harmonics.mean((1, 2))
    assert ((value < 0.02) | (value > 0.98)).float().mean() > 0.9


def test_random_turns_survive_as_quaternions() -> None:
    """Merging a Gaussian with its own copy gives it back, whichever way it is turned."""
    for one in (cloud(60)[torch.tensor([i])] for i in range(60)):
        pair = Splats(*(value.repeat_interleave(2, 0) for value in vars(one).values()))
        ours, theirs = (covariance(s) for s in (merge(pair, 0.5, generator()), one))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


def test_jitter_is_measured_in_each_ones_own_size() -> None:
    ours = cloud(2000)
    moved = jitter(ours, 0.5, generator()).center - ours.center
    local = (rotation_matrices(ours.rotation).mT @ moved[..., None])[..., 0]
    torch.testing.assert_close(
        (local / ours.log_scale.exp()).std(0), torch.full((3,), 0.5), atol=0.05, rtol=0
    )


def test_grow_and_fade() -> None:
    ours = cloud()
    torch.testing.assert_close(grow(ours, 1.5).log_scale.exp(), 1.5 * ours.log_scale.exp())
    torch.testing.assert_close(fade(ours, 0.4).opacity.sigmoid(), 0.4 * ours.opacity.sigmoid())
    assert F.mse_loss(fade(ours, 1).opacity, ours.opacity) < 1e-6


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda s: merge(s, 0, generator()), r"keep must lie in \(0, 1\], got 0"),
        (lambda s: prune(s, 1.1, generator()), r"keep must lie in \(0, 1\], got 1.1"),
        (lambda s: grow(s, 0), "factor above 0, got 0"),
        (lambda s: fade(s, 2), r"factor in \(0, 1\], got 2"),
    ],
)
def test_impossible_amounts_are_refused(step, message: str) -> None:
    with pytest.raises(InputError, match=message):
        step(cloud())
