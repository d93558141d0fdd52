"""Backward warping: the last picture, moved into the current one.

Motion is backward flow everywhere in this package: `flow[:, :, y, x]` is the place of pixel
(x, y) in the last picture, minus (x, y). Tensors are (n, 2, h, w), in pixels. Channel 0 is x
(right), channel 1 is y (down). An object that moved 3 pixels to the right has flow (-3, 0).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core import InputError

__all__ = ["warp"]


def warp(
    picture: Tensor, flow: Tensor, *, mode: Literal["bilinear", "bicubic"] = "bilinear"
) -> tuple[Tensor, Tensor]:
    """Sample each pixel of a picture at `(x, y) + flow`.

    Beyond the border the last pixels are repeated. Where the flow is exactly 0 the picture
    is returned bit for bit. The function is differentiable in both arguments.

    Args:
        picture: (n, c, h, w), any floating dtype and range.
        flow: Backward flow in pixels, (n, 2, h, w), any floating dtype.
        mode: Interpolation. Bicubic keeps more detail when warped many times over, and overshoots.

    Returns:
        The warped picture, same shape and dtype, and a mask (n, 1, h, w), bool. The mask is True
        where the source lies inside the picture, and False where the flow is not finite.

    Raises:
        InputError: shapes that do not fit, or an unknown mode.
    """
    n, _, height, width = picture.shape
    if flow.shape != (n, 2, height, width):
        raise InputError(
            f"warp needs flow of shape {(n, 2, height, width)} for a picture of "
            f"{tuple(picture.shape)}, got {tuple(flow.shape)}"
        )
    if mode not in ("bilinear", "bicubic"):
        raise InputError(f"warp's mode must be 'bilinear' or 'bicubic', got {mode!r}")
    dtype = torch.promote_types(picture.dtype, torch.float32)  # halves cannot count to 512
    motion = flow.to(picture.device, dtype)
    x = torch.arange(width, device=picture.device, dtype=dtype) + motion[:, 0]
    y = torch.arange(height, device=picture.device, dtype=dtype)[:, None] + motion[:, 1]
    # NaN, which renderers send for "no source", fails every comparison
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grid = grid.nan_to_num(0.0).clamp(-2, 2)
    sampled = F.grid_sample(
        picture.to(dtype), grid, mode=mode, padding_mode="border", align_corners=False
    ).to(picture.dtype)
    # normalised coordinates are rounded, which must not change a still picture
    still = (motion == 0).all(1, keepdim=True)
    return torch.where(still, picture, sampled), inside[:, None]
