"""`splatmend retexture`: real pairs of many people from the Gaussians of one avatar.

splatmend retexture avatar.ply faces/ --out pairs/ --count 600

The effect of thinning depends on the arrangement of an avatar's Gaussians: translucent layers,
frayed fringes, large ones over small. One avatar shows this on one face only. So its Gaussians
take the colours of a portrait. Whole and degraded, the recoloured avatar is rendered from a
random camera, with alpha. Avatars of `relief` are sharper and have hair; these have the geometry
of a real avatar.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.command_line import Positional, parse, shown
from splatmend.core.errors import InputError
from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.training.avatars.fit_colors import Coloring
from splatmend.training.avatars.rendered_pairs import SIDE, PairsConfig, front_camera, write_pairs
from splatmend.training.data.portraits import draw_relit, load_portraits
from splatmend.training.degradations.resplatting import read_at
from splatmend.training.faces.align import DlibLandmarker, eye_centers
from splatmend.training.faces.foreground import without_ground
from splatmend.training.gaussians.ply import Splats, read_ply
from splatmend.training.gaussians.rasterizer import render
from splatmend.training.gaussians.spherical_harmonics import plain_harmonics

__all__ = ["RetextureConfig", "Wardrobe", "main", "retexture"]

Eyes = tuple[tuple[float, float], tuple[float, float]]

_ROUNDS = 25


@dataclass(frozen=True, kw_only=True)
class RetextureConfig(PairsConfig):
    """Write folders `whole` and `thin` of renders with alpha, matched by name."""

    source: Annotated[Path, Positional, shown("AVATAR.ply")]
    """A 3DGS PLY file of a head that looks along +z, y up."""
    faces: Annotated[Path, Positional, shown("FACES")]
    """Aligned portraits; of a folder with a manifest.json the training split."""
    eyes: Eyes | None = None
    """Where the camera at `distance` sees the avatar's eyes on a picture of 512 x 512: x and y of
    the left one, x and y of the right one. Without it dlib looks for them (extra "faces")."""
    face_eyes: Eyes = ((196.0, 240.0), (316.0, 240.0))
    """Where the portraits have theirs, scaled to 512 x 512; by default as FFHQ."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend retexture ...`; errors are the caller's to report."""
    retexture(
        parse(RetextureConfig, arguments, prog="splatmend retexture", description=str(__doc__))
    )


def retexture(config: RetextureConfig) -> None:
    """Write the missing pairs; each is named by the seed and its number.

    Raises:
        InputError: the avatar or the portraits cannot be used, or `out` has pairs of other
            settings.
    """
    wardrobe = Wardrobe(read_ply(config.source), config)
    cache = config.out / "foreground"
    portraits = load_portraits(config.faces, "train", cache=cache, foreground=True)

    def dress(rng: np.random.Generator) -> Splats:
        portrait = portraits[int(rng.integers(len(portraits)))]
        assert portrait.foreground is not None
        return wardrobe.dress(without_ground(portrait.pixels, portrait.foreground), rng)

    write_pairs(config, dress)


class Wardrobe:
    """One avatar's Gaussians, which take the colours of portraits.

    Raises:
        InputError: its eyes are neither given nor found.
        ModelError: dlib or its models are not installed.
    """

    def __init__(self, splats: Splats, config: RetextureConfig) -> None:
        self._splats, self._config = splats, config
        camera = front_camera(config)
        self._eyes = config.eyes or _find_eyes(render(splats, camera).over(1.0))
        self._coloring = Coloring(splats, camera)
        turn, shift = camera.world_to_camera[:, :3], camera.world_to_camera[:, 3]
        point = splats.center @ turn.T + shift
        middle = torch.tensor((camera.width / 2, camera.height / 2))
        self._screen = camera.focal * point[:, :2] / point[:, 2:] + middle

    def dress(self, face: NDArray[np.uint8], rng: np.random.Generator) -> Splats:
        """Recolour the avatar by a portrait (h, w, 3), relit and mirrored at random."""
        pixels = np.ascontiguousarray(face[:, ::-1]) if rng.random() < 0.5 else face
        shown, inside = self._lay(np.asarray(draw_relit(to_tensor([pixels]), rng)[0]))
        colors = self._coloring.solve(shown, inside, self._sampled(shown), rounds=_ROUNDS)
        return replace(self._splats, harmonics=plain_harmonics(colors))

    def _lay(self, face: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Warp a portrait (3, h, w) to the avatar's face, (3, 512, 512), with its coverage."""
        side = face.shape[1]
        theirs = _frame_of(np.array(self._config.face_eyes) * side / SIDE)
        matrix = cv2.getAffineTransform(theirs, _frame_of(np.array(self._eyes)))
        planes = np.ascontiguousarray(face.transpose(1, 2, 0))
        shown = cv2.warpAffine(planes, matrix, (SIDE, SIDE), flags=cv2.INTER_AREA,
                               borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
        inside = cv2.warpAffine(np.ones((side, side), np.float32), matrix, (SIDE, SIDE))
        return torch.from_numpy(shown).permute(2, 0, 1).contiguous(), torch.from_numpy(inside)

    def _sampled(self, shown: Tensor) -> Tensor:
        """Read the picture's colour at each centre; hidden ones need it too, if others are gone."""
        return read_at(shown[None], self._screen[None] - 0.5)[0].contiguous()


def _find_eyes(front: Tensor) -> Eyes:
    landmarks = DlibLandmarker()(from_tensor(front[None], np.uint8)[0])
    if landmarks is None:
        raise InputError(
            "no face was found on the avatar seen from the front: it must look along +z, y up, "
            "and fill the picture (--distance, --fov); or name its eyes with --eyes"
        )
    left, right = eye_centers(landmarks)
    return (float(left[0]), float(left[1])), (float(right[0]), float(right[1]))


def _frame_of(eyes: NDArray[np.float64]) -> NDArray[np.float32]:
    """List both eyes and a point at a right angle, which define a similarity without shear."""
    left, right = eyes
    turned = np.array((left[1] - right[1], right[0] - left[0]))
    return np.array((left, right, left + turned), np.float32)
