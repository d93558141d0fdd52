"""Training sequences from a pool of larger ones, like the crops of `frame_pool`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.training.data.frame_pool import FramePool
from splatmend.training.data.portraits import Portrait
from splatmend.training.data.rolling_pool import RollingPool
from splatmend.training.data.sequences import draw_sequence_batch, roomy_side
from splatmend.training.data.shifted_crops import comes_from_inside, draw_shifts

__all__ = ["SequencePool"]


@dataclass(frozen=True, eq=False)
class _Sequence:
    """A sequence of k frames, larger than a crop if the portrait allows."""

    degraded: list[NDArray[np.uint8]]  # each (h, w, 3)
    clean: list[NDArray[np.uint8]]
    flow: Tensor  # (k - 1, 2, h, w)
    valid: Tensor  # (k - 1, 1, h, w) bool


class SequencePool:
    """A source of sequences like `draw_sequence_batch`, at a fraction of the cost.

    See `batches.Draw`. A pixel that came from outside its crop is not valid. A share
    `still_share` of the sequences are crops of `stills`, seen again whole pixels away
    (training/data/shifted_crops.py).
    """

    def __init__(
        self,
        portraits: Sequence[Portrait],
        *,
        frames: int,
        size: int,
        renew: int,
        stills: FramePool | None = None,
        still_share: float = 0.0,
    ) -> None:
        self._pool = RollingPool(self._draw_sequence, size=size, renew=renew)
        self._portraits, self._count = portraits, frames
        self._stills, self._still_share = stills, still_share if stills else 0.0

    def __call__(
        self, *, seed: int, step: int, batch: int, crop: int, first: int = 0
    ) -> tuple[Tensor, ...]:
        """Draw sequences; sample i is named by (seed, step, first + i)."""
        cuts = []
        for index in range(first, first + batch):
            name = {"seed": seed, "step": step, "first": index, "batch": 1, "crop": crop}
            # a separate name, so no sequence is drawn in vain
            chance = np.random.default_rng((seed, step, index, 0)).random()
            if self._stills is not None and chance < self._still_share:
                still = draw_shifts(self._stills, **name, frames=self._count)
                cuts.append(tuple(planes[0] for planes in still))
            else:
                ((sequence, rng),) = self._pool.pick(**name)
                cuts.append(_cut(sequence, crop, rng))
        return tuple(torch.stack(planes) for planes in zip(*cuts, strict=True))

    def _draw_sequence(self, seed: int, number: int, crop: int) -> _Sequence:
        rng = np.random.default_rng((seed, number))
        portrait = self._portraits[int(rng.integers(len(self._portraits)))]
        side = max(crop, min(2 * crop, roomy_side(portrait)))
        degraded, clean, flow, valid = draw_sequence_batch(
            [portrait], seed=seed, step=number, batch=1, frames=self._count, crop=side
        )
        before, after = (from_tensor(clip[0], np.uint8) for clip in (degraded, clean))
        return _Sequence(before, after, flow[0], valid[0])


def _cut(
    sequence: _Sequence, crop: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut one window of all planes, perhaps mirrored."""
    room = sequence.flow.shape[-1] - crop + 1
    top, left = (int(rng.integers(room)) for _ in range(2))
    area = np.s_[top : top + crop, left : left + crop]
    pictures = (sequence.degraded, sequence.clean)
    degraded, clean = (to_tensor([frame[area] for frame in clip]) for clip in pictures)
    flow, valid = sequence.flow[..., *area], sequence.valid[..., *area]
    if rng.random() < 0.5:
        degraded, clean, flow, valid = (p.flip(-1) for p in (degraded, clean, flow, valid))
        flow = flow * flow.new_tensor((-1, 1)).view(2, 1, 1)
    return degraded, clean, flow, valid & comes_from_inside(flow)
