"""An expression is never imported: what the frame alone shows stays, around it detail is carried.

The reference looks out of open eyes. In the frame they are closed, or a hand is before the face.
"""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splatmend.core import (
    Frame,
    Guide,
    Reference,
    References,
    RestoreOptions,
    load_restorer,
    restore_frames,
)

Picture = NDArray[np.uint8]
SIDE = 256
EYES = (92, 112), (164, 112)
SKIN, SHADOW = (196, 158, 136), (120, 85, 70)


def textured(color: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """(256, 256, 3) with structure of three sizes, as skin has it."""
    dice, plane = np.random.default_rng(seed), np.full((SIDE, SIDE, 3), color, np.float64)
    for size, levels in ((0.8, 7), (3, 7), (14, 9)):
        noise = cv2.GaussianBlur(dice.normal(size=(SIDE, SIDE)), (0, 0), size)
        plane += (levels * noise / noise.std())[..., None]
    return plane


def laid(below: NDArray[np.float64], above: NDArray[np.float64], mask: Any) -> NDArray[np.float64]:
    """One picture on the other where the mask is 1."""
    share: Any = cv2.GaussianBlur(mask, (0, 0), 1)[..., None]
    return np.ascontiguousarray(below + (above - below) * share)


def face(*, eyes: str = "open", hand: bool = False) -> Picture:
    """A face on a ground; lids have the skin of all the face."""
    oval = np.zeros((SIDE, SIDE))
    cv2.ellipse(oval, (128, 132), (84, 108), 0, 0, 360, 1, -1)
    picture = laid(textured((70, 90, 110), 1), textured(SKIN, 8), oval)
    for x, y in EYES:
        cv2.ellipse(picture, (x, y - 24), (24, 5), 0, 0, 360, (70, 50, 40), -1)
        if eyes == "open":
            cv2.ellipse(picture, (x, y), (19, 10), 0, 0, 360, (235, 230, 225), -1)
            cv2.circle(picture, (x, y), 9, (80, 60, 35), -1)
            cv2.circle(picture, (x, y), 4, (12, 12, 12), -1)
        else:
            cv2.ellipse(picture, (x, y + 2), (19, 7), 0, 10, 170, SHADOW, 2)
    cv2.line(picture, (128, 118), (124, 156), (160, 120, 100), 2)
    cv2.ellipse(picture, (128, 190), (30, 8), 0, 0, 360, (170, 80, 80), -1)
    cv2.line(picture, (98, 190), (158, 190), (90, 40, 40), 2)
    if hand:
        fingers = np.zeros((SIDE, SIDE))
        for y in range(140, 228, 22):
            cv2.line(fingers, (250, y + 10), (112, y), 1, 19)
        picture = laid(picture, textured((188, 150, 130), 21), fingers)
        for y in range(129, 239, 22):
            cv2.line(picture, (250, y + 10), (116, y), SHADOW, 1)
    return np.asarray(np.clip(np.rint(cv2.GaussianBlur(picture, (0, 0), 0.6)), 0, 255), np.uint8)


def apart(one: Picture, other: Picture, area: NDArray[np.bool_]) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(one.astype(float) - other)[area].mean())


def restored(restorer: str, frame: Picture, guide: Guide | None) -> Picture:
    (answer,) = restore_frames(
        load_restorer(restorer, device="cpu"),
        [Frame(color=frame)],
        RestoreOptions(magnify=1),
        references=guide,
    )
    return answer.color


@pytest.fixture(scope="module")
def reference() -> Picture:
    return face()


@pytest.mark.parametrize("restorer", ["copy", "compact"])
@pytest.mark.parametrize("shown", [{"eyes": "closed"}, {"hand": True}], ids=["lids", "hand"])
def test_what_changed_stays_the_frames(
    shown: dict[str, Any], restorer: str, reference: Picture
) -> None:
    truth = face(**shown)
    frame = np.asarray(cv2.GaussianBlur(truth, (0, 0), 1.6), np.uint8)
    differs = (np.abs(truth.astype(int) - reference).max(2) > 12).astype(np.uint8)
    changed = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((3, 3))) > 0
    oval = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(oval, (128, 132), (76, 100), 0, 0, 360, 1, -1)
    elsewhere = (oval > 0) & (cv2.dilate(changed.astype(np.uint8), np.ones((25, 25))) == 0)
    guide = Guide(References([Reference(picture=reference)]))
    alone, guided = (restored(restorer, frame, given) for given in (None, guide))
    assert apart(guided, alone, changed) < 0.05 * apart(reference, frame, changed)
    assert apart(guided, truth, elsewhere) < 0.4 * apart(alone, truth, elsewhere)
    assert guide.fit.unfit == 0
