"""Whether references fit: counted as frames are restored, and said in one line."""

import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core import (
    Frame,
    Guide,
    Reference,
    ReferenceFit,
    References,
    load_restorer,
    restore_frames,
)

Picture = NDArray[np.uint8]


def guide_of(*pictures: Picture) -> Guide:
    return Guide(References(Reference(picture=picture) for picture in pictures))


def restore(frames: list[Frame], guide: Guide) -> None:
    restore_frames(load_restorer("copy", device="cpu"), frames, references=guide)


@pytest.fixture(scope="module")
def stranger(scene: Picture) -> Picture:
    return np.ascontiguousarray(scene[::-1, ::-1])


def test_frames_of_the_same_person_are_fitted(scene: Picture, blurred: Picture) -> None:
    guide = guide_of(np.roll(scene, (3, -5), (0, 1)))
    restore([Frame(color=blurred)] * 3, guide)
    assert guide.fit == ReferenceFit(frames=3, unfit=0)
    assert guide.complaint is None


def test_strangers_are_counted_and_a_twin_counts_anew(stranger: Picture, blurred: Picture) -> None:
    guide = guide_of(stranger, stranger[:, ::-1].copy())
    restore([Frame(color=blurred)] * 2, guide)
    assert guide.fit == ReferenceFit(frames=2, unfit=2)
    assert guide.complaint is not None
    assert guide.complaint.startswith("no reference fits 2 of 2 frames: are they pictures of the")
    assert guide.twin().fit == ReferenceFit()


def test_half_of_the_frames_may_have_none(
    scene: Picture, stranger: Picture, blurred: Picture
) -> None:
    guide = guide_of(scene)
    restore([Frame(color=blurred), Frame(color=stranger)], guide)
    assert guide.fit == ReferenceFit(frames=2, unfit=1)
    assert guide.complaint is None
    restore([Frame(color=stranger)], guide)
    assert guide.complaint is not None
    assert "no reference fits 2 of 3 frames" in guide.complaint


def test_key_pairs_are_asked_about_their_renders(
    stranger: Picture, scene: Picture, blurred: Picture
) -> None:
    guide = Guide(References([Reference(picture=stranger, render=stranger[:, ::-1].copy())]))
    restore([Frame(color=blurred)], guide)
    assert guide.complaint is not None
    assert guide.complaint.startswith("no key pair fits 1 of 1 frames: are their renders")
    keys = Guide(References([Reference(picture=scene, render=blurred)]))
    restore([Frame(color=blurred)], keys)
    assert keys.complaint is None


def test_a_small_head_in_a_wide_frame_is_enough(scene: Picture, blurred: Picture) -> None:
    """Three quarters of the picture show something else, with alpha and without."""
    wide = (
        np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    )
    place = np.s_[90:250, 150:342]
    wide[place] = blurred
    guide = guide_of(scene)
    restore([Frame(color=wide)], guide)
    assert guide.fit == ReferenceFit(frames=1, unfit=0)
    alpha = np.zeros(wide.shape[:2], np.uint8)
    alpha[place] = 255
    restore([Frame(color=wide, alpha=alpha)], guide)
    assert guide.fit == ReferenceFit(frames=2, unfit=0)


def test_what_is_not_restored_is_not_counted(scene: Picture, blurred: Picture) -> None:
    guide = guide_of(scene)
    invisible = np.zeros(blurred.shape[:2], np.uint8)
    restore([Frame(color=blurred, alpha=invisible)], guide)
    assert guide.fit == ReferenceFit()
    assert guide.complaint is None
