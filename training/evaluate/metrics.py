"""Measures between a picture and its truth, by name: LPIPS, DISTS, PSNR, SSIM and faces."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.errors import CheckpointError, InputError, ModelError
from splatmend.core.perceptual.lpips import Lpips, load_lpips
from splatmend.training.losses.dists import DistsLoss, find_dists_weights
from splatmend.training.losses.identity import load_face_models

__all__ = ["METRICS", "Measures", "Metric", "MetricName", "Row", "psnr", "ssim"]

MetricName = Literal["lpips_vgg", "lpips_alex", "dists", "psnr", "ssim", "identity", "landmarks"]

Row = dict[str, float]
"""One value for each measure; NaN where the measure does not apply to the picture."""

Comparer = Callable[[Tensor], Row]
"""Function that measures one picture (1, 3, h, w) in [0, 1] against a target that it holds."""


@dataclass(frozen=True)
class Metric:
    """The meaning of one measure."""

    meaning: str
    lower_is_better: bool = True


METRICS: dict[MetricName, Metric] = {
    "lpips_vgg": Metric("perceptual distance on VGG-16 (Zhang et al. 2018)"),
    "lpips_alex": Metric("the same on AlexNet"),
    "dists": Metric("distance of structure and texture (Ding et al. 2020)"),
    "psnr": Metric("peak signal-to-noise ratio in dB", lower_is_better=False),
    "ssim": Metric("structural similarity (Wang et al. 2004)", lower_is_better=False),
    "identity": Metric("cosine of dlib's face embedding", lower_is_better=False),
    "landmarks": Metric("mean shift of 68 landmarks over the distance of the eyes"),
}
"""All measures, in the order of the tables."""

_OF_FACES = frozenset({"identity", "landmarks"})


def psnr(ours: Tensor, target: Tensor) -> Tensor:
    """Compute the PSNR of (n, 3, h, w) in [0, 1] in dB -> (n,), at most 60."""
    error = (ours - target).square().mean((1, 2, 3))
    return -10 * error.clamp(min=1e-6).log10()


def ssim(ours: Tensor, target: Tensor) -> Tensor:
    """Compute the structural similarity of (n, 3, h, w) in [0, 1], mean of the channels -> (n,).

    It uses a Gaussian window of 11 pixels with sigma 1.5, K 0.01 and 0.03, population covariance,
    and whole windows only. Pictures smaller than a window get NaN.

    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
    Similarity".
    """
    radius, sigma = 5, 1.5
    if min(ours.shape[2:]) <= 2 * radius:
        return ours.new_full((len(ours),), torch.nan)
    line = torch.arange(-radius, radius + 1, device=ours.device, dtype=torch.float64)
    line = torch.exp(-0.5 * (line / sigma) ** 2)
    kernel = (line / line.sum()).expand(3, 1, 1, -1)

    def local(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, kernel, groups=3), kernel.transpose(2, 3), groups=3)

    x, y = ours.double(), target.double()  # variances are differences of near numbers
    mean_x, mean_y = local(x), local(y)
    power = local(x * x) + local(y * y) - mean_x**2 - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    similarity = light * (2 * covariance + 9e-4) / (power + 9e-4)
    return similarity.mean((1, 2, 3)).to(ours.dtype)


class Measures:
    """Measures of pictures against their target, with networks that are loaded once.

    Args:
        lpips_weights: folder of the backbones, see `load_lpips`, and of other measures' weights.
        device: device of LPIPS, DISTS, PSNR and SSIM.
        names: the wanted measures; by default all that can run here.

    Attributes:
        names: the measures, in the order of the tables.
        remark: the missing measures and the way to get them, else None.

    Raises:
        InputError: a name is unknown.
        CheckpointError: the folder lacks a backbone.
        ModelError: a named measure needs a package that is not installed.
    """

    def __init__(
        self,
        lpips_weights: Path | None,
        device: str | torch.device = "cpu",
        names: Sequence[MetricName] = (),
    ) -> None:
        if unknown := sorted(set(names) - METRICS.keys()):
            raise InputError(f"no measure {unknown[0]!r}: there are {', '.join(METRICS)}")
        wanted = set(names) or set(METRICS)
        self._gauges: list[Callable[[Tensor], Comparer]] = []
        lacking = []
        for part in _parts(wanted, lpips_weights, device):
            try:
                self._gauges.append(part.load())
            except ModelError as error:
                # backbones and measures that were named are required
                if names or isinstance(error, CheckpointError):
                    raise
                lacking.append(f"left out: {error}")
                wanted -= part.names
        self.remark = "; ".join(dict.fromkeys(lacking)) or None
        self.names = tuple(n for n in METRICS if n in wanted)

    @torch.inference_mode()
    def __call__(self, pictures: Mapping[str, Tensor], target: Tensor) -> dict[str, Row]:
        """Measure pictures by name, each (1, 3, h, w) in [0, 1], against one target.

        A picture with a value that is not finite gets NaN for all measures.
        """
        comparers = [gauge(target) for gauge in self._gauges]
        rows: dict[str, Row] = {}
        for name, ours in pictures.items():
            found: Row = {}
            if ours.isfinite().all():
                for compare in comparers:
                    found |= compare(ours)
            rows[name] = {n: found.get(n, torch.nan) for n in self.names}
        return rows


@dataclass(frozen=True)
class _Part:
    """Measures that are loaded together."""

    names: frozenset[MetricName]
    load: Callable[[], Callable[[Tensor], Comparer]]
    """Loads a function that prepares a target once and returns its `Comparer`."""


def _parts(
    wanted: set[MetricName], folder: Path | None, device: str | torch.device
) -> Iterator[_Part]:
    vgg = cache(lambda: load_lpips("vgg", folder, device))
    known: dict[tuple[MetricName, ...], Callable[[], Callable[[Tensor], Comparer]]] = {
        ("lpips_vgg",): lambda: _on_features("lpips_vgg", vgg()),
        ("lpips_alex",): lambda: _on_features("lpips_alex", load_lpips("alex", folder, device)),
        ("dists",): lambda: _on_features("dists", DistsLoss(vgg(), find_dists_weights(folder))),
        ("psnr",): lambda: lambda target: lambda ours: {"psnr": psnr(ours, target).item()},
        ("ssim",): lambda: lambda target: lambda ours: {"ssim": ssim(ours, target).item()},
        ("identity", "landmarks"): lambda: load_face_models().against,
    }
    for names, load in known.items():
        if asked := wanted & set(names):
            yield _Part(frozenset(asked), load)


def _on_features(name: MetricName, network: Lpips | DistsLoss) -> Callable[[Tensor], Comparer]:
    def against(target: Tensor) -> Comparer:
        features = network.features(target)
        return lambda ours: {name: network.distance(network.features(ours), features).item()}

    return against
