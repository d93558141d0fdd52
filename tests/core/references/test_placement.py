import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core.references.placement import Thumbnail, fit_size, place_reference

Picture = NDArray[np.uint8]
CORNERS = np.array(((50, 140, 90), (50, 60, 120), (1, 1, 1)), np.float64)


def photographed(
    scene: Picture, scale: float, tilt: float, shift: tuple[float, float]
) -> tuple[Picture, NDArray[np.float64]]:
    """The scene as another camera shows it, and where its pixels went, (2, 3)."""
    matrix = cv2.getRotationMatrix2D((96, 80), tilt, scale)
    matrix[:, 2] += shift
    picture = cv2.warpAffine(
        scene, matrix, (256, 240), flags=cv2.INTER_AREA, borderValue=(90, 60, 40)
    )
    return np.asarray(picture, np.uint8), matrix


@pytest.mark.parametrize(
    ("scale", "tilt", "shift"),
    [(1.0, 0.0, (40.0, 20.0)), (1.5, 12.0, (30.0, 40.0)), (0.6, -20.0, (70.0, 60.0))],
)
def test_scale_tilt_and_shift_are_found(
    scene: Picture, blurred: Picture, scale: float, tilt: float, shift: tuple[float, float]
) -> None:
    photo, truth = photographed(scene, scale, tilt, shift)
    placement = place_reference(Thumbnail.of(blurred), Thumbnail.of(photo))
    assert placement is not None
    error = np.linalg.norm(placement.matrix @ CORNERS - truth @ CORNERS, axis=0) / scale
    assert error.max() < 8  # pixels of the frame: dense alignment does the rest
    assert placement.score > 0.5


def test_a_reference_that_fits_is_left_as_it_is(scene: Picture, blurred: Picture) -> None:
    placement = place_reference(Thumbnail.of(blurred), Thumbnail.of(scene))
    assert placement is not None
    assert np.array_equal(placement.matrix, np.eye(2, 3))


def test_one_of_twice_the_size_lies_on_all_of_the_frame(scene: Picture, blurred: Picture) -> None:
    large = np.asarray(cv2.resize(scene, None, fx=2, fy=2), np.uint8)
    placement = place_reference(Thumbnail.of(blurred), Thumbnail.of(large))
    assert placement is not None
    assert placement.scale == pytest.approx(2)
    # pixel centres: the first pixel of the frame lies between the first two of the reference
    assert placement.matrix @ (0, 0, 1) == pytest.approx((0.5, 0.5))


def test_noise_is_not_placed(scene: Picture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 192, 3), dtype=np.uint8)
    assert place_reference(Thumbnail.of(scene), Thumbnail.of(noise)) is None


def test_another_shape_is_laid_in_the_middle() -> None:
    matrix = fit_size((100, 100), (100, 300))
    assert matrix @ (49.5, 49.5, 1) == pytest.approx((149.5, 49.5))
    assert matrix[0, 0] == pytest.approx(3)


@pytest.mark.parametrize("size", [(32, 512), (512, 32), (33, 47)])
def test_any_shape_can_be_sought(scene: Picture, size: tuple[int, int]) -> None:
    picture = np.asarray(cv2.resize(scene, size[::-1]), np.uint8)
    place_reference(Thumbnail.of(scene), Thumbnail.of(picture))
    place_reference(Thumbnail.of(picture), Thumbnail.of(scene))
