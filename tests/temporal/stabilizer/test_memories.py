"""The two memories: a picture that trembles, a residual that flickers, and what ends both."""

from dataclasses import fields
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from splatmend.temporal.stabilizer import Look, Memory, accumulate, antialias, begin, place
from splatmend.temporal.stabilizer.memory import brightness, join_colors, split_colors

SIZE = (96, 128)
STILL = torch.zeros(*SIZE, 2)


def picture(seed: int = 0, blur: float = 3) -> Tensor:
    field = np.random.default_rng(seed).normal(size=(*SIZE, 3)).astype(np.float32)
    field = cv2.GaussianBlur(field, (0, 0), blur)
    return torch.from_numpy(0.5 + 0.15 * field / field.std()).movedim(-1, 0).clamp(0, 1)


def grain(seed: int, levels: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((3, *SIZE), generator=generator) * levels / 255


def look(rgb: Tensor) -> Look:
    return Look(*split_colors(rgb))


def levels(one: Tensor, other: Tensor) -> float:
    return 255 * float((one - other).abs().mean())


def run(
    pictures: list[Tensor], residuals: list[Tensor], *, gain: float = 0.9, input_gain: float = 0.8
) -> tuple[list[Tensor], list[Tensor], Memory]:
    """Restore still pictures -> anti-aliased pictures, answers, the last memory."""
    shown, answers = [pictures[0]], [pictures[0] + residuals[0]]
    memory = begin(pictures[0], look(pictures[0]), answers[0])
    for rgb, residual in zip(pictures[1:], residuals[1:], strict=True):
        now = look(rgb)
        past, steady = antialias(memory, STILL, rgb, now, gain=input_gain, tolerance=0.05)
        memory, answer = accumulate(past, steady, now, steady + residual, gain=gain)
        shown.append(steady)
        answers.append(answer)
    return shown, answers, memory


NOTHING = torch.zeros(3, *SIZE)


class TestInput:
    def test_noise_is_averaged(self) -> None:
        clean = picture()
        noisy = [clean + grain(i, 4) for i in range(14)]
        shown, _, _ = run(noisy, [NOTHING] * 14)
        assert levels(shown[-1], clean) < 0.6 * levels(noisy[-1], clean)
        assert levels(shown[-1], shown[-2]) < 0.35 * levels(noisy[-1], noisy[-2])

    def test_new_content_shows_no_trace_of_the_old(self) -> None:
        old, new = picture(), picture()
        new[:, 40:70, 40:90] = picture(1)[:, 40:70, 40:90]
        shown, _, _ = run([old] * 5 + [new], [NOTHING] * 6)
        inner = shown[-1][:, 44:66, 44:86]
        assert levels(inner, new[:, 44:66, 44:86]) < 0.2
        assert levels(old[:, 44:66, 44:86], new[:, 44:66, 44:86]) > 20

    def test_light_is_followed_at_once(self) -> None:
        clean = picture()
        shares = [1, 1, 1, 0.92, 0.85, 0.78]
        noisy = [share * clean + grain(i, 1) for i, share in enumerate(shares)]
        shown, _, _ = run(noisy, [NOTHING] * len(shares))
        for share, steady in zip(shares[3:], shown[3:], strict=True):
            assert levels(steady, share * clean) < 1.2
            assert abs(float((steady - share * clean).mean())) < 0.2 / 255

    def test_a_scene_begins_with_its_own_picture(self) -> None:
        shown, answers, memory = run(
            [picture()] * 4 + [picture(1)], [grain(i, 2) for i in range(5)]
        )
        assert torch.equal(shown[-1], picture(1))
        assert torch.equal(answers[-1], (picture(1) + grain(4, 2)).clamp(0, 1))
        assert memory.age == 0

    def test_without_gain_the_picture_stays_its_own(self) -> None:
        noisy = [picture() + grain(i, 4) for i in range(4)]
        shown, _, _ = run(noisy, [NOTHING] * 4, input_gain=0)
        assert torch.allclose(shown[-1], noisy[-1].clamp(0, 1), atol=1e-6)


class TestResidual:
    def test_flicker_falls_and_fine_detail_neither_fades_nor_grows(self) -> None:
        pictures = [picture()] * 60
        residuals = [grain(i, 3) for i in range(60)]
        _, answers, _ = run(pictures, residuals)
        steps = [levels(b, a) for a, b in pairwise(answers[20:])]
        alone = [levels(b, a) for a, b in pairwise(residuals[20:])]
        assert np.mean(steps) < 0.5 * np.mean(alone)
        expected = fine(picture() + residuals[0])
        for answer in answers[10:]:
            assert 0.7 * expected < fine(answer) < 1.3 * expected

    def test_what_frames_agree_on_is_kept(self) -> None:
        residual = grain(0, 3)
        _, answers, memory = run([picture()] * 40, [residual] * 40)
        assert levels(answers[-1], picture() + residual) < 0.02
        assert levels(memory.residual, residual) < 0.02

    def test_a_change_of_the_residual_is_reached(self) -> None:
        _, answers, _ = run([picture()] * 80, [grain(0, 3)] + [grain(1, 3)] * 79)
        assert levels(answers[-1], picture() + grain(1, 3)) < 0.1

    def test_where_nothing_is_restored_any_more_nothing_is_left(self) -> None:
        _, answers, _ = run([picture()] * 80, [grain(0, 3)] * 5 + [NOTHING] * 75)
        assert levels(answers[-1], picture()) < 0.1

    def test_the_frames_own_residual_is_kept_where_it_is_fresh(self) -> None:
        rgb = picture()
        memory = begin(rgb, look(rgb), rgb + grain(0, 3))
        past, steady = antialias(memory, STILL, rgb, look(rgb), gain=0.8, tolerance=0.05)
        restored = (steady + grain(1, 3)).clamp(0, 1)
        fresh = torch.zeros(1, 48, 64)
        fresh[..., 32:] = 1
        _, answer = accumulate(past, steady, look(rgb), restored, gain=0.9, fresh=fresh)
        assert torch.equal(answer[..., 66:], restored[..., 66:])
        assert levels(answer[..., :60], restored[..., :60]) > 1

    def test_a_frame_that_overflows_spoils_no_other(self) -> None:
        broken = torch.full_like(NOTHING, torch.nan)
        residuals = [grain(0, 3), grain(1, 3), broken, grain(3, 3), grain(4, 3)]
        _, answers, memory = run([picture()] * 5, residuals)
        assert not answers[2].isfinite().any()
        assert torch.equal(answers[3], (picture() + grain(3, 3)).clamp(0, 1))
        assert all(
            getattr(memory, field.name).isfinite().all()
            for field in fields(memory)
            if field.name != "last"
        )


def fine(rgb: Tensor) -> float:
    gray = brightness(rgb)[0].numpy()
    return float(((gray - cv2.blur(gray, (3, 3))) ** 2).mean())


def test_colours_are_split_and_joined() -> None:
    rgb = picture()
    bright, tints = split_colors(rgb)
    assert torch.allclose(join_colors(bright, tints), rgb, atol=1e-6)
    assert torch.allclose(bright, brightness(rgb))
    gray = torch.full((3, 4, 5), 0.3)
    assert split_colors(gray)[1].abs().max() < 1e-6


@pytest.mark.parametrize("ends", [(130, 256), (131, 255)], ids=str)
def test_a_memory_in_another_box_keeps_what_both_show(ends: tuple[int, int]) -> None:
    old, new = (slice(64, 192), slice(0, 128)), (slice(0, ends[0]), slice(64, ends[1]))
    rgb = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    alpha = torch.ones(1, 128, 128)
    seen = Look(*split_colors(rgb), alpha)
    memory = begin(rgb, seen, rgb + 0.1)
    moved, shown = place(memory, rgb, old, new, ground=(1, 0, 0))
    rows = ends[0] - 64
    height, width = ends[0], ends[1] - 64
    assert shown.shape == (3, height, width)
    assert torch.equal(shown[:, 64:, :64], rgb[:, :rows, 64:])
    assert torch.equal(moved.residual[:, 64:, :64], memory.residual[:, :rows, 64:])
    assert torch.equal(moved.antialiased[:, 64:, :64], memory.antialiased[:, :rows, 64:])
    assert moved.usual_flicker.shape == (1, -(-height // 2), -(-width // 2))
    assert moved.energy.shape == (1, -(-height // 4), -(-width // 4))
    assert shown[:, 0, 0].tolist() == [1, 0, 0]
    assert moved.antialiased[0, 0, 0] == pytest.approx(0.299)
    assert moved.tints[:, 0, 0].tolist() == pytest.approx([0.701, -0.299])
    assert moved.last.alpha is not None
    assert moved.last.alpha[:, :64].sum() == 0
    assert moved.residual[:, :64].abs().sum() == 0
