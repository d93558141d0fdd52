"""A restorer with memory: the same for any grouping, causal, bounded, and never lagging."""

import io
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import (
    Frame,
    InputError,
    RestoreOptions,
    available_restorers,
    load_restorer,
    restore_frames,
)
from splatmend.temporal import Stream

from streams import SIZE, Flickering, Sharpening, alpha_clip, clip, colors, flicker, stream, texture


@pytest.mark.parametrize("motion", [True, False], ids=["supplied", "estimated"])
def test_detail_moves_with_the_picture_instead_of_boiling(motion):
    frames = clip(10, motion=motion)
    alone = restore_frames(Flickering(), frames)
    steady = stream().restore(frames)
    assert flicker(steady) < 0.45 * flicker(alone)
    sharp, before = (
        np.mean([cv2.Laplacian(f.color, cv2.CV_32F).std() for f in s]) for s in (steady, alone)
    )
    assert sharp > 0.85 * before


def test_every_plane_but_colour_is_passed_through():
    frames = clip(3, depth=np.ones(SIZE, np.float32), stream_id="a")
    for before, after in zip(frames, stream().restore(frames), strict=True):
        assert after.depth is before.depth
        assert after.motion is before.motion
        assert (after.pts, after.stream_id) == (before.pts, "a")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_first_frame_is_restored_as_a_frame_alone(dtype):
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    color = (texture()[: SIZE[0], : SIZE[1]] / 255 * top).astype(dtype)
    frame = Frame(color=color)
    answers = stream().restore([frame, Frame(color=np.roll(color, 2, 1))])
    assert np.array_equal(answers[0].color, restore_frames(Flickering(), [frame])[0].color)
    assert answers[1].color.dtype == dtype
    assert not np.array_equal(answers[1].color, answers[0].color)


@pytest.mark.parametrize("frames", [clip(7), clip(7, motion=False), alpha_clip(7)])
def test_grouping_changes_nothing_and_the_future_neither(frames):
    whole = stream().restore(frames)
    one_by_one, grouped = stream(), stream()
    assert colors(whole) == [one_by_one.restore([f])[0].color.tobytes() for f in frames]
    parts = [grouped.restore(part) for part in (frames[:3], [], frames[3:5], frames[5:])]
    assert colors(whole) == colors([f for part in parts for f in part])
    assert colors(whole[:4]) == colors(stream().restore(frames[:4]))


@pytest.mark.parametrize("frames", [clip(6), clip(6, motion=False), alpha_clip(6, "premultiplied")])
@pytest.mark.parametrize("at", [1, 4])
def test_a_state_that_is_taken_up_goes_on_to_the_same_bytes(frames, at):
    still = [*frames[:at], frames[at - 1], *frames[at:]]  # the state may lie between two equal ones
    whole = stream().restore(still)
    first = stream()
    first.restore(still[:at])
    file = io.BytesIO()
    np.savez(file, **first.export_state())
    file.seek(0)
    second = stream()
    second.import_state(np.load(file, allow_pickle=False))
    assert colors(whole[at:]) == colors(second.restore(still[at:]))


def test_states_belong_to_the_caller():
    frames = clip(4)
    whole, one = stream().restore(frames), stream()
    one.restore(frames[:2])
    state = one.export_state()
    other = stream()
    other.import_state(state)
    for array in state.values():
        if array.dtype.kind in "fu":
            array[...] = 0
    assert colors(whole[2:]) == colors(other.restore(frames[2:]))
    assert colors(whole[2:]) == colors(one.restore(frames[2:]))
    assert stream().export_state() == {}
    one.import_state({})
    assert one.export_state() == {}


def test_what_is_no_state_is_refused():
    state = stream()
    state.restore(clip(2))
    good = state.export_state()
    for name in ("residual", "input", "numbers", "output", "shown", "age"):
        with pytest.raises(InputError, match="not the state of a stream"):
            stream().import_state({k: v for k, v in good.items() if k != name})
    for name in ("residual", "shown", "usual_flicker"):
        with pytest.raises(InputError, match="several sizes"):
            stream().import_state({**good, name: good[name][..., 1:]})


