"""Face parsing, and the strength of degradations in each region of a face.

Maps are uint8 indices into `REGIONS`. There are two parsers: a Segformer (Xie et al. 2021)
trained on CelebAMask-HQ, used where its weights are available, and polygons around landmarks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.errors import CheckpointError, InputError, ModelError
from splatmend.core.pixels import to_tensor
from splatmend.core.resample import blur
from splatmend.training.faces.align import DlibLandmarker, Landmarker, Landmarks
from splatmend.training.faces.foreground import cut_out

__all__ = [
    "REGIONS",
    "LandmarkParser",
    "RegionParser",
    "RegionStrengths",
    "SegformerParser",
    "has_face",
    "load_parser",
    "strength_map",
    "upper_sides",
]

REGIONS = ("ground", "skin", "nose", "eyes", "mouth", "hair")
"""Names of the numbers in a region map. Eyes include brows; skin includes ears and neck."""

_GROUND, _SKIN, _NOSE, _EYES, _MOUTH, _HAIR = range(len(REGIONS))
_LEAST_FACE = 0.01  # share of the picture below which features are the parser's noise


@dataclass(frozen=True)
class RegionStrengths:
    """The strength of degradations in each region, 0 to 1.

    Regions with fewer views and pixels suffer more in real avatars.

    Raises:
        InputError: a strength outside [0, 1].
    """

    mouth: float = 0.9
    eyes: float = 0.7
    hair: float = 0.6
    nose: float = 0.5
    skin: float = 0.4
    ground: float = 0.25
    """Below skin, but not 0: clothes count as ground, and thinned avatars lose them as well.
    Around a cut-out head only the rim of the ground is degraded."""

    def __post_init__(self) -> None:
        for region in fields(self):
            if not 0 <= (value := getattr(self, region.name)) <= 1:
                raise InputError(f"the strength of {region.name} must lie in [0, 1], got {value}")

    def only(self, regions: Sequence[str]) -> "RegionStrengths":
        """Return these strengths with 0 for every other region."""
        return replace(self, **{name: 0.0 for name in REGIONS if name not in regions})


def strength_map(regions: Tensor, strengths: RegionStrengths) -> Tensor:
    """Convert uint8 labels (n, h, w) or (h, w) to strengths (n, 1, h, w) in [0, 1].

    They are smoothed by a Gaussian whose sigma is a 64th of the width.
    """
    labels = regions if regions.ndim == 3 else regions[None]
    table = torch.tensor([getattr(strengths, name) for name in REGIONS], device=labels.device)
    return blur(table[labels.long()][:, None], labels.shape[-1] / 64).clamp(0, 1)


def has_face(regions: NDArray[np.uint8]) -> bool:
    """Check that a map shows a face: skin, and features in it."""
    area = np.bincount(regions.ravel(), minlength=len(REGIONS)) / regions.size
    features = area[[_NOSE, _EYES, _MOUTH]].sum()
    return bool(area[_SKIN] > _LEAST_FACE and features > _LEAST_FACE / 4)


class RegionParser(Protocol):
    """Draws region maps of aligned faces."""

    name: str
    """The parser's name in manifests."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Parse (h, w, 3) RGB to (h, w) indices into `REGIONS`; without a face, all are ground."""
        ...


def load_parser(spec: str = "auto") -> RegionParser:
    """Load a parser: Segformer or landmarks.

    Args:
        spec: "segformer" (from the hub's cache; nothing is downloaded), a folder with its
            config.json and model.safetensors, "landmarks", or "auto". The last takes Segformer
            where the cache has it, else landmarks.

    Raises:
        ModelError: the parser is unknown, or its weights are missing.
        CheckpointError: the folder does not hold a face parser.
    """
    if spec == "landmarks":
        return LandmarkParser(DlibLandmarker())
    if spec not in ("auto", "segformer"):
        if not Path(spec).is_dir():
            raise ModelError(
                f"no parser {spec!r}: give auto, segformer, landmarks, or the folder of a Segformer"
            )
        return SegformerParser(Path(spec))
    if folder := _cached_segformer():
        return SegformerParser(folder)
    if spec == "auto":
        return LandmarkParser(DlibLandmarker())
    raise ModelError(
        f"the hub's cache has no {_SEGFORMER}: download it there (its training data is for "
        f"research only), give its folder, or use the parser landmarks"
    )


