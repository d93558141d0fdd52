import pytest
import torch

from splatmend.core.errors import InputError
from splatmend.training.degradations.augmentation import Augmentation, augment

NOTHING = {"blobs": 0.0, "noise": 0.0, "brightness": 0.0, "desaturation": 0.0}
LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(**entry: object) -> Augmentation:
    return Augmentation(**(NOTHING | entry))  # type: ignore[arg-type]


def test_the_table_is_the_published_one() -> None:
    table = Augmentation()
    assert (table.blobs, table.noise, table.brightness, table.desaturation) == (0.1, 0.15, 0.1, 0.1)
    assert table.blob_count == (1, 4)
    assert table.noise_sigma == (5, 10)
    assert table.brightness_offset == (-10, 10)
    assert table.desaturation_amount == (0.05, 0.15)


def test_each_entry_happens_as_often_as_it_says() -> None:
    """A picture of stripes shows which entry hit it: 4000 draws, 5 standard deviations."""
    stripes = torch.tensor([0.3, 0.7]).repeat(8).expand(3, 16, 16).clone()
    stripes[0] -= 0.2
    count, chances = 4000, {"blobs": 0.1, "noise": 0.15, "brightness": 0.1, "desaturation": 0.1}
    pictures = stripes.expand(count, -1, -1, -1)
    for name, chance in chances.items():
        hit = augment(pictures, generator(), only(**{name: chance}))
        share = (hit != pictures).flatten(1).any(1).double().mean().item()
        assert share == pytest.approx(chance, abs=5 * (chance * (1 - chance) / count) ** 0.5), name
    untouched = (augment(pictures, generator()) == pictures).flatten(1).all(1).double().mean()
    assert untouched.item() == pytest.approx(0.9 * 0.85 * 0.9 * 0.9, abs=0.04)


def test_a_picture_that_nothing_hits_is_the_same_bit_for_bit() -> None:
    pictures = torch.rand(3, 3, 8, 8)
    assert torch.equal(augment(pictures, generator(), only()), pictures)


def test_brightness_is_one_offset_within_ten_levels() -> None:
    pictures = 0.2 + 0.6 * torch.rand(300, 3, 4, 4)
    change = 255 * (augment(pictures, generator(), only(brightness=1.0)) - pictures).flatten(1)
    assert change.std(1).max() < 1e-3
    offset = change.mean(1)
    assert offset.abs().max() <= 10
    assert offset.min() < -9
    assert offset.max() > 9


def test_desaturation_takes_its_share_of_the_colour_and_no_luma() -> None:
    pictures = torch.rand(300, 3, 4, 4)
    dull = augment(pictures, generator(), only(desaturation=1.0))
    luma = (pictures * LUMA).sum(1, keepdim=True)
    torch.testing.assert_close((dull * LUMA).sum(1, keepdim=True), luma)
    kept = (dull - luma).flatten(1).norm(dim=1) / (pictures - luma).flatten(1).norm(dim=1)
    assert 0.85 - 1e-5 < kept.min() < 0.86
    assert 0.94 < kept.max() < 0.95 + 1e-5


def test_noise_has_a_deviation_between_five_and_ten_levels() -> None:
    pictures = torch.full((60, 3, 64, 64), 0.5)
    sigma = 255 * augment(pictures, generator(), only(noise=1.0)).flatten(1).std(1)
    assert 4.9 < sigma.min() < 5.6
    assert 9.4 < sigma.max() < 10.2


def test_blobs_erase_detail_in_patches_and_leave_the_rest() -> None:
    checks = ((torch.arange(128)[:, None] + torch.arange(128)) % 2).float().expand(40, 3, -1, -1)
    blurred = augment(checks, generator(), only(blobs=1.0))
    flat = (blurred - 0.5).abs().amax(1) < 0.02  # a checkerboard blurs to grey
    share = flat.flatten(1).double().mean(1)
    assert 0 < share.mean() < 0.2
    assert share.max() < 0.35
    assert (blurred == checks).flatten(1).double().mean(1).min() > 0.6


def test_samples_are_drawn_for_themselves_and_seeds_name_results() -> None:
    picture = torch.full((1, 3, 16, 16), 0.5).expand(8, -1, -1, -1)
    table = Augmentation(noise=1.0)
    first, again, other = (augment(picture, generator(s), table) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({sample.sum().item() for sample in first}) == 8
    assert first.min() >= 0
    assert first.max() <= 1


@pytest.mark.parametrize("wrong", [{"noise": 1.5}, {"noise_sigma": (10.0, 5.0)}])
def test_a_table_that_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="noise"):
        Augmentation(**wrong)
