import numpy as np
import pytest

from splatmend.core import Frame, InputError


def color(dtype: type = np.uint8) -> np.ndarray:
    return np.zeros((4, 6, 3), dtype)


def test_planes_must_match_the_picture() -> None:
    frame = Frame(color=color(), alpha=np.zeros((4, 6), np.uint8), pts=7, stream_id="cam0")
    assert frame.size == (4, 6)
    assert "color (4, 6, 3) uint8, alpha" in repr(frame)
    assert "0 0 0" not in repr(frame)  # shapes, not pixels


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ({"color": np.zeros((4, 6), np.uint8)}, r"must be \(h, w, 3\), got \(4, 6\)"),
        ({"color": np.zeros((0, 6, 3), np.uint8)}, "no pixels"),
        ({"color": np.zeros((4, 6, 3), np.int32)}, "uint8, uint16, float32, got int32"),
        ({"color": color(), "alpha": np.zeros((4, 5), np.uint8)}, r"alpha must be \(4, 6\)"),
        ({"color": color(), "alpha": np.zeros((4, 6), np.uint16)}, "dtype of color, uint8"),
        ({"color": color(), "alpha_kind": "pre"}, "'straight' or 'premultiplied', got 'pre'"),
        ({"color": color(), "depth": np.zeros((4, 6, 1), np.float32)}, r"depth must be \(4, 6\)"),
        ({"color": color(), "motion": np.zeros((4, 6), np.float32)}, r"must be \(4, 6, 2\)"),
    ],
)
def test_wrong_planes_are_refused(planes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Frame(**planes)


def test_with_color_keeps_the_other_planes() -> None:
    frame = Frame(color=color(), alpha=np.ones((4, 6), np.uint8), pts=3)
    other = frame.with_color(color() + 9)
    assert other.pts == 3
    assert other.alpha is frame.alpha
    assert other.color.max() == 9
    assert frame.color.max() == 0
