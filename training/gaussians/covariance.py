"""Conversion of Gaussians between scale and rotation and covariances, which can be averaged."""

import torch
from torch import Tensor

from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.rasterizer import rotation_matrices

__all__ = ["covariances", "principal_axes"]


def covariances(splats: Splats) -> Tensor:
    """Compute the covariance matrices, (n, 3, 3) in square world units."""
    shape = rotation_matrices(splats.rotation) * splats.log_scale.exp()[:, None, :]
    return shape @ shape.transpose(1, 2)


def principal_axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose (n, 3, 3) into `log_scale` (n, 3) and `rotation` (n, 4) of `Splats`."""
    variance, axes = torch.linalg.eigh(covariance.double())
    # the eigenvectors may form a reflection, which no quaternion describes
    axes = axes * torch.linalg.det(axes).sign()[:, None, None]
    return 0.5 * variance.clamp(min=1e-14).log().float(), _quaternions(axes).float()


def _quaternions(turn: Tensor) -> Tensor:
    """Convert rotation matrices (n, 3, 3) to (n, 4) w, x, y, z, from the largest of the four."""
    m = turn
    diagonal = m.diagonal(dim1=1, dim2=2)  # (n, 3)
    trace = diagonal.sum(-1)
    squares = torch.stack((trace, *(2 * diagonal[:, i] - trace for i in range(3))), -1)  # 4q^2 - 1
    largest = squares.argmax(-1)
    w, x, y, z = (squares.clamp(min=-1) + 1).unbind(-1)
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    p, q, r = m[:, 1, 0] + m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2]
    rows = (
        torch.stack(row, -1) for row in ((w, a, b, c), (a, x, p, q), (b, p, y, r), (c, q, r, z))
    )
    chosen = torch.stack(list(rows), 1)[torch.arange(len(m)), largest]
    return torch.nn.functional.normalize(chosen, dim=-1)
