"""Input and result in one picture."""

import numpy as np
import pytest

from splatmend.core import Frame, InputError
from splatmend.plugin import compare


def frame(value, width=800, **planes):
    return Frame(color=np.full((10, width, 3), value, np.uint8), pts=7, **planes)


def test_side_by_side_doubles_the_width():
    joined = compare(frame(10), frame(200), "side")
    assert joined.size == (10, 1600)
    assert joined.pts == 7
    assert (joined.color[:, :800] == 10).all()
    assert (joined.color[:, 800:] == 200).all()


def test_wipe_parts_the_halves_with_a_line():
    alpha = np.zeros((10, 800), np.uint8)
    joined = compare(frame(10, alpha=alpha), frame(200, alpha=alpha), "wipe")
    assert (joined.color[:, :400] == 10).all()
    assert (joined.color[:, 400:402] == 255).all()
    assert (joined.alpha[:, 400:402] == 255).all()
    assert (joined.color[:, 402:] == 200).all()
    assert joined.alpha.sum() == 10 * 2 * 255


def test_frames_that_do_not_fit():
    with pytest.raises(InputError, match="one size"):
        compare(frame(1), frame(1, width=8), "side")
    with pytest.raises(InputError, match="alpha"):
        compare(frame(1), frame(1, alpha=np.zeros((10, 800), np.uint8)), "side")
