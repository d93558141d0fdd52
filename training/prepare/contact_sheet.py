"""One picture to check a prepared folder: clean, regions and degraded, side by side."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.training.data.manifest import PairRecord
from splatmend.training.data.pairs import read_picture
from splatmend.training.faces.regions import REGIONS

__all__ = ["contact_sheet"]

_TILE = 256
_PAIRS_A_ROW = 2
# RGB, in the order of REGIONS
_COLORS = np.array(
    ((60, 60, 60), (240, 190, 150), (90, 200, 90), (80, 120, 255), (230, 60, 60), (200, 120, 220)),
    np.uint8,
)


def contact_sheet(
    folder: Path, records: Sequence[PairRecord], *, count: int = 24
) -> NDArray[np.uint8]:
    """Draw at most `count` of the pairs, evenly spaced, as RGB (h, w, 3).

    Args:
        folder: the manifest's folder, to which its paths are relative.
        records: at least one.
        count: number of pairs to show.

    Raises:
        InputError: a picture cannot be read.
    """
    places = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    strips = [_strip(folder, records[place]) for place in places]
    while len(strips) % _PAIRS_A_ROW:
        strips.append(np.zeros_like(strips[0]))
    rows = [np.hstack(strips[i : i + _PAIRS_A_ROW]) for i in range(0, len(strips), _PAIRS_A_ROW)]
    return np.asarray(np.vstack(rows), np.uint8)


def _strip(folder: Path, record: PairRecord) -> NDArray[np.uint8]:
    clean, degraded = (read_picture(folder / path) for path in (record.clean, record.degraded))
    shown = clean
    if record.regions is not None:
        labels = read_picture(folder / record.regions)[..., 0]
        tint = _COLORS[labels.clip(max=len(REGIONS) - 1)]
        shown = np.asarray(cv2.addWeighted(clean, 0.5, tint, 0.5, 0), np.uint8)
    size = (_TILE, _TILE)
    tiles = [
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        for picture in (clean, shown, degraded)
    ]
    return np.asarray(np.hstack(tiles), np.uint8)
