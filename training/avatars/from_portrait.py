"""`splatmend relief`: avatars made of portraits alone, whole and degraded.

splatmend relief faces/ --out pairs/ --count 500

Each portrait becomes an avatar. The 2-D Gaussians that `resplatting` places by its detail are
laid on a relief of the head, each with its own footprint. Their colours show the portrait from
the front. Behind them lie a soft layer and a dark back, which shine through where the avatar is
thinned. So there is hair, and the whole avatar is as sharp as its portrait. The shape is a guess
(inflated from the outline, with a nose), which is enough for parallax between layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.command_line import Positional, parse, shown
from splatmend.core.pixels import to_tensor
from splatmend.core.resample import blur
from splatmend.training.avatars.fit_colors import Coloring
from splatmend.training.avatars.rendered_pairs import SIDE, PairsConfig, front_camera, write_pairs
from splatmend.training.data.portraits import Portrait, draw_relit, load_portraits
from splatmend.training.degradations.resplatting import Gaussians, SplatOptions, place, read_at
from splatmend.training.faces.foreground import without_ground
from splatmend.training.gaussians.covariance import principal_axes
from splatmend.training.gaussians.ply import Splats, join
from splatmend.training.gaussians.rasterizer import Camera
from splatmend.training.gaussians.spherical_harmonics import plain_harmonics

__all__ = ["ReliefConfig", "lift", "main", "make_avatar", "relief"]

_ROUNDS = 12
_LEAST = 0.3  # pixels in which a Gaussian must be visible for its colour to change at full speed
_LEASH = 0.2  # largest change of a colour, because hidden Gaussians are unconstrained
_STEEPEST = 1.7  # slope of the relief at its rim, depth over width


@dataclass(frozen=True, kw_only=True)
class ReliefConfig(PairsConfig):
    """Write folders `whole` and `thin` of renders with alpha, matched by name."""

    faces: Annotated[Path, Positional, shown("FACES")]
    """Aligned portraits, best of 512 x 512 and more; of a folder with a manifest.json the
    training split."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend relief ...`; errors are the caller's to report."""
    relief(parse(ReliefConfig, arguments, prog="splatmend relief", description=str(__doc__)))


def relief(config: ReliefConfig) -> None:
    """Write the missing pairs; each is named by the seed and its number.

    Raises:
        InputError: the portraits cannot be used, or `out` has pairs of other settings.
    """
    cache = config.out / "foreground"
    portraits = load_portraits(config.faces, "train", cache=cache, foreground=True)
    camera = front_camera(config)

    def make(rng: np.random.Generator) -> Splats:
        return make_avatar(portraits[int(rng.integers(len(portraits)))], rng, camera)

    write_pairs(config, make)


def make_avatar(portrait: Portrait, rng: np.random.Generator, camera: Camera) -> Splats:
    """Make an avatar that looks like the portrait from `camera`, relit and mirrored at random.

    It stands at the origin and looks along +z. The portrait must have its foreground.
    """
    color, alpha = _draw_subject(portrait, rng)
    distance = camera.position.norm().item()
    unit = distance / camera.focal  # width of a pixel at the origin
    front = distance - unit * _draw_relief(alpha[0, 0].numpy(), rng)
    back = 2 * distance - front  # the front, mirrored in the plane through the origin
    layers = [*_draw_skin(color, front, unit, rng), *_draw_depths(color, front, back, unit, rng)]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    laid = [_lay(layer, alpha, camera, rng, generator) for layer in layers]
    avatar = join([splats for splats, _ in laid])
    colors = Coloring(avatar, camera).solve(
        color[0],
        alpha[0, 0],
        torch.cat([own for _, own in laid]),
        rounds=_ROUNDS,
        least=_LEAST,
        leash=_LEASH,
    )
    return replace(avatar, harmonics=plain_harmonics(colors))


@dataclass(frozen=True, eq=False)
class _Layer:
    """A picture (1, 3, h, w) in Gaussians on a surface (h, w) in world units."""

    picture: Tensor
    options: SplatOptions
    depth: NDArray[np.float64]
    opacity: float
    uneven: float = 0.0
    """Largest reduction of a Gaussian's opacity, as a share."""
    inset: int = 0
    """Distance of centres to the outline, pixels: large Gaussians reach beyond their centres."""
    rough: float = 0.0
    """Standard deviation of depth, world units."""


def _draw_skin(
    color: Tensor, front: NDArray[np.float64], unit: float, rng: np.random.Generator
) -> list[_Layer]:
    """Draw one or two fine layers, which show the portrait."""
    count, opacity = int(rng.integers(1, 3)), rng.uniform(0.65, 0.98)
    options = SplatOptions(
        spacing=rng.uniform(1.6, 2.6) * 1.25 ** (count - 1),
        detail=rng.uniform(0.3, 1.0),
        spread=rng.uniform(0.62, 0.85),
        anisotropy=rng.uniform(0.0, 0.6),
    )
    rough = unit * rng.uniform(0.3, 2.0)
    depths = [front + layer * unit * rng.uniform(1, 6) for layer in range(count)]
    return [
        _Layer(color, options, depth, opacity, uneven=0.5, rough=rough, inset=1) for depth in depths
    ]


def _draw_depths(
    color: Tensor,
    front: NDArray[np.float64],
    back: NDArray[np.float64],
    unit: float,
    rng: np.random.Generator,
) -> list[_Layer]:
    """Draw a soft layer under the skin, and one for the back of the head."""
    fine, coarse = (
        SplatOptions(spacing=rng.uniform(low, low + 3), detail=0.3, spread=0.9) for low in (3, 4)
    )
    dark = blur(color, 12) * rng.uniform(0.7, 1.0)
    return [
        _Layer(blur(color, 4), fine, front + unit * rng.uniform(4, 9), 0.95, inset=10),
        _Layer(dark, coarse, back - unit * rng.uniform(-20, 60), 0.9, inset=14),
    ]


