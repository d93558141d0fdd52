"""How far a picture is from its reference: PSNR, LPIPS-VGG and LPIPS-Alex."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from splatmend.core.errors import CheckpointError
from splatmend.training.losses import Backbone, LpipsLoss

__all__ = ["METRICS", "Measures", "Row", "load_lpips", "psnr"]

Row = dict[str, float]
"""One value for each of `METRICS`."""

METRICS = ("lpips_vgg", "lpips_alex", "psnr")
"""Names of the measures, in the order of the tables. LPIPS: lower is better; PSNR in dB: higher."""


def psnr(ours: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of (n, 3, h, w) in [0, 1] in dB -> (n,); 60 where they agree."""
    error = (ours - target).square().mean((1, 2, 3))
    return -10 * error.clamp(min=1e-6).log10()


def load_lpips(
    backbone: Backbone, folder: Path | None, device: str | torch.device = "cpu"
) -> LpipsLoss:
    """LPIPS from `folder`/lpips_<backbone>_features.fp16.safetensors, or from the hub without one.

    Raises:
        CheckpointError: the folder lacks the file.
    """
    file = None if folder is None else folder / f"lpips_{backbone}_features.fp16.safetensors"
    if file is not None and not file.exists():
        raise CheckpointError(
            f"no file {file}: --lpips-weights must name a folder with both backbones"
        )
    return LpipsLoss(backbone, file).to(device)


class Measures:
    """All measures of pictures against their target, with the networks loaded once."""

    def __init__(self, lpips_weights: Path | None, device: str | torch.device = "cpu") -> None:
        self._lpips: dict[str, LpipsLoss] = {
            "lpips_vgg": load_lpips("vgg", lpips_weights, device),
            "lpips_alex": load_lpips("alex", lpips_weights, device),
        }

    @torch.inference_mode()
    def __call__(self, pictures: Mapping[str, Tensor], target: Tensor) -> dict[str, Row]:
        """Measure pictures by name, each (1, 3, h, w) in [0, 1], against one target."""
        features = {name: lpips.features(target) for name, lpips in self._lpips.items()}
        rows = {}
        for name, ours in pictures.items():
            row = {
                metric: lpips.distance(lpips.features(ours), features[metric]).item()
                for metric, lpips in self._lpips.items()
            }
            rows[name] = row | {"psnr": psnr(ours, target).item()}
        return rows
