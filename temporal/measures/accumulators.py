"""Measures that build up over a clip: lag behind a reference, slow drift of colour, seams.

Each takes one frame at a time and keeps a bounded number of them.
"""

from collections import deque
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["DriftMeter", "LagMeter", "seam_step"]

_LEAST_MOTION = (0.5 / 255) ** 2  # mean square change below which a clip stands still
_CELLS = 8
_FEW_LEVELS = 0.1 / 255


class LagMeter:
    """Lag of a clip behind its reference in frames, as a whole number and as a fraction."""

    def __init__(self, reach: int = 5) -> None:
        self._ours: deque[Tensor] = deque(maxlen=reach + 1)
        self._reference: deque[Tensor] = deque(maxlen=max(reach + 1, 3))
        # (sum of mean square errors, count) by offset, small offsets first: they win a draw
        self._errors = dict.fromkeys(sorted(range(-reach, reach + 1), key=abs), (0.0, 0))
        self._along = self._motion = 0.0
        self._frames = 0

    def add(self, ours: Tensor, reference: Tensor) -> None:
        """Add one frame of each, (3, h, w) in [0, 1]."""
        self._ours.append(_half(ours))
        self._reference.append(_half(reference))
        self._frames += 1
        for offset, (total, count) in self._errors.items():
            if abs(offset) < len(self._ours):
                y = self._ours[-1 - max(-offset, 0)]
                r = self._reference[-1 - max(offset, 0)]
                self._errors[offset] = (total + (y - r).square().mean().item(), count + 1)
        if self._frames >= 3:
            before, now, after = (self._reference[i] for i in (-3, -2, -1))
            motion = (before - after) / 2
            self._along += ((self._ours[-2] - now) * motion).mean().item()
            self._motion += motion.square().mean().item()

    @property
    def offset(self) -> int | None:
        """Return the lag of the best match in frames; negative is early, None without motion."""
        if not self._moves:
            return None
        seen = {j: total / count for j, (total, count) in self._errors.items() if count}
        return min(seen, key=seen.__getitem__)

    @property
    def delay(self) -> float | None:
        """Return the least-squares delay in frames: a ghost of share g of the last frame gives g.

        To first order y_t = r(t - delay), so y_t - r_t is the delay times
        (r_{t-1} - r_{t+1}) / 2: Lucas & Kanade 1981, along time. Blur, noise and
        wrong colours are nearly orthogonal to it. Above 1 trust only `offset`.
        """
        return self._along / self._motion if self._moves else None

    @property
    def _moves(self) -> bool:
        return self._motion > _LEAST_MOTION * max(self._frames - 2, 1)


def _half(picture: Tensor) -> Tensor:
    """Halve a picture: a quarter of the work, and delays are as visible."""
    return F.avg_pool2d(picture.detach().float(), 2, ceil_mode=True)


class DriftMeter:
    """Drift of broad colours from those of the reference: a straight line through each cell."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._moment = torch.zeros(())

    def add(self, ours: Tensor, reference: Tensor) -> float:
        """Add one frame of each, (3, h, w) in [0, 1]; return the mean difference in levels."""
        cells = F.adaptive_avg_pool2d((ours - reference).detach().float(), _CELLS)
        self._sum = self._sum + cells
        self._moment = self._moment + self._count * cells
        self._count += 1
        return 255 * cells.mean().item()

    @property
    def over_clip(self) -> float | None:
        """Return the drift from the first frame to the last, in levels; None if too short.

        It is the root mean square over 8 x 8 cells and three channels, along the best-fitting
        lines.
        """
        n = self._count
        if n < 3:
            return None
        slope = (self._moment - (n - 1) / 2 * self._sum) / (n * (n * n - 1) / 12)
        return 255 * (n - 1) * slope.square().mean().sqrt().item()


def seam_step(errors: Sequence[float | None], seams: Sequence[int], *, around: int = 10) -> float:
    """Return the largest step at a seam over the typical step beside it; about 1: no seam.

    `errors[t]` is the warping error from frame t - 1 to t, in [0, 1]. A seam at t means that
    frame t is the first of a new segment. A tenth of a level of 255 is added to both, so that
    a still clip has no seams either. Seams outside the clip are ignored.
    """
    worst = 0.0
    for seam in seams:
        here = errors[seam] if 0 < seam < len(errors) else None
        near = range(max(seam - around, 1), min(seam + around + 1, len(errors)))
        beside = [e for t in near if t not in seams and (e := errors[t]) is not None]
        if here is not None and beside:
            worst = max(worst, (here + _FEW_LEVELS) / (median(beside) + _FEW_LEVELS))
    return worst
