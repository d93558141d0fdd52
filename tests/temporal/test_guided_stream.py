"""Streams that references guide: they fade into one another, and resume to the same bytes."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core import (
    Frame,
    InputError,
    Reference,
    References,
    load_restorer,
    restore_frames,
)
from splatmend.core.references.alignment import sample
from splatmend.temporal import Stream, TemporalOptions

from blobs import blobs

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def scene() -> Picture:
    """(128, 160, 3)."""
    return blobs((128, 160), seed=4)


def moved(scene: Picture, pixels: int) -> Picture:
    return np.roll(scene, pixels, 1)


def frames(scene: Picture, count: int) -> list[Frame]:
    """A pan of a pixel a frame, blurred."""
    blurred = (cv2.GaussianBlur(moved(scene, i), (0, 0), 1.5) for i in range(count))
    return [Frame(color=np.asarray(picture, np.uint8), pts=i) for i, picture in enumerate(blurred)]


def stream(references: References | None) -> Stream:
    restorer = load_restorer("copy", device="cpu")
    return Stream(restorer, None, TemporalOptions(), references=references)


def error(ours: Picture, truth: Picture) -> float:
    inner = np.s_[12:-12, 28:-28]
    return float(np.sqrt(((ours[inner].astype(float) - truth[inner]) ** 2).mean()))


def test_every_frame_gains_and_none_pops_where_references_change() -> None:
    worst = []
    for seed in (4, 5, 6, 7):  # what a single scene pops by hangs on its blobs
        scene = blobs((128, 160), seed=seed)
        references = References([Reference(picture=moved(scene, at)) for at in (0, 8, 16)])
        given = frames(scene, 17)
        alone, guided = (stream(r).restore(given) for r in (None, references))
        errors = [
            [error(f.color, moved(scene, i)) for i, f in enumerate(c)] for c in (alone, guided)
        ]
        assert all(b < 0.8 * a for a, b in zip(*errors, strict=True))
        # along the pan a frame differs from the last one by no more than it does anywhere else,
        # but for the first, which is its reference
        steps = [error(np.roll(b.color, -1, 1), a.color) for a, b in pairwise(guided[1:])]
        worst.append(max(steps) / float(np.median(steps)))
    assert np.mean(worst) < 2.8


def test_a_resumed_stream_goes_on_to_the_same_bytes(scene: Picture) -> None:
    references = References([Reference(picture=moved(scene, at)) for at in (0, 6, 12)])
    given = frames(scene, 10)
    whole = stream(references).restore(given)
    first, second = stream(references), stream(references)
    first.restore(given[:5])
    second.import_state(first.export_state())
    for ours, expected in zip(second.restore(given[5:]), whole[5:], strict=True):
        assert np.array_equal(ours.color, expected.color)


@pytest.mark.slow
def test_a_box_that_moves_takes_its_references_along(scene: Picture) -> None:
    """A head that crosses the frame: its alpha box steps by 64 pixels, its detail stays."""
    references = References([Reference(picture=scene)])
    room = np.full((192, 512, 3), 255, np.uint8)
    errors = []
    guided = stream(references)
    for left in range(40, 120, 4):
        color, alpha = room.copy(), np.zeros(room.shape[:2], np.uint8)
        place = np.s_[32 : 32 + 128, left : left + 160]
        color[place] = cv2.GaussianBlur(scene, (0, 0), 1.5)
        alpha[place] = 255
        (answer,) = guided.restore([Frame(color=color, alpha=alpha)])
        errors.append(error(answer.color[place], scene))
    assert max(errors) < 0.85 * error(np.asarray(cv2.GaussianBlur(scene, (0, 0), 1.5)), scene)


def test_a_state_of_another_release_is_refused(scene: Picture) -> None:
    first = stream(None)
    first.restore(frames(scene, 2))
    state = first.export_state()
    del state["choice"]
    with pytest.raises(InputError, match="not the state of a stream"):
        stream(None).import_state(state)


def test_references_matter_after_a_cut_at_once(scene: Picture) -> None:
    other = np.ascontiguousarray(scene[::-1])
    references = References([Reference(picture=scene), Reference(picture=other)])
    soft = [np.asarray(cv2.GaussianBlur(p, (0, 0), 1.5), np.uint8) for p in (scene, other)]
    guided = stream(references)
    guided.restore([Frame(color=soft[0], pts=i) for i in range(4)])
    (after,) = guided.restore([Frame(color=soft[1], pts=4)])
    assert error(after.color, other) < 0.8 * error(soft[1], other)
    assert guided.guide is not None
    assert guided.guide.fit.unfit == 0
    assert 2 <= guided.guide.fit.frames <= 5  # a cut is looked at twice and counts once


def test_a_frame_that_rests_gets_its_best_references(scene: Picture) -> None:
    """The view stops: the picture is not repeated before the nearest reference has faded in."""
    references = References([Reference(picture=moved(scene, at)) for at in (0, 8, 16)])
    soft = np.asarray(cv2.GaussianBlur(moved(scene, 12), (0, 0), 1.5), np.uint8)
    guided = stream(references)
    guided.restore(frames(scene, 11))
    answers = [f.color for f in guided.restore([Frame(color=soft, pts=11 + i) for i in range(16)])]
    truth = moved(scene, 12)
    assert not np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[-1], answers[-2])
    assert error(answers[-1], truth) < error(answers[0], truth)


def test_the_stabiliser_leaves_the_detail_of_references(scene: Picture) -> None:
    """A picture that trembles: guided frames stay as sharp with memory as without."""
    dice = np.random.default_rng(2)
    given = []
    for index in range(8):
        jitter = cv2.GaussianBlur(dice.normal(0, 12, (*scene.shape[:2], 2)), (0, 0), 4)
        soft = cv2.GaussianBlur(sample(scene, jitter.astype(np.float32)), (0, 0), 1.5)
        given.append(Frame(color=np.asarray(soft, np.uint8), pts=index))
    references = References([Reference(picture=scene)])
    alone = [restore(frame, references) for frame in given]
    steady = stream(references).restore(given)
    detail = [
        float(np.mean([cv2.Laplacian(f.color, cv2.CV_32F).std() for f in c[2:]]))
        for c in (alone, steady)
    ]
    assert detail[1] > 0.92 * detail[0]


def restore(frame: Frame, references: References) -> Frame:
    (answer,) = restore_frames(load_restorer("copy", device="cpu"), [frame], references=references)
    return answer
