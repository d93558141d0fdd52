"""LPIPS with frozen weights, for losses and measures.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric".
The package `lpips` is imported when an instance is made.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from splatmend.core.errors import CheckpointError, ModelError
from splatmend.core.perceptual.feature_math import square_distance, unit_length

__all__ = ["Backbone", "Lpips", "Perceptual", "load_lpips"]

Backbone = Literal["vgg", "alex"]
_NAMES = {"vgg": "VGG", "alex": "AlexNet"}


class Perceptual(Protocol):
    """A distance between pictures by features, which are computed once for each picture."""

    def features(self, rgb: Tensor) -> list[Tensor]:
        """Return the features of (n, 3, h, w) in [0, 1]."""
        ...

    def distance(self, ours: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return distances (n,) between two sets of features: 0 where they agree."""
        ...


class Lpips(nn.Module):
    """LPIPS of one frozen backbone; pictures are (n, 3, h, w) in [0, 1].

    `weights` is a safetensors file with the backbone's convolutions, keys as in
    torchvision's `features`. Without it `lpips` downloads them from torchvision's hub.
    """

    def __init__(self, backbone: Backbone, weights: Path | None = None) -> None:
        super().__init__()
        import lpips  # here: it brings torchvision

        with warnings.catch_warnings():  # lpips 0.1.4 calls torchvision's old API
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

    def normalized(self, rgb: Tensor) -> Tensor:
        """Normalise [0, 1] to mean 0 and deviation 1 over ImageNet, as torchvision's backbones."""
        return torch.as_tensor(self.lpips.scaling_layer(2 * rgb - 1))

    def convolutions(self) -> list[nn.Conv2d]:
        """Return the backbone's convolutions, first to last."""
        return [layer for layer in self.lpips.net.modules() if isinstance(layer, nn.Conv2d)]

    def features(self, rgb: Tensor) -> list[Tensor]:
        """Return the activations after each of five stages, of length 1 in each pixel."""
        return [unit_length(level) for level in self.lpips.net(self.normalized(rgb))]

    def distance(self, ours: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the LPIPS (n,) of two sets of `features`."""
        levels = [
            square_distance(a, b, linear.model[-1].weight.flatten())
            for a, b, linear in zip(ours, target, self.lpips.lins, strict=True)
        ]
        return torch.stack(levels).sum(0)

    def forward(self, ours: Tensor, target: Tensor) -> Tensor:
        """Return the LPIPS (n,) of two batches."""
        return self.distance(self.features(ours), self.features(target))


def load_lpips(
    backbone: Backbone, folder: Path | None, device: str | torch.device = "cpu"
) -> Lpips:
    """Load LPIPS from `folder`/lpips_<backbone>_features.fp16.safetensors, or from the hub.

    Raises:
        CheckpointError: the folder lacks the file.
        ModelError: the hub cannot be reached.
    """
    file = None if folder is None else folder / f"lpips_{backbone}_features.fp16.safetensors"
    if file is not None and not file.exists():
        raise CheckpointError(
            f"no file {file}: --lpips-weights must name a folder with both backbones"
        )
    try:
        return Lpips(backbone, file).to(device)
    except OSError as error:  # no network, or no room for the download
        raise ModelError(
            f"the weights of LPIPS ({_NAMES[backbone]}) cannot be downloaded ({error}): give "
            f"--lpips-weights a folder with them"
        ) from error
