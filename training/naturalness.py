"""NIQE, how far the statistics of a picture are from those of pristine photographs.

Mittal et al. 2013, "Making a Completely Blind Image Quality Analyzer". No reference is
looked at: a restorer that invents natural-looking detail is rewarded even where the detail
is wrong, so read it beside LPIPS and identity, never alone. As in most papers on
restoration it is taken of the luma Y of BT.601 in 8 bits.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.errors import CheckpointError, ModelError

__all__ = ["Niqe", "find_niqe", "load_niqe"]

_BLOCK = 96
_FEATURES = 36  # 18 at each of two scales
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
_FLAT = 1e-6
_SHAPES = (0.2, 10.0, 0.001)  # where the exponent of a distribution is looked for


@dataclass(frozen=True)
class Niqe:
    """NIQE against the features of pristine pictures; lower is more natural."""

    mean: Tensor  # (36,)
    covariance: Tensor  # (36, 36)

    @torch.inference_mode()
    def __call__(self, rgb: Tensor) -> Tensor:
        """NIQE of (n, 3, h, w) in [0, 1] -> (n,), computed in float64 on the CPU.

        Only whole blocks of 96 x 96 are looked at. NaN where fewer than two of them have any
        texture; a rough figure where there are fewer than some twenty.
        """
        pictures = _luma(rgb.detach().double().cpu())
        return torch.stack([self._distance(picture) for picture in pictures])

    def _distance(self, luma: Tensor) -> Tensor:
        """Equation 10 of the paper for one (h, w) in [0, 255]."""
        features = _block_features(luma)
        textured = features[~features.isnan().any(1)]
        if len(textured) < 2:
            return torch.tensor(torch.nan, dtype=torch.float64)
        difference = self.mean - features.nanmean(0)
        inverse = torch.linalg.pinv((self.covariance + textured.T.cov()) / 2, rtol=1e-15)
        return torch.as_tensor(difference @ inverse @ difference).sqrt()


def load_niqe(path: Path) -> Niqe:
    """The model of pristine pictures in `path`.

    safetensors with `mean` (36,) and `covariance` (36, 36), or the authors' numbers as
    niqe_pris_params.npz, which several packages of measures carry.

    Raises:
        CheckpointError: the file cannot be read or does not fit.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                named = (arrays["mu_pris_param"].ravel(), arrays["cov_pris_param"])
            mean, covariance = (torch.from_numpy(a.astype(np.float64)) for a in named)
        else:
            stored = load_file(path)
            mean, covariance = stored["mean"].double(), stored["covariance"].double()
    except Exception as error:
        raise CheckpointError(f"{path} holds no model of NIQE: {error}") from error
    if mean.shape != (_FEATURES,) or covariance.shape != (_FEATURES, _FEATURES):
        raise CheckpointError(
            f"{path} has a mean of {tuple(mean.shape)} and a covariance of "
            f"{tuple(covariance.shape)}, needed are {_FEATURES} features"
        )
    return Niqe(mean, covariance)


def find_niqe(folder: Path | None) -> Path:
    """niqe.safetensors or niqe_pris_params.npz in `folder`.

    Raises:
        ModelError: neither is there.
    """
    names = ("niqe.safetensors", "niqe_pris_params.npz")
    files = [folder / name for name in names] if folder is not None else []
    for file in files:
        if file.exists():
            return file
    raise ModelError(
        "NIQE needs the model of pristine pictures: put niqe_pris_params.npz into the folder of "
        "--lpips-weights"
    )


def _luma(rgb: Tensor) -> Tensor:
    """Y of BT.601 in whole 8-bit levels: (n, 3, h, w) in [0, 1] -> (n, h, w) in [16, 235]."""
    weights = rgb.new_tensor([65.481, 128.553, 24.966])
    return (torch.einsum("nchw,c->nhw", rgb, weights) + 16).round()


def _block_features(luma: Tensor) -> Tensor:
    """(h, w) -> (blocks, 36); NaN where a block has no texture."""
    height, width = (side // _BLOCK * _BLOCK for side in luma.shape)
    if not height or not width:
        return luma.new_empty(0, _FEATURES)
    whole = luma[:height, :width]
    scales = ((whole, _BLOCK), (_halved(whole), _BLOCK // 2))
    return torch.cat([_statistics(_blocks(_contrast(p), side)) for p, side in scales], 1)


def _contrast(luma: Tensor) -> Tensor:
    """Mean taken out and deviation made one, both under a Gaussian window (equation 1)."""
    line = torch.arange(-3, 4, dtype=luma.dtype)
    line = torch.exp(-0.5 * (line / (7 / 6)) ** 2)
    window = torch.outer(line, line)
    window = (window / window.sum())[None, None]
    padded = F.pad(luma[None, None], (3, 3, 3, 3), "replicate")
    mean, power = (F.conv2d(x, window)[0, 0] for x in (padded, padded.square()))
    contrast = (luma - mean) / ((power - mean.square()).abs().sqrt() + 1)
    # on plain ground only rounding is left, and its sign would count below: call it none
    return torch.where(contrast.abs() < _FLAT, 0, contrast)


def _halved(luma: Tensor) -> Tensor:
    """Half the size with an antialiased cubic; beyond the edge the picture is mirrored."""
    rim = 8  # even, and more than the kernel reaches
    mirrored = torch.from_numpy(np.pad(luma.numpy(), rim, "symmetric"))[None, None]
    small = F.interpolate(
        mirrored, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False
    )
    return small[0, 0, rim // 2 : -rim // 2, rim // 2 : -rim // 2]


def _blocks(plane: Tensor, side: int) -> Tensor:
    """(h, w) -> (blocks, side, side)."""
    return plane.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)


def _statistics(blocks: Tensor) -> Tensor:
    """18 features of each block: its own distribution and that of products of neighbours."""
    shape, left, right = _fitted(blocks)
    features = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:
        shape, left, right = _fitted(blocks * blocks.roll(shift, (1, 2)))
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        features += [shape, mean, left, right]
    return torch.stack(features, 1)


def _fitted(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Asymmetric generalised Gaussian by moments: exponent, left and right scale, each (blocks,).

    Lasmar et al. 2009, "Multiscale Skewed Heavy Tailed Model for Texture Analysis".
    """
    values = blocks.flatten(1)
    below, above = (
        torch.where(side, values.square(), torch.nan).nanmean(1).sqrt()
        for side in (values < 0, values > 0)
    )
    skew = below / above
    ratio = values.abs().mean(1).square() / values.square().mean(1)
    wanted = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1).square()
    shapes = torch.arange(*_SHAPES, dtype=values.dtype)
    moments = 2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    nearest = (moments.exp() - wanted[:, None]).abs().argmin(1)
    shape = torch.where(wanted.isnan(), torch.nan, shapes[nearest])
    scale = (0.5 * (torch.lgamma(1 / shape) - torch.lgamma(3 / shape))).exp()
    return shape, below * scale, above * scale
