"""One step of the stabiliser: it removes flicker, follows change, keeps everything else."""

import cv2
import numpy as np
import pytest

from splatmend.core import InputError
from splatmend.temporal import TemporalOptions
from splatmend.temporal.motion.cuts import is_cut
from splatmend.temporal.stabilizer.fusion import (
    Past,
    Trust,
    antialias_picture,
    carry,
    compare,
    fuse,
    revise,
    trusted,
)
from splatmend.temporal.stabilizer.state import add_residual, look, place

OPTIONS = TemporalOptions(gain=0.9)


def noise(seed, size=(96, 128), std=0.02, blur=0.0):
    grain = np.random.default_rng(seed).normal(size=(*size, 3)).astype(np.float32)
    if blur:
        grain = cv2.GaussianBlur(grain, (0, 0), blur)
    return grain * np.float32(std) / grain.std()


def picture(seed, size=(96, 128)):
    return np.rint(255 * (noise(seed, size, 0.15, 4) + 0.5).clip(0, 1)).astype(np.uint8)


def memory(seen, residual, **planes):
    shown = seen.astype(np.float32) / 255
    return add_residual(look(seen, shown, **planes), shown + residual)


def step(now, last, motion=None, options=OPTIONS):
    """`now` fused with what was carried to it, trusted everywhere."""
    carried, between = carry(last, motion)
    compared = compare(carried, between, now)
    trust = Trust(np.ones_like(now.usual_flicker), slice(0, 0), slice(0, 0))
    antialiased = antialias_picture(now, carried, compared, trust, options)
    return fuse(now, Past(antialiased, carried, compared, trust), options)


def trust_in(last, motion, now, options=OPTIONS):
    """How far each pixel of what is carried is trusted, (h, w)."""
    carried, between = carry(last, motion)
    trust = trusted(carried, compare(carried, between, now), now, options)
    shares = cv2.resize(trust.share, now.brightness.shape[::-1])
    shares[trust.forgets] = 0
    return shares


def luma(change):
    return cv2.cvtColor(change, cv2.COLOR_RGB2GRAY)


def fused(fresh, old):
    """The memory of a frame that changed in nothing but its restoration: fused, and fresh."""
    seen = picture(0)
    now = memory(seen, fresh)
    last = memory(seen, old) if isinstance(old, np.ndarray) else old
    return step(now, last), now


def test_what_is_remembered_of_a_restoration():
    seen, change = picture(0), noise(0)
    made = memory(seen, change)
    assert made.brightness.shape == made.residual.shape == (96, 128)
    assert made.colors.shape == made.residual_colors.shape == (2, 48, 64)
    assert np.allclose(made.residual, luma(change), atol=1e-6)
    assert np.allclose(made.brightness, luma(seen / np.float32(255)), atol=1e-6)
    gray = memory(seen, np.repeat(luma(change)[..., None], 3, -1))
    assert np.abs(gray.residual_colors).max() < 1e-5


def test_a_picture_is_revised_by_what_fusing_changed():
    seen, change = picture(0), noise(0, blur=3)
    restored = 0.2 + 0.6 * (seen / np.float32(255)) + change
    more = noise(1, blur=3)
    fresh, other = memory(seen, change), memory(seen, change + more)
    assert np.array_equal(revise(restored, fresh, fresh), restored)
    assert np.abs(revise(restored, fresh, other) - restored - more).max() < 0.01
    bright = revise(restored + 0.6, fresh, other)
    assert bright.max() == 1


def test_without_gain_the_fresh_residual_is_kept():
    seen, now = picture(0), memory(picture(0), noise(0))
    options = TemporalOptions(gain=0, input_gain=0)
    kept = step(now, memory(seen, noise(1)), options=options)
    assert np.allclose(kept.residual, now.residual, atol=1e-5)
    assert np.allclose(kept.residual_colors, now.residual_colors, atol=1e-5)
    assert np.array_equal(kept.antialiased, now.brightness)


