import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core import InputError
from splatmend.temporal.loss import chain_motion, self_condition, temporal_difference, temporal_loss

SIZE = 48


def moving(frames: int, step: tuple[int, int] = (2, -1)) -> tuple[Tensor, Tensor, Tensor]:
    """A pattern that goes `step` pixels a frame: clip (1, k, 3, h, w), flow and validity."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    pattern = torch.rand(1, 3, 200, 200)
    clip = [
        pattern[..., 80 - t * step[1] :, 80 - t * step[0] :][..., :SIZE, :SIZE]
        for t in range(frames)
    ]
    flow = torch.tensor([-step[0], -step[1]], dtype=torch.float32).view(1, 1, 2, 1, 1)
    flow = flow.expand(1, frames - 1, 2, SIZE, SIZE).clone()
    inside = (x >= step[0]) & (x < SIZE + step[0]) & (y >= step[1]) & (y < SIZE + step[1])
    return torch.stack(clip, 1), flow, inside.expand(1, frames - 1, 1, SIZE, SIZE)


def test_the_known_motion_explains_the_clip() -> None:
    clip, flow, valid = moving(4)
    difference = temporal_difference(clip, flow)
    assert difference.shape == (1, 3, 3, SIZE, SIZE)
    assert (difference * valid).abs().max() < 1e-4
    assert (clip[:, 1:] - clip[:, :-1]).abs().mean() > 0.2


def test_the_target_scores_nothing_however_it_moves() -> None:
    clip = torch.rand(2, 4, 3, SIZE, SIZE)  # no motion explains noise
    flow, valid = torch.randn(2, 3, 2, SIZE, SIZE), torch.ones(2, 3, 1, SIZE, SIZE, dtype=bool)
    assert temporal_loss(clip, clip, flow, valid).tolist() == [0, 0]
    assert temporal_difference(clip, flow).abs().mean() > 0.1


def test_an_error_that_travels_along_is_free_and_one_that_flickers_is_not() -> None:
    clip, flow, valid = moving(4)
    stuck = 0.1 * moving(4)[0]  # another pattern, with the same motion
    assert temporal_loss(clip + stuck, clip, flow, valid).item() < 1e-4
    sign = torch.tensor([1.0, -1, 1, -1]).view(1, 4, 1, 1, 1)
    flickers = temporal_loss(clip + 0.1 * sign, clip, flow, valid)
    assert flickers.item() == pytest.approx(0.2, rel=1e-3)
    stays = temporal_loss(clip + 0.1 * stuck[:, :1], clip, flow, valid)  # a dirty lens
    assert stays.item() > 1e-3


def test_blur_is_not_paid_for() -> None:
    clip, flow, valid = moving(4)
    blurred = F.avg_pool2d(clip.flatten(0, 1), 5, 1, 2).view_as(clip)
    inner = valid.clone()
    inner[..., :6], inner[..., -6:], inner[..., :6, :], inner[..., -6:, :] = (False,) * 4
    noisy = clip + 0.02 * torch.randn_like(clip)
    plain = [temporal_difference(c, flow)[inner.expand(-1, -1, 3, -1, -1)] for c in (noisy, clip)]
    assert plain[0].abs().mean() > plain[1].abs().mean()
    assert temporal_loss(blurred, clip, flow, inner).item() < 1e-4
    assert temporal_loss(noisy, clip, flow, inner).item() > 0.01


def test_what_is_not_valid_does_not_count_and_teaches_nothing() -> None:
    clip, flow, valid = moving(3)
    ours = clip.clone()
    ours[:, 2, :, 10:20, 10:20] = 1
    ours.requires_grad_()
    hidden = valid.clone()
    hidden[:, 1, :, 10:20, 10:20] = False
    assert temporal_loss(ours, clip, flow, valid).item() > 1e-3
    loss = temporal_loss(ours, clip, flow, hidden)
    assert loss.item() < 1e-4
    loss.sum().backward()
    assert not ours.grad[:, 2, :, 12:18, 12:18].any()
    nowhere = torch.zeros_like(valid)
    assert temporal_loss(ours, clip, flow, nowhere).item() == 0


def test_the_gradient_steadies_both_frames() -> None:
    clip, flow, valid = moving(2)
    ours = (clip + 0.1 * torch.randn_like(clip)).requires_grad_()
    before = temporal_loss(ours, clip, flow, valid)
    before.sum().backward()
    assert all(ours.grad[:, t].abs().sum() > 0 for t in (0, 1))
    step = 20 * ours.grad / ours.grad.abs().max() * 1e-3
    assert temporal_loss(ours - step, clip, flow, valid).item() < before.item()


def test_a_long_reach_sees_the_drift_that_steps_hide() -> None:
    clip, flow, valid = moving(6)
    drift = clip + 0.01 * torch.arange(6.0).view(1, 6, 1, 1, 1)
    one, five = (temporal_loss(drift, clip, flow, valid, reach=r).item() for r in (1, 5))
    assert one == pytest.approx(0.01, rel=1e-3)
    assert five == pytest.approx(0.05, rel=1e-3)


def test_motion_over_several_frames_is_the_sum_along_the_way() -> None:
    clip, flow, valid = moving(5, (3, 0))
    far, holds = chain_motion(flow, valid, 3)
    assert far.shape == (1, 2, 2, SIZE, SIZE)
    assert holds.dtype == torch.bool
    inner = far[holds.expand_as(far)].view(-1)
    assert set(inner.tolist()) == {-9.0, 0.0}
    assert not holds[..., :9].any()
    assert holds[..., 9:].all()
    error = (clip[:, 3:] - clip[:, :2].roll(9, -1)).abs() * holds
    assert error.max() == 0


def test_a_step_that_does_not_hold_breaks_the_chain_where_it_passes() -> None:
    _, flow, valid = moving(3, (4, 0))
    hidden = valid.clone()
    hidden[:, 0, :, 20, 20] = False  # seen again 4 pixels further right
    _, holds = chain_motion(flow, hidden, 2)
    lost = (chain_motion(flow, valid, 2)[1] & ~holds).nonzero()[:, -2:].tolist()
    assert lost == [[20, 24]]
    soft, weight = chain_motion(flow, 0.5 * valid.float(), 2)
    torch.testing.assert_close(soft, chain_motion(flow, valid, 2)[0])
    assert weight.amax() == pytest.approx(0.25)


def test_the_network_meets_its_own_past() -> None:
    degraded, flow, valid = moving(3)
    degraded, flow, valid = (t.expand(64, *t.shape[1:]) for t in (degraded, flow, valid))
    restored = (degraded + 0.3).requires_grad_()
    chance = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    fed = self_condition(degraded, restored, flow, valid, share=0.5, chance=chance)
    assert not fed.requires_grad
    assert torch.equal(fed[:, 0], degraded[:, 0])
    change = (fed - degraded)[:, 1:]
    added = change.amax((1, 2, 3, 4))
    touched = added > 1e-4
    assert 20 < touched.sum() < 44
    assert len(set(added[touched].tolist())) > 15
    assert added.max() <= 0.3001
    # carried along: the mixture is a brighter copy of this frame, not of the last
    at = valid.expand_as(change)
    level = added.view(-1, 1, 1, 1, 1).expand_as(change)
    torch.testing.assert_close(change[at], level[at], atol=2e-4, rtol=0)
    assert not change[~at].any()


def test_shares_of_none_and_all() -> None:
    clip, flow, valid = moving(3)
    for share, same in ((0.0, True), (1.0, False)):
        chance = torch.full((len(clip), 2), 0.7)
        fed = self_condition(clip, clip + 0.2, flow, valid, share=share, chance=chance)
        assert torch.equal(fed, clip) is same


@pytest.mark.parametrize("reach", [0, 3, -1])
def test_a_reach_beyond_the_clip_is_refused(reach: int) -> None:
    clip, flow, valid = moving(3)
    with pytest.raises(InputError, match=r"reach must lie in \[1, 2\]"):
        temporal_loss(clip, clip, flow, valid, reach=reach)


def test_shapes_that_do_not_fit_are_named() -> None:
    clip, flow, valid = moving(3)
    for bad in ((clip[0], flow, valid), (clip, flow[:, :1], valid), (clip[:, :1], flow, valid)):
        with pytest.raises(InputError, match=r"needs flow \(n, k - 1, 2, h, w\)"):
            temporal_loss(bad[0], bad[0], *bad[1:])
    with pytest.raises(InputError, match="a target of"):
        temporal_loss(clip, clip[..., :-1], flow, valid)
    with pytest.raises(InputError, match="a share in"):
        self_condition(clip, clip, flow, valid, share=2, chance=torch.rand(len(clip), 2))
