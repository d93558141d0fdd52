from pathlib import Path

import pytest
import torch

from splatmend.core import InputError, RestorerTraits, Tiled, load_restorer

STEP = 1 / 255


@pytest.mark.parametrize("size", [(300, 700), (257, 256), (256, 1000), (1001, 333)])
def test_seams_are_invisible_where_the_reach_fits(
    tiny_checkpoint: Path, size: tuple[int, int]
) -> None:
    restorer = load_restorer(tiny_checkpoint, device="cpu")
    tiled = Tiled(restorer, 512)
    assert restorer.traits.reach <= 512 // 4
    rgb = torch.rand(1, 3, *size)
    whole = restorer(rgb)
    assert (tiled(rgb) - whole).abs().amax() < STEP
    assert (whole - rgb).abs().amax() > 10 * STEP  # else the test could not fail


def test_no_tile_is_larger_than_asked() -> None:
    class Watch:
        traits = RestorerTraits("watch", period=32, reach=40, keeps_colors=True)
        device = torch.device("cpu")

        def __call__(self, rgb: torch.Tensor) -> torch.Tensor:
            assert max(rgb.shape[-2:]) <= 256
            return rgb

    rgb = torch.rand(2, 3, 513, 777)
    torch.testing.assert_close(Tiled(Watch(), 256)(rgb), rgb)


def test_small_pictures_are_not_cut(tiny_checkpoint: Path) -> None:
    restorer = load_restorer(tiny_checkpoint, device="cpu")
    rgb = torch.rand(1, 3, 100, 120)
    assert torch.equal(Tiled(restorer, 128)(rgb), restorer(rgb))


def test_too_small_a_tile_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="at least 128 pixels, got 64"):
        Tiled(load_restorer(tiny_checkpoint, device="cpu"), 64)
