import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core.references.alignment import align, local_contrast, sample

Picture = NDArray[np.uint8]
INNER = np.s_[24:-24, 24:-24]


def bent(picture: Picture) -> tuple[Picture, NDArray[np.float32]]:
    """The picture moved by a smooth field of up to 7 pixels, and the field back."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    field = np.stack((5 + 2 * np.sin(y / 30), 3 * np.cos(x / 40)), -1).astype(np.float32)
    return sample(picture, field), field


def test_a_known_field_is_found_within_a_third_of_a_pixel(scene: Picture, blurred: Picture) -> None:
    frame, field = bent(blurred)
    found = align(local_contrast(frame), local_contrast(scene))
    error = np.linalg.norm(found.flow - field, axis=-1)[INNER]
    assert np.median(error) < 0.33
    assert found.confidence[INNER].mean() > 0.8


def test_light_does_not_matter(scene: Picture) -> None:
    frame, field = bent(scene)
    ramp = np.linspace(0.45, 1.0, scene.shape[1])[None, :, None]
    dim = np.rint(frame * ramp * (0.9, 1.0, 0.7)).astype(np.uint8)
    found = align(local_contrast(dim), local_contrast(scene))
    error = np.linalg.norm(found.flow - field, axis=-1)[INNER]
    assert np.median(error) < 0.33
    assert found.confidence[INNER].mean() > 0.8


def test_what_is_not_there_gets_little_confidence(scene: Picture) -> None:
    frame = scene.copy()
    frame[60:100, 70:120] = np.random.default_rng(1).integers(0, 256, (10, 50, 3)).repeat(4, 0)
    found = align(local_contrast(frame), local_contrast(scene))
    assert found.confidence[66:94, 78:112].mean() < 0.45
    assert found.confidence[120:150, 20:60].mean() > 0.9


def test_another_picture_gets_no_confidence(scene: Picture) -> None:
    other = np.ascontiguousarray(scene[::-1, ::-1])
    assert align(local_contrast(scene), local_contrast(other)).confidence.mean() < 0.1


@pytest.mark.parametrize("size", [(32, 32), (33, 190), (97, 41), (161, 193)])
def test_every_size_comes_back(scene: Picture, size: tuple[int, int]) -> None:
    picture = np.asarray(cv2.resize(scene, size[::-1]), np.uint8)
    found = align(local_contrast(picture), local_contrast(picture))
    assert found.flow.shape == (*size, 2)
    assert found.confidence.shape == size
    assert 0 <= found.confidence.min() <= found.confidence.max() <= 1
    assert np.abs(found.flow).max() < 0.5


def test_the_same_bytes_for_any_number_of_threads(scene: Picture, blurred: Picture) -> None:
    before, found = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            found.append(align(local_contrast(bent(blurred)[0]), local_contrast(scene)))
    finally:
        cv2.setNumThreads(before)
    for other in found[1:]:
        assert np.array_equal(found[0].flow, other.flow)
        assert np.array_equal(found[0].confidence, other.confidence)


def test_a_stream_averages_what_trembles(scene: Picture) -> None:
    """One view whose parts are displaced anew in every frame, as splats are."""
    dice = np.random.default_rng(3)
    reference, course = local_contrast(np.roll(scene, 3, 1)), None
    alone, averaged = [], []
    for _ in range(8):
        jitter = cv2.GaussianBlur(dice.normal(0, 30, (*scene.shape[:2], 2)), (0, 0), 5)
        frame = local_contrast(sample(scene, jitter.astype(np.float32)))
        alone.append(align(frame, reference).flow)
        found = align(frame, reference, course)
        averaged.append(found.flow)
        course = found.course
    inner = np.s_[3:, 24:-24, 24:-24]
    trembling, steady = (np.stack(flows)[inner].std(0).mean() for flows in (alone, averaged))
    assert steady < 0.6 * trembling
    assert np.abs(np.stack(averaged)[inner].mean((0, 1, 2)) - (3, 0)).max() < 0.3


def test_a_past_that_agrees_no_more_is_left_at_once(scene: Picture) -> None:
    """Lids that close: the confidence there falls with the first frame, as without a past."""
    reference, closed = local_contrast(scene), scene.copy()
    cv2.circle(closed, (96, 80), 14, (128, 128, 128), -1)
    course = None
    for _ in range(4):
        course = align(reference, reference, course).course
    lids = np.s_[72:88, 88:104]
    alone, found = (align(local_contrast(closed), reference, past) for past in (None, course))
    assert found.confidence[lids].mean() < 1.1 * alone.confidence[lids].mean() < 0.4
