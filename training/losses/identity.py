"""Whether the person stays the same: a loss over any embedder, and measures over dlib's.

dlib (King 2009) brings a detector; its 68 landmarks (Kazemi and Sullivan 2014) and its
embedding, a ResNet of 128 numbers, are files of the package face-recognition-models. They
need no network but cannot be differentiated: they judge, they do not train.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from splatmend.core.errors import CheckpointError, ModelError
from splatmend.core.perceptual.dlib_models import EMBEDDING_FILE, LANDMARKS_FILE, load_dlib
from splatmend.core.pixels import from_tensor

__all__ = ["Embedder", "FaceModels", "IdentityLoss", "load_embedder", "load_face_models"]

_LEFT_EYE, _RIGHT_EYE = slice(36, 42), slice(42, 48)  # of the 68, as in Multi-PIE


class Embedder(Protocol):
    """Maps faces (n, 3, h, w), RGB in [0, 1], to one vector each (n, d).

    Scaling to the size and range that its network was trained on is its own business.
    """

    def __call__(self, rgb: Tensor) -> Tensor:
        """Embed a batch."""
        ...


class IdentityLoss(nn.Module):
    """1 - cosine of two embeddings -> (n,): 0 for the same person, up to 2.

    Whole, aligned faces only: a crop of a cheek has no identity. The embedder is frozen, and
    gradients pass through it to `ours`.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder
        for parameter in self.parameters():  # one by one: TorchScript knows no other way
            parameter.requires_grad = False
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation: batch statistics of an embedder must not drift with a run."""
        del mode
        return super().train(mode=False)

    def forward(self, ours: Tensor, target: Tensor) -> Tensor:
        """How far the person in `ours` is from the one in `target`, each (n, 3, h, w) in [0, 1]."""
        with torch.no_grad():
            wanted = self.embedder(target)
        return 1 - F.cosine_similarity(self.embedder(ours), wanted, dim=1)


def load_embedder(path: Path, device: str | torch.device = "cpu") -> Embedder:
    """An embedder that somebody saved as TorchScript; see `Embedder` for what it must do.

    No embedder comes with Splatmend: the usual ones (ArcFace, FaceNet) were trained on data
    whose terms exclude commercial use. TorchScript runs what the file says: load only files
    that you trust.

    Raises:
        CheckpointError: no such file, or it is not TorchScript, or it does not embed.
    """
    try:
        with warnings.catch_warnings():  # torch would rather see torch.export, which few files are
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            probe = module(torch.full((2, 3, 160, 160), 0.5, device=device))
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path} is not an embedder in TorchScript that takes (n, 3, h, w): {reason}"
        ) from error
    if not isinstance(probe, Tensor) or probe.ndim != 2 or len(probe) != 2:
        kind = tuple(probe.shape) if isinstance(probe, Tensor) else type(probe).__name__
        raise CheckpointError(f"{path} gives {kind} for two faces, an embedder gives (2, d)")
    embedder: Embedder = module
    return embedder


@dataclass(frozen=True)
class FaceModels:
    """dlib's detector, landmarks and embedding as two measures, both on the target's face box.

    The box is found in the target and used in both pictures, so that the detector's jitter is
    no part of the figures; so is the target's alignment for the embedding.
    """

    detector: Any
    predictor: Any
    embedding: Any

    def against(self, target: Tensor) -> Callable[[Tensor], dict[str, float]]:
        """Look at the target (1, 3, h, w) once -> measure pictures of its size by name.

        `identity` is the cosine of the embeddings; over our portraits 0.98 to 1.00 for two
        pictures of one person and 0.72 to 0.94 for two people, so small steps count.
        `landmarks` is the mean distance of 68 landmarks over that of the eyes' centres. Both
        are NaN where no face is found in the target.
        """
        picture = _bytes(target)
        box = self._largest_face(picture)
        if box is None:
            return lambda _: {"identity": np.nan, "landmarks": np.nan}
        shape = self.predictor(picture, box)
        wanted, points = self._embed(picture, shape), _points(shape)
        eyes = points[_LEFT_EYE].mean(0) - points[_RIGHT_EYE].mean(0)

        def measure(rgb: Tensor) -> dict[str, float]:
            ours = _bytes(rgb)
            found = self._embed(ours, shape)
            cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
            moved = np.linalg.norm(_points(self.predictor(ours, box)) - points, axis=1)
            return {
                "identity": float(cosine),
                "landmarks": float(moved.mean() / np.linalg.norm(eyes)),
            }

        return measure

    def _largest_face(self, picture: NDArray[np.uint8]) -> Any | None:
        """Enlarged once if need be: the detector sees nothing below 80 pixels."""
        boxes = self.detector(picture, 0) or self.detector(picture, 1)
        return max(boxes, key=lambda box: box.area(), default=None)

    def _embed(self, picture: NDArray[np.uint8], shape: Any) -> NDArray[np.float64]:
        return np.array(self.embedding.compute_face_descriptor(picture, shape), np.float64)


def _bytes(rgb: Tensor) -> NDArray[np.uint8]:
    """One picture as dlib wants it."""
    return np.ascontiguousarray(from_tensor(rgb, np.uint8)[0], np.uint8)


def _points(shape: Any) -> NDArray[np.float64]:
    """Landmarks as (68, 2), x and y in pixels."""
    return np.array([(point.x, point.y) for point in shape.parts()], np.float64)


def load_face_models() -> FaceModels:
    """The detector of dlib and two models (120 MB), from installed packages.

    The files are CC0; the landmarks were trained on iBUG 300-W, whose own terms exclude
    commercial use.

    Raises:
        ModelError: dlib or the models are not installed.
    """
    dlib, folder = load_dlib()
    try:
        return FaceModels(
            dlib.get_frontal_face_detector(),
            dlib.shape_predictor(str(folder / LANDMARKS_FILE)),
            dlib.face_recognition_model_v1(str(folder / EMBEDDING_FILE)),
        )
    except RuntimeError as error:
        raise ModelError(
            f"{folder} does not hold dlib's models ({error}): install face-recognition-models again"
        ) from error
