"""Forward and back as the plain formulas, in one memory order."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from splatmend.core.perceptual.feature_math import gram, square_distance, unit_length


def plain_unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def plain_distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    return ((a - b).square() * weights[:, None, None]).sum(1).mean((1, 2))


def plain_gram(x: Tensor) -> Tensor:
    return torch.einsum("nchw,ndhw->ncd", x, x) / x[0, 0].numel()


WEIGHTS = torch.arange(1, 6, dtype=torch.float64)
LAST = torch.channels_last
OTHER = torch.rand(2, 5, 4, 3, generator=torch.Generator().manual_seed(1)).double()
OTHER = OTHER.contiguous(memory_format=LAST)
FORMULAS = {
    "unit_length": (unit_length, plain_unit),
    "square_distance": (
        lambda x: square_distance(x, OTHER, WEIGHTS),
        lambda x: plain_distance(x, OTHER, WEIGHTS),
    ),
    "square_distance, other side": (
        lambda x: square_distance(OTHER, x, WEIGHTS),
        lambda x: plain_distance(OTHER, x, WEIGHTS),
    ),
    "gram": (gram, plain_gram),
}


@pytest.fixture
def features() -> Tensor:
    """(2, 5, 4, 3), float64, channels last, with a gradient."""
    x = torch.rand(2, 5, 4, 3, generator=torch.Generator().manual_seed(2)).double()
    return x.contiguous(memory_format=LAST).requires_grad_()


@pytest.mark.parametrize(("ours", "plain"), FORMULAS.values(), ids=FORMULAS.keys())
def test_values_and_gradients_are_those_of_the_formula(
    ours: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], features: Tensor
) -> None:
    torch.testing.assert_close(ours(features), plain(features))
    upstream = torch.rand_like(plain(features))
    (expected,) = torch.autograd.grad(plain(features), features, upstream)
    (gradient,) = torch.autograd.grad(ours(features), features, upstream)
    torch.testing.assert_close(gradient, expected)
    assert gradient.is_contiguous(memory_format=LAST)
    planar = features.detach().contiguous().requires_grad_()
    (gradient,) = torch.autograd.grad(ours(planar), planar, upstream)
    torch.testing.assert_close(gradient, expected)


def test_half_precision_is_measured_in_float32() -> None:
    x = torch.rand(1, 5, 4, 3).bfloat16().requires_grad_()
    unit = unit_length(x)
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(1, 4, 3))
    unit[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_a_pixel_without_features_has_a_gradient_that_is_a_number() -> None:
    x = torch.rand(1, 5, 4, 3)
    x[..., 0, 0] = 0  # autograd through the square root gives NaN there
    x.requires_grad_()
    unit = unit_length(x)
    assert unit[..., 0, 0].tolist() == [[0] * 5]
    unit.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
