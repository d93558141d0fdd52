"""Terms of the training loss without networks of their own: log MSE and Gram."""

import torch
from torch import Tensor

from splatmend.core.perceptual.feature_math import gram

__all__ = ["gram_distance", "log_mse"]


def log_mse(ours: Tensor, target: Tensor) -> Tensor:
    """Compute log10 of the mean squared error, which is PSNR / -10 dB -> (n,); flat above 50 dB.

    Lightly and heavily degraded pictures weigh the same, so the network learns to leave good
    pixels alone.

    Source: Chen et al. 2022 (the loss of NAFNet).
    """
    return (ours - target).square().mean((1, 2, 3)).add(1e-5).log10()


def gram_distance(ours: list[Tensor], target: list[Tensor]) -> Tensor:
    """Average the Frobenius norm |G - G'| over layers, for each sample -> (n,).

    G = F F^T / (h w) over features of unit length, so no layer dominates.

    Source: Gatys et al. 2016, "Image Style Transfer Using CNNs".
    """
    terms = [
        (gram(a) - gram(b)).square().sum((1, 2)).add(1e-8).sqrt()
        for a, b in zip(ours, target, strict=True)
    ]
    return torch.stack(terms).mean(0)
