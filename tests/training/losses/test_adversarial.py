import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from splatmend.core import InputError
from splatmend.core.perceptual.lpips import Lpips, load_lpips
from splatmend.training.losses.adversarial import Adversary, make_adversary


@pytest.fixture(scope="module")
def vgg(backbones: Path) -> Lpips:
    return load_lpips("vgg", backbones)


@pytest.fixture
def adversary(vgg: Lpips) -> Adversary:
    return make_adversary(vgg, seed=0)


def drawn(step: int) -> tuple[Tensor, Tensor]:
    """Stripes, and the same without their detail."""
    generator = torch.Generator().manual_seed(step)
    real = torch.rand(2, 3, 1, 64, generator=generator).expand(-1, -1, 64, -1).contiguous()
    return real, F.avg_pool2d(real, 5, 1, 2)


def gradients(adversary: Adversary) -> list[Tensor | None]:
    return [p.grad for p in adversary.heads.parameters()]


def test_the_generator_step_leaves_the_heads_as_they_are(adversary: Adversary) -> None:
    before = copy.deepcopy(adversary.heads.state_dict())
    fake = drawn(0)[1].requires_grad_()
    adversary.generator_loss(fake).mean().backward()
    assert gradients(adversary) == [None] * len(gradients(adversary))
    assert all(p.requires_grad for p in adversary.heads.parameters())
    for name, value in adversary.heads.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert fake.grad is not None
    assert fake.grad.abs().amax() > 0


def test_the_update_of_the_heads_is_the_same_after_a_generator_step(vgg: Lpips) -> None:
    # img2img-turbo issue 56: gradients of the generator's step were applied to the discriminator
    found = []
    for with_generator_step in (False, True):
        adversary = make_adversary(vgg, seed=0)
        real, fake = drawn(0)
        if with_generator_step:
            adversary.generator_loss(fake.requires_grad_()).mean().backward()
        adversary.discriminator_loss(real, fake).mean().backward()
        found.append(gradients(adversary))
    for without, after in zip(*found, strict=True):
        assert without is not None
        assert torch.equal(without, after)


def test_the_heads_step_reaches_neither_pictures_nor_backbone(adversary: Adversary) -> None:
    real, fake = drawn(0)
    fake.requires_grad_()
    restored = 0.5 * fake  # as if it came from a generator
    loss = adversary.discriminator_loss(real, restored)
    loss.mean().backward()
    assert loss.shape == (2,)
    assert fake.grad is None
    assert all(p.grad is None and not p.requires_grad for p in adversary.vgg.parameters())
    assert all(g is not None for g in gradients(adversary))


def train(adversary: Adversary, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        loss = adversary.discriminator_loss(*drawn(step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def adam(adversary: Adversary) -> torch.optim.Optimizer:
    return torch.optim.Adam(adversary.heads.parameters(), lr=2e-3, betas=(0.5, 0.99))


@pytest.mark.slow
def test_the_heads_learn_and_then_push_a_picture_towards_the_real_ones(
    adversary: Adversary,
) -> None:
    losses = train(adversary, adam(adversary), range(25))
    assert losses[-1] < 0.6 * losses[0]
    real, fake = drawn(100)
    assert (adversary.generator_loss(fake) > adversary.generator_loss(real)).all()


def test_a_resumed_run_is_the_uninterrupted_one(vgg: Lpips) -> None:
    whole = make_adversary(vgg, seed=0)
    optimizer = adam(whole)
    train(whole, optimizer, range(2))
    saved = copy.deepcopy((whole.heads.state_dict(), optimizer.state_dict()))
    expected = train(whole, optimizer, range(2, 4))
    resumed = make_adversary(vgg, seed=1)
    resumed.heads.load_state_dict(saved[0])
    again = adam(resumed)
    again.load_state_dict(saved[1])
    assert train(resumed, again, range(2, 4)) == expected
    assert sum(v.numel() for v in saved[0].values()) < 300_000  # the backbone is not in it


def test_heads_are_drawn_from_the_seed_alone(vgg: Lpips) -> None:
    before = torch.get_rng_state()
    one, same, other = (make_adversary(vgg, seed=s).heads.state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("process_group")
def test_wrapped_for_several_processes_it_gives_the_same(adversary: Adversary) -> None:
    plain = Adversary(adversary.vgg, copy.deepcopy(adversary.heads))
    wrapped = replace(adversary, heads=DistributedDataParallel(adversary.heads))
    for step in range(2):
        for one in (plain, wrapped):
            real, fake = drawn(step)
            one.generator_loss(fake.requires_grad_()).mean().backward()
            nn.Module.zero_grad(one.heads)
            one.discriminator_loss(real, fake).mean().backward()
        for a, b in zip(gradients(plain), gradients(wrapped), strict=True):
            torch.testing.assert_close(a, b)


def test_what_does_not_fit_is_refused(adversary: Adversary, backbones: Path) -> None:
    with pytest.raises(InputError, match="LPIPS on vgg"):
        make_adversary(load_lpips("alex", backbones), seed=0)
    with pytest.raises(InputError, match=r"one shape, got \(2, 3, 8, 8\) and \(1, 3, 8, 8\)"):
        adversary.discriminator_loss(torch.rand(2, 3, 8, 8), torch.rand(1, 3, 8, 8))
