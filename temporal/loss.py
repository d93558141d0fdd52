"""The temporal loss on clips: it penalises errors that change from frame to frame.

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
    """Compute the warping error relative to the target's, (n,); the target scores 0.

    L = mean(M |d(ours) - d(target)|), d(y) = y_t - warp(y_{t - reach}). Warping is linear, so
    this is the error ours - target, less the same error moved along the motion. A constant
    error, such as blur, costs nothing here, and a flickering one costs all of it. The plain
    mean(M |d(ours)|) of Lai et al. 2018, "Learning Blind Video Temporal Consistency", would
    reward blur.

    Args:
        ours: Restored clips; the gradient flows into all of their frames.
        target: Clean clips.
        flow: Motion of the clean clips.
        valid: Mask or weight of correct motion.
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
    """Compute y_t - warp(y_{t - r}) for each flow.

    `clip` is (n, k, c, h, w), `flow` (n, k - r, 2, h, w) reaches r frames back. The result
    is (n, k - r, c, h, w).
    """
    steps = flow.shape[1]
    before, now = clip[:, :steps], clip[:, clip.shape[1] - steps :]
    moved, _ = warp(before.flatten(0, 1), flow.flatten(0, 1))
    return now - moved.view_as(now)


def chain_motion(flow: Tensor, valid: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Chain the motion of single steps to motion over `reach` frames.

    Returns:
        Flow (n, k - reach, 2, h, w) and validity (n, k - reach, 1, h, w), in its dtype. A
        pixel is valid if every step on its way is.

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
    """Mix a network's own past into clips that it restores again -> like `degraded`.

    In a `share` of the clips every frame but the first is mixed with the restored last frame,
    moved along the motion. The caller draws the clips and amounts: `chance` (n, 2) holds two
    uniform numbers in [0, 1) for each. A network that learns to reach the target from such
    clips does not accumulate its own errors. No gradient flows through the past.

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
