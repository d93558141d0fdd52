"""The contract, over every registered restorer and checkpoints of compact and turbo."""

from pathlib import Path

import pytest
import torch

from splatmend.core import InputError, Restorer, available_restorers, load_restorer


@pytest.fixture(params=[*available_restorers(), "checkpoint", "turbo checkpoint"])
def restorer(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Restorer:
    name = request.param
    if name == "turbo checkpoint":
        path, base = map(request.getfixturevalue, ("tiny_turbo", "tiny_base"))
        return load_restorer(path, device="cpu", base=base)
    return load_restorer(tiny_checkpoint if name == "checkpoint" else name, device="cpu")


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (7, 5), (33, 64), (101, 58)])
def test_any_size_comes_back_in_shape_and_range(restorer: Restorer, size: tuple[int, int]) -> None:
    rgb = torch.rand(2, 3, *size)
    restored = restorer(rgb)
    assert restored.shape == rgb.shape
    assert restored.amin() >= 0
    assert restored.amax() <= 1
    assert restored.isfinite().all()


def test_same_input_same_bytes_and_no_random_state(restorer: Restorer) -> None:
    rgb = torch.rand(1, 3, 48, 80)
    kept, state = rgb.clone(), torch.get_rng_state()
    first = restorer(rgb)
    restorer(torch.rand(1, 3, 30, 31, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(restorer(rgb), first)
    assert torch.equal(rgb, kept)  # the input is not written to
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_device_are_the_inputs(restorer: Restorer, dtype: torch.dtype) -> None:
    rgb = torch.rand(1, 3, 32, 32).to(dtype)
    restored = restorer(rgb)
    assert restored.dtype == dtype
    assert restored.device == rgb.device
    assert not restored.requires_grad


def test_frames_of_a_batch_do_not_see_each_other(restorer: Restorer) -> None:
    batch = torch.rand(3, 3, 40, 40)
    alone = torch.cat([restorer(picture[None]) for picture in batch])
    # kernels may sum in another order for another batch size: a hundredth of an 8-bit step
    torch.testing.assert_close(restorer(batch), alone, atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    "wrong", [torch.rand(3, 8, 8), torch.rand(1, 4, 8, 8), torch.rand(1, 3, 0, 8)]
)
def test_other_shapes_are_refused(restorer: Restorer, wrong: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"takes RGB as \(n, 3, h, w\), got"):
        restorer(wrong)


def test_integers_are_refused_with_the_way_out(restorer: Restorer) -> None:
    with pytest.raises(InputError, match=r"got torch.uint8: convert with splatmend.core.to_tensor"):
        restorer(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_a_pixel_beyond_the_reach_changes_nothing(tiny_checkpoint: Path) -> None:
    restorer = load_restorer(tiny_checkpoint, device="cpu")
    rgb = torch.rand(1, 3, 64, 288)
    changed = rgb.clone()
    changed[..., 0] = 1 - changed[..., 0]
    difference = (restorer(rgb) - restorer(changed)).abs().amax((0, 1, 2))
    assert difference[restorer.traits.reach + 1 :].amax() < 1e-6
    assert difference[:8].amax() > 1e-3


@pytest.mark.needs_cuda
def test_cpu_input_comes_back_to_the_cpu() -> None:
    restored = load_restorer("compact", device="cuda")(torch.rand(1, 3, 64, 64))
    assert restored.device.type == "cpu"
