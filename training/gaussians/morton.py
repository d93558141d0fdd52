"""Z-order curves, along which neighbours are near each other in the plane or in space.

Source: Morton 1966, "A computer oriented geodetic data base and a new technique in file
sequencing".
"""

import torch
from torch import Tensor

__all__ = ["MORTON_BITS", "morton_code"]

MORTON_BITS = 16  # for each coordinate


def morton_code(point: Tensor) -> Tensor:
    """Interleave the bits of integer points (..., 2 or 3), each below 2**16 -> (...), int64."""
    axes = point.shape[-1]
    code = torch.zeros_like(point[..., 0])
    for bit in range(MORTON_BITS):
        for axis in range(axes):
            code |= ((point[..., axis] >> bit) & 1) << (axes * bit + axis)
    return code
