"""Damage and bending of the avatars that pairs are made of."""

from pathlib import Path

import numpy as np
import torch

from splatmend.training.avatars.rendered_pairs import bend, degrade_avatar
from splatmend.training.gaussians.ply import read_ply


def test_every_kind_of_damage_leaves_sound_splats(plate: Path) -> None:
    splats = read_ply(plate)
    sizes = set()
    for seed in range(25):
        damaged = degrade_avatar(splats, np.random.default_rng(seed))
        assert all(value.isfinite().all() for value in vars(damaged).values())
        sizes.add(len(damaged))
    assert len(splats) in sizes  # moved or faded
    assert min(sizes) < 0.15 * len(splats)  # merged


def test_heads_are_bent_smoothly_and_each_in_its_own_way(plate: Path) -> None:
    splats = read_ply(plate)
    first, again, other = (bend(splats, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.center, again.center)
    assert not torch.allclose(first.center, other.center, atol=1e-3)
    row = slice(60)  # neighbours on the plate, 6 mm apart, stay neighbours
    gaps = (first.center[row][1:] - first.center[row][:-1]).norm(dim=1) / (0.36 / 59)
    assert 0.7 < gaps.min() < gaps.max() < 1.3
    assert gaps.max() - gaps.min() > 0.02  # bent, not only stretched
