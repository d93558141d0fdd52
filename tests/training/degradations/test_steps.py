import inspect
import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from splatmend.core import to_tensor
from splatmend.core.errors import InputError
from splatmend.training.degradations.patch_masks import PatchOptions, anisotropic_noise, patch_mask
from splatmend.training.degradations.steps import STEPS, Drawn, Range, apply_steps, draw_steps
from splatmend.training.faces.regions import REGIONS, RegionStrengths

EVERYWHERE = RegionStrengths(**dict.fromkeys(REGIONS, 1.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(name: str, share: float, seed: int = 1) -> Drawn:
    """A step with every parameter that far from light to heavy."""
    return Drawn(name, seed, {n: r.at(share) for n, r in STEPS[name].ranges.items()})


def apply(name: str, rgb: Tensor, strength: Tensor, *, seed: int = 1, alpha: Tensor | None = None,
          **changed: float) -> Tensor:  # fmt: skip
    parameters = dict(at(name, 0.6).parameters) | changed
    return STEPS[name].apply(
        rgb, strength=strength, generator=generator(seed), alpha=alpha, **parameters
    )


@pytest.fixture(scope="module")
def picture(face: np.ndarray) -> Tensor:
    """Eyes, brows, hair: (1, 3, 96, 96)."""
    return to_tensor([np.ascontiguousarray(face[60:156, 70:166])])


@pytest.fixture(scope="module")
def ones(picture: Tensor) -> Tensor:
    return torch.ones_like(picture[:, :1])


def test_there_are_fourteen_each_with_a_source() -> None:
    assert len(STEPS) == 14
    assert len({kind.apply for kind in STEPS.values()}) == 14
    for name, kind in STEPS.items():
        text = inspect.getdoc(kind.apply)
        assert kind.apply.__name__ == name
        assert text is not None
        assert "Source: " in text
        shared = ["rgb", "strength", "generator", "alpha"]
        assert list(inspect.signature(kind.apply).parameters) == shared + list(kind.ranges)
        assert 0 < kind.probability < 1
        assert set(kind.focus) <= set(REGIONS)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_strikes_only_where_it_has_strength(
    name: str, picture: Tensor, ones: Tensor
) -> None:
    assert torch.equal(apply(name, picture, 0 * ones), picture)
    left = ones.clone()
    left[..., 48:] = 0
    struck = apply(name, picture, left)
    assert torch.equal(struck[..., 48:], picture[..., 48:])
    assert not torch.equal(struck, picture)


@pytest.mark.parametrize("name", STEPS)
def test_a_seed_names_the_result_of_a_step(name: str, picture: Tensor, ones: Tensor) -> None:
    first, again, other = (apply(name, picture, ones, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name in {"desaturate", "compress"})  # nothing to draw
    assert first.isfinite().all()


@pytest.mark.parametrize("name", STEPS)
def test_heavy_parameters_do_more_harm_than_light_ones(name: str, picture: Tensor) -> None:
    regions = torch.full((96, 96), REGIONS.index(STEPS[name].focus[0]), dtype=torch.uint8)

    def harm(share: float) -> float:
        drawn = [at(name, share, seed) for seed in range(4)]
        struck = [apply_steps(picture, [d], regions=regions, strengths=EVERYWHERE) for d in drawn]
        return torch.cat([s - picture for s in struck]).square().mean().item()

    assert harm(1.0) > 1.5 * harm(0.0) > 0


@pytest.mark.parametrize("name", STEPS)
def test_a_batch_is_struck_sample_by_sample(name: str, picture: Tensor, ones: Tensor) -> None:
    batch = torch.cat((picture, picture.flip(3)))
    strength = torch.cat((0 * ones, ones))
    struck = apply(name, batch, strength)
    assert struck.shape == batch.shape
    assert torch.equal(struck[0], batch[0])
    assert not torch.equal(struck[1], batch[1])


@pytest.mark.parametrize("name", [n for n, kind in STEPS.items() if not kind.whole_frame])
def test_a_plain_ground_stays_plain_away_from_the_silhouette(name: str, picture: Tensor) -> None:
    alpha = torch.zeros(1, 1, 96, 96)
    alpha[..., 36:60, 36:60] = 1
    laid = picture * alpha + 0.25 * (1 - alpha)
    regions = (alpha[0, 0] * REGIONS.index(STEPS[name].focus[-1])).to(torch.uint8)
    struck = apply_steps(laid, [at(name, 0.5)], regions=regions, strengths=EVERYWHERE, alpha=alpha)
    assert not torch.equal(struck, laid)
    rim = torch.cat((struck[..., :24].flatten(), struck[..., 72:].flatten()))
    assert (rim - 0.25).abs().max() < 0.005


def test_steps_keep_to_their_regions(picture: Tensor) -> None:
    skin = torch.full((96, 96), REGIONS.index("skin"), dtype=torch.uint8)
    clump = [at("clump", 1.0)]
    assert torch.equal(apply_steps(picture, clump, regions=skin, strengths=EVERYWHERE), picture)
    hair = skin.clone()
    hair[:48] = REGIONS.index("hair")
    struck = apply_steps(picture, clump, regions=hair, strengths=EVERYWHERE)
    assert torch.equal(struck[..., 60:, :], picture[..., 60:, :])
    assert not torch.equal(struck[..., :40, :], picture[..., :40, :])


def test_a_stronger_region_is_harmed_more(picture: Tensor) -> None:
    regions = torch.full((96, 96), REGIONS.index("mouth"), dtype=torch.uint8)
    harm = [
        (
            apply_steps(picture, [at(name, 0.6)], regions=regions,
                        strengths=RegionStrengths(mouth=strength)) - picture
        ).abs().mean().item()
        for name in ("coarsen", "decimate", "holes", "melt")
        for strength in (0.3, 0.6, 1.0)
    ]  # fmt: skip
    for weak, middle, strong in zip(harm[::3], harm[1::3], harm[2::3], strict=True):
        assert 0 < weak < middle < strong


def test_fewer_and_merged_gaussians_lose_detail(picture: Tensor, ones: Tensor) -> None:
    def detail(rgb: Tensor) -> float:
        return (rgb[..., 1:] - rgb[..., :-1]).abs().mean().item()

    for name, light, heavy in (
        ("coarsen", {"spacing": 2.4, "hardness": 0.0, "color_noise": 0.0},
         {"spacing": 8.0, "hardness": 0.0, "color_noise": 0.0}),
        ("decimate", {"keep": 0.8}, {"keep": 0.05}),
        ("melt", {"share": 0.05}, {"share": 0.5}),
    ):  # fmt: skip
        fine, rough = (detail(apply(name, picture, ones, **p)) for p in (light, heavy))
        assert rough < 0.9 * fine < detail(picture)


def test_holes_show_the_ground(picture: Tensor, ones: Tensor) -> None:
    alpha = torch.zeros_like(ones)
    alpha[..., 16:80, 16:80] = 1
    laid = (0.2 * picture) * alpha + (1 - alpha)
    struck = apply("holes", laid, ones, alpha=alpha, loss=0.9)
    inside = np.s_[..., 30:66, 30:66]
    change = (struck - laid)[inside] / (1 - laid[inside])  # share of white that came through
    assert change.min() >= -1e-5
    assert change.mean().item() == pytest.approx(0.3, abs=0.08)  # a third of the largest loss
    assert change.amax() > 1.4 * change.mean()


def test_needles_are_thin_and_leave_most_pixels() -> None:
    gray = torch.full((1, 3, 192, 192), 0.5)
    everywhere = torch.ones(1, 1, 192, 192)
    struck = apply("needles", gray, everywhere, density=3.0, length=8.0, opacity=0.8)
    hit = ((struck - gray).abs().amax(1) > 0.02)[0]
    assert 0.005 < hit.double().mean() < 0.15
    opened = -torch.nn.functional.max_pool2d(-hit[None, None].float(), 5, 1, 2)  # erosion
    assert opened.mean() < 0.1 * hit.double().mean()


def test_misplaced_features_keep_their_colours(ones: Tensor) -> None:
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 96, 96).clone()  # its value is its place
    moved = 95 * (apply("misplace", ramp, ones, reach=3.0, wavelength=64.0) - ramp)[..., 12:-12]
    assert moved.std().item() == pytest.approx(3.0, rel=0.35)
    assert moved.abs().max() < 6.3  # clipped at two standard deviations


def test_a_ghost_is_the_picture_aside() -> None:
    point = torch.zeros(1, 3, 65, 65)
    point[..., 32, 32] = 1
    strength = torch.ones(1, 1, 65, 65)
    shifted = apply("ghost", point, strength, shift=8.0, opacity=0.5) - 0.5 * point
    assert shifted[..., 32, 32].max() < 0.01
    mass = shifted[0, 0].clamp(min=0)
    y, x = torch.meshgrid(torch.arange(65.0), torch.arange(65.0), indexing="ij")
    away = torch.stack(((mass * x).sum(), (mass * y).sum())) / mass.sum() - 32
    assert away.norm().item() == pytest.approx(8, abs=0.3)
    assert mass.sum().item() == pytest.approx(0.5, rel=0.05)


def test_view_colours_have_no_mean_and_the_amount_asked_for() -> None:
    gray = torch.full((1, 3, 64, 64), 0.5)
    strength = torch.ones(1, 1, 64, 64)
    errors = torch.cat([
        apply("view_color", gray, strength, seed=s, amount=0.05) - gray for s in range(60)
    ])  # fmt: skip
    assert errors.square().mean().sqrt().item() == pytest.approx(0.05, rel=0.2)
    assert errors.mean().abs() < 0.01
    smooth = (errors[..., 1:] - errors[..., :-1]).abs().max()
    assert smooth < 0.1 * errors.abs().max()


def test_desaturation_keeps_luma(picture: Tensor, ones: Tensor) -> None:
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    dull = apply("desaturate", picture, ones, amount=1.0)
    assert dull.std(1).max() < 1e-6
    torch.testing.assert_close((dull * luma).sum(1), (picture * luma).sum(1))


def test_a_smear_is_as_long_and_as_wide_as_asked() -> None:
    point = torch.zeros(1, 3, 65, 65)
    point[..., 32, 32] = 1
    smeared = apply("smear", point, torch.ones(1, 1, 65, 65), along=4.0, across=1.0)[0, 0]
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    places = torch.stack((x.flatten(), y.flatten()))
    covariance = (places * smeared.flatten()) @ places.T / smeared.sum()
    short, long = torch.linalg.eigvalsh(covariance).sqrt().tolist()
    assert long == pytest.approx(4, rel=0.05)
    assert short == pytest.approx(1, rel=0.05)


# -- drawing


@pytest.mark.slow
def test_each_step_happens_as_often_as_its_probability_says() -> None:
    count = 3000
    drawn = [draw_steps(seed) for seed in range(count)]
    seen = Counter(step.name for steps in drawn for step in steps)
    for name, kind in STEPS.items():
        expected = 0.95 * kind.probability  # 5 in 100 are left clean on purpose
        assert seen[name] / count == pytest.approx(expected, abs=0.04), name
    clean = sum(not steps for steps in drawn) / count
    assert 0.04 < clean < 0.085
    order = list(STEPS)
    for steps in drawn[:100]:
        assert [s.name for s in steps] == sorted((s.name for s in steps), key=order.index)


def test_parameters_lie_in_their_ranges_and_vary() -> None:
    drawn = [step for seed in range(600) for step in draw_steps(seed)]
    for name, kind in STEPS.items():
        for parameter, limits in kind.ranges.items():
            values = [step.parameters[parameter] for step in drawn if step.name == name]
            low, high = sorted((limits.light, limits.heavy))
            assert low <= min(values) < max(values) <= high
            assert len(set(values)) > 20


def test_drawn_steps_are_plain_values_that_survive_json() -> None:
    for seed in range(50):
        for step in draw_steps(seed):
            plain = json.loads(json.dumps(asdict(step)))
            patches = plain.pop("patches")
            again = Drawn(**plain, patches=PatchOptions(**patches) if patches else None)
            assert again == step


def test_a_range_meets_both_ends() -> None:
    assert Range(2, 8).at(0.5) == 5
    assert Range(2, 8, geometric=True).at(0.5) == 4
    assert (Range(0.9, 0.3).at(0), Range(0.9, 0.3).at(1)) == (0.9, 0.3)


@pytest.mark.parametrize(
    ("name", "parameters", "complaint"),
    [
        ("melted", {}, "no step 'melted': the steps are misplace, coarsen"),
        ("ghost", {"shift": 3.0}, "ghost takes shift, opacity, got shift"),
        ("noise", {"sigma": 0.1, "mean": 0.0}, "noise takes sigma, got sigma, mean"),
    ],
)
def test_a_step_that_does_not_exist_as_such_is_refused(
    name: str, parameters: dict, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        Drawn(name, 0, parameters)


# -- applying


def test_no_step_no_change(picture: Tensor) -> None:
    regions = torch.zeros(96, 96, dtype=torch.uint8)
    assert torch.equal(apply_steps(picture, (), regions=regions, strengths=EVERYWHERE), picture)


def test_threads_change_no_byte_and_are_set_back(picture: Tensor) -> None:
    regions = torch.full((96, 96), REGIONS.index("hair"), dtype=torch.uint8)
    steps = [at(name, 0.5) for name in STEPS]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(apply_steps(picture, steps, regions=regions, strengths=EVERYWHERE))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
    assert results[0].min() >= 0
    assert results[0].max() <= 1


def test_leaving_one_step_out_changes_no_other(picture: Tensor) -> None:
    regions = torch.full((96, 96), REGIONS.index("skin"), dtype=torch.uint8)
    clump, ghost = at("clump", 0.5), at("ghost", 0.5)  # there is no hair, so clump does nothing
    alone, both = (
        apply_steps(picture, steps, regions=regions, strengths=EVERYWHERE)
        for steps in ([ghost], [clump, ghost])
    )
    assert torch.equal(alone, both)


def test_patches_confine_a_step(picture: Tensor) -> None:
    regions = torch.full((96, 96), REGIONS.index("skin"), dtype=torch.uint8)
    patches = PatchOptions(cover=0.3, wavelength=40, softness=0.3)
    drawn = Drawn("desaturate", 3, {"amount": 0.9}, patches)
    struck = apply_steps(picture, [drawn], regions=regions, strengths=EVERYWHERE)
    assert 0.2 < (struck != picture).any(1).double().mean() < 0.5


# -- patches


@pytest.mark.parametrize("cover", [0.1, 0.4, 0.85])
def test_patches_cover_the_share_asked_for(cover: float) -> None:
    mask = patch_mask((128, 96), 3, generator(), PatchOptions(cover=cover, wavelength=48))
    assert mask.shape == (3, 1, 128, 96)
    assert (mask > 0.5).double().mean((1, 2, 3)) == pytest.approx([cover] * 3, abs=0.01)
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert not torch.equal(mask[0], mask[1])
    soft = ((mask > 0) & (mask < 1)).double().mean()
    assert 0.05 < soft < 0.6


def test_full_cover_is_everywhere() -> None:
    assert torch.all(patch_mask((32, 32), 2, generator(), PatchOptions(cover=1.0)) == 1)


def test_noise_has_its_wavelength_length_and_direction() -> None:
    """Measured by gradients: a wave of length w has a slope of 2 pi / w."""
    field = anisotropic_noise((8, 1, 256, 256), generator(), wavelength=32, ratio=3, angle=0.0)
    assert field.mean((2, 3)).abs().max() < 1e-4
    assert field.std((2, 3)) == pytest.approx(torch.ones(8, 1), abs=1e-3)
    along = (field[..., 1:] - field[..., :-1]).square().mean().sqrt().item()
    across = (field[..., 1:, :] - field[..., :-1, :]).square().mean().sqrt().item()
    assert across / along == pytest.approx(3, rel=0.25)
    turned = anisotropic_noise(
        (8, 1, 256, 256), generator(), wavelength=32, ratio=3, angle=np.pi / 2
    )
    down = (turned[..., 1:, :] - turned[..., :-1, :]).square().mean().sqrt().item()
    assert down == pytest.approx(along, rel=0.2)
    round_ones = anisotropic_noise((8, 1, 256, 256), generator(), wavelength=32)
    slope = (round_ones[..., 1:] - round_ones[..., :-1]).square().mean().sqrt().item()
    assert slope == pytest.approx(2 * np.pi / 32 / np.sqrt(2), rel=0.3)


def test_patches_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"cover in \(0, 1\]"):
        PatchOptions(cover=0)