def test_a_renderer_may_reuse_its_buffers_and_a_caller_draw_on_answers():
    frames, buffer = clip(5, motion=False), np.empty((*SIZE, 3), np.uint8)
    whole, one = colors(stream().restore([*frames, frames[-1]])), stream()
    for frame, expected in zip([*frames, frames[-1]], whole, strict=True):
        buffer[:] = frame.color
        answer = one.restore([Frame(color=buffer)])[0]
        assert answer.color.tobytes() == expected
        answer.color[:] = 0
        buffer[:] = 0


def test_planes_that_cannot_be_written_are_fine():
    frames = clip(3, depth=np.ones(SIZE, np.float32))
    for frame in frames:
        for plane in (frame.color, frame.motion, frame.depth):
            plane.flags.writeable = False
    assert len(stream().restore(frames)) == 3


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.dtype(">f4")])
def test_motion_may_be_of_any_float_type(dtype):
    frames = clip(4)
    other = [Frame(color=f.color, motion=f.motion.astype(dtype), pts=f.pts) for f in frames]
    assert colors(stream().restore(frames)) == colors(stream().restore(other))


def test_motion_that_is_not_finite_counts_as_none():
    frames = [Frame(color=noisy(f.color, i), motion=f.motion) for i, f in enumerate(clip(8))]
    broken = frames[7].motion.copy()
    broken[10:26], broken[30:40] = np.nan, np.inf
    frames[7] = Frame(color=frames[7].color, motion=broken)
    alone = restore_frames(Sharpening(), frames)[7].color
    answer = stream(Sharpening()).restore(frames)[7].color
    assert np.abs(answer[16:20].astype(int) - alone[16:20]).max() <= 1
    assert np.abs(answer[60:].astype(int) - alone[60:]).max() > 3


def noisy(color, seed):
    grain = np.random.default_rng(seed).normal(0, 3, color.shape)
    return np.clip(color + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("moves", "options"),
    [(True, {}), (False, {"input_gain": 0})],
    ids=["with the picture", "against the motion, without the picture's memory"],
)
def test_a_local_change_is_followed_at_once(moves, options):
    frames, new = clip(8), texture(7)
    changed = []
    for index, frame in enumerate(frames):
        color, step = frame.color.copy(), index if moves else 0
        patch = (slice(34 - step, 64 - step), slice(48 - 2 * step, 98 - 2 * step))
        if index >= 4:
            color[patch] = new[34:64, 48:98]
        changed.append((Frame(color=color, motion=frame.motion, pts=index), patch))
    inputs = [frame for frame, _ in changed]
    alone = restore_frames(Flickering(0.02), inputs)
    steady = stream(Flickering(0.02), **options).restore(inputs)
    for index in (4, 5):
        here = np.zeros(SIZE, bool)
        here[changed[index][1]] = True
        errors, before = (
            np.abs(answers[index].color.astype(float) - inputs[index].color).mean(-1)
            for answers in (steady, alone)
        )
        # what did not change tells how much of the texture moving costs anyway
        usual = max(errors[~here].mean() / before[~here].mean(), 1) if moves else 1
        assert errors[here].mean() < 1.05 * usual * before[here].mean()
    rows, columns = changed[4][1]
    inner = (
        slice(rows.start + 4, rows.stop - 4),
        slice(columns.start + 4, columns.stop - 4),
    )
    # a restorer whose answer at a place depends on what is near: it is the frame's own
    alone = restore_frames(Sharpening(), inputs)
    steady = stream(Sharpening(), **options).restore(inputs)
    step, residual = (
        np.abs(a[4].color[inner].astype(float) - alone[4].color[inner]).mean()
        for a in (steady, inputs)
    )
    assert step < 0.35 * residual


