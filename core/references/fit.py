"""A test of whether references fit a frame, to warn about pictures of somebody else."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.references.collection import Kind

__all__ = ["ReferenceFit", "is_fitting"]

_CELLS, _WINDOW, _PIXELS = 16, 4, 96
"""The test takes the best square window of a quarter of the shorter side, which has 16 cells. Heads
may be small, and their surroundings may differ. The window has at least 96 pixels, because all
faces agree in a few large features."""
_LEAST = 0.8
"""Mean confidence in that window from which references fit. It was measured at 512 x 512 on the
sets of `benchmarks/references.py` and on more portraits and poses. Of 141 frames guided by
strangers, some by sets of 16, three reach it; the largest has 0.86. All of 88 frames guided by the
person reach it; the least has 0.83. The mean over the whole frame separates them less well: small
heads that are guided well have 0.06 to 0.15, strangers up to 0.39."""
_WORDS = {
    "pictures": ("reference", "are they pictures of the same person, from a similar side?"),
    "pairs": ("key pair", "are their renders of the same avatar, drawn as the frames are?"),
}


@dataclass(frozen=True)
class ReferenceFit:
    """Counts of the frames that a set guided, and of those that no reference fitted."""

    frames: int = 0
    """Guided frames."""
    unfit: int = 0
    """Guided frames that no reference fitted."""

    def with_frame(self, *, fits: bool) -> "ReferenceFit":
        """Return the counts with one more frame."""
        return ReferenceFit(self.frames + 1, self.unfit + (not fits))

    def complaint(self, kind: Kind) -> str | None:
        """Return a warning in one line if no reference fitted more than half of the frames."""
        if 2 * self.unfit <= self.frames:
            return None
        what, question = _WORDS[kind]
        return f"no {what} fits {self.unfit} of {self.frames} frames: {question}"


def is_fitting(confidence: NDArray[np.float32], subject: tuple[slice, slice] | None) -> bool:
    """Tell from the confidence (h, w) and the person's place whether references fit a frame."""
    shown: Any = confidence if subject is None else confidence[subject]
    shorter = min(shown.shape)
    height, width = (max(round(_CELLS * side / shorter), 1) for side in shown.shape)
    cells = cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA)
    window = min(max(_WINDOW, round(_CELLS * _PIXELS / shorter)), _CELLS)
    means = cv2.blur(cells, (window, window), borderType=cv2.BORDER_CONSTANT)
    return float(means.max()) >= _LEAST
