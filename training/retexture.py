"""`splatmend retexture`: real pairs of many people from the Gaussians of one avatar.

splatmend retexture avatar.ply faces/ --out pairs/ --count 600

What thinning does to an avatar follows from how its Gaussians lie: translucent layers, fringes
that fray, large ones over small. One avatar shows it on one face only. So its Gaussians take
the colours that make it look like a portrait: given the geometry, a frame is linear in the
colours (`blend_weights`), and they follow by iteration (SIRT; Gilbert 1972, "Iterative methods
for the three-dimensional reconstruction of an object from projections"). Whole and damaged, the
dressed avatar is then rendered from a random camera, with alpha.
"""

import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from splatmend.core.errors import InputError
from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.training.align import DlibLandmarker, eye_centers
from splatmend.training.avatar import write_frame
from splatmend.training.damage import fade, grow, jitter, merge, prune
from splatmend.training.dataset import Portrait, draw_relit, load_portraits
from splatmend.training.harmonics import plain_harmonics
from splatmend.training.ply import Splats, read_ply
from splatmend.training.rasterizer import Camera, blend_weights, render

__all__ = ["RetextureConfig", "Wardrobe", "draw_damage", "main", "retexture"]

Eyes = tuple[tuple[float, float], tuple[float, float]]

_SIDE = 512  # of every picture
_ROUNDS = 25
_WAVES = 4
_BEND = 0.02  # most that one wave moves, of the head's radius


@dataclass(frozen=True)
class RetextureConfig:
    """Write folders `whole` and `thin` of renders with alpha, matched by name."""

    source: tyro.conf.Positional[Path]
    """A 3DGS PLY file of a head that looks along +z, y up."""
    faces: tyro.conf.Positional[Path]
    """Aligned portraits; of a folder with a manifest.json the training split."""
    out: Path
    count: int = 500
    eyes: Eyes | None = None
    """Where the camera at `distance` sees the avatar's eyes on a picture of 512 x 512: x and y of
    the left one, x and y of the right one. Without it dlib looks for them (extra "faces")."""
    face_eyes: Eyes = ((196.0, 240.0), (316.0, 240.0))
    """Where the portraits have theirs, scaled to 512 x 512; by default as FFHQ."""
    distance: float = 0.8
    """From the camera to the origin, in the avatar's units."""
    fov: float = 30.0
    """Vertical field of view, degrees."""
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """`splatmend retexture ...`; errors are the caller's to report."""
    retexture(tyro.cli(RetextureConfig, args=arguments, prog="splatmend retexture"))


