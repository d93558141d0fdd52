import pytest
import torch
from torch import Tensor

from splatmend.core import InputError, RestorerTraits, load_restorer
from splatmend.core.estimator.gate import Gated
from splatmend.core.restorer import Restorer

UNSHARP = load_restorer("unsharp", device="cpu")


def brightness(rgb: Tensor) -> Tensor:
    """A stand-in for the estimator: blur is the mean brightness, noise is none."""
    mean = rgb.mean((1, 2, 3))
    return torch.stack((mean, torch.zeros_like(mean)), 1)


def test_each_frame_gets_its_own_share() -> None:
    gate = Gated(UNSHARP, brightness, low=0.2, high=0.6)
    texture = 0.1 * torch.rand(1, 3, 40, 40)
    frames = torch.cat([texture + level for level in (0.05, 0.35, 0.8)])
    share = gate.share(frames)
    assert share[0] == 0 < share[1] < 1 == share[2]
    gated, whole = gate(frames), UNSHARP(frames)
    assert torch.equal(gated[0], frames[0])
    torch.testing.assert_close(gated[2], whole[2])
    expected = frames[1] + share[1] * (whole[1] - frames[1])
    torch.testing.assert_close(gated[1], expected)


def test_clean_frames_never_reach_the_network() -> None:
    class Forbidden:
        traits, device = RestorerTraits("x", keeps_colors=True), torch.device("cpu")

        def __call__(self, rgb: Tensor) -> Tensor:
            raise AssertionError(rgb.shape)

    restorer: Restorer = Forbidden()
    dark = torch.zeros(2, 3, 8, 8)
    assert torch.equal(Gated(restorer, brightness)(dark), dark)
    with pytest.raises(AssertionError):
        Gated(restorer, brightness)(dark + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_it_keeps_the_contract(dtype: torch.dtype) -> None:
    frames = torch.rand(2, 3, 9, 7).to(dtype)
    gated = Gated(UNSHARP, brightness)(frames)
    assert (gated.shape, gated.dtype) == (frames.shape, dtype)
    assert gated.amin() >= 0
    assert gated.amax() <= 1
    with pytest.raises(InputError, match="takes RGB"):
        Gated(UNSHARP, brightness)(frames[0])


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_thresholds_must_make_sense(low: float, high: float) -> None:
    with pytest.raises(InputError, match="a gate needs 0 <= low < high <= 1"):
        Gated(UNSHARP, brightness, low=low, high=high)
