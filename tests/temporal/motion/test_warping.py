"""Backward warping: direction, units, borders, and the identity."""

import math

import pytest
import torch

from splatmend.core import InputError
from splatmend.temporal import warp


def rotation(height, width, degrees, zoom=1.0):
    """Backward flow of a picture that turns clockwise and grows about its middle."""
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    turn = math.radians(degrees)
    cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
    return torch.stack([cos * x + sin * y - x, cos * y - sin * x - y])[None]


def smooth(height=48, width=64):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([(x / 7).sin(), (y / 9).cos(), ((x + y) / 11).sin()])[None] * 0.4 + 0.5


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_zero_flow_is_the_identity_bit_for_bit(mode, dtype):
    picture = torch.rand(2, 3, 37, 53).to(dtype)
    warped, inside = warp(picture, torch.zeros(2, 2, 37, 53), mode=mode)
    assert torch.equal(warped, picture)
    assert warped.dtype == dtype
    assert inside.all()
    assert inside.shape == (2, 1, 37, 53)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_what_moved_right_and_down_has_negative_flow(mode):
    last = torch.rand(1, 1, 20, 30)
    now = last.roll((2, 5), (2, 3))  # 2 down, 5 to the right
    flow = torch.tensor([-5.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 20, 30)
    warped, inside = warp(last, flow, mode=mode)
    assert torch.allclose(warped[..., 2:, 5:], now[..., 2:, 5:], atol=1e-4)
    assert inside[..., 2:, 5:].all()
    assert not inside[..., :2, :].any()
    assert not inside[..., :, :5].any()


def test_beyond_the_border_the_last_pixels_go_on():
    picture = torch.rand(1, 1, 8, 8)
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = -20
    warped, inside = warp(picture, flow)
    assert torch.equal(warped, picture[..., :1].expand_as(picture))
    assert not inside.any()


@pytest.mark.parametrize(("mode", "error"), [("bilinear", 4e-3), ("bicubic", 1.5e-3)])
def test_there_and_back(mode, error):
    picture = smooth()
    there, back = rotation(48, 64, 4), rotation(48, 64, -4)
    twice = warp(warp(picture, there, mode=mode)[0], back, mode=mode)[0]
    assert (twice - picture)[..., 8:-8, 8:-8].abs().max() < error


def test_flow_that_is_not_finite_is_outside_and_harms_nothing():
    flow = torch.zeros(1, 2, 6, 6)
    flow[0, 0, 1, 1], flow[0, 1, 2, 2], flow[0, 0, 3, 3] = math.nan, math.inf, 1e30
    for mode in ("bilinear", "bicubic"):
        warped, inside = warp(torch.rand(1, 3, 6, 6), flow, mode=mode)
        assert warped.isfinite().all()
        assert inside.sum() == 33


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_gradients_reach_picture_and_flow(mode):
    picture = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    flow = (torch.rand(1, 2, 5, 6, dtype=torch.float64) * 0.6 + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, f: warp(p, f, mode=mode)[0], (picture, flow))


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"flow of shape \(1, 2, 4, 5\)"):
        warp(torch.rand(1, 3, 4, 5), torch.zeros(1, 2, 5, 4))
    with pytest.raises(InputError, match="'nearest'"):
        warp(torch.rand(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), mode="nearest")
