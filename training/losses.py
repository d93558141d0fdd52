"""The named terms of the training loss: L1, log MSE, LPIPS and Gram.

LPIPS: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features".
Gram: Gatys et al. 2016, "Image Style Transfer Using CNNs", here per sample.
"""

import warnings
from pathlib import Path
from typing import Literal

import lpips
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from splatmend.core.errors import CheckpointError

__all__ = ["Backbone", "LpipsLoss", "gram_distance", "log_mse"]

Backbone = Literal["vgg", "alex"]


class LpipsLoss(nn.Module):
    """LPIPS of one backbone with all its parts frozen; pictures are (n, 3, h, w) in [0, 1].

    `weights` is a safetensors file with the backbone's convolutions, keys as in
    torchvision's `features`; without it `lpips` fetches them from torchvision's hub.
    """

    def __init__(self, backbone: Backbone, weights: Path | None = None) -> None:
        super().__init__()
        with warnings.catch_warnings():  # lpips 0.1.4 still speaks torchvision's old dialect
            warnings.simplefilter("ignore", UserWarning)
            self.lpips = lpips.LPIPS(
                net=backbone, pretrained=True, pnet_rand=weights is not None, verbose=False
            )
        if weights is not None:
            self._load_backbone(weights)
        self.requires_grad_(requires_grad=False).eval()

    def _load_backbone(self, weights: Path) -> None:
        try:
            stored = load_file(weights)
        except Exception as error:
            raise CheckpointError(f"{weights} is not a safetensors backbone: {error}") from error
        # lpips cuts torchvision's `features` into slices but keeps the index as the name
        own = {name.split(".", 1)[1]: p for name, p in self.lpips.net.named_parameters()}
        stored = {name.removeprefix("features."): value for name, value in stored.items()}
        if missing := sorted(own.keys() - stored.keys()):
            raise CheckpointError(
                f"{weights} lacks {', '.join(missing[:3])}{' …' * (len(missing) > 3)}: "
                f"it must hold the convolutions of torchvision's features"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(stored[name])

    def features(self, rgb: Tensor) -> list[Tensor]:
        """The backbone's activations after each of its five stages."""
        return list(self.lpips.net(self.lpips.scaling_layer(2 * rgb - 1)))

    def distance(self, ours: list[Tensor], target: list[Tensor]) -> Tensor:
        """LPIPS from two sets of `features` -> (n,)."""
        total = ours[0].new_zeros(len(ours[0]))
        for level, (a, b) in enumerate(zip(ours, target, strict=True)):
            difference = (_unit(a) - _unit(b)) ** 2
            total = total + self.lpips.lins[level](difference).mean((1, 2, 3))
        return total

    def forward(self, ours: Tensor, target: Tensor) -> Tensor:
        """LPIPS of two batches -> (n,)."""
        return self.distance(self.features(ours), self.features(target))


def _unit(x: Tensor) -> Tensor:
    """Features of length 1 in each pixel, as lpips.normalize_tensor."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


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
    terms = []
    for a, b in zip(ours, target, strict=True):
        ga, gb = (
            torch.einsum("nchw,ndhw->ncd", x, x) / x[0, 0].numel() for x in (_unit(a), _unit(b))
        )
        terms.append((ga - gb).square().sum((1, 2)).add(1e-8).sqrt())
    return torch.stack(terms).mean(0)
