"""Where motion may be trusted: four checks, each (n, 1, h, w), to be multiplied.

Everything "warped" is the last frame's plane after `warp` with the backward flow.
"""

import torch
from torch import Tensor

from splatmend.temporal.motion.warping import warp

__all__ = ["alphas_agree", "depths_agree", "flows_agree", "photometric_weight"]


def flows_agree(
    backward: Tensor, forward: Tensor, *, relative: float = 0.01, absolute: float = 0.5
) -> Tensor:
    """Whether there and back ends where it began: False where something came into view.

    |b + f(x + b)|^2 < relative (|b|^2 + |f|^2) + absolute, in square pixels; Sundaram, Brox and
    Keutzer 2010, "Dense point trajectories by GPU-accelerated large displacement optical flow".

    Args:
        backward: Flow from this frame to the last, (n, 2, h, w).
        forward: Flow from the last frame to this, at the last frame's pixels, (n, 2, h, w).
        relative: Error that is let pass, as a share of the motion's own size.
        absolute: Error that is let pass anywhere, square pixels.

    Returns:
        (n, 1, h, w) bool; False too where the flow leaves the picture.
    """
    back, inside = warp(forward, backward)
    error = (backward + back).square().sum(1, keepdim=True)
    size = (backward.square() + back.square()).sum(1, keepdim=True)
    return (error < relative * size + absolute) & inside


def photometric_weight(warped: Tensor, picture: Tensor, *, tolerance: float = 0.05) -> Tensor:
    """exp(-d / tolerance), d the largest difference of a channel: 1 where both look the same.

    Args:
        warped: (n, c, h, w) in [0, 1].
        picture: (n, c, h, w) in [0, 1].
        tolerance: Difference at which the weight has fallen to 1/e.

    Returns:
        (n, 1, h, w) in (0, 1].
    """
    return torch.exp((warped - picture).abs().amax(1, keepdim=True) / -tolerance)


def depths_agree(warped: Tensor, depth: Tensor, *, tolerance: float = 0.05) -> Tensor:
    """Whether two depths differ by less than a share `tolerance` of this frame's; bool.

    Both 0, a renderer's word for "nothing here", agree.
    """
    return (warped - depth).abs() <= tolerance * depth.abs()


def alphas_agree(warped: Tensor, alpha: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Whether both alphas in [0, 1] say "something", or both "nothing"; bool."""
    return (warped >= threshold) == (alpha >= threshold)
