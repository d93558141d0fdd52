"""Terms of the training loss that stand on no network of their own: log MSE and Gram.

Gram: Gatys et al. 2016, "Image Style Transfer Using CNNs", here per sample.
"""

import torch
from torch import Tensor

from splatmend.core.perceptual.feature_math import gram

__all__ = ["gram_distance", "log_mse"]


def log_mse(ours: Tensor, target: Tensor) -> Tensor:
    """log10 of the mean squared error, which is PSNR / -10 dB -> (n,); level below 50 dB.

    The loss of NAFNet (Chen et al. 2022): a picture with little damage weighs as much
    as one with much, so that the network learns to leave good pixels alone.
    """
    return (ours - target).square().mean((1, 2, 3)).add(1e-5).log10()


def gram_distance(ours: list[Tensor], target: list[Tensor]) -> Tensor:
    """Mean over layers of the Frobenius norm |G - G'|, each sample on its own -> (n,).

    G = F F^T / (h w) over features of unit length, so that no layer drowns the others.
    """
    terms = [
        (gram(a) - gram(b)).square().sum((1, 2)).add(1e-8).sqrt()
        for a, b in zip(ours, target, strict=True)
    ]
    return torch.stack(terms).mean(0)
