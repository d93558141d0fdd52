"""An estimator of degradation from one frame: a score of blur and one of noise.

Its input is the picture's 8 x 8 cosine transform at two scales, as logarithms of energies. A few
convolutions turn it into scores and weights for each cell of 16 x 16 pixels.
training/train/train_estimator.py defines the scores.

Blind quality from cosine transforms: Saad et al. 2012, "Blind Image Quality Assessment: A Natural
Scene Statistics Approach in the DCT Domain".
"""

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splatmend.core.checkpoint import config_from_json, load_checkpoint
from splatmend.core.errors import CheckpointError, InputError
from splatmend.core.pixels import pad_to_multiple

__all__ = ["DegradationEstimator", "EstimatorConfig", "artifact_score", "load_estimator"]

CELL = 16  # side in pixels of the scored cells
_WAVE = 8  # side in pixels of a cosine transform
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: damage to detail is damage to luminance
_VISIBLE = 2 / 255  # amplitude at which a coefficient starts to count, of [0, 1]
_EMBEDDED = "weights.safetensors"


@dataclass(frozen=True)
class EstimatorConfig:
    """Shape of the network."""

    widths: tuple[int, int] = (48, 64)
    """Channels at 1/8 and at 1/16 of the picture's side."""
    blocks: int = 2
    """Residual convolutions at 1/16."""

    def __post_init__(self) -> None:
        if len(self.widths) != 2 or min(*self.widths, self.blocks) < 1:
            raise InputError(
                f"EstimatorConfig needs two widths and blocks, each at least 1, got {self}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON header."""
        return asdict(self)


class DegradationEstimator(nn.Module):
    """The network: (n, 3, h, w) in [0, 1], any h and w from 1 up -> (n, 2), blur and noise.

    Both lie in [0, 1); 0 is a clean frame. Computes in float32, keeps nothing between calls.
    """

    def __init__(self, config: EstimatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EstimatorConfig()
        first, width = config.widths
        # fixed: with a learned basis, training was several times slower
        self.register_buffer("basis", _cosines(_WAVE), persistent=False)  # (64, 1, 8, 8)
        self.register_buffer("luma", torch.tensor(_LUMA).view(1, 3, 1, 1), persistent=False)
        self.stem = nn.Conv2d(2 * _WAVE**2, first, 1)
        self.down = nn.Conv2d(first, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range(config.blocks)
        )
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        """Return scores (n, 2) of (n, 3, h, w), float32 on the network's device.

        Raises:
            InputError: as `cells`.
        """
        return pool_cells(self.cells(rgb))

    def cells(self, rgb: Tensor) -> Tensor:
        """Return scores for cells of 16 x 16 pixels, (n, 4, h/16, w/16) in (0, 1).

        Channels: blur, the cell's weight for blur, noise, the cell's weight for noise.

        Raises:
            InputError: another shape, a dtype that is not floating, or no pixels.
        """
        if rgb.ndim != 4 or rgb.shape[1] != 3 or min(rgb.shape) < 1 or not rgb.is_floating_point():
            raise InputError(
                f"the estimator takes RGB as floats (n, 3, h, w) in [0, 1], "
                f"got {tuple(rgb.shape)} {rgb.dtype}"
            )
        luma = self.get_buffer("luma")
        gray = (pad_to_multiple(rgb.to(luma), CELL) * luma).sum(1, keepdim=True)
        fine = self._energies(gray, _WAVE)  # (n, 64, h/8, w/8)
        coarse = self._energies(F.avg_pool2d(gray, 2), _WAVE // 2)  # of the same places
        x = _rectify(self.stem(torch.cat((fine, coarse), 1)))
        x = _rectify(self.down(x))
        for block in self.blocks:
            x = x + _rectify(block(x))
        cells: Tensor = self.head(x)
        return cells.sigmoid()

    def _energies(self, gray: Tensor, step: int) -> Tensor:
        """Return log energies (n, 64, h/step, w/step) of 8 x 8 transforms, `step` pixels apart."""
        rim = (_WAVE - step) // 2
        padded = F.pad(gray, (rim, rim, rim, rim), "replicate")
        waves = F.conv2d(padded, self.get_buffer("basis"), stride=step)
        return 0.25 * torch.log1p((waves / _VISIBLE).square())


def pool_cells(cells: Tensor) -> Tensor:
    """Average cells (n, 4, h, w) of `DegradationEstimator.cells` by weight -> (n, 2).

    Plain ground around a head has little weight and does not dilute the scores. If all
    weights are small, as in a plain picture, the scores fall to 0.
    """
    value, weight = cells[:, ::2], cells[:, 1::2]
    return (value * weight).mean((2, 3)) / weight.mean((2, 3)).clamp(min=0.05)


def _rectify(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def _cosines(side: int) -> Tensor:
    """Return the orthonormal 2-D cosine transform (II) as filters (side**2, 1, side, side)."""
    k = torch.arange(side, dtype=torch.float32)
    rows = (math.pi / side * (k + 0.5) * k[:, None]).cos() * math.sqrt(2 / side)
    rows[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", rows, rows).reshape(side**2, 1, side, side)


def artifact_score(scores: Tensor) -> Tensor:
    """Combine both scores, (n, 2) -> (n,) in [0, 1]: 1 - (1 - blur) (1 - noise).

    This is the share of lost or false detail if blur and noise are independent. It is 0 where
    both are 0, rises with each and is never below either. Frames with a low score are best
    left unchanged.
    """
    return 1 - (1 - scores).prod(-1)


def load_estimator(
    path: Path | None = None, device: str | torch.device = "cpu"
) -> DegradationEstimator:
    """Load an estimator for inference: from a checkpoint, or the one in the package.

    Raises:
        CheckpointError: the file is missing, cannot be read, or holds another model.
    """
    with ExitStack() as stack:
        if path is None:
            path = stack.enter_context(as_file(files("splatmend.core.estimator") / _EMBEDDED))
            if not path.is_file():
                raise CheckpointError(
                    "this installation lacks the estimator's weights: install Splatmend again, or "
                    "train one with `splatmend train-estimator` and give its path"
                )
        header, weights = load_checkpoint(path)
    if header.architecture != "estimator":
        raise CheckpointError(
            f"{path} holds a {header.architecture!r}, not an estimator: "
            f"give a file that `splatmend train-estimator` wrote"
        )
    try:
        network = DegradationEstimator(config_from_json(EstimatorConfig, header.config))
        network.load_state_dict(weights)
    except (TypeError, RuntimeError, InputError) as error:
        raise CheckpointError(
            f"{path} does not fit the estimator that its header describes: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return network.to(device).eval().requires_grad_(requires_grad=False)
