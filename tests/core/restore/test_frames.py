"""Frames through a restorer: strength, colour lock, alpha."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from splatmend.core import (
    Frame,
    InputError,
    RestoreOptions,
    RestorerTraits,
    alpha_box,
    load_restorer,
    lock_colors,
    low_frequencies,
    restore_frames,
    restore_pixels,
)

OPEN = RestoreOptions(color_lock=False)


class Invert:
    """A restorer whose every output differs from its input."""

    device = torch.device("cpu")

    def __init__(self, *, small: int = 0) -> None:
        self.traits = RestorerTraits("invert", small=small)
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, rgb: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(rgb.shape))
        return 1 - rgb


def noise(*shape: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, shape).astype(np.uint8)


def test_strength_blends_between_input_and_output() -> None:
    rgb = torch.rand(1, 3, 8, 8)
    half = restore_pixels(Invert(), rgb, RestoreOptions(strength=0.5, color_lock=False))
    torch.testing.assert_close(half, torch.full_like(rgb, 0.5))
    assert torch.equal(restore_pixels(Invert(), rgb, RestoreOptions(strength=0)), rgb)
    with pytest.raises(InputError, match=r"strength must lie in \[0, 1\], got 1.5"):
        RestoreOptions(strength=1.5)


def test_small_frames_are_restored_at_twice_their_size() -> None:
    inner = Invert(small=40)
    rgb, options = torch.rand(1, 3, 24, 40), RestoreOptions(color_lock=False)
    restored = restore_pixels(inner, rgb, options)
    assert restored.shape == rgb.shape
    flat = torch.full_like(rgb, 0.2)
    torch.testing.assert_close(restore_pixels(inner, flat, options), 1 - flat)
    restore_pixels(inner, torch.rand(1, 3, 24, 41), options)
    restore_pixels(inner, rgb, RestoreOptions(color_lock=False, magnify=1))
    restore_pixels(inner, rgb, RestoreOptions(color_lock=False, magnify=3))
    assert [s[2:] for s in inner.seen] == [(48, 80), (48, 80), (24, 41), (24, 40), (72, 120)]
    with pytest.raises(InputError, match="magnify must be a whole number from 1 on, got 0"):
        RestoreOptions(magnify=0)


def test_the_size_of_the_frame_counts_and_not_that_of_its_visible_part() -> None:
    inner = Invert(small=256)
    for side in (200, 400):
        alpha = np.zeros((side, side), np.uint8)
        alpha[90:110, 90:110] = 255
        restore_frames(inner, [Frame(color=noise(side, side, 3), alpha=alpha)])
    assert [s[2:] for s in inner.seen] == [(384, 384), (192, 192)]


def test_what_does_not_change_stays_bit_for_bit_at_twice_the_size() -> None:
    rgb = torch.rand(2, 3, 17, 23)
    copy = load_restorer("copy", device="cpu")
    assert torch.equal(restore_pixels(copy, rgb, RestoreOptions(magnify=2)), rgb)


def test_the_lock_keeps_colours_and_lets_detail_through() -> None:
    flat = torch.full((1, 3, 96, 96), 0.3)
    shifted = restore_pixels(Invert(), flat, RestoreOptions())
    torch.testing.assert_close(shifted, flat)  # a change of colour is taken back whole
    checker = (torch.arange(96)[:, None] + torch.arange(96)).remainder(2).float() - 0.5
    detail = checker.expand(1, 3, 96, 96)
    assert (lock_colors(detail) - detail).abs().amax() < 0.02


def test_low_frequencies_of_a_constant_is_the_constant_up_to_the_border() -> None:
    for size in ((1, 1), (5, 90), (37, 41)):
        x = torch.full((1, 3, *size), 0.7)
        torch.testing.assert_close(low_frequencies(x), x)


@pytest.mark.parametrize("size", [(4, 4), (37, 90), (160, 96)])
def test_low_frequencies_are_a_mean_of_the_cells_that_exist(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    cells = F.avg_pool2d(x, 4, ceil_mode=True, count_include_pad=False)
    mean = F.avg_pool2d(cells, 9, 1, 4, count_include_pad=False)
    whole = F.interpolate(mean, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(low_frequencies(x), whole[..., : size[0], : size[1]])


def test_opaque_frames_go_through_in_one_batch_and_keep_their_planes() -> None:
    restorer = Invert()
    depth = np.ones((6, 9), np.float32)
    frames = [Frame(color=noise(6, 9, 3), depth=depth, pts=i) for i in range(3)]
    restored = restore_frames(restorer, frames, OPEN)
    assert restorer.seen == [(3, 3, 6, 9)]
    assert [f.pts for f in restored] == [0, 1, 2]
    assert restored[0].depth is depth
    np.testing.assert_array_equal(restored[0].color, 255 - frames[0].color)


def test_sixteen_bits_stay_sixteen_bits() -> None:
    color = np.random.default_rng(0).integers(0, 65536, (5, 5, 3)).astype(np.uint16)
    (restored,) = restore_frames(Invert(), [Frame(color=color)], OPEN)
    np.testing.assert_array_equal(restored.color, 65535 - color)


def head(kind: str, *, rim: bool = True) -> Frame:
    """A 300 x 400 frame with a soft-edged square of noise in it."""
    alpha = np.zeros((300, 400), np.uint8)
    alpha[140:180, 200:260] = 128 if rim else 255
    alpha[145:175, 205:255] = 255
    color = noise(300, 400, 3)
    if kind == "premultiplied":
        color = (color.astype(np.float32) * alpha[..., None] / 255).round().astype(np.uint8)
    return Frame(color=color, alpha=alpha, alpha_kind=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["straight", "premultiplied"])
def test_alpha_is_kept_and_nothing_outside_it_changes(kind: str) -> None:
    frame, restorer = head(kind), Invert()
    (restored,) = restore_frames(restorer, [frame], OPEN)
    assert restored.alpha is frame.alpha
    assert frame.alpha is not None
    outside = frame.alpha == 0
    np.testing.assert_array_equal(restored.color[outside], frame.color[outside])
    inside = frame.alpha == 255
    np.testing.assert_array_equal(restored.color[inside], 255 - frame.color[inside])
    # only the padded box around the head went through the network
    assert restorer.seen == [(1, 3, 192, 192)]


def test_premultiplied_and_straight_frames_give_the_same_picture() -> None:
    straight = head("straight")
    assert straight.alpha is not None
    share = straight.alpha[..., None].astype(np.float32) / 255
    over = (straight.color * share).round().astype(np.uint8)
    premultiplied = Frame(color=over, alpha=straight.alpha, alpha_kind="premultiplied")
    restorer = load_restorer("unsharp", device="cpu")
    (a,) = restore_frames(restorer, [straight], OPEN)
    (b,) = restore_frames(restorer, [premultiplied], OPEN)
    # rounding of the input, amplified by the mask's factor of two
    assert np.abs((a.color * share) - b.color.astype(np.float32)).max() <= 3


def test_premultiplied_colour_never_exceeds_alpha_and_no_rim_darkens() -> None:
    alpha = np.zeros((128, 128), np.uint8)
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
    alpha[32:96, 32:96] = ramp
    color = np.repeat(alpha[..., None], 3, 2)  # white, premultiplied
    restorer = load_restorer("unsharp", device="cpu")
    (restored,) = restore_frames(
        restorer, [Frame(color=color, alpha=alpha, alpha_kind="premultiplied")], OPEN
    )
    assert (restored.color <= alpha[..., None]).all()
    # white over the white matte is flat: nothing to sharpen, so no dark fringe may appear
    np.testing.assert_array_equal(restored.color, color)


def test_an_empty_alpha_returns_the_frame() -> None:
    frame = Frame(color=noise(9, 9, 3), alpha=np.zeros((9, 9), np.uint8))
    restorer = Invert()
    assert restore_frames(restorer, [frame], OPEN) == [frame]
    assert not restorer.seen


def test_opaque_alpha_equals_no_alpha(tiny_checkpoint: Path) -> None:
    restorer = load_restorer(tiny_checkpoint, device="cpu")
    color = noise(64, 64, 3)
    (plain,) = restore_frames(restorer, [Frame(color=color)])
    (full,) = restore_frames(restorer, [Frame(color=color, alpha=np.full((64, 64), 255, np.uint8))])
    np.testing.assert_array_equal(plain.color, full.color)


def test_the_box_is_padded_snapped_and_stays_inside() -> None:
    alpha = np.zeros((300, 400), np.uint8)
    assert alpha_box(alpha) is None
    alpha[140, 200] = 1
    assert alpha_box(alpha) == (slice(64, 192), slice(128, 256))
    alpha[299, 399] = 1
    assert alpha_box(alpha) == (slice(64, 300), slice(128, 400))


def test_mixed_batches_are_refused() -> None:
    frames = [Frame(color=noise(4, 4, 3)), Frame(color=noise(4, 5, 3))]
    with pytest.raises(InputError, match="got 2 kinds"):
        restore_frames(Invert(), frames)
    with pytest.raises(InputError, match="at least one frame"):
        restore_frames(Invert(), [])
