"""DISTS, a distance of structure and texture, as a loss and as a measure.

Two samples of one texture are near each other even if no pixel agrees. So resampled hair and skin
cost less than in LPIPS.

Source: Ding et al. 2020, "Image Quality Assessment: Unifying Structure and Texture Similarity"
(arXiv 2004.07728).
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from splatmend.core.errors import CheckpointError, InputError, ModelError
from splatmend.core.perceptual.lpips import Lpips

__all__ = ["DistsLoss", "find_dists_weights"]

_PACKAGE = "dists-pytorch"

_WIDTHS = (3, 64, 128, 256, 512, 512)  # the picture itself is the first level
_STAGES = (2, 2, 3, 3, 3)  # convolutions of VGG-16 between its poolings
_STABLE = 1e-6  # c1 and c2 of the paper


class DistsLoss(nn.Module):
    """DISTS of pictures (n, 3, h, w) in [0, 1] -> (n,); 0 where they agree, all parts frozen.

    It shares the convolutions of an LPIPS on VGG-16. Instead of VGG's maxima it pools with a Hann
    window, which does not alias.

    Args:
        vgg: LPIPS on VGG-16, from `splatmend.core.perceptual.lpips.load_lpips`.
        weights: file with `alpha` (texture) and `beta` (structure), 1475 numbers each:
            safetensors, or the authors' weights.pt. See `find_dists_weights`.

    Raises:
        InputError: `vgg` stands on another backbone.
        CheckpointError: `weights` cannot be read or does not fit.
    """

    alpha: Tensor
    beta: Tensor
    window: Tensor

    def __init__(self, vgg: Lpips, weights: Path) -> None:
        super().__init__()
        self.vgg = vgg
        if len(vgg.convolutions()) != sum(_STAGES):
            raise InputError(
                f"DISTS stands on the {sum(_STAGES)} convolutions of VGG-16, this backbone has "
                f"{len(vgg.convolutions())}: give LPIPS on vgg"
            )
        alpha, beta = _read_weights(weights)
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total)
        self.register_buffer("beta", beta / total)
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("window", line[:, None] * line)
        self.to(vgg.convolutions()[0].weight.device)

    def features(self, rgb: Tensor) -> list[Tensor]:
        """Compute the picture and the activations after each of VGG's five stages."""
        levels, x = [rgb], self.vgg.normalized(rgb)
        convolutions = iter(self.vgg.convolutions())
        for stage, depth in enumerate(_STAGES):
            if stage:
                x = self._pooled(x)
            for _ in range(depth):
                x = F.relu(next(convolutions)(x))
            levels.append(x)
        return levels

    def _pooled(self, x: Tensor) -> Tensor:
        """Pool by the root mean square under the window, with stride 2 (paper, section 3.1)."""
        window = self.window.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        power = F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1])
        return (power + 1e-12).sqrt()

    def distance(self, ours: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Compute DISTS from two sets of `features` -> (n,)."""
        similarity = ours[0].new_zeros(len(ours[0]))
        alphas, betas = (torch.split_with_sizes(w, _WIDTHS) for w in (self.alpha, self.beta))
        for x, y, alpha, beta in zip(ours, target, alphas, betas, strict=True):
            mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
            rest_x, rest_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
            covariance = (rest_x * rest_y).mean((2, 3))
            power = (rest_x.square() + rest_y.square()).mean((2, 3))
            texture = _share(2 * mean_x * mean_y, mean_x.square() + mean_y.square())
            structure = _share(2 * covariance, power)
            similarity = similarity + texture @ alpha + structure @ beta
        return 1 - similarity

    def forward(self, ours: Tensor, target: Tensor) -> Tensor:
        """Compute DISTS of two batches -> (n,)."""
        return self.distance(self.features(ours), self.features(target))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return (part + _STABLE) / (whole + _STABLE)


def find_dists_weights(folder: Path | None) -> Path:
    """Find `folder`/dists.safetensors, or the file of the authors' package dists-pytorch.

    Raises:
        ModelError: neither exists.
    """
    if folder is not None and (file := folder / "dists.safetensors").exists():
        return file
    try:
        found = distribution(_PACKAGE).files or []
    except PackageNotFoundError:
        found = []
    for entry in found:
        if entry.name == "weights.pt" and (file := Path(str(entry.locate()))).exists():
            return file
    raise ModelError(
        f"DISTS needs its weights: pip install {_PACKAGE}, or put dists.safetensors into the "
        f"folder of --lpips-weights"
    )


def _read_weights(path: Path) -> tuple[Tensor, Tensor]:
    try:
        if path.suffix == ".pt":
            stored = torch.load(path, weights_only=True, map_location="cpu")
        else:
            stored = load_file(path)
        alpha, beta = (stored[name].float().flatten() for name in ("alpha", "beta"))
    except Exception as error:
        raise CheckpointError(f"{path} holds no weights of DISTS: {error}") from error
    if len(alpha) != sum(_WIDTHS) or len(beta) != sum(_WIDTHS):
        raise CheckpointError(
            f"{path} has {len(alpha)} and {len(beta)} weights of DISTS, needed are "
            f"{sum(_WIDTHS)} each"
        )
    return alpha, beta
