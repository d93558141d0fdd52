import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from splatmend.training.faces.align import (
    DlibLandmarker,
    Square,
    centre_square,
    cut_square,
    face_square,
    share_outside,
)


def landmarks(left_eye: tuple, right_eye: tuple, mouth: tuple, width: float) -> np.ndarray:
    """Only what alignment looks at."""
    points = np.zeros((68, 2), np.float32)
    points[36:42], points[42:48] = left_eye, right_eye
    points[48], points[54] = (mouth[0] - width, mouth[1]), (mouth[0] + width, mouth[1])
    return points


def test_an_upright_face_gives_an_upright_square() -> None:
    square = face_square(landmarks((80, 100), (120, 100), (100, 140), 15))
    # eyes 40 apart, mouth 40 below: 2.0 x 40 is more than 1.8 x 40
    assert square.axis == pytest.approx((80, 0))
    assert square.center == pytest.approx((100, 104))
    assert square.side == pytest.approx(160)


def test_a_long_face_is_measured_by_its_length() -> None:
    assert face_square(landmarks((80, 100), (120, 100), (100, 200), 15)).side == pytest.approx(360)


def test_the_square_turns_with_the_face() -> None:
    upright = landmarks((80, 100), (120, 100), (100, 150), 15)
    turn = cv2.getRotationMatrix2D((0, 0), -30, 1.5)  # clockwise on the screen
    turned = (upright @ turn[:, :2].T).astype(np.float32)
    before, after = face_square(upright), face_square(turned)
    assert after.side == pytest.approx(1.5 * before.side, rel=1e-5)
    assert after.center == pytest.approx(tuple(turn[:, :2] @ before.center), rel=1e-5)
    assert np.degrees(np.arctan2(after.axis[1], after.axis[0])) == pytest.approx(30, abs=1e-3)


def test_whole_pixels_are_copied_exactly(face: np.ndarray) -> None:
    tall = face[:, 40:201]  # 256 x 161
    square = centre_square(*tall.shape[:2])
    assert np.array_equal(cut_square(tall, square, 161), tall[47:208])
    assert np.array_equal(cut_square(tall[..., 0], square, 161), tall[47:208, :, 0])


def test_shrinking_averages() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.all(cut_square(stripes, centre_square(256, 256), 64) == 100)


def test_a_turned_square_shows_what_lies_in_it(face: np.ndarray) -> None:
    right = cut_square(face, Square((127.5, 127.5), (0, 128)), 256)  # its right side looks down
    assert np.array_equal(right, np.rot90(face))


def test_beyond_the_edge_the_picture_is_mirrored_and_counted(face: np.ndarray) -> None:
    square = Square((-0.5, 127.5), (64, 0))
    cut = cut_square(face, square, 128).astype(int)
    assert share_outside(square, 256, 256) == pytest.approx(0.5)
    assert np.abs(cut[:, 1:64] - cut[:, :64:-1]).max() <= 1
    assert share_outside(centre_square(256, 256), 256, 256) == 0
    assert share_outside(Square((500, 500), (50, 20)), 256, 256) == 1


@pytest.fixture(scope="module")
def find() -> DlibLandmarker:
    pytest.importorskip("dlib")
    return DlibLandmarker()


def test_a_real_face_lands_where_aligned_portraits_have_it(find: DlibLandmarker) -> None:
    picture = astronaut()
    points = find(picture)
    assert points is not None
    crop = cut_square(picture, face_square(points), 512)
    again = find(crop)
    assert again is not None
    eyes, mouth = again[36:48].mean(0), again[[48, 54]].mean(0)
    assert eyes == pytest.approx((256, 236), abs=12)
    assert mouth[0] == pytest.approx(256, abs=12)
    assert 340 < mouth[1] < 400
    assert face_square(again).side == pytest.approx(512, rel=0.05)


def test_landmarks_follow_the_scale_of_a_large_picture(find: DlibLandmarker) -> None:
    picture = astronaut()
    large = cv2.resize(picture, (1536, 1536), interpolation=cv2.INTER_CUBIC)
    small, found = find(picture), find(large)
    assert small is not None
    assert found is not None
    assert np.abs((found + 0.5) / 3 - 0.5 - small).max() < 4


def test_the_larger_of_two_faces_is_taken(find: DlibLandmarker) -> None:
    head = astronaut()[20:220, 120:320]
    both = np.full((400, 700, 3), 128, np.uint8)
    both[20:220, 20:220] = head
    both[:400, 300:700] = cv2.resize(head, (400, 400))
    points = find(both)
    assert points is not None
    assert points[:, 0].min() > 300


def test_no_face_no_landmarks(find: DlibLandmarker) -> None:
    assert find(np.full((300, 200, 3), 90, np.uint8)) is None
