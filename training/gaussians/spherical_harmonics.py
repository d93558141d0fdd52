"""Real spherical harmonics of degree 0 to 3, which give a Gaussian's colour by viewing direction.

Signs and order are those of 3DGS files (Kerbl et al. 2023), after Sloan 2008, "Stupid
Spherical Harmonics Tricks".
"""

import torch
from torch import Tensor

from splatmend.core.errors import InputError

__all__ = ["evaluate_harmonics", "plain_harmonics"]

_C0 = 0.28209479177387814


def evaluate_harmonics(coefficients: Tensor, direction: Tensor) -> Tensor:
    """Evaluate coefficients (n, 1, 4, 9 or 16, 3) at unit directions (n, 3) -> (n, 3).

    Add 0.5 to get the colour.

    Raises:
        InputError: another number of coefficients.
    """
    count = coefficients.shape[1]
    if count not in (1, 4, 9, 16):
        raise InputError(f"harmonics come as 1, 4, 9 or 16 coefficients, got {count}")
    basis = _basis(direction)[:, :count]
    return (basis[..., None] * coefficients).sum(1)


def plain_harmonics(color: Tensor) -> Tensor:
    """Convert colours (n, 3) in [0, 1] to coefficients (n, 1, 3), equal in all directions."""
    return ((color - 0.5) / _C0)[:, None]


def _basis(direction: Tensor) -> Tensor:
    """Evaluate all 16 functions at directions (n, 3) -> (n, 16)."""
    x, y, z = direction.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        (
            torch.full_like(x, _C0),
            -0.4886025119029199 * y,
            0.4886025119029199 * z,
            -0.4886025119029199 * x,
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ),
        -1,
    )
