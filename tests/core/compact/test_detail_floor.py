import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.compact.detail_floor import FLOOR_REACH, keep_detail


def hair(levels: float, side: int = 128) -> Tensor:
    """Fine noise of so many levels of 255, (1, 3, side, side)."""
    return 0.5 + levels / 255 * torch.randn(1, 1, side, side).expand(1, 3, side, side)


def smear(rgb: Tensor) -> Tensor:
    """The residual that blurs a picture."""
    return F.avg_pool2d(F.pad(rgb, (4, 4, 4, 4), "replicate"), 9, 1) - rgb


def left(rgb: Tensor, residual: Tensor) -> float:
    """Share of the energy that is left."""
    return ((rgb + residual).var() / rgb.var()).item()


def test_strong_detail_is_not_wiped_off() -> None:
    rgb = hair(25)
    whole = smear(rgb)
    kept = keep_detail(rgb, whole)
    assert left(rgb, whole) < 0.05
    energy = 25**2
    assert left(rgb, kept) == pytest.approx(0.9 * energy / (energy + 40), abs=0.04)


def test_weak_detail_may_be_calmed() -> None:
    rgb = hair(1.5)
    whole = smear(rgb)
    assert left(rgb, whole) < 0.05
    assert left(rgb, keep_detail(rgb, whole)) < 0.1


def test_what_sharpens_or_redraws_is_left_alone() -> None:
    rgb = hair(25)
    for residual in (-0.5 * smear(rgb), hair(32) - rgb, torch.zeros_like(rgb), 0.04 * smear(rgb)):
        assert torch.equal(keep_detail(rgb, residual), residual)


def test_only_the_place_that_loses_too_much_is_held_back() -> None:
    rgb = hair(25, side=256)
    residual = smear(rgb)
    residual[..., 128:] = 0.04 * residual[..., 128:]
    kept = keep_detail(rgb, residual)
    assert torch.equal(kept[..., 128 + FLOOR_REACH :], residual[..., 128 + FLOOR_REACH :])
    assert kept[..., :96].abs().mean() < 0.4 * residual[..., :96].abs().mean()


def test_it_looks_no_farther_than_it_says() -> None:
    rgb, other = hair(25), hair(25)
    other[..., : 128 - FLOOR_REACH] = rgb[..., : 128 - FLOOR_REACH]
    residual = 0.7 * smear(rgb)
    kept, changed = keep_detail(rgb, residual), keep_detail(other, residual)
    edge = 128 - 2 * FLOOR_REACH
    assert torch.equal(kept[..., :edge], changed[..., :edge])
    assert not torch.equal(kept, changed)


def test_gradients_flow_through_the_residual_alone() -> None:
    rgb, residual = hair(25), smear(hair(25)).requires_grad_()
    keep_detail(rgb, residual).sum().backward()
    assert residual.grad is not None
    assert residual.grad.min() >= 0
    assert residual.grad.max() <= 1
