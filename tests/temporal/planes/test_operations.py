"""Steps on planes do what their plain formulas say, whatever the size and the number of threads."""

import threading

import cv2
import numpy as np
import pytest

from splatmend.temporal.planes import numba_support, operations

from waiting import is_waiting, until

SIZES = [(1, 1), (2, 3), (3, 2), (7, 5), (37, 53), (64, 96)]


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def cells(plane, side):
    """Means of cells of `side` x `side`; fewer at the border."""
    height, width = plane.shape
    rows = range(0, height, side)
    columns = range(0, width, side)
    return np.array([[plane[y : y + side, x : x + side].mean() for x in columns] for y in rows])


def enlarged(half, shape):
    """Bilinear, pixel centres in their places, border pixels repeated."""
    y, x = ((np.arange(s, dtype=np.float32) - 0.5) / 2 for s in shape)
    return cv2.remap(half, *np.meshgrid(x, y), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def mean_3x3(plane):
    return cv2.blur(plane, (3, 3), borderType=cv2.BORDER_REPLICATE)


@pytest.fixture(params=SIZES, ids=str)
def shape(request):
    return request.param


@pytest.fixture
def halves(shape):
    return [random(-(-shape[0] // 2), -(-shape[1] // 2), seed=9 + i) - 0.5 for i in range(4)]


def test_brightness_and_colours(shape):
    rgb = random(*shape, 3)
    brightness, colors = operations.brighten(rgb)
    r, g, b = np.moveaxis(rgb, -1, 0)
    assert np.allclose(brightness, 0.299 * r + 0.587 * g + 0.114 * b, atol=1e-6)
    assert np.allclose(colors[0], 0.713 * cells(r - brightness, 2), atol=1e-6)
    assert np.allclose(colors[1], 0.564 * cells(b - brightness, 2), atol=1e-6)


def test_a_picture_gets_the_brightness_and_colours_of_another(shape):
    rgb, other = (np.ones((*shape, 3), np.float32) * random(3, seed=s) for s in (0, 1))
    (bright, tints), (wanted, wanted_tints) = operations.brighten(rgb), operations.brighten(other)
    nothing = np.zeros_like(bright)
    made = operations.revised(rgb, (wanted, bright, nothing, nothing), wanted_tints - tints)
    assert np.allclose(made, other, atol=1e-3)
    light = operations.revised(rgb, (nothing + 3, nothing, nothing, nothing), 0 * tints)
    assert (light == 1).all()
    assert (operations.revised(rgb, (nothing, nothing, nothing, nothing + 3), 0 * tints) == 0).all()


def test_differences(shape, halves):
    now, before, light = random(*shape), random(*shape, seed=1), halves[0]
    signed, size = operations.difference(now, before)
    assert np.allclose(signed, cells(now - before, 2), atol=1e-6)
    assert np.allclose(size, cells(abs(now - before), 2), atol=1e-6)
    beside = operations.flicker(now, before, light)
    assert np.allclose(beside, cells(abs(now - before - enlarged(light, shape)), 2), atol=1e-6)


def test_bands_and_their_energies(shape):
    plane = random(*shape) - 0.5
    low, energies = operations.split(plane)
    assert np.allclose(low, mean_3x3(plane), atol=1e-6)
    assert np.allclose(energies[0], cells((plane - low) ** 2, 4), atol=1e-6)
    assert np.allclose(energies[1], cells(low**2, 4), atol=1e-6)
    fine = plane - low
    twice = plane - 2 * low + mean_3x3(low)  # the same as fine - mean_3x3(fine)
    assert np.allclose(twice, fine - mean_3x3(fine), atol=1e-6)
    assert np.allclose(operations.finest(plane, low), cells(abs(twice), 2), atol=1e-6)


def test_bands_are_raised(shape, halves):
    plane, more, also = random(*shape), halves[0], halves[1]
    low, _ = operations.split(plane)
    raised, both = plane.copy(), plane.copy()
    operations.raise_fine(raised, low, more)
    wanted = plane + enlarged(more, shape) * (plane - low)
    assert np.allclose(raised, wanted, atol=1e-6)
    operations.raise_bands(both, low, more, also)
    assert np.allclose(both, wanted + enlarged(also, shape) * low, atol=1e-6)


def test_mixes(shape, halves):
    fresh, past, light, gain = random(*shape), 3 * random(*shape, seed=1), halves[0], halves[1]
    share = enlarged(gain, shape)
    assert np.allclose(
        operations.mix(fresh, past, gain), (1 - share) * fresh + share * past, atol=1e-6
    )
    around = np.ones((3, 3), np.uint8)
    kept = (past + enlarged(light, shape)).clip(cv2.erode(fresh, around), cv2.dilate(fresh, around))
    wanted = (1 - share) * fresh + share * kept
    assert np.allclose(operations.clip_mix(fresh, past, light, gain), wanted, atol=1e-6)


def test_motion_aims_where_things_come_from(shape):
    motion = 5 * random(*shape, 2) - 2.5
    y, x = np.mgrid[: shape[0], : shape[1]]
    source = operations.aim(motion)
    assert np.allclose(source, motion + np.stack([x, y], -1), atol=1e-5)
    coarse, _ = operations.aim_cells(source)
    of_cells = np.stack([cells(motion[..., axis], 2) for axis in (0, 1)], -1) / 2
    even = slice(0, shape[0] // 2), slice(0, shape[1] // 2)
    y, x = np.mgrid[: coarse.shape[0], : coarse.shape[1]]
    assert np.allclose(coarse[even], (of_cells + np.stack([x, y], -1))[even], atol=1e-5)
    motion[0, 0], motion[-1, -1] = np.nan, np.inf
    for aimed in (operations.aim(motion), operations.aim_cells(operations.aim(motion))[0]):
        assert np.isfinite(aimed).all()
        assert (aimed[0, 0] < -1e4).all()
        assert (aimed[-1, -1] < -1e4).all()


def test_whole_pixels_lose_nothing():
    motion = np.zeros((2, 8, 2), np.float32)
    motion[:, 2:4, 0], motion[:, 4:6, 1], motion[:, 6:, 0] = 1, 0.5, -2.02
    lost = operations.aim_cells(operations.aim(motion))[1][0]
    assert lost[0] == 0
    assert lost[1] == lost[2] == 1  # half a pixel of the half plane, and a quarter
    assert 0 < lost[3] < 0.1


def test_slow_motion_rests_where_told():
    motion = np.full((6, 7, 2), 0.4, np.float32)
    motion[2:4] = 1.5
    here, there = np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32)
    here[:, 1] = 2
    rested = motion.copy()
    operations.rest(rested, here, there, 1.0)
    stays = np.ones((6, 7), bool)
    stays[2:4], stays[:, 2:4] = False, False
    assert (rested[stays] == 0).all()
    assert np.array_equal(rested[~stays], motion[~stays])


def test_any_number_of_threads_gives_the_same_bytes(monkeypatch):
    shape = (203, 130)
    fresh, past, gain = random(*shape), random(*shape, seed=1), random(102, 65)
    motion = 9 * random(*shape, 2)

    def everything():
        mixed = operations.clip_mix(fresh, past, gain - 0.5, gain)
        low, energies = operations.split(mixed)
        operations.raise_bands(mixed, low, gain, gain)
        coarse = operations.aim_cells(operations.aim(motion))
        more = (*operations.difference(mixed, past), operations.finest(mixed, low))
        return [a.tobytes() for a in (mixed, low, energies, *coarse, *more)]

    alone = everything()
    monkeypatch.setattr(numba_support, "_WORTH", 1)
    for count in (2, 3, 50):
        monkeypatch.setattr(cv2, "getNumThreads", lambda count=count: count)
        assert everything() == alone


def test_an_error_in_one_band_is_told_when_all_are_done(monkeypatch):
    monkeypatch.setattr(numba_support, "_WORTH", 1)
    monkeypatch.setattr(cv2, "getNumThreads", lambda: 4)
    seen, caller = [], threading.current_thread()

    def kernel(first, last):
        if first == 16:
            raise ValueError("a band")
        if first:
            until(lambda: is_waiting(caller))
        seen.append((first, last))

    with pytest.raises(ValueError, match="a band"):
        numba_support.in_bands(kernel, (64, 64))
    assert sorted(seen) == [(0, 16), (32, 48), (48, 64)]


def test_without_a_folder_to_keep_it_in_it_is_compiled_all_the_same():
    def compiler(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    assert numba_support._cached(compiler, len, {"nogil": True}) == (len, {"nogil": True})