_SEGFORMER = "jonathandinu/face-parsing"
# labels of CelebAMask-HQ (Lee et al. 2020); all others are ground
_CELEBA_MASK: dict[str, int] = {
    "skin": _SKIN, "l_ear": _SKIN, "r_ear": _SKIN, "ear_r": _SKIN, "neck": _SKIN,
    "nose": _NOSE, "l_eye": _EYES, "r_eye": _EYES, "eye_g": _EYES, "l_brow": _EYES,
    "r_brow": _EYES, "mouth": _MOUTH, "u_lip": _MOUTH, "l_lip": _MOUTH, "hair": _HAIR, "hat": _HAIR,
}  # fmt: skip
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _cached_segformer() -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        return None
    files = [try_to_load_from_cache(_SEGFORMER, f) for f in ("config.json", "model.safetensors")]
    found = [Path(file) for file in files if isinstance(file, str)]
    return found[0].parent if len(found) == len(files) else None


class SegformerParser:
    """A Segformer with the labels of CelebAMask-HQ, from a folder of transformers.

    Raises:
        CheckpointError: the folder is damaged or incomplete, or has other labels.
    """

    name = "segformer"

    def __init__(self, folder: Path) -> None:
        # transformers takes seconds to import, and only this parser needs it
        from transformers import SegformerForSemanticSegmentation

        from splatmend.core.turbo.base import load_part

        network = load_part(SegformerForSemanticSegmentation, folder, torch.float32, stem="model")
        labels = {int(index): str(label) for index, label in network.config.id2label.items()}
        if missing := sorted(_CELEBA_MASK.keys() - set(labels.values())):
            raise CheckpointError(
                f"{folder} is not a face parser: it lacks the label {missing[0]!r} of CelebAMask-HQ"
            )
        self._network: Any = network
        self._regions = torch.tensor(
            [_CELEBA_MASK.get(labels.get(i, ""), _GROUND) for i in range(max(labels) + 1)]
        )

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `RegionParser`."""
        rgb = to_tensor([pixels])
        # like its own image processor: 512 x 512, normalised as ImageNet
        square = F.interpolate(rgb, (512, 512), mode="bilinear", antialias=True)
        mean, std = (rgb.new_tensor(v)[:, None, None] for v in (_IMAGENET_MEAN, _IMAGENET_STD))
        logits = self._network(pixel_values=(square - mean) / std).logits
        labels = F.interpolate(logits, pixels.shape[:2], mode="bilinear").argmax(1)[0]
        return np.asarray(self._regions[labels].numpy(), np.uint8)


class LandmarkParser:
    """Polygons around 68 landmarks; colour separates hair and skin around them."""

    name = "landmarks"

    def __init__(self, landmarker: Landmarker) -> None:
        self._find = landmarker

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `RegionParser`."""
        landmarks = self._find(pixels)
        if landmarks is None:
            return np.zeros(pixels.shape[:2], np.uint8)
        return draw_regions(pixels, landmarks)


def draw_regions(pixels: NDArray[np.uint8], landmarks: Landmarks) -> NDArray[np.uint8]:
    """Draw the region map (h, w) of an aligned (h, w, 3) RGB face from its landmarks (68, 2).

    Features are the hulls of their landmarks. Skin is the face below the brows, and nearby pixels
    in the colour of the cheeks. Hair is the foreground above, and nearby pixels in its colour.
    """
    size = (pixels.shape[0], pixels.shape[1])
    eyes = landmarks[36:48].mean(0)
    up = eyes - landmarks[[48, 54]].mean(0)
    features = {
        _NOSE: _hull(size, landmarks[27:36], grow=0.12),
        _EYES: _hull(size, landmarks[[*range(17, 22), *range(36, 42)]], grow=0.15)
        | _hull(size, landmarks[[*range(22, 27), *range(42, 48)]], grow=0.15),
        _MOUTH: _hull(size, landmarks[48:60], grow=0.15),
    }
    face = _hull(size, landmarks[:27])
    oval = _hull(size, np.concatenate((landmarks[:17], landmarks[17:27] + 0.75 * up)))
    foreground = cut_out(pixels) > 127
    lab = cv2.cvtColor(cv2.GaussianBlur(pixels, (0, 0), size[1] / 200), cv2.COLOR_RGB2LAB)
    colors = np.asarray(lab, np.float64)
    cheeks = face & ~np.logical_or.reduce(list(features.values()))
    skin = _skin(colors, foreground, face, oval, cheeks, chin=landmarks[8], up=up)
    hair = _hair(colors, foreground, oval, skin, eyes=eyes, chin=landmarks[8], up=up)
    labels = np.zeros(size, np.uint8)
    for region, mask in ((_HAIR, hair), (_SKIN, skin), *features.items()):
        labels[mask] = region
    return labels