@pytest.mark.parametrize("blur", [0, 1.5])
def test_flicker_falls_and_detail_keeps_its_strength_for_good(blur):
    now = noise(0, blur=blur)
    steps, strengths = [], []
    for seed in range(1, 150):
        last, (now, _) = now, fused(noise(seed, blur=blur), now)
        steps.append((now.residual - last.residual).std() if seed > 1 else 0)
        strengths.append(now.residual.std())
    fresh = luma(noise(0, blur=blur))
    assert np.mean(steps) < 0.2 * np.sqrt(2) * fresh.std()
    assert min(strengths) > 0.9 * fresh.std()  # a plain mean would keep a quarter of it
    assert max(strengths) < 1.1 * fresh.std()
    values = now.residual / now.residual.std()
    assert (values**4).mean() < 4  # 3 is the noise that came: it has not turned to spikes


def test_what_frames_agree_on_is_kept_and_reached():
    steady, other = noise(0, blur=2), noise(1, blur=2)
    kept, reached = steady, other
    for _ in range(120):
        (kept, fresh), (reached, _) = fused(steady, kept), fused(steady, reached)
    for plane in ("residual", "residual_colors"):
        wanted = getattr(fresh, plane)
        assert np.abs(getattr(kept, plane) - wanted).max() < 1e-3 * np.abs(wanted).max()
        assert np.abs(getattr(reached, plane) - wanted).mean() < 0.02 * np.abs(wanted).mean()


def test_contrast_that_flickers_is_averaged_and_a_lasting_change_is_followed():
    detail, now = noise(0, blur=1.5), noise(0, blur=1.5)
    strengths = []
    for index in range(40):
        now, _ = fused(detail * np.float32(1.3 if index % 2 else 0.7), now)
        strengths.append(now.residual.std())
    late = np.array(strengths[20:])
    assert np.ptp(late) < 0.15 * late.mean()  # 0.6 of what came
    assert late.mean() == pytest.approx(luma(detail).std(), rel=0.1)
    for _ in range(60):
        now, fresh = fused(detail * np.float32(0.5), now)
    assert now.residual.std() == pytest.approx(fresh.residual.std(), rel=0.02)


def test_where_nothing_is_restored_any_more_nothing_is_left():
    left, _ = fused(np.zeros((96, 128, 3), np.float32), noise(0))
    assert np.abs(left.residual).max() < 1 / 255


def test_the_antialiased_picture_stays_within_the_range_of_the_current_one():
    before, now = memory(picture(1), noise(0)), memory(picture(0), noise(0))
    kept = step(now, before, np.zeros((96, 128, 2), np.float32))
    around = np.ones((7, 7), np.uint8)  # 3 x 3, and as much again for the energy that is kept
    low, high = (f(now.brightness, around) for f in (cv2.erode, cv2.dilate))
    assert (kept.antialiased > low - 0.02).all()
    assert (kept.antialiased < high + 0.02).all()
    assert not np.allclose(kept.antialiased, now.brightness, atol=0.01)


def test_a_memory_moves_with_the_motion():
    seen, residual = picture(0), noise(1, blur=1)
    motion = np.zeros((96, 128, 2), np.float32)
    motion[..., 0], motion[..., 1] = -8, -4
    depth = np.arange(96 * 128, dtype=np.float32).reshape(96, 128)
    now = memory(np.roll(seen, (4, 8), (0, 1)), np.roll(residual, (4, 8), (0, 1)))
    last = memory(seen, residual, depth=depth)
    moved, between = carry(last, motion)
    assert not between.any()
    inner, half = (slice(4, None), slice(8, None)), (..., slice(2, None), slice(4, None))
    for plane, part in (
        ("brightness", inner), ("antialiased", inner), ("residual", inner),
        ("colors", half), ("residual_colors", half),
    ):  # fmt: skip
        assert np.allclose(getattr(moved, plane)[part], getattr(now, plane)[part], atol=1e-5)
    assert np.array_equal(moved.depth[inner], np.roll(depth, (4, 8), (0, 1))[inner])
    assert moved.alpha is None
    assert (moved.brightness[:4] < 0).all()
    assert (moved.brightness[:, :8] < 0).all()
    trust = trust_in(last, motion, now)
    assert trust[:4].max() < 1e-6
    assert trust[8:, 12:].min() == pytest.approx(1, abs=1e-4)


def test_trust_falls_where_the_input_changed():
    before = np.full((96, 128, 3), 100, np.uint8)
    after = before.copy()
    after[40:60, 50:80] = 180
    now = memory(after, noise(1), age=1)
    still = np.zeros((96, 128, 2), np.float32)
    trust = trust_in(memory(before, noise(0)), still, now)
    assert trust[42:58, 52:78].max() < 0.01
    assert trust[3:34].min() == pytest.approx(1)
    assert trust[66:].min() == pytest.approx(1)


