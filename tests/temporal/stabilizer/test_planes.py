"""Steps on planes: OpenCV and torch agree, for any size."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from splatmend.temporal import warp
from splatmend.temporal.stabilizer import planes

SIZES = [(1, 1), (3, 5), (37, 53), (64, 96)]


def plane(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.rand((count, *size), generator=torch.Generator().manual_seed(0))


def both(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Call on the CPU, and as on a device."""
    here = call()
    with monkeypatch.context() as patched:
        patched.setattr(planes, "_is_cpu", lambda _: False)
        return here, call()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "step",
    [
        planes.half,
        planes.soften,
        planes.erode,
        lambda p: planes.box(p, 3),
        lambda p: planes.box(p, 9),
        lambda p: planes.whole(planes.half(p), p),
    ],
    ids=["half", "soften", "erode", "box of 3", "box of 9", "whole"],
)
def test_both_ways_give_the_same(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], step: Callable[[Tensor], Tensor]
) -> None:
    here, there = both(monkeypatch, lambda: step(plane(size)))
    assert here.shape == there.shape
    assert torch.allclose(here, there, atol=1e-5)


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sampling_agrees_but_for_a_32nd_of_a_pixel(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], cubic: bool
) -> None:
    smooth = planes.box(planes.box(plane(size), 5), 5)
    motion = 4 * torch.randn((*size, 2), generator=torch.Generator().manual_seed(1))
    places = planes.positions(motion)
    here, there = both(monkeypatch, lambda: planes.sample(smooth, places, cubic=cubic))
    assert torch.allclose(here, there, atol=0.01)
    if not cubic:
        warped, _ = warp(smooth[None], motion.movedim(-1, 0)[None])
        assert torch.allclose(here, warped[0], atol=0.01)


def test_a_plane_is_shrunk_to_means() -> None:
    steps = torch.arange(16.0).view(1, 4, 4)
    assert planes.shrink(steps, (2, 2)).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    assert planes.half(steps).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]


def test_an_odd_side_is_rounded_up() -> None:
    assert planes.half(torch.ones(1, 5, 7)).shape == (1, 3, 4)
    assert planes.whole(torch.ones(1, 3, 4), torch.ones(1, 5, 7)).shape == (1, 5, 7)


def test_the_least_of_nine() -> None:
    one = torch.ones(1, 5, 6)
    one[0, 2, 3] = 0
    assert planes.erode(one)[0, 1:4, 2:5].sum() == 0
    assert planes.erode(one).sum() == 30 - 9


def test_a_picture_at_rest_is_inside_everywhere_and_motion_leads_out() -> None:
    still = planes.half_positions(planes.positions(torch.zeros(20, 30, 2)))
    assert planes.inside(still).all()
    motion = torch.zeros(20, 30, 2)
    motion[..., 0], motion[..., 1] = 4, -2  # comes from the right and from above
    seen = planes.inside(planes.half_positions(planes.positions(motion)))[0]
    assert seen[1:, :-2].all()
    assert not seen[:1].any()
    assert not seen[:, -2:].any()


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e30])
def test_motion_that_is_not_finite_leads_out(odd: float) -> None:
    motion = torch.zeros(8, 8, 2)
    motion[4, 5, 1] = odd
    places = planes.positions(motion)
    assert places.isfinite().all()
    seen = planes.inside(planes.half_positions(places))[0]
    assert seen.sum() == 15
    assert seen[2, 2] == 0


def test_half_positions_point_to_the_same_content() -> None:
    x = torch.arange(32.0).expand(1, 24, 32).contiguous()
    motion = torch.zeros(24, 32, 2)
    motion[..., 0] = 3
    moved = planes.sample(planes.half(x), planes.half_positions(planes.positions(motion)))
    assert torch.allclose(moved[..., 2:-4], planes.half(x + 3)[..., 2:-4], atol=0.05)
