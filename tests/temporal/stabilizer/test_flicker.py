"""Flicker is removed; light, moving detail and restorers without flicker are kept."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from splatmend.core import Frame, load_restorer, restore_frames
from splatmend.temporal.motion.flow import settle
from splatmend.temporal.stabilizer.flicker import (
    broad,
    exceeding,
    is_light,
    learn,
    learn_persistence,
    noise_share,
)

from streams import SIZE, Flickering, Sharpening, clip, flicker, stream


def grain(seed, std):
    noise = np.random.default_rng(seed).normal(size=(*SIZE, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 1)
    return std * noise / noise.std()


def changed(frames, change):
    """The frames with `change(index, colour as float32)` for their colour."""
    made = []
    for index, frame in enumerate(frames):
        color = np.rint(change(index, frame.color.astype(np.float32)))
        color = color.clip(0, 255).astype(np.uint8)
        made.append(Frame(color=color, motion=frame.motion, pts=index))
    return made


def copied(frames, **options):
    return stream(load_restorer("copy", device="cpu"), **options).restore(frames)


def error(answers, truth):
    pairs = list(zip(answers, truth, strict=True))[4:]
    return np.mean([np.abs(a.color.astype(float) - t.color).mean() for a, t in pairs])


@pytest.mark.parametrize("std", [3, 6])
def test_strong_flicker_is_no_reason_to_forget(std):
    truth = clip(14)
    noisy = changed(truth, lambda i, color: color + grain(i, std))
    steady = copied(noisy)
    assert flicker(steady[4:]) < 0.65 * flicker(noisy[4:])
    assert error(steady, truth) < 0.85 * error(noisy, truth)


@pytest.mark.parametrize("rate", [0.01, 0.03])
def test_light_is_followed_at_once(rate):
    fading = changed(clip(14), lambda i, color: color * (1 - rate * i))
    for frames in (fading, changed(fading, lambda i, color: color + grain(i, 2))):
        pairs = zip(copied(frames), frames, strict=True)
        lag = [np.mean(a.color.astype(float) - f.color) for a, f in pairs]
        assert np.abs(lag).max() < 0.15  # a frame's change is 1.3 to 4 levels


def test_what_only_moves_keeps_its_detail():
    picture = np.clip(128 + cv2.resize(grain(0, 25), (256, 192), interpolation=3), 0, 255)
    frames = []
    for index in range(10):
        view = np.array([[1, 0, -0.37 * index - 40], [0, 1, -0.21 * index - 40]], np.float32)
        color = cv2.warpAffine(picture, view, SIZE[::-1], flags=cv2.INTER_LANCZOS4)
        motion = np.full((*SIZE, 2), (0.37, 0.21), np.float32)
        frames.append(Frame(color=color.clip(0, 255).astype(np.uint8), motion=motion, pts=index))
    answers = copied(frames)
    assert error(answers, frames) < 1
    sharp, before = (
        np.mean([cv2.Laplacian(f.color, cv2.CV_32F).std() for f in s]) for s in (answers, frames)
    )
    assert sharp > 0.97 * before


def test_a_restorer_that_boils_little_is_left_more_to_itself():
    frames = clip(10)
    kept = []
    for strength in (0.002, 0.04):
        alone = restore_frames(Flickering(strength), frames)
        steady = stream(Flickering(strength)).restore(frames)
        kept.append(flicker(steady[4:]) / flicker(alone[4:]))
    assert kept[1] < 0.45
    assert kept[0] > kept[1]


def test_an_estimate_settles_where_nothing_moved():
    y, x = np.mgrid[:96, :128].astype(np.float32)
    before = 0.5 + 0.2 * np.sin(x / 3) * np.cos(y / 4)
    now = before.copy()
    now[:, 64:] = (0.5 + 0.2 * np.sin((x - 0.5) / 3) * np.cos(y / 4))[:, 64:]
    tremble = np.random.default_rng(0).normal(0, 0.1, (96, 128, 2)).astype(np.float32)
    tremble[:, 64:, 0] -= 0.5
    settled = settle(tremble, before, now)
    assert np.mean(settled[8:-8, 8:56] == 0) > 0.8
    assert np.mean((settled == tremble)[8:-8, 72:-8].all(-1)) > 0.8
    far = tremble + 3
    assert np.array_equal(settle(far, before, now), far)


def test_shares_and_what_is_usual():
    change, none = np.full((4, 6), 0.01, np.float32), np.zeros((4, 6), np.float32)
    usual = learn(change, none, 1)
    assert np.allclose(usual, change)  # one frame is all there is to go by
    for age in range(2, 80):
        usual = learn(none, usual, age)
    assert usual.max() < 1e-6
    assert learn(np.full((4, 6), 9, np.float32), none, 1).max() == pytest.approx(8 / 255)
    assert learn(np.full((4, 6), 0.5, np.float32), none, 9).max() < 0.2 / 255  # once is no habit
    assert not exceeding(change, change / 2).any()
    assert np.allclose(exceeding(change, none), change)
    assert noise_share(change, change)[0, 0] == pytest.approx(0.5)
    assert noise_share(2 * change, change).min() > 0.99
    assert noise_share(none, change).max() == 0


def test_the_past_lasts_while_it_is_as_near_as_the_last_picture():
    error, beyond = np.full((48, 64), 4 / 255, np.float32), np.full((48, 64), 9, np.float32)

    def after(astray, change, before, usual=0):
        past = np.full_like(error, before)
        for _ in range(30):
            past = learn_persistence(astray, change, np.full_like(error, usual), past)
        return past

    for before in (0, 1):
        assert after(error, error, before) == pytest.approx(1, abs=1e-4)
        assert after(error / 2, error, before) == pytest.approx(1, abs=1e-4)
        assert after(1.4 * error, error, before).max() < 1e-4
        assert 0.2 < after(1.06 * error, error, before).mean() < 0.8
        assert after(beyond, beyond, before) == pytest.approx(1, abs=1e-4)
        assert after(error / 80, 0 * error, before).min() > 0.4  # a twentieth of a level
        assert after(error, 0 * error, before).max() < 1e-4
        assert after(error, 0 * error, before, usual=6 / 255) == pytest.approx(1, abs=1e-4)
    once = learn_persistence(2 * error, error, 0 * error, np.ones_like(error))
    assert once.min() > 0.5  # once is not a habit


@pytest.mark.parametrize(
    ("restorer", "share"),
    [(load_restorer("copy", device="cpu"), 0.45), (Sharpening(), 0.55)],
    ids=["copied", "sharpened"],
)
def test_what_slides_over_one_another_keeps_its_detail(restorer, share):
    # two textures, one of which drifts by half a pixel a frame from what the motion says
    frames, over = clip(16), grain(5, 14).repeat(2, 1)
    across, down = np.meshgrid(*(np.arange(s, dtype=np.float32) for s in SIZE[::-1]))

    def slide(index, color):
        drifted = cv2.remap(over, across + 2.5 * index, down, cv2.INTER_CUBIC)
        return color + np.roll(drifted, -index, 0)

    frames = changed(frames, slide)
    alone = restore_frames(restorer, frames)
    errors = [
        np.abs(a.color.astype(float) - b.color)[8:-8, 8:-8].mean()
        for a, b in zip(stream(restorer).restore(frames), alone, strict=True)
    ]
    step = np.mean(
        [
            np.abs(b.color[:-1, :-2].astype(float) - a.color[1:, 2:]).mean()
            for a, b in pairwise(alone)
        ]
    )
    # where the past is always kept, or as far as a change is larger than its picture's: 1.3 to 1.9
    assert np.mean(errors[6:]) < share * step


def test_light_is_the_mean_of_what_counts():
    difference, weight = np.full((48, 64), 0.02, np.float32), np.ones((48, 64), np.float32)
    difference[20:30, 25:35], weight[20:30, 25:35] = 0.9, 0
    assert broad(difference, weight) == pytest.approx(0.02, rel=0.02)
    assert not broad(difference, 0 * weight).any()
    assert np.array_equal(is_light(difference), weight)
