"""Arithmetic on feature maps (n, c, h, w) that keeps their memory order, forward and backward.

Backbones run channels last. Autograd's own backward pass through a division and a matrix product
mixes both memory orders. That took a fifth of an adapter's training time on a CPU.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

__all__ = ["gram", "square_distance", "unit_length"]

_LEAST = 1e-10  # as lpips.normalize_tensor


def unit_length(x: Tensor) -> Tensor:
    """Scale features to length 1 in each pixel, at least float32; zeros stay 0."""
    unit: Tensor = _UnitLength.apply(x)
    return unit


def square_distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Average squared differences over pixels, weighted by channel (c,) -> (n,)."""
    distance: Tensor = _SquareDistance.apply(a, b, weights)
    return distance


def gram(x: Tensor) -> Tensor:
    """Return the Gram matrices F F^T / (h w) of (n, c, h, w), (n, c, c)."""
    matrix: Tensor = _Gram.apply(x)
    return matrix


class _UnitLength(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        length: Tensor = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        inverse = (length + _LEAST).reciprocal()
        unit = wide * inverse
        ctx.save_for_backward(unit, inverse)
        ctx.dtype = x.dtype
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        along = (grad * unit).sum(1, keepdim=True)
        across = torch.addcmul(grad, unit, along, value=-1)  # the unit ignores the length of x
        return across.mul_(inverse).to(ctx.dtype)


class _SquareDistance(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
        difference = a - b
        ctx.save_for_backward(difference, weights)
        return (difference.square().mean((2, 3)) * weights).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        difference, weights = ctx.saved_tensors
        scale: Tensor = 2 / difference[0, 0].numel() * grad[:, None] * weights
        ours = difference * scale[..., None, None]
        return ours, -ours if ctx.needs_input_grad[1] else None, None


class _Gram(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # (n, h w, c): no copy if channels last
        return torch.bmm(pixels.mT, pixels) / pixels.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        rows: Tensor = x.permute(0, 2, 3, 1)
        pixels = rows.flatten(1, 2)
        back = torch.bmm(pixels, (grad + grad.mT) / pixels.shape[1])
        return back.view_as(rows).permute(0, 3, 1, 2)
