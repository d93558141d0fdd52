import numpy as np
import pytest

from splatmend.core.references.ground import plain_ground


@pytest.mark.parametrize("level", [0, 7, 128, 250, 255])
def test_the_ground_behind_a_bust_is_found(level: int) -> None:
    dice = np.random.default_rng(level)
    picture = np.full((64, 80, 3), level, np.int16) + dice.integers(-2, 3, (64, 80, 3))
    picture[20:, 20:60] = dice.integers(0, 256, (44, 40, 3))
    found = plain_ground(np.clip(picture, 0, 255).astype(np.uint8))
    assert found is not None
    assert np.abs(np.array(found) * 255 - level).max() <= 3


def test_a_photograph_has_none() -> None:
    ramp = np.linspace(0, 255, 64 * 80 * 3).astype(np.uint8).reshape(64, 80, 3)
    assert plain_ground(ramp) is None
