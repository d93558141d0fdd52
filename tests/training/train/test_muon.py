import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from splatmend.training.train.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 90), (90, 16), (32, 32)])
@pytest.mark.parametrize("size", [1e-6, 1e3])
def test_orthogonal_brings_all_singular_values_near_1_whatever_the_gradient_s_size(
    shape: tuple[int, int], size: float
) -> None:
    torch.manual_seed(0)
    matrix = size * torch.randn(shape)
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.max() < 1.3
    assert values.median() > 0.65
    # and turns nothing: it keeps the directions that it found
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (u.T @ orthogonal(matrix) @ v.T).diagonal().min() > 0


def test_no_gradient_at_all_moves_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(4, 8)), torch.zeros(4, 8))


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 5, 3))


def _learn(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.rand((2, 3, 12, 12), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (network(x) - x.mean((1, 2, 3), keepdim=True)).square().mean().backward()
        optimizer.step()


def test_biases_follow_adamw() -> None:
    value = torch.linspace(-1, 1, 7)
    ours, theirs = (nn.Parameter(value.clone()) for _ in range(2))
    muon, adam = Muon([ours], lr=1e-2, weight_decay=0.1), AdamW([theirs], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        for parameter, optimizer in ((ours, muon), (theirs, adam)):
            parameter.grad = parameter.detach().sin()
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_a_step_has_the_size_of_adam_s() -> None:
    weight = nn.Parameter(torch.zeros(24, 10, 3, 3))
    torch.manual_seed(0)
    weight.grad = 1e-4 * torch.randn_like(weight)
    Muon([weight], lr=1e-3).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.2e-3, rel=0.2)


def test_the_order_of_the_memory_changes_nothing() -> None:
    plain, last = _network(), _network().to(memory_format=torch.channels_last)
    for network in (plain, last):
        _learn(network, Muon(network.parameters(), lr=1e-2), range(3))
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_a_state_that_was_saved_goes_on_as_if_nothing_had_been() -> None:
    whole = _network()
    optimizer = Muon(whole.parameters(), lr=1e-2)
    _learn(whole, optimizer, range(3))
    resumed, state = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    _learn(whole, optimizer, range(3, 6))
    fresh = Muon(resumed.parameters(), lr=1e-2)
    fresh.load_state_dict(state)
    _learn(resumed, fresh, range(3, 6))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradients_are_left_as_they_were() -> None:
    network = _network()
    optimizer = Muon(network.parameters(), lr=1e-2)
    _learn(network, optimizer, range(1))
    assert all(p.grad is not None for p in network.parameters())
