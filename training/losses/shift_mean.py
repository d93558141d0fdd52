"""The mean of a network's outputs for shifted pictures, as a training target.

Half of the detail that compact adds depends on the picture's position on its grid of 32 pixels,
and flickers when the picture moves. The mean of outputs for shifted pictures hardly does, at many
times the cost. A copy of the network can learn to give this mean in one pass. A mean is also
softer than its terms, so its local energy is restored.

Source: Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution" (a
self-ensemble of mirrored pictures).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core import InputError
from splatmend.training.data.shifted_crops import EDGE

__all__ = ["shift_mean", "shift_mean_loss"]

_NEAR = 9  # side in pixels of the square over which energy is taken


def shift_mean_loss(ours: Tensor, teacher: Tensor, flow: Tensor) -> Tensor:
    """Compute L1 between `ours` and the `shift_mean` of the teacher for the same crops -> (n,).

    Args:
        ours: residuals, (n, k, 3, h, w); the gradient flows into all of their frames.
        teacher: residuals of the same crops.
        flow: see `shift_mean`.

    Raises:
        InputError: the motion is not a shift by whole pixels.
    """
    with torch.no_grad():
        target, holds = shift_mean(teacher, flow)
    error = (ours - target).abs().mean(2, keepdim=True)
    return (error * holds).sum((1, 2, 3, 4)) / holds.sum((1, 2, 3, 4)).clamp(min=1)


def shift_mean(residuals: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Average k residuals for shifts of one picture, aligned to each of them.

    Args:
        residuals: (n, k, 3, h, w).
        flow: backward motion in pixels from each crop to the one before, (n, k - 1, 2, h, w), as
            from `draw_shifts`.

    Returns:
        The mean with its local energy restored, (n, k, 3, h, w), and its validity, (n, k, 1, h,
        w) bool. A pixel is valid if at least half of the crops show it, and some show all pixels
        around it.

    Raises:
        InputError: the motion is not a shift by whole pixels.
    """
    steps = flow[..., 0, 0].round()
    if (flow - steps[..., None, None]).abs().max() > 1e-3:
        raise InputError(
            "shift_mean takes crops that are whole pixels apart, got other motion: train on "
            "--pairs or --manifests alone, or with --still-share 1"
        )
    places = F.pad(steps.cumsum(1), (0, 0, 1, 0))  # (n, k, 2), x and y against the first crop
    places = (places - places.amin(1, keepdim=True)).long()
    found = [_mean(own, at.tolist()) for own, at in zip(residuals, places, strict=True)]
    means, holds = (torch.stack(part) for part in zip(*found, strict=True))
    return means, holds


def _mean(residuals: Tensor, places: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Average one picture's residuals (k, 3, h, w) at left and top `places`, with validity."""
    height, width = residuals.shape[-2:]
    right, bottom = (max(along) for along in zip(*places, strict=True))
    sums = residuals.new_zeros(5, bottom + height, right + width)
    counted = torch.cat((residuals, _energy(residuals), torch.ones_like(residuals[:, :1])), 1)
    inner = counted[..., EDGE:-EDGE, EDGE:-EDGE]
    for (x, y), part in zip(places, inner, strict=True):
        sums[:, y + EDGE : y + height - EDGE, x + EDGE : x + width - EDGE] += part
    count = sums[4:]
    means = sums[:4] / count.clamp(min=1)
    # the bound keeps unrelated residuals from becoming strong noise
    lost = means[3:] / (_energy(means[None, :3])[0] + 1e-7)
    mean = means[:3] * lost.sqrt().clamp(1, 2)
    holds = (count >= len(places) / 2) & (_nearby((count > 0).float()) > 0.99)
    views = [(..., slice(y, y + height), slice(x, x + width)) for x, y in places]
    return torch.stack([mean[v] for v in views]), torch.stack([holds[v] for v in views])


def _energy(residuals: Tensor) -> Tensor:
    """Compute the local mean square of (n, 3, h, w) -> (n, 1, h, w)."""
    return _nearby(residuals.square().mean(1, keepdim=True))


def _nearby(plane: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(plane, (_NEAR // 2,) * 4, mode="replicate"), _NEAR, 1)
