"""Change, told apart: light, flicker, motion alone, and new content."""

import cv2
import numpy as np
import torch
from torch import Tensor

from splatmend.temporal.stabilizer.confidence import (
    Light,
    fit_light,
    flicker,
    is_cut,
    known,
    learn,
    learn_persistence,
    noise_share,
    trust,
)
from splatmend.temporal.stabilizer.memory import Look
from splatmend.temporal.stabilizer.planes import half_positions, positions

SIZE = (96, 128)
SEEN = torch.ones(1, 48, 64)
NO_LIGHT = Light(torch.tensor(1.0), torch.tensor(0.0))


def scene(seed: int = 0, blur: float = 4) -> Tensor:
    """(1, h, w) around one half."""
    field = np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)
    field = cv2.GaussianBlur(field, (0, 0), blur)
    return torch.from_numpy(0.5 + 0.15 * field / field.std())[None].clamp(0, 1)


def grain(seed: int, levels: float = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, *SIZE), generator=generator) * levels / 255


class TestLight:
    def test_contrast_and_offset_of_a_fade_are_found(self) -> None:
        last = scene()
        light = fit_light(last, 0.9 * last + 0.02, SEEN)
        assert abs(light.contrast - 0.9) < 0.002
        assert abs(light.offset - 0.02) < 0.001

    def test_new_content_does_not_count(self) -> None:
        last, now = scene(), 0.9 * scene() + 0.02
        now[:, :, :26] = scene(1)[:, :, :26]
        light = fit_light(last, now, SEEN)
        assert abs(light.contrast - 0.9) < 0.01
        assert abs(light.offset - 0.02) < 0.005

    def test_nor_does_content_that_was_not_seen(self) -> None:
        last, now, seen = scene(), 0.9 * scene(), SEEN.clone()
        last[:, :, :64], seen[:, :, :32] = 0, 0
        assert abs(fit_light(last, now, seen).contrast - 0.9) < 0.002

    def test_noise_is_no_light(self) -> None:
        light = fit_light(scene() + grain(0), scene() + grain(1), SEEN)
        assert abs(light.contrast - 1) < 0.005
        assert abs(light.offset) < 0.003

    def test_what_is_too_strong_for_light_is_left_alone(self) -> None:
        for now in (0.3 * scene(), scene(5), scene() + 0.4):
            light = fit_light(scene(), now, SEEN)
            assert (light.contrast, light.offset) == (1, 0)

    def test_nothing_seen_gives_no_light(self) -> None:
        light = fit_light(scene(), 0.9 * scene(), torch.zeros_like(SEEN))
        assert (light.contrast, light.offset) == (1, 0)


class TestCut:
    def test_another_scene_is_a_cut_and_the_same_one_none(self) -> None:
        assert is_cut(scene(), scene(1), NO_LIGHT, SEEN)
        assert not is_cut(scene(), scene(), NO_LIGHT, SEEN)
        assert not is_cut(scene() + grain(0), scene() + grain(1), NO_LIGHT, SEEN)

    def test_a_blink_is_none(self) -> None:
        now = scene()
        now[:, 40:56, 30:100] = scene(1)[:, 40:56, 30:100]
        assert not is_cut(scene(), now, NO_LIGHT, SEEN)

    def test_a_fade_is_none(self) -> None:
        last = scene()
        for share in (0.9, 0.8, 1.25):
            now = last * share
            assert not is_cut(last, now, fit_light(last, now, SEEN), SEEN)

    def test_nothing_seen_is_a_cut(self) -> None:
        assert is_cut(scene(), scene(), NO_LIGHT, torch.zeros_like(SEEN))

    def test_flat_pictures_may_differ_by_noise(self) -> None:
        black = torch.zeros(1, *SIZE)
        assert not is_cut(black, black + 1 / 255, NO_LIGHT, SEEN)
        assert is_cut(black, black + 1, NO_LIGHT, SEEN)


class TestTrust:
    def test_new_content_is_not_trusted_and_the_rest_is(self) -> None:
        now = scene()
        now[:, 40:60, 50:80] += 0.3
        share = trust(flicker(now - scene()), torch.zeros_like(SEEN), 0.05)
        assert share[:, 20:30, 25:40].max() < 0.01
        assert share[:, :12].min() > 0.9
        assert share[:, 40:].min() > 0.9

    def test_the_edge_of_new_content_is_not_trusted_either(self) -> None:
        change = torch.zeros_like(SEEN)
        change[:, 20:30, 25:40] = 0.3
        share = trust(change, torch.zeros_like(SEEN), 0.05)
        assert share[:, 19:31, 24:41].max() < 0.01
        assert share[:, :19].min() == 1

    def test_a_soft_shadow_is_trusted(self) -> None:
        shadow = torch.zeros(1, *SIZE)
        shadow[:, :, 64:] = -12 / 255
        shadow = torch.from_numpy(cv2.GaussianBlur(shadow[0].numpy(), (0, 0), 12))[None]
        assert flicker(shadow).max() < 3 / 255
        assert shadow.abs().max() > 11 / 255

    def test_noise_is_trusted_once_it_is_usual(self) -> None:
        usual, shares = torch.zeros_like(SEEN), []
        for age in range(1, 8):
            change = flicker(grain(age, 8) - grain(age - 1, 8))
            shares.append(float(trust(change, usual, 0.05).mean()))
            usual = learn(change, usual, torch.tensor(float(age)))
        assert shares[0] < 0.6
        assert shares[-1] > 0.9

    def test_new_content_does_not_pass_for_flicker(self) -> None:
        usual = learn(torch.full_like(SEEN, 0.3), torch.zeros_like(SEEN), torch.tensor(9.0))
        assert usual.max() < 1 / 255


def look(alpha: Tensor | None = None, depth: Tensor | None = None) -> Look:
    return Look(scene(), torch.zeros(2, *SIZE), alpha, depth)


def test_another_surface_is_new() -> None:
    still = positions(torch.zeros(*SIZE, 2))
    one = torch.ones(1, *SIZE)
    other_alpha, other_depth = one.clone(), one.clone()
    other_alpha[:, :10], other_depth[:, 20:30] = 0, 3
    last, now = look(one, one), look(other_alpha, other_depth)
    same = known(last, now, still, half_positions(still))[0]
    assert not same[:5].any()
    assert not same[10:15].any()
    assert not same[15].any()  # beside it
    assert same[20:].all()
    assert known(look(), now, still, half_positions(still)).all()


def test_flicker_is_told_from_motion_between_pixels() -> None:
    sharp, usual = scene(3, 0.8), torch.full_like(SEEN, 2 / 255)
    shares = []
    for step in (0.0, 3.0, 0.5):
        motion = torch.zeros(*SIZE, 2)
        motion[..., 0] = step
        shares.append(float(noise_share(usual, sharp, positions(motion)).mean()))
    assert shares[0] > 0.95
    assert shares[1] > 0.95
    assert shares[2] < 0.05


def test_what_trembles_persists_and_what_slides_does_not() -> None:
    trembling = sliding = torch.ones_like(SEEN)
    usual = torch.full_like(SEEN, 1 / 255)
    for index in range(10):
        # a mean is nearer to the next picture than the last one is
        mean, last = grain(index, 4), grain(index, 4) - grain(index + 1, 4)
        trembling = learn_persistence(mean, last, usual, trembling)
        sliding = learn_persistence(2 * last, last, usual, sliding)
    assert trembling.min() > 0.99
    assert sliding.max() < 0.05
    back = learn_persistence(grain(0, 4), grain(0, 8), usual, sliding)
    assert 0.2 < back.mean() < 0.4  # it comes back over some frames
