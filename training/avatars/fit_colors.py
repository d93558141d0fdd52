"""A fit of an avatar's colours to a picture.

For fixed geometry a frame is linear in the colours (`blend_weights`), so an iteration solves for
them.

Source: Gilbert 1972, "Iterative methods for the three-dimensional reconstruction of an object
from projections" (SIRT).
"""

import warnings

import torch
from torch import Tensor

from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.rasterizer import Camera, blend_weights

__all__ = ["Coloring"]


class Coloring:
    """The weights of Gaussians in one camera's frame, independent of their colours."""

    def __init__(self, splats: Splats, camera: Camera) -> None:
        weights = blend_weights(splats, camera)
        self._weights = _by_rows(weights)  # (pixels, n)
        self._back = _by_rows(weights.T)  # (n, pixels)
        self.alpha = self._weights @ torch.ones(len(splats), 1)
        """(pixels, 1): coverage of each pixel."""

    def solve(
        self,
        picture: Tensor,
        inside: Tensor,
        start: Tensor,
        *,
        rounds: int,
        least: float = 1e-3,
        leash: float = 1.0,
    ) -> Tensor:
        """Fit colours (n, 3) in [0, 1] to `picture` (3, h, w) where `inside` (h, w) is not 0.

        Hidden Gaussians keep their colours of `start` (n, 3). A Gaussian visible in less than
        `least` pixels changes more slowly, and none changes by more than `leash`.
        """
        target = picture.flatten(1).T * self.alpha  # premultiplied
        known = inside.flatten()[:, None] * (self.alpha > 0.05)
        reach = (self._back @ (known * self.alpha)).clamp(min=least)
        low, high = (start - leash).clamp(min=0), (start + leash).clamp(max=1)
        colors = start
        for _ in range(rounds):
            missing = (target - self._weights @ colors) * known
            colors = (colors + (self._back @ missing) / reach).clamp(low, high)
        return colors


def _by_rows(matrix: Tensor) -> Tensor:
    """Convert sparse COO to CSR, which multiplies many times faster."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*CSR tensor support is in beta", UserWarning)
        return matrix.to_sparse_csr()
