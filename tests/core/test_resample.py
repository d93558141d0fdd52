"""Each must be what PyTorch's own function gives: that is all there is to promise."""

import pytest
import torch
from torch.nn import functional as F

from splatmend.core.resample import halve, magnify, unshuffle

SIZES = ((2, 4), (6, 10), (36, 128))


@pytest.mark.parametrize("size", SIZES)
def test_halving_is_a_mean_of_two_by_two(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(halve(x), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), *SIZES])
def test_magnifying_is_bilinear_up_to_the_border(size: tuple[int, int], factor: int) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = magnify(x, factor), F.interpolate(x, scale_factor=factor, mode="bilinear")
    torch.testing.assert_close(ours, theirs)
    weight = torch.rand_like(ours)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unshuffling_moves_the_very_values_to_channels_last(dtype: torch.dtype) -> None:
    planar = torch.rand(2, 3, 8, 12).to(dtype)
    for x in (planar, planar.contiguous(memory_format=torch.channels_last)):
        cells = unshuffle(x, 4)
        assert torch.equal(cells, F.pixel_unshuffle(planar, 4))
        assert cells.is_contiguous(memory_format=torch.channels_last)
