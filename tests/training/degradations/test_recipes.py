import cv2
import numpy as np
import pytest
import torch

from splatmend.core import from_tensor, to_tensor
from splatmend.core.resample import blur
from splatmend.training import Recipe, SplatOptions, degrade, draw_recipe
from splatmend.training.degradations.recipes import add_noise, compress, floaters, patchy
from splatmend.training.evaluate.metrics import psnr


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_empty_recipe_leaves_the_picture(face: np.ndarray) -> None:
    picture = to_tensor([face])
    for recipe in (Recipe(), Recipe(patchiness=0.5, amount=0.5)):
        assert recipe.does_nothing
        assert torch.equal(degrade(picture, recipe, generator()), picture)
    assert not Recipe(noise=0.01).does_nothing


def test_every_drawn_recipe_is_repeatable_and_in_range(face: np.ndarray) -> None:
    picture = to_tensor([face[:96, :96].copy()])
    kinds = set()
    for seed in range(25):
        recipe = draw_recipe(generator(seed))
        kinds.add(recipe)
        first, again = (degrade(picture, recipe, generator(seed)) for _ in range(2))
        assert torch.equal(first, again)
        assert first.amin() >= 0
        assert first.amax() <= 1
    assert len(kinds) > 20
    assert Recipe() in {draw_recipe(generator(s)) for s in range(200)}  # clean ones occur


def test_amount_scales_the_damage(face: np.ndarray) -> None:
    picture = to_tensor([face])
    whole, half = (
        degrade(picture, Recipe(splat=SplatOptions(), amount=a), generator()) - picture
        for a in (1.0, 0.5)
    )
    torch.testing.assert_close(half, 0.5 * whole, atol=1e-5, rtol=0)


def test_a_silhouette_is_laid_over_its_ground(face: np.ndarray) -> None:
    picture, ground = to_tensor([face]), torch.ones(1, 3, 256, 256)
    alpha = torch.zeros(1, 1, 256, 256)
    alpha[..., 80:176, 80:176] = 1
    recipe = Recipe(splat=SplatOptions(spacing=5))
    damaged = degrade(picture, recipe, generator(), alpha=alpha, ground=ground)
    torch.testing.assert_close(damaged[..., :40, :40], ground[..., :40, :40])


def test_blur_keeps_a_constant_and_the_mean() -> None:
    assert torch.allclose(blur(torch.full((1, 3, 20, 20), 0.4), 1.3), torch.tensor(0.4))
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blur(point, 2.0)
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    x = torch.arange(41.0) - 20
    assert (spread[0, 0].sum(0) * x**2).sum().sqrt().item() == pytest.approx(2.0, rel=0.02)


def test_noise_has_the_deviation_asked_for() -> None:
    noisy = add_noise(torch.zeros(1, 3, 200, 200), 0.02, generator())
    assert noisy.std().item() == pytest.approx(0.02, rel=0.02)


def test_patches_stay_in_their_range_and_vary() -> None:
    mask = patchy(torch.zeros(2, 3, 64, 64), 0.6, generator())
    assert mask.shape == (2, 1, 64, 64)
    assert 0.399 < mask.amin() < mask.amax() <= 1
    assert not torch.equal(mask[0], mask[1])


def test_floaters_stay_within_the_colours_of_the_picture(face: np.ndarray) -> None:
    picture = to_tensor([face])
    floating = floaters(picture, 4, generator())
    assert (floating - picture).abs().amax() > 0.02
    assert floating.amax() <= picture.amax()


@pytest.mark.parametrize("quality", [30.0, 60.0, 90.0])
def test_compression_is_as_strong_as_a_real_jpeg(face: np.ndarray, quality: float) -> None:
    picture = to_tensor([face])
    subsampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    _, coded = cv2.imencode(
        ".jpg", face[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, int(quality), *subsampling)
    )
    theirs = to_tensor([np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])])
    ours = compress(picture, quality).clamp(0, 1)
    assert psnr(ours, picture).item() == pytest.approx(psnr(theirs, picture).item(), abs=0.7)
    assert psnr(ours, theirs) > psnr(theirs, picture)  # the same blocks, not just as bad
    assert from_tensor(ours, np.uint8)[0].shape == face.shape