def retexture(config: RetextureConfig) -> None:
    """Write the pairs that are not there yet: each is named by the seed and its number.

    Raises:
        InputError: an avatar or portraits that cannot be used; `out` has pairs of other settings.
    """
    wardrobe = Wardrobe(read_ply(config.source), config)
    cache = config.out / "foreground"
    portraits = load_portraits(config.faces, "train", cache=cache, foreground=True)
    folders = [config.out / name for name in ("thin", "whole")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    _claim(config)
    for number in tqdm(range(config.count), disable=not sys.stderr.isatty()):
        stems = [folder / f"{number:05d}" for folder in folders]
        if all(stem.with_suffix(".png").exists() for stem in stems):
            continue
        rng = np.random.default_rng((config.seed, number))
        portrait = portraits[int(rng.integers(len(portraits)))]
        with torch.inference_mode():
            whole = _reshape(wardrobe.dress(_without_ground(portrait), rng), rng)
            camera, low_pass = _draw_camera(config, rng)
            for stem, splats in zip(stems, (draw_damage(whole, rng), whole), strict=True):
                write_frame(stem, render(splats, camera, low_pass=low_pass), planes=False)
    sys.stdout.write(f"{config.count} pairs in {folders[0]} and {folders[1]}\n")


def _claim(config: RetextureConfig) -> None:
    """Note the settings, or refuse to mix pairs of two: only their number may change."""
    note = config.out / "retexture.json"
    settings = json.dumps(asdict(replace(config, count=0)), indent=1, default=str)
    if note.exists() and note.read_text() != settings:
        raise InputError(
            f"{config.out} has pairs of other settings ({note}): use them again, or another folder"
        )
    note.write_text(settings)


class Wardrobe:
    """One avatar's Gaussians, to be dressed in the colours of portraits.

    Raises:
        InputError: its eyes are neither named nor found.
        ModelError: dlib or its models are not installed.
    """

    def __init__(self, splats: Splats, config: RetextureConfig) -> None:
        self._splats, self._config = splats, config
        camera = _camera(config)
        self._eyes = config.eyes or _find_eyes(render(splats, camera).over(1.0))
        weights = blend_weights(splats, camera)
        self._weights = _by_rows(weights)  # (pixels, n)
        self._back = _by_rows(weights.T)  # (n, pixels)
        self._alpha = self._weights @ torch.ones(len(splats), 1)  # (pixels, 1)
        turn, shift = camera.world_to_camera[:, :3], camera.world_to_camera[:, 3]
        point = splats.center @ turn.T + shift
        middle = torch.tensor((camera.width / 2, camera.height / 2))
        self._screen = camera.focal * point[:, :2] / point[:, 2:] + middle

    def dress(self, face: NDArray[np.uint8], rng: np.random.Generator) -> Splats:
        """The avatar in the colours of a portrait (h, w, 3), relit and mirrored at random."""
        pixels = np.ascontiguousarray(face[:, ::-1]) if rng.random() < 0.5 else face
        shown, inside = self._lay(np.asarray(draw_relit(to_tensor([pixels]), rng)[0]))
        target = shown.flatten(1).T * self._alpha  # (pixels, 3), premultiplied
        known = inside.flatten()[:, None] * (self._alpha > 0.05)
        colors = self._sampled(shown)
        reach = (self._back @ (known * self._alpha)).clamp(min=1e-3)
        for _ in range(_ROUNDS):
            missing = (target - self._weights @ colors) * known
            colors = (colors + (self._back @ missing) / reach).clamp(0, 1)
        return replace(self._splats, harmonics=plain_harmonics(colors))

    def _lay(self, face: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """A portrait (3, h, w) where the avatar's face is, (3, 512, 512), and where it reaches."""
        side = face.shape[1]
        theirs = _frame_of(np.array(self._config.face_eyes) * side / _SIDE)
        matrix = cv2.getAffineTransform(theirs, _frame_of(np.array(self._eyes)))
        planes = np.ascontiguousarray(face.transpose(1, 2, 0))
        shown = cv2.warpAffine(planes, matrix, (_SIDE, _SIDE), flags=cv2.INTER_AREA,
                               borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
        inside = cv2.warpAffine(np.ones((side, side), np.float32), matrix, (_SIDE, _SIDE))
        return torch.from_numpy(shown).permute(2, 0, 1).contiguous(), torch.from_numpy(inside)

    def _sampled(self, shown: Tensor) -> Tensor:
        """The picture's colour at each centre, hidden ones too: what shows where they thin out."""
        grid = (2 * self._screen / _SIDE - 1)[None, :, None]
        read = torch.nn.functional.grid_sample(
            shown[None], grid, padding_mode="border", align_corners=False
        )
        return read[0, :, :, 0].T.contiguous()


def _find_eyes(front: Tensor) -> Eyes:
    landmarks = DlibLandmarker()(from_tensor(front[None], np.uint8)[0])
    if landmarks is None:
        raise InputError(
            "no face was found on the avatar seen from the front: it must look along +z, y up, "
            "and fill the picture (--distance, --fov); or name its eyes with --eyes"
        )
    left, right = eye_centers(landmarks)
    return (float(left[0]), float(left[1])), (float(right[0]), float(right[1]))


def _by_rows(matrix: Tensor) -> Tensor:
    """Sparse COO to CSR, which multiplies many times faster."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*CSR tensor support is in beta", UserWarning)
        return matrix.to_sparse_csr()


def _frame_of(eyes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Both eyes and a point at a right angle: what is turned, scaled and moved, not sheared."""
    left, right = eyes
    turned = np.array((left[1] - right[1], right[0] - left[0]))
    return np.array((left, right, left + turned), np.float32)


def _without_ground(portrait: Portrait) -> NDArray[np.uint8]:
    """The portrait with its subject drawn on beyond the outline: no ground on a cheek."""
    assert portrait.foreground is not None
    outside = cv2.erode(portrait.foreground, np.ones((7, 7), np.uint8)) < 250
    if outside.all():
        return portrait.pixels
    _, nearest = cv2.distanceTransformWithLabels(
        outside.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    known = portrait.pixels[~outside]  # labels count the pixels inside, row by row, from 1
    return np.asarray(known[nearest - 1])


def draw_damage(whole: Splats, rng: np.random.Generator) -> Splats:
    """Merged by decimating, mostly; else pruned and grown, moved, or faded."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    kind = rng.random()
    if kind < 0.75:
        keep = math.exp(rng.uniform(math.log(0.05), math.log(0.4)))
        return merge(whole, keep, generator, haste=rng.uniform(0.15, 0.5))
    if kind < 0.87:
        keep = rng.uniform(0.25, 0.8)
        return grow(prune(whole, keep, generator), keep ** -rng.uniform(0.2, 0.6))
    if kind < 0.95:
        return jitter(whole, rng.uniform(0.2, 1.0), generator)
    return fade(grow(whole, rng.uniform(1.0, 1.4)), rng.uniform(0.5, 0.9))


def _reshape(splats: Splats, rng: np.random.Generator) -> Splats:
    """Another head: stretched along each axis and bent by a few long waves."""
    stretch = torch.tensor(rng.uniform(0.9, 1.1, 3), dtype=torch.float32)
    sizes = splats.log_scale + stretch.log().mean()
    size = (splats.center - splats.center.median(0).values).norm(dim=1).quantile(0.9).item()
    center = splats.center * stretch
    for _ in range(_WAVES):
        toward, along = rng.normal(size=(2, 3))
        wave = toward / np.linalg.norm(toward) * 2 * math.pi / (size * rng.uniform(0.6, 2.0))
        shift = along * size * rng.uniform(0.0, _BEND) / np.linalg.norm(along)
        phase = splats.center @ torch.tensor(wave, dtype=torch.float32) + rng.uniform(0, 7)
        center = center + phase.sin()[:, None] * torch.tensor(shift, dtype=torch.float32)
    return replace(splats, center=center, log_scale=sizes)


def _camera(
    config: RetextureConfig, *, yaw: float = 0.0, pitch: float = 0.0, nearer: float = 1.0
) -> Camera:
    size = (_SIDE, _SIDE)
    return Camera.orbit(yaw, pitch, config.distance * nearer, fov_y=config.fov, size=size)


def _draw_camera(config: RetextureConfig, rng: np.random.Generator) -> tuple[Camera, float]:
    """A camera before the face, and the low-pass of one engine or the other."""
    yaw, pitch = rng.normal(0, 0.2), rng.uniform(-0.15, 0.15)
    camera = _camera(config, yaw=yaw, pitch=pitch, nearer=rng.uniform(0.7, 1.1))
    return camera, 0.3 if rng.random() < 0.5 else 0.075
