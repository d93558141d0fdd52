"""Identity of the person: a loss with any embedder, and measures with dlib's.

dlib (King 2009) includes a detector. Its 68 landmarks (Kazemi and Sullivan 2014) and its
embedding, a ResNet of 128 numbers, are files of the package face-recognition-models. They need no
download, but cannot be differentiated: they serve evaluation, not training.
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
    """A function from faces (n, 3, h, w), RGB in [0, 1], to one vector each (n, d).

    It scales its input to its network's size and range by itself.
    """

    def __call__(self, rgb: Tensor) -> Tensor:
        """Embed a batch."""
        ...


class IdentityLoss(nn.Module):
    """The loss 1 - cosine of two embeddings -> (n,): 0 for the same person, at most 2.

    It needs whole, aligned faces: a crop of a cheek has no identity. The embedder is frozen, and
    gradients pass through it to `ours`.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder
        for parameter in self.parameters():  # one by one: TorchScript knows no other way
            parameter.requires_grad = False
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, because an embedder's batch statistics must not drift."""
        del mode
        return super().train(mode=False)

    def forward(self, ours: Tensor, target: Tensor) -> Tensor:
        """Compare the persons in `ours` and `target`, each (n, 3, h, w) in [0, 1] -> (n,)."""
        with torch.no_grad():
            wanted = self.embedder(target)
        return 1 - F.cosine_similarity(self.embedder(ours), wanted, dim=1)


def load_embedder(path: Path, device: str | torch.device = "cpu") -> Embedder:
    """Load an embedder from a TorchScript file; see `Embedder` for its interface.

    No embedder comes with Splatmend: the usual ones (ArcFace, FaceNet) were trained on data
    whose terms exclude commercial use. TorchScript runs code of the file: load only files that
    you trust.

    Raises:
        CheckpointError: the file is missing, is not TorchScript, or is not an embedder.
    """
    try:
        with warnings.catch_warnings():  # torch prefers torch.export, which few files use
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

    The target's box and alignment are used for both pictures, so the detector's jitter does not
    enter the measures.
    """

    detector: Any
    predictor: Any
    embedding: Any

    def against(self, target: Tensor) -> Callable[[Tensor], dict[str, float]]:
        """Prepare the target (1, 3, h, w) once -> a function that measures pictures of its size.

        `identity` is the cosine of the embeddings. In our portraits it is 0.98 to 1.00 for one
        person and 0.72 to 0.94 for two people, so small steps count. `landmarks` is the mean
        shift of 68 landmarks over the distance between the eyes. Both are NaN if the target has
        no face.
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
        """Find the largest face; enlarge once if necessary: the detector needs 80 pixels."""
        boxes = self.detector(picture, 0) or self.detector(picture, 1)
        return max(boxes, key=lambda box: box.area(), default=None)

    def _embed(self, picture: NDArray[np.uint8], shape: Any) -> NDArray[np.float64]:
        return np.array(self.embedding.compute_face_descriptor(picture, shape), np.float64)


def _bytes(rgb: Tensor) -> NDArray[np.uint8]:
    """Convert one picture to dlib's format."""
    return np.ascontiguousarray(from_tensor(rgb, np.uint8)[0], np.uint8)


def _points(shape: Any) -> NDArray[np.float64]:
    """Convert landmarks to (68, 2), x and y in pixels."""
    return np.array([(point.x, point.y) for point in shape.parts()], np.float64)


def load_face_models() -> FaceModels:
    """Load dlib's detector and two models (120 MB) from installed packages.

    The files are CC0. However, the landmarks were trained on iBUG 300-W, whose own terms exclude
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