def _lay(
    layer: _Layer,
    alpha: Tensor,
    camera: Camera,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> tuple[Splats, Tensor]:
    """Place the Gaussians of a layer, with their colours (m, 3) in its picture."""
    inside = F.max_pool2d(-alpha, 2 * layer.inset + 1, 1, layer.inset).neg()
    gaussians = place(layer.picture, layer.options, generator, alpha=inside)
    count = gaussians.center.shape[1]
    opacity = layer.opacity * rng.uniform(1 - layer.uneven, 1 + layer.uneven / 4, count)
    splats = lift(
        gaussians,
        torch.tensor(layer.depth, dtype=torch.float32),
        camera,
        opacity=torch.tensor(opacity, dtype=torch.float32),
        flat=rng.uniform(0.05, 0.4),
        away=torch.tensor(rng.normal(0, layer.rough, count), dtype=torch.float32),
    )
    return splats, gaussians.color[0].clamp(0, 1)


def _draw_subject(portrait: Portrait, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw colour (1, 3, 512, 512), extended beyond the outline, and coverage (1, 1, 512, 512)."""
    assert portrait.foreground is not None

    def scaled(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(plane, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)

    pixels, mask = scaled(portrait.pixels), scaled(portrait.foreground)
    if rng.random() < 0.5:
        pixels, mask = (np.ascontiguousarray(plane[:, ::-1]) for plane in (pixels, mask))
    color = draw_relit(to_tensor([without_ground(pixels, mask)]), rng)
    return color, torch.tensor(mask / 255, dtype=torch.float32)[None, None]


def _draw_relief(inside: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the height of the head, (h, w) in pixels: round, with a nose, eye sockets and folds."""
    outline = np.pad(cv2.GaussianBlur(inside, (0, 0), 4) > 0.5, 1)
    outline[-1] = outline[-2]  # the neck continues below
    rim = cv2.distanceTransform(outline.astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    falling = 1 - np.clip(rim / rng.uniform(70, 140), 0, 1)
    depth = rng.uniform(80, 150) * np.sqrt(1 - falling**2)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)

    def bump(left: float, top: float, width: float, height: float) -> NDArray[np.float64]:
        return np.asarray(np.exp(-(((x - left) / width) ** 2) - ((y - top) / height) ** 2))

    depth += rng.uniform(15, 45) * bump(256, 300, rng.uniform(18, 28), rng.uniform(30, 45))
    for eye in (196, 316):
        depth -= rng.uniform(4, 14) * bump(eye, 240, 24, 16)
    depth = cv2.GaussianBlur(depth, (0, 0), 6)
    for _ in range(6):
        length, turn = rng.uniform(8, 40), rng.uniform(0, 2 * math.pi)
        phase = (x * math.cos(turn) + y * math.sin(turn)) * 2 * math.pi / length
        depth += rng.uniform(0, 0.06) * length * np.sin(phase + rng.uniform(0, 7))
    return np.asarray(depth)


def lift(
    gaussians: Gaussians,
    depth: Tensor,
    camera: Camera,
    *,
    opacity: Tensor,
    flat: float = 0.2,
    away: Tensor | None = None,
) -> Splats:
    """Lay one picture's Gaussians on a surface, with the same footprints in `camera`.

    Args:
        gaussians: the Gaussians of one picture of the camera's size, lengths in pixels.
        depth: depth of the surface along the camera's axis, (h, w) in world units.
        camera: the camera of the picture.
        opacity: opacity of each, (m,) in [0, 1].
        flat: thickness over width.
        away: distance of each behind the surface, (m,) in world units.

    Returns:
        Black Gaussians; the caller finds their colours.
    """
    center, angle, sigma = gaussians.center[0], gaussians.angle[0], gaussians.sigma[0]
    middle = center.new_tensor((camera.width / 2, camera.height / 2))
    u, v = ((center + 0.5 - middle) / camera.focal).T
    z, across, down = _read_surface(depth, center, camera.focal)
    one = z / camera.focal
    # derivative of the point by the pixel: the surface's tangents
    right = torch.stack((one + u * across, v * across, across), -1)
    below = torch.stack((u * down, one + v * down, down), -1)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    normal = F.normalize(torch.linalg.cross(right, below), dim=-1)
    axes = (
        sigma[:, :1] * (cos * right + sin * below),
        sigma[:, 1:] * (cos * below - sin * right),
        flat * sigma.prod(-1, keepdim=True).sqrt() * one[:, None] * normal,
    )
    turn, shift = camera.world_to_camera[:, :3], camera.world_to_camera[:, 3]
    turned = torch.stack(axes, -1).transpose(1, 2) @ turn  # (m, axis, world)
    log_scale, rotation = principal_axes(turned.transpose(1, 2) @ turned)
    z = z if away is None else z + away
    return Splats(
        center=(torch.stack((u * z, v * z, z), -1) - shift) @ turn,
        log_scale=log_scale,
        rotation=rotation,
        opacity=opacity.clamp(0.02, 0.995).logit(),
        harmonics=center.new_zeros(len(center), 1, 3),
    )


def _read_surface(depth: Tensor, center: Tensor, focal: float) -> tuple[Tensor, Tensor, Tensor]:
    """Read depth (h, w) and its bounded slopes along x and y, per pixel, at pixels (m, 2)."""
    planes = torch.stack((depth, *reversed(torch.gradient(depth))))
    z, across, down = read_at(planes[None], center[None])[0].T
    steep = (torch.hypot(across, down) * focal / (_STEEPEST * z)).clamp(min=1)
    return z, across / steep, down / steep
