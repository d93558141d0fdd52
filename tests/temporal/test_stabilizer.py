"""One step of the stabiliser: what is steadied, what is followed, what is left alone."""

import cv2
import numpy as np
import pytest

from splatmend.core import InputError
from splatmend.temporal import TemporalOptions
from splatmend.temporal.cuts import is_cut
from splatmend.temporal.stabilizer import (
    Memory,
    apply,
    carry,
    fuse,
    gain_map,
    place,
    to_residual,
)

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
    return Memory(seen, *to_residual((shown + residual).transpose(2, 0, 1), shown), **planes)


def luma(change):
    return cv2.cvtColor(change[..., :3].copy(), cv2.COLOR_RGB2GRAY)


def fused(fresh, old, gain=OPTIONS.gain):
    """The residual (h, w, 4) of a frame that changed in nothing but its restoration."""
    seen = picture(0)
    now = memory(seen, fresh)
    carried = carry(memory(seen, old[..., :3]), None, now)
    return fuse(now, carried, np.full(seen.shape[:2], gain, np.float32)).residual


def test_a_residual_added_to_its_picture_is_the_restoration():
    shown, restored = picture(0) / np.float32(255), noise(0) + np.float32(0.5)
    residual, brightness = to_residual(restored.transpose(2, 0, 1), shown)
    assert residual.shape == (96, 128, 4)
    assert np.allclose(apply(shown, residual), restored, atol=1e-6)
    assert np.array_equal(brightness, luma(shown))


def test_without_gain_the_fresh_residual_is_kept():
    assert np.allclose(fused(noise(0), noise(1), gain=0)[..., :3], noise(0), atol=1e-5)


@pytest.mark.parametrize("blur", [0, 1.5])
def test_flicker_falls_and_detail_keeps_its_strength_for_good(blur):
    now = noise(0, blur=blur)
    steps, strengths = [], []
    for seed in range(1, 150):
        last, now = now, fused(noise(seed, blur=blur), now)
        steps.append((now - last)[..., :3].std() if seed > 1 else 0)
        strengths.append(luma(now).std())
    fresh = noise(0, blur=blur)
    assert np.mean(steps) < 0.2 * np.sqrt(2) * fresh.std()
    assert min(strengths) > 0.9 * luma(fresh).std()  # a plain mean would keep a quarter of it
    assert max(strengths) < 1.1 * luma(fresh).std()
    values = luma(now) / luma(now).std()
    assert (values**4).mean() < 4  # 3 is the noise that came: it has not turned to spikes


def test_what_frames_agree_on_is_kept_and_reached():
    steady, other = noise(0, blur=2), noise(1, blur=2)
    kept, reached = steady, other
    for _ in range(120):
        kept, reached = fused(steady, kept), fused(steady, reached)
    assert np.abs(kept[..., :3] - steady).max() < 1e-3 * np.abs(steady).max()
    assert np.abs(reached[..., :3] - steady).mean() < 0.02 * np.abs(steady).mean()


def test_where_nothing_is_restored_any_more_nothing_is_left():
    left = fused(np.zeros((96, 128, 3), np.float32), noise(0))
    assert np.abs(luma(left)).max() < 1 / 255


def test_a_memory_moves_with_the_motion():
    seen, residual = picture(0), noise(1, blur=1)
    motion = np.zeros((96, 128, 2), np.float32)
    motion[..., 0], motion[..., 1] = -8, -4
    depth = np.arange(96 * 128, dtype=np.float32).reshape(96, 128)
    now = memory(np.roll(seen, (4, 8), (0, 1)), np.roll(residual, (4, 8), (0, 1)))
    moved = carry(memory(seen, residual, depth=depth), motion, now)
    inner = (slice(4, None), slice(8, None))
    assert np.allclose(moved.residual[inner][..., :3], now.residual[inner][..., :3], atol=1e-6)
    assert np.array_equal(moved.depth[inner], np.roll(depth, (4, 8), (0, 1))[inner])
    assert moved.alpha is None
    assert moved.apart[inner].max() < 1e-6
    assert (moved.apart[:4] > 1).all()
    assert (moved.apart[:, :8] > 1).all()
    gain = gain_map(moved, now, OPTIONS)
    assert gain[:4].max() < 1e-6
    assert gain[8:, 12:].min() == pytest.approx(OPTIONS.gain, abs=1e-4)


def test_gain_falls_where_the_input_changed():
    before = np.full((96, 128, 3), 100, np.uint8)
    after = before.copy()
    after[40:60, 50:80] = 180
    now = memory(after, noise(1), age=1)
    still = np.zeros((96, 128, 2), np.float32)
    gain = gain_map(carry(memory(before, noise(0)), still, now), now, OPTIONS)
    assert gain[42:58, 52:78].max() < 0.01
    assert gain[3:34].min() == pytest.approx(OPTIONS.gain)
    assert gain[66:].min() == pytest.approx(OPTIONS.gain)


def test_gain_heeds_alpha_and_depth():
    seen, still = picture(0), np.zeros((96, 128, 2), np.float32)
    alpha, depth = np.ones((2, 96, 128), np.float32), np.ones((2, 96, 128), np.float32)
    alpha[0, :10], depth[0, 20:30] = 0, 3
    last = memory(seen, noise(0), alpha=alpha[0], depth=depth[0])
    now = memory(seen, noise(1), alpha=alpha[1], depth=depth[1], age=1)
    gain = gain_map(carry(last, still, now), now, OPTIONS)
    assert not gain[:10].any()
    assert not gain[20:30].any()
    assert gain[40:].min() == pytest.approx(OPTIONS.gain)


def test_every_row_forgets_in_its_turn():
    seen, options = picture(0), TemporalOptions(max_age=7)
    forgot = np.zeros(96, int)
    for age in range(7):
        now = memory(seen, noise(1), age=age)
        gain = gain_map(carry(memory(seen, noise(0)), None, now), now, options)
        forgot += (gain == 0).all(1)
    assert (forgot == 1).all()


def test_place_keeps_what_both_boxes_show():
    old, new = (slice(64, 192), slice(0, 128)), (slice(0, 130), slice(64, 256))
    seen = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    alpha = np.ones((128, 128), np.float32)
    before = memory(seen, noise(0, (128, 128)), alpha=alpha, age=5)
    moved = place(before, old, new, ground=(1, 0, 0))
    assert moved.age == 5
    for plane in ("seen", "residual", "brightness", "alpha"):
        kept, whole = getattr(moved, plane), getattr(before, plane)
        assert kept.shape == (130, 192, *whole.shape[2:])
        assert kept.dtype == whole.dtype
        assert np.array_equal(kept[64:130, :64], whole[:66, 64:])
    assert (moved.seen[:64] == (255, 0, 0)).all()
    assert not moved.residual[:64].any()
    assert moved.brightness[0, 0] == pytest.approx(0.299)
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
        return is_cut(carry(memory(before, noise(0)), motion, now).apart, now.brightness)

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
    [("gain", 1), ("gain", -0.1), ("tolerance", 0), ("refresh", 0), ("max_gap", 0), ("max_age", 0)],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} must .* got {value}"):
        TemporalOptions(**{name: value})
