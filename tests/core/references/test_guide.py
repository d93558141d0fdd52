"""From references to restored frames, with a restorer that changes nothing by itself."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core import (
    Compact,
    CompactConfig,
    Frame,
    Guide,
    InputError,
    NetworkRestorer,
    Reference,
    References,
    RestoreOptions,
    RestorerTraits,
    Tiled,
    load_restorer,
    restore_frames,
)
from splatmend.core.references.alignment import sample

Picture = NDArray[np.uint8]


def error(ours: Picture, truth: Picture, area: tuple[slice, ...] = (slice(None),)) -> float:
    """Root of the mean squared error in levels."""
    return float(np.sqrt(((ours[area].astype(float) - truth[area]) ** 2).mean()))


def restored(frame: Picture, *references: Reference, **options: float) -> Picture:
    (answer,) = restore_frames(
        load_restorer("copy", device="cpu"),
        [Frame(color=frame)],
        RestoreOptions(magnify=1, **options),
        references=References(references),
    )
    return answer.color


def test_a_picture_brings_its_detail(scene: Picture, blurred: Picture) -> None:
    moved = np.roll(scene, (3, -5), (0, 1))
    answer = restored(blurred, Reference(picture=moved))
    inner = np.s_[16:-16, 16:-16]
    assert error(answer, scene, inner) < 0.45 * error(blurred, scene, inner)


def test_light_comes_from_the_frame(scene: Picture, blurred: Picture) -> None:
    dim = np.rint(scene * (0.6, 0.5, 0.7)).astype(np.uint8)
    answer = restored(blurred, Reference(picture=dim))
    assert error(answer, scene) < 0.6 * error(blurred, scene)
    assert np.abs(answer.mean((0, 1)) - blurred.mean((0, 1))).max() < 0.5


def test_a_key_pair_brings_back_holes(scene: Picture) -> None:
    """Two views of an avatar with a hole, seen 4 pixels apart."""
    holed = scene.copy()
    cv2.circle(holed, (96, 80), 9, (120, 120, 120), -1)
    views = [np.roll(p, 4, 1) for p in (scene, holed)]
    answer = restored(views[1], Reference(picture=scene, render=holed))
    hole = np.s_[70:90, 90:110]
    assert error(answer, views[0], hole) < 0.3 * error(views[1], views[0], hole)


def test_a_stranger_changes_next_to_nothing(scene: Picture, blurred: Picture) -> None:
    stranger = np.ascontiguousarray(scene[::-1, ::-1])
    assert error(restored(blurred, Reference(picture=stranger)), blurred) < 0.5


def test_a_feature_that_moved_stays_the_frames(scene: Picture, blurred: Picture) -> None:
    """A pupil that looks elsewhere is not dragged along."""
    reference, frame = scene.copy(), blurred.copy()
    for picture, x in ((reference, 88), (frame, 104)):
        cv2.circle(picture, (96, 80), 16, (240, 240, 240), -1)
        cv2.circle(picture, (x, 80), 6, (20, 20, 20), -1)
    frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), 1.5), np.uint8)
    answer = restored(frame, Reference(picture=reference))
    dark = np.argwhere(answer[64:97, 80:113].mean(2) < 70)
    assert abs(float(dark[:, 1].mean()) + 80 - 104) < 1


def test_strength_and_alpha_hold(scene: Picture, blurred: Picture) -> None:
    assert np.array_equal(restored(blurred, Reference(picture=scene), strength=0.0), blurred)
    alpha = np.zeros(blurred.shape[:2], np.uint8)
    cv2.circle(alpha, (96, 80), 60, 255, -1)
    (answer,) = restore_frames(
        load_restorer("copy", device="cpu"),
        [Frame(color=blurred, alpha=alpha)],
        RestoreOptions(magnify=1),
        references=References([Reference(picture=scene, alpha=alpha)]),
    )
    assert np.array_equal(answer.color[alpha == 0], blurred[alpha == 0])
    inside = cv2.erode(alpha, np.ones((9, 9))) > 0
    assert error(answer.color, scene, (inside,)) < 0.6 * error(blurred, scene, (inside,))


def test_the_same_bytes_whatever_was_guided_before(scene: Picture, blurred: Picture) -> None:
    guide = Guide(References([Reference(picture=np.roll(scene, i, 1)) for i in (0, 4, 8)]))
    first = guide.guide(blurred)
    guide.guide(np.roll(blurred, 6, 1))
    again = guide.guide(blurred)
    assert np.array_equal(first.guidance.change, again.guidance.change)
    assert np.array_equal(first.guidance.confidence, again.guidance.confidence)


def test_another_shape_is_guided_where_the_reference_reaches(scene: Picture) -> None:
    left = Reference(picture=np.ascontiguousarray(scene[:, :120]))
    guidance = Guide(References([left])).guide(scene).guidance
    assert guidance.confidence[0, 0, 30:130, 20:100].mean() > 0.8
    assert guidance.confidence[0, 0, :, 130:].max() < 0.05


def test_frames_of_another_shape_get_the_same_references(scene: Picture) -> None:
    """A wide canvas that shows the person further off, between two other views."""
    views = [np.roll(scene, (i, 2 * i), (0, 1)) for i in (-24, 0, 24)]
    small = cv2.resize(views[2], (134, 112), interpolation=cv2.INTER_AREA)
    wide = np.full((160, 320, 3), 255, np.uint8)
    wide[24:136, 93:227] = small
    (best, *_) = Guide(References(map(_reference, views)), blend=1).guide(wide).choice
    assert best.index == 2


def _reference(picture: Picture) -> Reference:
    return Reference(picture=picture)


@pytest.mark.parametrize("ground", [(255, 255, 255), (30, 30, 30), (0, 200, 90)])
def test_references_with_alpha_lie_on_the_ground_of_the_frame(
    scene: Picture, ground: tuple[int, ...]
) -> None:
    alpha = np.zeros(scene.shape[:2], np.uint8)
    cv2.ellipse(alpha, (96, 90), (60, 66), 0, 0, 360, 255, -1)
    soft, blurred = (np.asarray(cv2.GaussianBlur(p, (0, 0), 1.6), np.uint8) for p in (alpha, scene))

    def laid(picture: Picture, over: Picture) -> Picture:
        share = over[..., None] / 255
        return np.rint(share * picture + (1 - share) * np.array(ground)).astype(np.uint8)

    truth, frame = laid(scene, alpha), laid(blurred, soft)
    key = Reference(picture=scene, alpha=alpha, render=blurred, render_alpha=soft)
    outline = cv2.dilate(alpha, np.ones((7, 7))) != cv2.erode(alpha, np.ones((7, 7)))
    answer = restored(frame, key)
    assert error(answer, truth, (outline,)) < 0.3 * error(frame, truth, (outline,))


def test_blend_counts_references(scene: Picture) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Guide(References([Reference(picture=scene)]), blend=0)


@pytest.fixture
def listening() -> NetworkRestorer:
    """A network that carries over all that it is told, and does nothing else."""
    network = Compact(CompactConfig(references=True, detail_floor=False, color_lock=False))
    assert network.listener is not None
    network.listener.gain.bias.data[:3] = 1.0  # type: ignore[index]
    network.eval().requires_grad_(requires_grad=False)
    traits = RestorerTraits(
        "listening", multiple=network.multiple, period=network.period,
        reach=network.receptive_field, keeps_colors=True, takes_guidance=True,
    )  # fmt: skip
    return NetworkRestorer(traits, network, network.stem.weight.device)


def test_a_network_that_listens_is_not_blended_as_well(
    listening: NetworkRestorer, scene: Picture, blurred: Picture
) -> None:
    frames, references = [Frame(color=blurred)], References([Reference(picture=scene)])
    options = RestoreOptions(magnify=1, color_lock=False)
    (guided,) = restore_frames(listening, frames, options, references=references)
    (alone,) = restore_frames(listening, frames, options)
    assert np.array_equal(alone.color, blurred)
    assert error(guided.color, scene) < 0.6 * error(blurred, scene)
    (tiled,) = restore_frames(Tiled(listening, 128), frames, options, references=references)
    assert error(tiled.color, guided.color) < 0.6


def test_a_stream_of_small_frames_is_guided_at_twice_the_size(
    scene: Picture, blurred: Picture
) -> None:
    (answer,) = restore_frames(
        load_restorer("copy", device="cpu"),
        [Frame(color=blurred)],
        RestoreOptions(magnify=2),
        references=References([Reference(picture=scene)]),
    )
    assert error(answer.color, scene) < 0.6 * error(blurred, scene)


def test_sampling_repeats_the_border(scene: Picture) -> None:
    beyond = sample(scene, np.full((*scene.shape[:2], 2), 1000, np.float32))
    assert np.array_equal(beyond, np.broadcast_to(scene[-1, -1], scene.shape))
