"""Validity of motion: three checks, to be multiplied.

"Warped" planes are the last frame's after `warp` with the backward flow.
"""

from torch import Tensor

from splatmend.temporal.motion.warping import warp

__all__ = ["alphas_agree", "depths_agree", "flows_agree"]


def flows_agree(
    backward: Tensor, forward: Tensor, *, relative: float = 0.01, absolute: float = 0.5
) -> Tensor:
    """Check that backward and forward flow cancel: False at disocclusions.

    |b + f(x + b)|^2 < relative (|b|^2 + |f|^2) + absolute, in square pixels; Sundaram, Brox and
    Keutzer 2010, "Dense point trajectories by GPU-accelerated large displacement optical flow".

    Args:
        backward: Flow from this frame to the last, (n, 2, h, w).
        forward: Flow from the last frame to this, at the last frame's pixels, (n, 2, h, w).
        relative: Allowed error, as a share of the motion's own size.
        absolute: Allowed error anywhere, square pixels.

    Returns:
        (n, 1, h, w) bool; also False where the flow leaves the picture.
    """
    back, inside = warp(forward, backward)
    error = (backward + back).square().sum(1, keepdim=True)
    size = (backward.square() + back.square()).sum(1, keepdim=True)
    return (error < relative * size + absolute) & inside


def depths_agree(warped: Tensor, depth: Tensor, *, tolerance: float = 0.05) -> Tensor:
    """Check that two depths differ by at most the share `tolerance` of this frame's; bool.

    Two depths of 0, which mean "no surface", agree.
    """
    return (warped - depth).abs() <= tolerance * depth.abs()


def alphas_agree(warped: Tensor, alpha: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Check that two alphas in [0, 1] lie on the same side of `threshold`; bool."""
    return (warped >= threshold) == (alpha >= threshold)
