"""Whether references fit what they guide: a picture of somebody else says nothing about a frame."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.references.collection import Kind

__all__ = ["ReferenceFit", "is_fitting"]

_CELLS, _WINDOW, _PIXELS = 16, 4, 96
"""What is judged is the best square window, of a quarter of the shorter side, which has 16 cells:
heads may be small, and what is around them may differ. It has at least 96 pixels: all faces agree
in a few large features."""
_LEAST = 0.8
"""Mean confidence in that window from which references fit. Measured on the sets of
`benchmarks/references.py` and on more portraits and poses, 512 x 512: of 141 frames guided by
others, among them by sets of 16 others, none reaches it (at most 0.72), of 88 guided by the person
all but three do (0.66, 0.78, 0.78). With patches of 16 pixels in `alignment` three of the 141 do,
and all of the 88. The mean over the whole frame says less: 0.06 to 0.15 for small heads that are
guided well, up to 0.39 for strangers. On portraits shrunk to 96 to 256 pixels 57 of 60 with another
photograph of the person reach it, and none of 60 with a stranger's."""
_WORDS = {
    "pictures": ("reference", "are they pictures of the same person, from a similar side?"),
    "pairs": ("key pair", "are their renders of the same avatar, drawn as the frames are?"),
}


@dataclass(frozen=True)
class ReferenceFit:
    """In how many of the frames that a set guided none of its references was found to fit."""

    frames: int = 0
    """Frames that were guided."""
    unfit: int = 0
    """Of these, frames that no reference fitted."""

    def with_frame(self, *, fits: bool) -> "ReferenceFit":
        """Count one more frame."""
        return ReferenceFit(self.frames + 1, self.unfit + (not fits))

    def complaint(self, kind: Kind) -> str | None:
        """One line if no reference of a set of this kind fitted more than half of the frames."""
        if 2 * self.unfit <= self.frames:
            return None
        what, question = _WORDS[kind]
        return f"no {what} fits {self.unfit} of {self.frames} frames: {question}"


def is_fitting(confidence: NDArray[np.float32], subject: tuple[slice, slice] | None) -> bool:
    """Whether references fit a frame, from their confidence (h, w) and where the person is."""
    shown: Any = confidence if subject is None else confidence[subject]
    shorter = min(shown.shape)
    height, width = (max(round(_CELLS * side / shorter), 1) for side in shown.shape)
    cells = cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA)
    window = min(max(_WINDOW, round(_CELLS * _PIXELS / shorter)), _CELLS)
    means = cv2.blur(cells, (window, window), borderType=cv2.BORDER_CONSTANT)
    return float(means.max()) >= _LEAST