def test_trust_heeds_alpha_and_depth():
    seen, still = picture(0), np.zeros((96, 128, 2), np.float32)
    alpha, depth = np.ones((2, 96, 128), np.float32), np.ones((2, 96, 128), np.float32)
    alpha[0, :10], depth[0, 20:30] = 0, 3
    last = memory(seen, noise(0), alpha=alpha[0], depth=depth[0])
    now = memory(seen, noise(1), alpha=alpha[1], depth=depth[1], age=1)
    trust = trust_in(last, still, now)
    assert not trust[:10].any()
    assert not trust[20:30].any()
    assert trust[40:].min() == pytest.approx(1)


@pytest.mark.parametrize("size", [(96, 128), (37, 20)], ids=str)
def test_every_row_forgets_in_its_turn(size):
    seen, options = picture(0, size), TemporalOptions(max_age=7)
    last = memory(seen, noise(0, size))
    forgot, colors_forgot = np.zeros(size[0], int), np.zeros(-(-size[0] // 2), int)
    for age in range(7):
        now = memory(seen, noise(1, size), age=age)
        carried, between = carry(last, None)
        compared = compare(carried, between, now)
        trust = trusted(carried, compared, now, options)
        antialiased = antialias_picture(now, carried, compared, trust, options)
        kept = fuse(now, Past(antialiased, carried, compared, trust), options)
        forgot += (kept.residual == now.residual).all(1)
        colors_forgot += (kept.residual_colors == now.residual_colors).all((0, 2))
    assert (forgot == 1).all()
    assert (colors_forgot == 1).all()


def test_place_keeps_what_both_boxes_show():
    old, new = (slice(64, 192), slice(0, 128)), (slice(0, 130), slice(64, 256))
    seen = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    alpha = np.ones((128, 128), np.float32)
    before = memory(seen, noise(0, (128, 128)), alpha=alpha, age=5)
    moved = place(before, old, new, ground=(1, 0, 0))
    assert moved.age == 5
    for plane in ("seen", "residual", "brightness", "antialiased", "alpha"):
        kept, whole = getattr(moved, plane), getattr(before, plane)
        assert kept.shape == (130, 192, *whole.shape[2:])
        assert kept.dtype == whole.dtype
        assert np.array_equal(kept[64:130, :64], whole[:66, 64:])
    for plane in ("colors", "residual_colors"):
        kept, whole = getattr(moved, plane), getattr(before, plane)
        assert kept.shape == (2, 65, 96)
        assert np.array_equal(kept[:, 32:65, :32], whole[:, :33, 32:])
    assert (moved.seen[:64] == (255, 0, 0)).all()
    assert not moved.residual[:64].any()
    assert moved.brightness[0, 0] == pytest.approx(0.299)
    assert moved.colors[:, 0, 0] == pytest.approx([0.713 * 0.701, 0.564 * -0.299])
    assert not moved.alpha[:64].any()
    apart = place(moved, new, (slice(192, 256), slice(0, 64)), ground=(0, 0, 0))
    assert not apart.seen.any()
    assert not apart.residual.any()


def test_cuts():
    one, other = picture(0), picture(1)

    def cut(before, after, dx=0):
        motion = np.zeros((96, 128, 2), np.float32)
        motion[..., 0] = dx
        now = memory(after, noise(1))
        return is_cut(carry(memory(before, noise(0)), motion)[0].brightness, now.brightness)

    assert cut(one, other)
    assert not cut(one, one)
    assert not cut(one, np.roll(one, 3, 1), dx=-3)
    assert cut(one, one, dx=500)  # nothing of it is inside
    blink = one.copy()
    blink[40:56, 30:100] = one[60:76, 30:100]
    assert not cut(one, blink)
    noisy = np.clip(one + 255 * noise(5), 0, 255).astype(np.uint8)
    assert not cut(one, noisy)
    dark, light = np.zeros_like(one), np.full_like(one, 255)
    assert cut(dark, light)
    assert cut(dark, one)
    assert not cut(dark, dark + 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gain", 1),
        ("input_gain", 1),
        ("gain", -0.1),
        ("tolerance", 0),
        ("refresh", 0),
        ("max_gap", 0),
        ("max_age", 0),
    ],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} must .* got {value}"):
        TemporalOptions(**{name: value})
