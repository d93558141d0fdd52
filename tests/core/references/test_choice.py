import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core.references.choice import Pick, choose, pack_choice, unpack_choice
from splatmend.core.references.placement import Placement, Thumbnail

Picture = NDArray[np.uint8]


def rolled(scene: Picture, pixels: int) -> Thumbnail:
    return Thumbnail.of(np.roll(scene, pixels, 1))


@pytest.fixture
def poses(scene: Picture) -> list[Thumbnail]:
    return [rolled(scene, pixels) for pixels in (0, 6, 12, 18, 24)]


def test_the_nearest_come_first_and_share_the_weight(
    scene: Picture, poses: list[Thumbnail]
) -> None:
    chosen = choose(poses, rolled(scene, 13), (), count=2)
    assert [index for index, _ in chosen] == [2, 3]
    assert sum(weight for _, weight in chosen) == pytest.approx(1)
    assert chosen[0][1] > 0.8


def test_one_that_equals_the_frame_takes_the_weight(poses: list[Thumbnail]) -> None:
    (first, weight), _ = choose(poses, poses[1], (), count=2)
    assert first == 1
    assert weight > 0.99


def test_no_weight_jumps_as_the_frame_moves_on(scene: Picture, poses: list[Thumbnail]) -> None:
    before: tuple[Pick, ...] = ()
    last: dict[int, float] = {}
    for pixels in range(25):
        chosen = dict(choose(poses, rolled(scene, pixels), before, count=2))
        assert len(chosen) <= 2
        if last:
            every = chosen.keys() | last.keys()
            steps = [abs(chosen.get(i, 0) - last.get(i, 0)) for i in every]
            assert max(steps) <= 0.125 + 1e-9
        last, before = chosen, tuple(Pick(i, w, None) for i, w in chosen.items())
    for _ in range(20):  # the frame rests: the nearest has come in and taken over
        chosen = dict(choose(poses, poses[4], before, count=2))
        before = tuple(Pick(i, w, None) for i, w in chosen.items())
    assert chosen[4] > 0.99


def test_two_that_are_equally_near_do_not_take_turns(scene: Picture) -> None:
    poses = [rolled(scene, 0), rolled(scene, 8)]
    before: tuple[Pick, ...] = (Pick(0, 1.0, None),)
    for pixels in (4, 5, 4, 5, 4):
        chosen = choose(poses, rolled(scene, pixels), before, count=1)
        assert [index for index, _ in chosen] == [0]
        before = tuple(Pick(i, w, None) for i, w in chosen)


def test_a_choice_survives_packing() -> None:
    placement = Placement(np.arange(6, dtype=np.float64).reshape(2, 3), 0.75)
    choice = (Pick(3, 0.625, placement, 0.5), Pick(1, 0.375, None))
    first, second = unpack_choice(pack_choice(choice))
    assert (first.index, first.weight, first.trust) == (3, 0.625, 0.5)
    assert first.placement is not None
    assert np.array_equal(first.placement.matrix, placement.matrix)
    assert first.placement.score == 0.75
    assert (second.index, second.weight, second.placement) == (1, 0.375, None)
    assert unpack_choice(pack_choice(())) == ()
