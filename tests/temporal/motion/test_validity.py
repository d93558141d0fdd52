"""Three checks of motion."""

import torch

from splatmend.temporal import alphas_agree, depths_agree, flows_agree


def test_flows_agree_except_where_something_came_into_view():
    # a block moves 6 pixels to the right over a still ground
    backward, forward = torch.zeros(1, 2, 40, 60), torch.zeros(1, 2, 40, 60)
    forward[:, 0, 10:30, 20:40] = 6
    backward[:, 0, 10:30, 26:46] = -6
    agree = flows_agree(backward, forward)
    assert agree.dtype == torch.bool
    assert agree[..., 10:30, 26:46].all()
    assert agree[..., :8, :].all()
    assert not agree[..., 11:29, 20:26].any()  # was covered by the block


def test_a_border_that_is_left_does_not_count():
    flow = torch.full((1, 2, 10, 10), -3.0)
    agree = flows_agree(flow, -flow)
    assert agree[..., 3:, 3:].all()
    assert not agree[..., :3, :].any()


def test_depth_and_alpha():
    depth = torch.tensor([[[[1.0, 1.0, 0.0, 2.0]]]])
    warped = torch.tensor([[[[1.04, 1.2, 0.0, 0.0]]]])
    assert depths_agree(warped, depth).tolist() == [[[[True, False, True, False]]]]
    before, after = torch.tensor([0.0, 0.2, 0.9, 1.0]), torch.tensor([0.1, 0.8, 0.6, 0.3])
    assert alphas_agree(before, after).tolist() == [True, False, True, False]
