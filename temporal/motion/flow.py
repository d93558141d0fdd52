"""Estimates of motion between two pictures, for renderers that send none.

An estimator takes the last and the current picture and returns backward flow, as described in
`splatmend.temporal.motion.warping`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from splatmend.core import CheckpointError, InputError, from_tensor, pad_to_multiple, to_tensor

__all__ = ["DisFlow", "FlowEstimator", "RaftFlow", "load_flow"]

Picture = NDArray[np.uint8]

_DIS_SIDE = 96  # OpenCV's coarse scales go wrong, or crash, on pictures with a shorter side
_RAFT_SIDE = 128  # the smallest that leaves its correlation pyramid four levels


@runtime_checkable
class FlowEstimator(Protocol):
    """An estimator of backward flow without state: same pictures, same flow."""

    @property
    def name(self) -> str:
        """Return a short name for tables and logs."""
        ...

    def __call__(self, previous: Tensor, current: Tensor) -> Tensor:
        """Estimate for each pixel of `current` its place in `previous`, minus its place now.

        Args:
            previous: (n, 3, h, w) in [0, 1].
            current: (n, 3, h, w) in [0, 1].

        Returns:
            (n, 2, h, w) float32 on the pictures' device, pixels, x first.
        """
        ...

    def between(self, previous: Picture, current: Picture) -> NDArray[np.float32]:
        """Estimate the same for two pictures (h, w, 3) of uint8 -> (h, w, 2)."""
        ...


@dataclass(frozen=True)
class DisFlow:
    """OpenCV's dense inverse search on the CPU; deterministic, for any number of threads.

    Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search". The fast preset on the
    full picture: half resolution with the medium preset is as accurate and slower.
    """

    name: str = "dis"
    descents: int = 16
    """Steps of each patch's search; fewer follow trembling splats less but fast turns worse."""
    refinement: int = 5
    """Rounds of variational refinement; three suffice for the stabiliser."""
    _search: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        search.setGradientDescentIterations(self.descents)
        search.setVariationalRefinementIterations(self.refinement)
        object.__setattr__(self, "_search", search)

    def __call__(self, previous: Tensor, current: Tensor) -> Tensor:
        """Estimate as a `FlowEstimator` does, from pictures rounded to 8 bits."""
        _check_pair(previous, current)
        pairs = zip(from_tensor(previous, np.uint8), from_tensor(current, np.uint8), strict=True)
        flows = [self.between(a, b) for a, b in pairs]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(current.device)

    def between(self, previous: Picture, current: Picture) -> NDArray[np.float32]:
        """Estimate as a `FlowEstimator` does."""
        height, width = current.shape[:2]
        below, right = max(0, _DIS_SIDE - height), max(0, _DIS_SIDE - width)
        grays = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (current, previous)]
        if below or right:
            grays = [cv2.copyMakeBorder(g, 0, below, 0, right, cv2.BORDER_REPLICATE) for g in grays]
        flow = self._search.calc(*grays, None)
        return np.ascontiguousarray(flow[:height, :width])


@dataclass(frozen=True)
class RaftFlow:
    """torchvision's RAFT: slower and more exact than `DisFlow`, best on a GPU.

    Teed and Deng 2020, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow".
    """

    network: nn.Module
    device: torch.device
    name: str = "raft"

    @classmethod
    def load(cls, weights: Path, *, device: torch.device | str = "cpu") -> "RaftFlow":
        """Read torchvision's weights, `raft_small` or `raft_large`, from a local file.

        Raises:
            CheckpointError: no such file, or not the weights of either.
            InputError: torchvision is not installed.
        """
        try:
            from torchvision.models.optical_flow import raft_large, raft_small
        except ImportError as error:
            raise InputError(
                "RAFT needs torchvision: pip install torchvision, or use --flow dis"
            ) from error
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling fails in many ways
            raise CheckpointError(f"{weights} cannot be read as weights: {error}") from error
        for make in (raft_large, raft_small):
            network = make(weights=None, progress=False)
            try:
                network.load_state_dict(state)
            except (RuntimeError, TypeError, AttributeError):
                continue
            wanted = torch.device(device)
            return cls(network.eval().requires_grad_(False).to(wanted), wanted)
        raise CheckpointError(f"{weights} holds neither raft_small nor raft_large of torchvision")

    def __call__(self, previous: Tensor, current: Tensor) -> Tensor:
        """Estimate as a `FlowEstimator` does."""
        _check_pair(previous, current)
        height, width = current.shape[-2:]
        # the network divides by 8 and normalises a correlation pyramid, which needs this size
        grown = (0, max(0, _RAFT_SIDE - width), 0, max(0, _RAFT_SIDE - height))
        pair = [
            pad_to_multiple(F.pad(p.to(self.device, torch.float32), grown, "replicate"), 8) * 2 - 1
            for p in (current, previous)
        ]
        with torch.inference_mode():
            flow: Tensor = self.network(*pair)[-1]
        return flow[..., :height, :width].float().contiguous().to(current.device)

    def between(self, previous: Picture, current: Picture) -> NDArray[np.float32]:
        """Estimate as a `FlowEstimator` does."""
        flow = self(to_tensor([previous], self.device), to_tensor([current], self.device))
        return from_tensor(flow, np.float32)[0]


def load_flow(spec: str, *, device: torch.device | str = "cpu") -> FlowEstimator:
    """Load an estimator: "dis", "dis-fast", or "raft:FILE" with torchvision's weights.

    Raises:
        InputError: another name, or torchvision is missing.
        CheckpointError: RAFT's file cannot be used.
    """
    name, _, path = spec.partition(":")
    if name == "dis" and not path:
        return DisFlow()
    if name == "dis-fast" and not path:
        return DisFlow(name, descents=8, refinement=3)
    if name == "raft" and path:
        return RaftFlow.load(Path(path), device=device)
    raise InputError(
        f"no motion estimator {spec!r}: use dis, dis-fast, or raft:FILE (torchvision's weights)"
    )


def _check_pair(previous: Tensor, current: Tensor) -> None:
    if previous.shape != current.shape or previous.ndim != 4 or previous.shape[1] != 3:
        raise InputError(
            f"motion needs two pictures (n, 3, h, w) of one size, got {tuple(previous.shape)} and "
            f"{tuple(current.shape)}"
        )
