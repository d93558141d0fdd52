"""The loss on clips: what is wrong with a frame must be wrong in the same way one frame later.

Clips are (n, k, 3, h, w) in [0, 1]; their motion is (n, k - 1, 2, h, w), backward flow in
pixels from frame t + 1 to frame t (see `splatmend.temporal.motion.warping`); its validity is
(n, k - 1, 1, h, w), bool or a weight in [0, 1].
"""

import torch
from torch import Tensor

from splatmend.core import InputError
from splatmend.temporal.motion.warping import warp

__all__ = ["chain_motion", "self_condition", "temporal_difference", "temporal_loss"]


def temporal_loss(
    ours: Tensor, target: Tensor, flow: Tensor, valid: Tensor, *, reach: int = 1
) -> Tensor:
    """Warping error relative to the target's own, pixel by pixel -> (n,); the target scores 0.

    L = mean(M |d(ours) - d(target)|), d(y) = y_t - warp(y_{t - reach}). Because warping is
    linear this is the error ours - target, less the same error carried along by the motion:
    a steady error costs nothing here, whether it blurs or sharpens, and a flickering one
    costs all of it. The plain mean(M |d(ours)|) of Lai et al. 2018, "Learning Blind Video
    Temporal Consistency", would pay for blur.

    Args:
        ours: Restored clips; the gradient flows into all of their frames.
        target: Clean clips.
        flow: Motion of the clean clips.
        valid: Where that motion holds.
        reach: Frames between the two compared; more than 1 sees drift that single steps hide.

    Raises:
        InputError: shapes that do not fit, or a reach that is not in [1, k - 1].
    """
    _check(ours, flow, valid)
    if target.shape != ours.shape:
        raise InputError(
            f"temporal_loss needs a target of {tuple(ours.shape)} like ours, "
            f"got {tuple(target.shape)}"
        )
    flow, valid = chain_motion(flow, valid, reach)
    error = temporal_difference(ours - target, flow).abs()
    weight = valid.to(error.dtype).expand_as(error)
    return (weight * error).sum((1, 2, 3, 4)) / weight.sum((1, 2, 3, 4)).clamp(min=1)


def temporal_difference(clip: Tensor, flow: Tensor) -> Tensor:
    """y_t - warp(y_{t - r}), one for each flow.

    `clip` is (n, k, c, h, w), `flow` (n, k - r, 2, h, w) reaches r frames back; the result
    is (n, k - r, c, h, w).
    """
    steps = flow.shape[1]
    before, now = clip[:, :steps], clip[:, clip.shape[1] - steps :]
    moved, _ = warp(before.flatten(0, 1), flow.flatten(0, 1))
    return now - moved.view_as(now)


def chain_motion(flow: Tensor, valid: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Motion over `reach` frames from the motion of single steps.

    Returns:
        Flow (n, k - reach, 2, h, w) and validity (n, k - reach, 1, h, w) of its dtype: a
        pixel counts if every step on its way did.

    Raises:
        InputError: a reach that is not in [1, k - 1].
    """
    steps = flow.shape[1]
    if not 1 <= reach <= steps:
        raise InputError(f"reach must lie in [1, {steps}] for {steps + 1} frames, got {reach}")
    total, holds = flow[:, reach - 1 :], valid[:, reach - 1 :]
    both = torch.cat((flow, valid.to(flow.dtype)), 2)
    for first in range(reach - 2, -1, -1):
        step = both[:, first : first + total.shape[1]]
        moved, inside = warp(step.flatten(0, 1), total.flatten(0, 1))
        moved, inside = moved.view_as(step), inside.view_as(holds)
        # a mask is 1 or nothing: next to a pixel that does not hold, none can be trusted
        held = moved[:, :, 2:] if valid.is_floating_point() else moved[:, :, 2:] > 0.999
        holds = holds * held * inside
        total = total + moved[:, :, :2]
    return total, holds


def self_condition(
    degraded: Tensor,
    restored: Tensor,
    flow: Tensor,
    valid: Tensor,
    *,
    chance: Tensor,
    share: float = 0.5,
) -> Tensor:
    """Clips to restore once more, in which the network meets its own past -> like `degraded`.

    In a `share` of the clips every frame but the first is mixed, by some amount, with what
    was made of the frame before, carried along by the motion. Which clips and how much is
    the caller's choice: `chance` (n, 2) holds two even numbers in [0, 1) for each. A
    network that must reach the target from there too does not add its own faults up from
    frame to frame. No gradient flows through the past.

    Raises:
        InputError: shapes that do not fit, or a share outside [0, 1].
    """
    _check(degraded, flow, valid)
    if restored.shape != degraded.shape or not 0 <= share <= 1:
        raise InputError(
            f"self_condition needs restored clips of {tuple(degraded.shape)} and a share in "
            f"[0, 1], got {tuple(restored.shape)} and {share}"
        )
    n = len(flow)
    amount = (chance[:, 0] < share) * chance[:, 1]
    now = degraded[:, 1:]
    past, _ = warp(restored.detach()[:, :-1].flatten(0, 1), flow.flatten(0, 1))
    weight = amount.to(now).view(n, 1, 1, 1, 1) * valid
    mixed = now + weight * (past.view_as(now) - now)
    return torch.cat((degraded[:, :1], mixed), 1)


def _check(clip: Tensor, flow: Tensor, valid: Tensor) -> None:
    n, k, _, height, width = clip.shape if clip.ndim == 5 else (0,) * 5
    wanted = ((n, k - 1, 2, height, width), (n, k - 1, 1, height, width))
    if k < 2 or (tuple(flow.shape), tuple(valid.shape)) != wanted:
        raise InputError(
            f"a clip (n, k, 3, h, w) of at least 2 frames needs flow (n, k - 1, 2, h, w) and "
            f"validity (n, k - 1, 1, h, w), got {tuple(clip.shape)}, {tuple(flow.shape)} and "
            f"{tuple(valid.shape)}"
        )