def test_flicker_of_the_input_itself_falls_without_ghosting():
    frames = clip(12)
    rng = np.random.default_rng(0)
    noisy = []
    for frame in frames:
        grain = cv2.GaussianBlur(rng.normal(size=(*SIZE, 1)), (0, 0), 0.7)[..., None] * 3
        color = np.clip(frame.color + grain, 0, 255).astype(np.uint8)
        noisy.append(Frame(color=color, motion=frame.motion, pts=frame.pts))
    copy = load_restorer("copy", device="cpu")
    steady = Stream(copy).restore(noisy)
    assert flicker(steady) < 0.7 * flicker(noisy)
    before, after = (
        np.mean([np.abs(a.color.astype(float) - f.color).mean() for a, f in pairs])
        for pairs in (list(zip(s, frames, strict=True))[4:] for s in (noisy, steady))
    )
    assert after < 0.95 * before
    # what is not in the current picture cannot come from the last one
    for answer, frame in zip(steady, noisy, strict=True):
        low, high = (f(frame.color, np.ones((3, 3), np.uint8)) for f in (cv2.erode, cv2.dilate))
        ranged = answer.color.astype(int).clip(low, high)
        assert np.abs(answer.color - ranged).mean() < 0.5


def test_a_glitch_of_the_network_fades():
    class Glitch(Flickering):
        """Restores its first frame to something else."""

        def __call__(self, rgb):
            result = super().__call__(rgb)
            glitch = self.calls == 1 and self.broken
            return (result + 0.1 * (result - 0.5).sign()).clamp(0, 1) if glitch else result

    answers = []
    for broken in (False, True):
        restorer = Glitch()
        restorer.broken = broken
        frames = clip(24)
        answers.append(stream(restorer).restore([*frames, *frames[::-1][1:]]))
    first, last = (
        np.abs(answers[0][i].color.astype(float) - answers[1][i].color).mean() for i in (0, -1)
    )
    assert first > 10
    assert last < 0.05 * first


def test_a_network_that_overflows_once_spoils_one_frame():
    class Overflowing(Flickering):
        def __call__(self, rgb):
            result = super().__call__(rgb)
            return result * torch.nan if self.calls == 2 else result

    frames = clip(4)
    with np.errstate(invalid="ignore"):
        answers = stream(Overflowing()).restore(frames)
    assert colors(answers[2:]) == colors(stream().restore(frames[2:]))


@pytest.mark.parametrize("kind", ["straight", "premultiplied"])
def test_frames_with_alpha(kind):
    frames = alpha_clip(6, kind)
    alone = restore_frames_alone(frames)
    steady = stream().restore(frames)
    for frame, answer in zip(frames, steady, strict=True):
        assert answer.alpha is frame.alpha
        assert np.array_equal(answer.color[frame.alpha == 0], frame.color[frame.alpha == 0])
    inner = [(slice(90, 150), slice(70 + 12 * i, 110 + 12 * i)) for i in range(6)]

    def flickering(answers):
        shown = [a.color[box].astype(float) for a, box in zip(answers, inner, strict=True)]
        return np.mean([np.abs(b - a).mean() for a, b in pairwise(shown)])

    assert flickering(steady) < 0.6 * flickering(alone)


def restore_frames_alone(frames):
    return [restore_frames(Flickering(), [frame])[0] for frame in frames]


@pytest.mark.parametrize("name", available_restorers())
def test_every_restorer_takes_part(name):
    restorer = load_restorer(name, device="cpu")
    frames = clip(3)
    answers = Stream(restorer).restore(frames)
    alone = restore_frames_one_by_one(restorer, frames)
    assert np.array_equal(answers[0].color, alone[0].color)
    # flicker falls, but the picture stays the restorer's own
    assert np.abs(answers[2].color.astype(int) - alone[2].color).mean() < 2


def restore_frames_one_by_one(restorer, frames):
    return [restore_frames(restorer, [frame])[0] for frame in frames]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 130)])
def test_any_size(size):
    rng = np.random.default_rng(0)
    frames = [Frame(color=rng.integers(0, 255, (*size, 3)).astype(np.uint8)) for _ in range(2)]
    dim = [Frame(color=frames[0].color // 2 + i) for i in range(3)]
    assert all(f.size == size for f in stream().restore([*frames, *dim]))


def test_strength_zero_and_gain_zero():
    frames = clip(3)
    idle = Stream(Flickering(), RestoreOptions(strength=0))
    assert colors(idle.restore(frames)) == colors(frames)
    forgetful = stream(gain=0, input_gain=0)
    alone = restore_frames_one_by_one(Flickering(), frames)
    assert colors(forgetful.restore(frames)) == colors(alone)