def _skin(
    colors: NDArray[np.float64],
    foreground: NDArray[np.bool_],
    face: NDArray[np.bool_],
    oval: NDArray[np.bool_],
    cheeks: NDArray[np.bool_],
    *,
    chin: Landmarks,
    up: Landmarks,
) -> NDArray[np.bool_]:
    """Find the face, and forehead, ears and neck where they have the colour of the cheeks."""
    size = (face.shape[0], face.shape[1])
    distance = _distance(colors, cheeks)
    forehead = oval & (distance < 20)
    around = foreground & (distance < 9) & ~_beyond(size, chin + 1.2 * up, up)
    around &= ~_beyond(size, chin - 1.1 * up, -up)
    return face | _tidy(face | forehead | around)


def _hair(
    colors: NDArray[np.float64],
    foreground: NDArray[np.bool_],
    oval: NDArray[np.bool_],
    skin: NDArray[np.bool_],
    *,
    eyes: Landmarks,
    chin: Landmarks,
    up: Landmarks,
) -> NDArray[np.bool_]:
    """Find the foreground above the eyes, and pixels nearer to its colour than to the room's."""
    size = (skin.shape[0], skin.shape[1])
    crown = (foreground | oval) & ~skin & _beyond(size, eyes, up)
    y, x = np.mgrid[: size[0], : size[1]]
    reach = np.hypot(*up)
    head = np.hypot(x - eyes[0], y - eyes[1]) < 2.6 * reach
    background = ~foreground & ~head & _beyond(size, chin, up)
    ours, others = _distance(colors, crown), _distance(colors, background)
    alike = head & ~oval & ~skin & (ours < 16) & (ours < others)
    if upper_sides(alike).mean() > 0.25:
        alike[:] = False  # the background has the colour of the hair
    below = _beyond(size, chin, -up) & (np.abs(x - chin[0]) < 0.8 * reach)  # neck, not hair
    hair = _tidy(crown | (alike & ~below))
    closing = np.ones((_odd(size[1] / 24), _odd(size[1] / 24)), np.uint8)
    hair = cv2.morphologyEx(hair.astype(np.uint8), cv2.MORPH_CLOSE, closing) > 0
    # keep parts connected to the crown, not a dark corner of the background
    _, parts = cv2.connectedComponents(hair.astype(np.uint8))
    joined = np.unique(parts[hair & crown])
    return np.asarray(hair & np.isin(parts, joined) & ~skin)


def upper_sides(plane: NDArray[Any]) -> NDArray[Any]:
    """Select the outer columns above the shoulders of an aligned (h, w), which no head reaches."""
    rows, columns = int(0.6 * plane.shape[0]), max(int(0.03 * plane.shape[1]), 1)
    return np.concatenate((plane[:rows, :columns], plane[:rows, -columns:]), 1)


def _hull(size: tuple[int, int], points: Landmarks, grow: float = 0.0) -> NDArray[np.bool_]:
    """Draw the convex hull of the points as a mask, enlarged by the share `grow`."""
    middle = points.mean(0)
    hull = cv2.convexHull((middle + (1 + grow) * (points - middle)).astype(np.float32))
    mask = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(mask, np.rint(hull).astype(np.int32), 1)
    return mask > 0


def _beyond(size: tuple[int, int], point: Landmarks, direction: Landmarks) -> NDArray[np.bool_]:
    """Select the half of the picture that lies in that direction from the point."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.asarray((x - point[0]) * direction[0] + (y - point[1]) * direction[1] > 0)


def _distance(colors: NDArray[np.float64], sample: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the squared Mahalanobis distance of each colour (h, w, 3) to those of the sample.

    The distance is infinite where the sample is too small. Outliers of the sample (highlights,
    glasses, shadows) are left out.
    """
    if sample.sum() < 50:
        return np.full(sample.shape, np.inf)
    chosen = colors[sample]
    apart = np.abs(chosen - np.median(chosen, 0)).sum(1)
    chosen = chosen[apart <= np.quantile(apart, 0.8)]
    spread = np.cov(chosen.T) + np.diag((30.0, 6.0, 6.0))
    offset = colors - chosen.mean(0)
    return np.asarray(np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(spread), offset))


def _tidy(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Remove specks and pinholes by a median over a 32nd of the side."""
    return np.asarray(cv2.medianBlur(mask.astype(np.uint8), _odd(mask.shape[1] / 32)) > 0)


def _odd(value: float) -> int:
    return max(int(value) // 2 * 2 + 1, 3)
