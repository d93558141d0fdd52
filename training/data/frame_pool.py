"""Training crops from a pool of degraded frames, each used many times before it is replaced.

Degrading costs far more than training on the result. So whole portraits are degraded, several
crops are cut from each, and the pool is renewed frame by frame. Frame and crop follow from (seed,
step, index) alone, as everywhere in training: a resumed run sees the same data as an
uninterrupted one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.training.config import SPLAT_TARGETS
from splatmend.training.data.guided_frames import draw_guided, other_pictures
from splatmend.training.data.pair_crops import Pair, draw_pair_frame
from splatmend.training.data.portraits import Portrait, draw_pair
from splatmend.training.data.rolling_pool import RollingPool

__all__ = ["FramePool"]

_CELL = 32  # sides of smaller frames are multiples of this
_SMALLER = 0.45  # share of portraits that become smaller frames
_Frames = tuple[NDArray[np.uint8], ...]


class FramePool:
    """A source of (degraded, clean) crops, (batch, 3, crop, crop) in [0, 1]; see `batches.Draw`.

    With `references` it draws (degraded, clean, guidance). The last is (batch, 4, crop, crop):
    the picture that a reference proposes, and the confidence.

    The pool holds `size` frames and renews one every `renew` updates. A share `pair_share` of the
    frames are real or prepared `pairs`, the rest portraits. A share `undamaged` of both stays
    clean, so the network learns to leave clean frames alone. `splat_targets` and `steps_share`
    are those of `draw_pair`.
    """

    def __init__(
        self,
        portraits: Sequence[Portrait],
        *,
        size: int,
        renew: int,
        pairs: Sequence[Pair] = (),
        pair_share: float = 0.0,
        undamaged: float = 0.0,
        splat_targets: float = SPLAT_TARGETS,
        steps_share: float = 0.0,
        references: bool = False,
    ) -> None:
        self._pool = RollingPool(self._draw_frame, size=size, renew=renew)
        self._portraits = portraits
        self._pairs, self._pair_share = pairs, pair_share if pairs else 0.0
        self._undamaged, self._splat_targets = undamaged, splat_targets
        self._steps_share, self._references = steps_share, references
        self._others = other_pictures(portraits) if references else {}

    def __call__(
        self, *, seed: int, step: int, batch: int, crop: int, first: int = 0
    ) -> tuple[Tensor, ...]:
        """Draw crops; sample i is named by (seed, step, first + i)."""
        picked = self._pool.pick(seed=seed, step=step, batch=batch, crop=crop, first=first)
        planes = zip(*(_cut(frames, crop, rng) for frames, rng in picked), strict=True)
        degraded, clean, *guidance = (to_tensor(plane) for plane in planes)
        return (degraded, clean, torch.cat(guidance, 1)) if guidance else (degraded, clean)

    def _draw_frame(self, seed: int, number: int, crop: int) -> _Frames:
        rng = np.random.default_rng((seed, number))  # two numbers name a frame, three a crop
        degraded, clean, *other = self._draw_degraded(rng, seed, number, crop)
        degraded = clean if rng.random() < self._undamaged else degraded
        if not self._references:
            return degraded, clean
        stranger = self._portraits[int(rng.integers(len(self._portraits)))].pixels
        known = other[0] if other else None
        return draw_guided(degraded, clean, rng, other=known, stranger=stranger)

    def _draw_degraded(
        self, rng: np.random.Generator, seed: int, number: int, crop: int
    ) -> _Frames:
        """Draw a pair, a portrait in its own size, or a smaller frame of one; 8 bits.

        A smaller frame shows a window of the portrait or all of it (`draw_window`).
        """
        if rng.random() < self._pair_share:
            return draw_pair_frame(self._pairs[int(rng.integers(len(self._pairs)))], rng, crop)
        portrait = self._portraits[int(rng.integers(len(self._portraits)))]
        side = max(portrait.pixels.shape[0], crop)
        if rng.random() < _SMALLER:  # evenly by octaves
            scaled = np.exp(rng.uniform(np.log(crop), np.log(side)))
            side = max(_CELL * round(scaled / _CELL), crop)
        degraded, clean = draw_pair(
            [portrait],
            (seed, number, 0, 0),
            side,
            splat_targets=self._splat_targets,
            steps_share=self._steps_share,
        )
        frames = from_tensor(degraded, np.uint8)[0], from_tensor(clean, np.uint8)[0]
        other = self._others.get(portrait.name)
        return frames if other is None else (*frames, other)


def _cut(frames: _Frames, crop: int, rng: np.random.Generator) -> _Frames:
    """Cut one window of all frames, perhaps mirrored; half of the time the worst of three."""
    height, width = frames[0].shape[:2]

    def window() -> tuple[slice, slice]:
        top, left = (int(rng.integers(side - crop + 1)) for side in (height, width))
        return slice(top, top + crop), slice(left, left + crop)

    def error(area: tuple[slice, slice]) -> float:
        degraded, clean = (frame[area].astype(np.int16) for frame in frames[:2])
        return float(np.abs(degraded - clean).mean())

    area = max(window(), window(), window(), key=error) if rng.random() < 0.5 else window()
    flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
    return tuple(np.ascontiguousarray(frame[area][:, flip]) for frame in frames)
