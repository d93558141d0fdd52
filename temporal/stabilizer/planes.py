"""Steps on planes: OpenCV on the CPU, torch on other devices.

A plane is a float32 tensor (c, h, w). "Half" planes are (c, h / 2, w / 2), rounded up, and
"quarter" planes half of these. Beyond the border the last pixels are repeated.

On the CPU OpenCV filters and samples three to ten times faster than torch. Both give the same
values, up to rounding and to OpenCV's sampling at 1/32 of a pixel.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2 as typed_cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

cv2: Any = typed_cv2  # its stubs lose every shape and dtype on the way

__all__ = [
    "box",
    "constant",
    "erode",
    "half",
    "half_positions",
    "inside",
    "positions",
    "receive",
    "sample",
    "send",
    "shrink",
    "soften",
    "whole",
]

_FAR = 1e4  # pixels; OpenCV counts positions in 16 bits
_ROUNDING = 0.01  # pixels; a picture at rest is inside everywhere


def send(*tensors: Tensor, device: torch.device) -> list[Tensor]:
    """Move float32 tensors to a device in one transfer; on the CPU nothing is copied."""
    if device.type == "cpu":
        return list(tensors)
    return _unpacked(_packed(tensors).to(device), tensors)


def receive(*tensors: Tensor) -> list[Tensor]:
    """Move float32 tensors to the CPU in one transfer."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    return _unpacked(_packed(tensors).cpu(), tensors)


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _unpacked(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(packed, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def positions(motion: Tensor) -> Tensor:
    """Convert backward motion (h, w, 2), x first, to the places (h, w, 2) where it points.

    Motion that is not finite points far beyond the border.
    """
    there = motion + _grid(motion.shape[0], motion.shape[1], motion.device)
    return there.nan_to_num_(_FAR, _FAR, _FAR).clamp_(-_FAR, _FAR)


@lru_cache(maxsize=8)
def _grid(height: int, width: int, device: torch.device) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((x, y), -1).float().to(device)


def half_positions(places: Tensor) -> Tensor:
    """Convert places of `positions` for planes to those for half planes, (h / 2, w / 2, 2)."""
    if _is_cpu(places) and not (places.shape[0] % 2 or places.shape[1] % 2):
        size = places.shape[1] // 2, places.shape[0] // 2
        near = torch.from_numpy(cv2.resize(places.numpy(), size, interpolation=cv2.INTER_AREA))
    else:
        near = half(places.movedim(-1, 0)).movedim(0, -1).contiguous()
    return near.mul_(0.5).sub_(0.25)


def inside(places: Tensor) -> Tensor:
    """Return 1 where places lie inside planes of their size, else 0: (1, h, w)."""
    height, width, _ = places.shape
    x, y = places.unbind(-1)
    across, down = (width - 1) / 2, (height - 1) / 2
    beyond = torch.maximum((x - across).abs() - across, (y - down).abs() - down)
    return (beyond < _ROUNDING)[None].float()


def sample(plane: Tensor, places: Tensor, *, cubic: bool = False) -> Tensor:
    """Sample a plane (c, h, w) at places (h, w, 2), bilinear or bicubic (a = -0.75)."""
    if not _is_cpu(plane):
        mode = "bicubic" if cubic else "bilinear"
        size = constant((plane.shape[-1], plane.shape[-2]), places.device)
        grid = (2 * places + 1) / size - 1
        return F.grid_sample(
            plane[None], grid[None], mode=mode, padding_mode="border", align_corners=False
        )[0]
    where, how = places.numpy(), cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    border = cv2.BORDER_REPLICATE
    return _filtered(plane, lambda p: cv2.remap(p, where, None, how, borderMode=border))


def half(plane: Tensor) -> Tensor:
    """Average 2 x 2 pixels: (c, h, w) -> (c, h / 2, w / 2), rounded up."""
    height, width = plane.shape[-2:]
    if height % 2 or width % 2:
        plane = F.pad(plane[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
    if not _is_cpu(plane):
        return F.avg_pool2d(plane, 2)
    size = plane.shape[-1] // 2, plane.shape[-2] // 2
    return _filtered(plane, lambda p: cv2.resize(p, size, interpolation=cv2.INTER_AREA))


def whole(plane: Tensor, like: Tensor) -> Tensor:
    """Enlarge a half plane to the size of another plane, bilinear."""
    height, width = plane.shape[-2:]
    if not _is_cpu(plane):
        large = F.interpolate(plane[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    else:
        size = 2 * width, 2 * height
        large = _filtered(plane, lambda p: cv2.resize(p, size, interpolation=cv2.INTER_LINEAR))
    return large[..., : like.shape[-2], : like.shape[-1]]


def shrink(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a plane to a smaller size (height, width)."""
    if not _is_cpu(plane):
        return F.adaptive_avg_pool2d(plane, size)
    area = cv2.INTER_AREA
    return _filtered(plane, lambda p: cv2.resize(p, size[::-1], interpolation=area))


def box(plane: Tensor, side: int) -> Tensor:
    """Average side x side pixels; `side` is odd."""
    if not _is_cpu(plane):
        return F.avg_pool2d(_padded(plane, side // 2), side, stride=1)
    border = cv2.BORDER_REPLICATE
    return _filtered(plane, lambda p: cv2.blur(p, (side, side), borderType=border))


def soften(plane: Tensor) -> Tensor:
    """Average 3 x 3 pixels by the weights 1, 2, 1 both ways.

    Unlike a box, this filter has no negative response. Ripples in a factor on a picture would grow
    from frame to frame.
    """
    if _is_cpu(plane):
        border = cv2.BORDER_REPLICATE
        return _filtered(plane, lambda p: cv2.GaussianBlur(p, (3, 3), 0, borderType=border))
    line = constant((0.25, 0.5, 0.25), plane.device)
    weight = (line[:, None] * line)[None, None]
    return F.conv2d(_padded(plane, 1)[:, None], weight)[:, 0]


def erode(plane: Tensor) -> Tensor:
    """Return the least of 3 x 3 pixels."""
    if not _is_cpu(plane):
        return -F.max_pool2d(-_padded(plane, 1), 3, stride=1)
    square = np.ones((3, 3), np.uint8)
    return _filtered(plane, lambda p: cv2.erode(p, square))


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers as a tensor that is moved to its device once, not with every frame."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _is_cpu(plane: Tensor) -> bool:
    return plane.device.type == "cpu"


def _padded(plane: Tensor, margin: int) -> Tensor:
    return F.pad(plane[None], (margin,) * 4, mode="replicate")[0]


def _filtered(plane: Tensor, function: Callable[[Any], Any]) -> Tensor:
    """Apply a function of arrays (h, w) to each of (c, h, w)."""
    if len(plane) == 1:
        return torch.from_numpy(function(plane[0].numpy()))[None]
    first, *others = (torch.from_numpy(function(p)) for p in plane.numpy())
    return torch.stack((first, *others))
