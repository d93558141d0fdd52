"""The grid that a network draws on goes along with what it restores."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import Frame, RestoreOptions, RestorerTraits
from splatmend.temporal import Stream, TemporalOptions
from splatmend.temporal.stabilizer.grid_offset import GridOffset, restore_with_offset

from streams import SIZE, alpha_clip, clip, colors, texture

GRID = 16


class Lattice:
    """A restorer that draws the same on every cell of its grid, wherever the picture lies."""

    traits = RestorerTraits("lattice", multiple=GRID, keeps_colors=True)
    device = torch.device("cpu")

    def __call__(self, rgb):
        height, width = rgb.shape[-2:]
        cell = np.random.default_rng(0).normal(size=(GRID, GRID)).astype(np.float32)
        cells = np.tile(cell, (height // GRID + 1, width // GRID + 1))
        smooth = torch.from_numpy(cv2.GaussianBlur(cells, (0, 0), 1.5))
        return (rgb + 0.15 * smooth[:height, :width]).clamp(0, 1)


def stream(**options):
    return Stream(Lattice(), None, TemporalOptions(**options))


def drawn(frames, answers):
    """What was drawn, of pictures well inside [0, 1]."""
    pairs = zip(frames, answers, strict=True)
    return [a.color.astype(np.float32) - f.color for f, a in pairs]


def calm(frames):
    """The frames with half of their contrast, so that nothing drawn is clipped."""
    return [f.with_color((64 + f.color / 2).astype(np.uint8)) for f in frames]


@pytest.mark.parametrize("motion", [True, False], ids=["supplied", "estimated"])
def test_what_is_drawn_moves_with_the_picture(motion):
    frames = calm(clip(12, motion=motion))

    def flickering(answers):
        inner = slice(8, -8)
        steps = pairwise(drawn(frames, answers))  # each frame shows what lay 2 right, 1 below
        return np.mean([np.abs(b[:-1, :-2] - a[1:, 2:])[inner, inner].mean() for a, b in steps])

    at_rest = flickering(stream(anchor=False, gain=0.1).restore(frames))
    assert flickering(stream(gain=0.1).restore(frames)) < 0.25 * at_rest


def test_without_memory_the_grid_stays():
    frames = clip(4)
    alone = [Stream(Lattice()).restore([f])[0] for f in frames]
    assert colors(stream(gain=0, input_gain=0).restore(frames)) == colors(alone)


def test_a_cut_begins_on_the_grid_as_it_lies():
    other = Frame(color=texture(9)[: SIZE[0], : SIZE[1]], motion=clip(1)[0].motion)
    one = stream()
    one.restore(clip(4))
    assert one.export_state()["anchor"].any()
    (answer,) = one.restore([other])
    assert colors([answer]) == colors(stream().restore([other]))
    assert one.export_state()["anchor"].tolist() == [0, 0]


@pytest.mark.parametrize("frames", [clip(6), clip(6, motion=False), alpha_clip(6)])
def test_a_state_holds_where_the_grid_lies(frames):
    whole = stream().restore(frames)
    first, second = stream(), stream()
    first.restore(frames[:3])
    assert first.export_state()["anchor"].any()
    second.import_state(first.export_state())
    assert colors(second.restore(frames[3:])) == colors(whole[3:])


def test_motion_counts_as_far_as_something_is_restored():
    motion, residual = np.zeros((96, 128, 2), np.float32), np.zeros((96, 128), np.float32)
    motion[:, :64], motion[:, 64:] = (3, -1), (50, 50)
    residual[:, :64] = -0.1
    offset = GridOffset().along(motion, residual, GRID)
    assert offset == GridOffset(3, GRID - 1)
    motion[:20] = np.nan
    assert offset.along(motion, residual, GRID) == GridOffset(6, GRID - 2)
    assert offset.along(motion, residual, 1) == GridOffset()
    assert offset.along(motion, 0 * residual, GRID) == offset
    assert offset.along(np.full_like(motion, np.inf), residual, GRID) == offset


def test_a_ground_at_rest_keeps_the_grid_from_a_head_that_moves():
    motion, residual = np.zeros((96, 128, 2), np.float32), np.ones((96, 128), np.float32)
    motion[:40] = 5, -3
    assert GridOffset(1, 2).along(motion, residual, 8) == GridOffset(1, 2)
    residual[40:] = 0.4  # and the head moves it where more is restored there
    assert GridOffset(1, 2).along(motion, residual, 8) == GridOffset(6, 7)


def test_slow_motion_leaves_the_grid_at_rest():
    offset, motion = GridOffset(), np.full((96, 128, 2), (0.45, -1.2), np.float32)
    for _ in range(10):
        offset = offset.along(motion, np.ones((96, 128), np.float32), GRID)
    assert offset == GridOffset(0, GRID - 10)


@pytest.mark.parametrize("size", [(96, 128), (5, 3), (1, 1)])
def test_pictures_of_any_size_keep_it(size):
    rgb = torch.full((1, 3, *size), 0.5)
    laid = restore_with_offset(Lattice(), rgb, GridOffset(13, 7), RestoreOptions())
    large = Lattice()(torch.full((1, 3, size[0] + GRID, size[1] + GRID), 0.5))
    assert torch.equal(laid, large[..., 7 : 7 + size[0], 13 : 13 + size[1]])


def test_a_network_sees_two_sizes_however_the_picture_moves():
    sizes = []

    class Noted(Lattice):
        def __call__(self, rgb):
            sizes.append(tuple(rgb.shape[-2:]))
            return super().__call__(rgb)

    one, picture, places = Stream(Noted()), texture(), [(0, 0), (2, 0), (2, 3), (5, 3), (16, 3)]
    for (x, y), (left, top) in zip(places, [places[0], *places], strict=False):
        flow = np.full((*SIZE, 2), (x - left, y - top), np.float32)
        color = picture[y : y + SIZE[0], x : x + SIZE[1]]
        one.restore([Frame(color=color, motion=flow)])
    grown = SIZE[0] + GRID, SIZE[1] + GRID
    assert sizes == [SIZE, grown, grown, grown, grown]
