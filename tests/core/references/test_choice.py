import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core.references.alignment import Course
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
    chosen, stays = choose(poses, rolled(scene, 13), (), count=2)
    assert stays
    assert [index for index, _ in chosen] == [2, 3]
    assert sum(weight for _, weight in chosen) == pytest.approx(1)
    assert chosen[0][1] > 0.8


def test_one_that_equals_the_frame_takes_the_weight(poses: list[Thumbnail]) -> None:
    ((first, weight), _), _ = choose(poses, poses[1], (), count=2)
    assert first == 1
    assert weight > 0.99


def test_no_weight_jumps_as_the_frame_moves_on(scene: Picture, poses: list[Thumbnail]) -> None:
    before: tuple[Pick, ...] = ()
    last: dict[int, float] = {}
    for pixels in range(25):
        chosen = dict(choose(poses, rolled(scene, pixels), before, count=2)[0])
        assert len(chosen) <= 2
        if last:
            every = chosen.keys() | last.keys()
            steps = [abs(chosen.get(i, 0) - last.get(i, 0)) for i in every]
            assert max(steps) <= 0.125 + 1e-9
        last, before = chosen, tuple(Pick(i, w, None) for i, w in chosen.items())
    stays = False
    while not stays:  # the frame rests: the nearest comes in and takes over
        pairs, stays = choose(poses, poses[4], before, count=2)
        chosen = dict(pairs)
        before = tuple(Pick(i, w, None) for i, w in pairs)
    assert chosen[4] > 0.99


def test_a_view_that_jumps_takes_its_references_at_once(scene: Picture) -> None:
    poses = [rolled(scene, 0), rolled(scene, 4), rolled(scene, 80)]
    before = tuple(Pick(index, 0.5, None) for index in (0, 1))
    chosen, stays = choose(poses, rolled(scene, 80), before, count=1)
    assert (chosen, stays) == ([(2, 1.0)], True)


def test_two_that_are_equally_near_do_not_take_turns(scene: Picture) -> None:
    poses = [rolled(scene, 0), rolled(scene, 8)]
    before: tuple[Pick, ...] = (Pick(0, 1.0, None),)
    for pixels in (4, 5, 4, 5, 4):
        chosen, _ = choose(poses, rolled(scene, pixels), before, count=1)
        assert [index for index, _ in chosen] == [0]
        before = tuple(Pick(i, w, None) for i, w in chosen)


def test_a_choice_survives_packing() -> None:
    placement = Placement(np.arange(6, dtype=np.float64).reshape(2, 3), 0.75)
    dice = np.random.default_rng(0)
    planes = dice.random((6, 8, 3), np.float32)
    course = Course(dice.integers(0, 256, (6, 8), np.uint8), planes[..., :2], planes[..., 2])
    choice = (Pick(3, 0.625, placement, 0.5, course), Pick(1, 0.375, None))
    first, second = unpack_choice(pack_choice(choice))
    assert (first.index, first.weight, first.trust) == (3, 0.625, 0.5)
    assert first.placement is not None
    assert np.array_equal(first.placement.matrix, placement.matrix)
    assert first.placement.score == 0.75
    assert first.course is not None
    for name in ("seen", "flow", "trust"):
        assert np.array_equal(getattr(first.course, name), getattr(course, name))
    assert second.course is None
    assert (second.index, second.weight, second.placement) == (1, 0.375, None)
    assert unpack_choice(pack_choice(())) == ()
