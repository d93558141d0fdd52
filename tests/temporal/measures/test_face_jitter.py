from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import astronaut

from splatmend.core import ModelError
from splatmend.core.perceptual import dlib_models
from splatmend.temporal.measures.face_jitter import Box, DlibFaces, Face, JitterMeter

needs_dlib = pytest.mark.skipif(
    find_spec("dlib") is None or find_spec("face_recognition_models") is None,
    reason="dlib-bin and face-recognition-models are not installed",
)
Picture = NDArray[np.uint8]


class Fake:
    """A face whose landmarks stand at the first pixel and whose identity is the second."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []

    def find(self, picture: Picture) -> Box | None:
        left = float(picture[1, 0, 0])
        return None if left == 0 else (left, 10, left + 50, 60)

    def read(self, picture: Picture, box: Box) -> Face:
        self.boxes.append(box)
        return Face(np.full((68, 2), float(picture[0, 0, 0])), np.full(128, picture[0, 1, 0] / 255))


def picture(place: int, identity: int = 0, face: int = 100) -> Picture:
    shown = np.zeros((4, 4, 3), np.uint8)
    shown[0, 0], shown[0, 1], shown[1, 0] = place, identity, face
    return shown


def run(places: dict[str, list[int]], *, judge: bool = True) -> list[dict[str, dict[str, float]]]:
    meter = JitterMeter(Fake())
    rows = []
    for frame in zip(*places.values(), strict=True):
        shown = {name: picture(place) for name, place in zip(places, frame, strict=True)}
        rows.append(meter.add(shown, "true", judge=judge))
    return rows


def test_steady_motion_is_no_jitter_and_trembling_is() -> None:
    generator = np.random.default_rng(0)
    trembling = (25 + np.arange(200) + generator.normal(0, 5, 200).round()).astype(int)
    rows = run({"true": list(range(200)), "ours": trembling.tolist()})
    still = [row["true"]["landmark_jitter"] for row in rows[2:]]
    shaken = [row["ours"]["landmark_jitter"] for row in rows[2:]]
    assert max(still) == 0
    assert np.sqrt(np.square(shaken).mean()) == pytest.approx(5, rel=0.15)


def test_motion_is_judged_by_that_of_the_truth() -> None:
    rows = run({"true": [0, 4, 9, 3], "ours": [50, 54, 59, 53], "late": [0, 0, 4, 9]})
    assert [row["ours"].get("landmark_error") for row in rows] == [None, 0, 0, 0]
    apart = [row["late"]["landmark_error"] / 2**0.5 for row in rows[1:]]
    np.testing.assert_allclose(apart, [4, 1, 11])
    assert "landmark_error" not in run({"true": [0, 1]}, judge=False)[1]["true"]


def test_an_identity_that_slips() -> None:
    meter = JitterMeter(Fake())
    rows = [
        meter.add({"true": picture(0, 100), "ours": picture(0, i)}, "true", judge=True)
        for i in (100, 100, 151, 151)
    ]
    distance = 51 / 255 * 128**0.5
    jitter = [row["ours"].get("identity_jitter") for row in rows]
    assert jitter[0] is None
    np.testing.assert_allclose(jitter[1:], [0, distance, 0])
    np.testing.assert_allclose(
        [row["ours"]["identity_error"] for row in rows], [0, 0, distance, distance]
    )
    assert max(row["true"]["identity_jitter"] for row in rows[1:]) == 0


def test_all_clips_are_read_at_one_place_which_follows_slowly() -> None:
    reader = Fake()
    meter = JitterMeter(reader)
    for left in (100, 110):
        meter.add({"a": picture(0, 0, left), "b": picture(0, 0, 200)}, "a", judge=False)
    first, second, third, fourth = reader.boxes
    assert first == second == (100, 10, 150, 60)
    assert third == fourth
    assert third[0] == pytest.approx(103)


def test_a_face_that_is_lost_begins_anew() -> None:
    meter = JitterMeter(Fake())
    rows = [
        meter.add({"a": picture(p, 0, face)}, "a", judge=False)
        for p, face in ((0, 100), (1, 100), (2, 100), (90, 0), (200, 180), (201, 180))
    ]
    assert "landmark_jitter" in rows[2]["a"]
    assert rows[3] == {}
    assert rows[4]["a"] == {}
    assert "landmark_jitter" not in rows[5]["a"]
    assert meter._box is not None
    assert meter._box[0] == 180


def test_without_the_packages_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_models, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="pip install dlib-bin face-recognition-models"):
        DlibFaces()


@pytest.mark.slow
@needs_dlib
def test_a_real_face() -> None:
    reader = DlibFaces()
    portrait = np.ascontiguousarray(astronaut()[:300, 80:380])
    box = reader.find(portrait)
    assert box is not None
    face = reader.read(portrait, box)
    left, right = face.landmarks[36:42].mean(0), face.landmarks[42:48].mean(0)
    assert np.hypot(*(right - left)) == pytest.approx(42, abs=6)
    assert box[0] < left[0] < right[0] < box[2]
    assert np.any(face.landmarks % 1)  # finer than dlib's whole pixels
    # moved, and read at the moved place: the same face
    shift = np.float32([[1, 0, 6.5], [0, 1, -3.25]])
    moved = cv2.warpAffine(portrait, shift, (300, 300), borderMode=cv2.BORDER_REPLICATE)
    there = reader.read(np.asarray(moved, np.uint8), tuple(np.add(box, (6.5, -3.25) * 2)))
    offset = there.landmarks - face.landmarks - (6.5, -3.25)
    assert np.abs(offset).mean() < 0.6
    assert np.linalg.norm(there.embedding - face.embedding) < 0.15
    mirrored = reader.read(portrait, tuple(np.add(box, (40, 0, 40, 0))))
    assert np.linalg.norm(mirrored.embedding - face.embedding) > 0.15
    assert reader.find(np.zeros((64, 64, 3), np.uint8)) is None


@pytest.mark.slow
@needs_dlib
def test_a_face_at_the_edge_of_the_picture() -> None:
    reader = DlibFaces()
    portrait = np.ascontiguousarray(astronaut()[60:260, 160:300])
    face = reader.read(portrait, (-10.0, 20.0, 120.0, 150.0))
    assert np.isfinite(face.landmarks).all()
    assert face.embedding.shape == (128,)
