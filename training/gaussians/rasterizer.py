"""A small reference rasteriser for 3-D Gaussians, in torch, for machines without CUDA.

It does perspective EWA splatting (Zwicker et al. 2001), front to back, with the constants of
Kerbl et al. 2023, "3D Gaussian Splatting": alpha lies between 1/255 and 0.99. It is
differentiable. Besides colour it gives alpha, depth and the exact motion of every pixel towards
another pose, which an estimator cannot give.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.spherical_harmonics import evaluate_harmonics

__all__ = ["NEAR", "Camera", "Render", "blend_weights", "blended", "render", "unpack"]

_CUT = 8**0.5  # a Gaussian ends at this many standard deviations, where its alpha is 0.018
NEAR = 0.01
_TILE = 16
_CHUNK = 1 << 22  # Gaussian-pixel pairs evaluated at once: 16 MB a plane


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. Its axes are x right, y down, z forward; lengths are in pixels."""

    world_to_camera: Tensor  # (3, 4)
    focal: float
    width: int
    height: int

    @classmethod
    def look_at(
        cls,
        eye: Sequence[float],
        *,
        fov_y: float,
        size: tuple[int, int],
        target: Sequence[float] = (0.0, 0.0, 0.0),
        up: Sequence[float] = (0.0, 1.0, 0.0),
    ) -> Self:
        """Place a camera at `eye` that looks at `target`.

        `fov_y` is the vertical field of view in degrees, and `size` is (height, width).

        Raises:
            InputError: `eye` is `target`, or `up` points along the line of sight.
        """
        position = torch.tensor(eye, dtype=torch.float32)
        forward = torch.tensor(target, dtype=torch.float32) - position
        if forward.norm() < 1e-6:
            raise InputError(f"the camera at {tuple(eye)} must not stand on its target")
        forward = forward / forward.norm()
        right = torch.linalg.cross(forward, torch.tensor(up, dtype=torch.float32))
        if right.norm() < 1e-6:
            raise InputError(f"up {tuple(up)} must not point along the line of sight")
        right = right / right.norm()
        turn = torch.stack((right, torch.linalg.cross(forward, right), forward))
        matrix = torch.cat((turn, -(turn @ position)[:, None]), 1)
        focal = size[0] / (2 * math.tan(math.radians(fov_y) / 2))
        return cls(matrix, focal, size[1], size[0])

    @classmethod
    def orbit(
        cls,
        yaw: float,
        pitch: float,
        distance: float,
        *,
        fov_y: float,
        size: tuple[int, int],
        target: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Self:
        """Place a camera at `distance` that looks at `target`.

        Angles are in radians; at 0 the camera stands on +z, and y points up.
        """
        direction = (
            math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch),
        )  # fmt: skip
        eye = [t + distance * d for t, d in zip(target, direction, strict=True)]
        return cls.look_at(eye, target=target, fov_y=fov_y, size=size)

    @property
    def position(self) -> Tensor:
        """Return the camera's position in the world, (3,)."""
        return -self.world_to_camera[:, :3].T @ self.world_to_camera[:, 3]


@dataclass(frozen=True)
class Render:
    """The planes of one frame, float32."""

    color: Tensor  # (3, h, w) premultiplied by alpha, 0 to about 1
    alpha: Tensor  # (1, h, w)
    depth: Tensor  # (1, h, w) mean distance along the view axis; 0 where alpha is 0
    motion: Tensor | None  # (2, h, w) x, y in pixels towards the other pose; 0 where alpha is 0

    def over(self, ground: float = 1.0) -> Tensor:
        """Composite the colour over a grey level in [0, 1] -> (3, h, w)."""
        return self.color + ground * (1 - self.alpha)


@dataclass(frozen=True)
class _Projected:
    """The Gaussians in front of a camera, nearest first."""

    center: Tensor  # (m, 2) pixels
    conic: Tensor  # (m, 3) inverse covariance xx, xy, yy
    extent: Tensor  # (m, 2) half sides of the box beyond which alpha is cut off
    opacity: Tensor  # (m,)
    features: Tensor  # (m, c) the values to blend


def render(
    splats: Splats,
    camera: Camera,
    *,
    towards: tuple[Splats, Camera] | None = None,
    low_pass: float = 0.3,
) -> Render:
    """Render one frame; with `towards`, also the motion of each pixel to that pose.

    The result is differentiable with respect to all of `splats`.

    Args:
        splats: the Gaussians.
        camera: the view to render.
        towards: the same Gaussians, moved or not, and the other frame's camera. The previous
            frame gives backward flow, the next frame forward flow.
        low_pass: square pixels added to each variance: 0.3 in the original and in gsplat, 0.075
            in the PlayCanvas engine, which counts half pixels.

    Raises:
        InputError: `towards` holds another number of Gaussians.

    >>> ball = Splats(
    ...     center=torch.zeros(1, 3),
    ...     log_scale=torch.full((1, 3), -2.0),
    ...     rotation=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
    ...     opacity=torch.tensor([4.0]),
    ...     harmonics=torch.zeros(1, 1, 3),
    ... )
    >>> camera = Camera.look_at((0, 0, 3), fov_y=30, size=(32, 48))
    >>> frame = render(ball, camera)
    >>> frame.color.shape, frame.alpha.shape, frame.motion
    (torch.Size([3, 32, 48]), torch.Size([1, 32, 48]), None)
    >>> f"{frame.alpha[0, 16, 24]:.2f} {frame.alpha[0, 0, 0]:.2f} {frame.depth[0, 16, 24]:.1f}"
    '0.95 0.00 3.0'
    """
    projected = _project(splats, camera, blended(splats, camera, towards), low_pass)
    return unpack(_rasterize(projected, camera.height, camera.width))


def unpack(planes: Tensor) -> Render:
    """Convert blended features of `blended`, (5 or 11, h, w), to a frame."""
    color, alpha, depth = planes[:3], planes[3:4], planes[4:5]
    solid = alpha.clamp(min=1e-6)
    motion = None
    if len(planes) > 5:
        y, x = _pixel_centers(*planes.shape[1:])
        moved = torch.stack(
            (planes[5] + planes[7] * x + planes[8] * y, planes[6] + planes[9] * x + planes[10] * y)
        )
        motion = moved / solid
    return Render(color, alpha, depth / solid, motion)


def _pixel_centers(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return y, x


def rotation_matrices(quaternion: Tensor) -> Tensor:
    """Convert quaternions (n, 4) w, x, y, z of any length to matrices (n, 3, 3)."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _view(splats: Splats, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Project centres to camera (n, 3) and screen (n, 2), with d screen / d world (n, 2, 3)."""
    turn, shift = camera.world_to_camera[:, :3], camera.world_to_camera[:, 3]
    point = splats.center @ turn.T + shift
    x, y, z = point.unbind(-1)
    z = z.clamp(min=NEAR)
    middle = point.new_tensor((camera.width / 2, camera.height / 2))
    screen = camera.focal * point[:, :2] / z[:, None] + middle
    # far outside the picture the affine approximation diverges: bound the slope, as the original
    bound = 1.3 * middle / camera.focal
    u = (x / z).clamp(-bound[0], bound[0])
    v = (y / z).clamp(-bound[1], bound[1])
    zero = torch.zeros_like(z)
    rows = torch.stack(
        (torch.stack((1 / z, zero, -u / z), -1), torch.stack((zero, 1 / z, -v / z), -1)), 1
    )
    return point, screen, camera.focal * rows @ turn


def blended(splats: Splats, camera: Camera, towards: tuple[Splats, Camera] | None = None) -> Tensor:
    """Compute the features of each Gaussian that any rasteriser blends to a `Render`, (n, 5 or 11).

    They are colour, 1, depth, and with `towards` the motion as a function of the pixel.
    """
    direction = torch.nn.functional.normalize(splats.center - camera.position, dim=-1)
    color = (evaluate_harmonics(splats.harmonics, direction) + 0.5).clamp(min=0)
    depth = splats.center @ camera.world_to_camera[2, :3] + camera.world_to_camera[2, 3]
    features = [color, torch.ones_like(color[:, :1]), depth[:, None]]
    if towards is not None:
        features += _motion_features(splats, camera, towards)
    return torch.cat(features, 1)


def _project(splats: Splats, camera: Camera, features: Tensor, low_pass: float) -> _Projected:
    point, screen, slope = _view(splats, camera)
    turn = rotation_matrices(splats.rotation)
    shape = slope @ (turn * splats.log_scale.exp()[:, None, :])  # (n, 2, 3)
    covariance = shape @ shape.transpose(1, 2)
    xx, xy, yy = (covariance[:, i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
    xx, yy = xx + low_pass, yy + low_pass
    determinant = (xx * yy - xy * xy).clamp(min=1e-12)
    conic = torch.stack((yy, -xy, xx), -1) / determinant[:, None]
    extent = _CUT * torch.stack((xx, yy), -1).sqrt()
    size = screen.new_tensor((camera.width, camera.height))
    seen = (point[:, 2] > NEAR) & ((screen + extent > 0) & (screen - extent < size)).all(1)
    order = torch.where(seen, point[:, 2], torch.inf).argsort(stable=True)[: int(seen.sum())]
    opacity = splats.opacity.sigmoid()
    return _Projected(*(t[order] for t in (screen, conic, extent, opacity, features)))


def _motion_features(
    splats: Splats, camera: Camera, towards: tuple[Splats, Camera]
) -> list[Tensor]:
    """Express each Gaussian's motion as offset (n, 2) + slope (n, 2 x 2) times the pixel.

    A pixel near a Gaussian sees the plane through its centre that faces the camera. This plane
    moves rigidly with the Gaussian and is projected again.
    """
    other, other_camera = towards
    if len(other) != len(splats):
        raise InputError(f"towards holds {len(other)} Gaussians, expected the same {len(splats)}")
    point, screen, _ = _view(splats, camera)
    turn = rotation_matrices(splats.rotation)
    _, other_screen, other_slope = _view(other, other_camera)
    spin = rotation_matrices(other.rotation) @ turn.transpose(1, 2)  # (n, 3, 3)
    plane = camera.world_to_camera[:2, :3].T * (point[:, 2] / camera.focal)[:, None, None]
    slope = other_slope @ spin @ plane - torch.eye(2)  # (n, 2, 2)
    offset = other_screen - screen - (slope @ screen[:, :, None])[..., 0]
    return [offset, slope.flatten(1)]


def _rasterize(gaussians: _Projected, height: int, width: int) -> Tensor:
    """Blend the features front to back -> (c, h, w)."""
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    channels = gaussians.features.shape[1]
    tiles = gaussians.features.new_zeros((rows * columns, channels, _TILE * _TILE))
    for index, members in _tile_lists(gaussians, rows, columns):
        tiles = tiles.index_copy(0, index, _blend(gaussians, members, index, columns))
    picture = tiles.view(rows, columns, channels, _TILE, _TILE).permute(2, 0, 3, 1, 4)
    return picture.reshape(channels, rows * _TILE, columns * _TILE)[:, :height, :width]


def _tile_lists(gaussians: _Projected, rows: int, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield groups of tiles (t,) with their Gaussians (t, k), nearest first, padded with -1.

    Tiles with similar counts share a group, so there is little padding.
    """
    limits = gaussians.center.new_tensor((columns, rows))
    low = ((gaussians.center - gaussians.extent).detach() / _TILE).floor().clamp(min=0).long()
    high = ((gaussians.center + gaussians.extent).detach() / _TILE).floor() + 1
    span = (high.minimum(limits).long() - low).clamp(min=0)  # (m, 2)
    counts = span.prod(1)
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    nth = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
    across = span[owner, 0]
    tile = (low[owner, 1] + nth // across) * columns + low[owner, 0] + nth % across
    order = tile.argsort(stable=True)  # within a tile the order stays that of depth
    owner, filled = owner[order], torch.bincount(tile, minlength=rows * columns)
    first = filled.cumsum(0) - filled
    by_count = filled.argsort(descending=True)
    by_count = by_count[: int((filled > 0).sum())]
    while len(by_count):
        most = int(filled[by_count[0]])
        size = max(1, _CHUNK // (most * _TILE * _TILE))
        index, by_count = by_count[:size], by_count[size:]
        nth = torch.arange(most)
        members = (first[index, None] + nth).clamp(max=len(owner) - 1)
        yield index, torch.where(nth < filled[index, None], owner[members], -1)


def blend_weights(splats: Splats, camera: Camera, *, low_pass: float = 0.3) -> Tensor:
    """Compute the weight of each Gaussian in each pixel, sparse (h w, n).

    The product of this matrix and the colours is the frame. Weights below 0.001 are left out.
    """
    names = torch.arange(len(splats), dtype=torch.float32)[:, None]  # exact up to 2^24
    gaussians = _project(splats, camera, names, low_pass)
    rows, columns = -(-camera.height // _TILE), -(-camera.width // _TILE)
    places, shares = [torch.empty(2, 0, dtype=torch.long)], [torch.empty(0)]
    for index, members in _tile_lists(gaussians, rows, columns):
        weight = _weights(gaussians, members, index, columns)
        tile, member, pixel = (weight > 1e-3).nonzero().unbind(-1)
        y = index[tile] // columns * _TILE + pixel // _TILE
        x = index[tile] % columns * _TILE + pixel % _TILE
        inside = (y < camera.height) & (x < camera.width)
        owner = gaussians.features[members[tile, member], 0].long()
        places.append(torch.stack((y * camera.width + x, owner))[:, inside])
        shares.append(weight[tile, member, pixel][inside])
    size = (camera.height * camera.width, len(splats))
    return torch.sparse_coo_tensor(
        torch.cat(places, 1), torch.cat(shares), size, check_invariants=True
    )


def _blend(gaussians: _Projected, members: Tensor, index: Tensor, columns: int) -> Tensor:
    """Blend some tiles front to back: members (t, k) -> (t, c, pixels)."""
    weight = _weights(gaussians, members, index, columns)
    return gaussians.features[members].transpose(1, 2) @ weight


def _weights(gaussians: _Projected, members: Tensor, index: Tensor, columns: int) -> Tensor:
    """Compute the weight of each member in each pixel: members (t, k) -> (t, k, pixels)."""
    corner = torch.stack((index % columns, index // columns), -1) * _TILE  # (t, 2)
    y, x = (plane.flatten() for plane in _pixel_centers(_TILE, _TILE))
    a, b, c = gaussians.conic[members].unbind(-1)  # (t, k)
    u, v = (gaussians.center[members] - corner[:, None]).unbind(-1)
    # the exponent is quadratic in the pixel, so one matrix product evaluates all of them
    slope_x, slope_y = a * u + b * v, b * u + c * v
    terms = torch.stack(
        (a, 2 * b, c, -2 * slope_x, -2 * slope_y, slope_x * u + slope_y * v), -1
    )  # fmt: skip
    basis = torch.stack((x * x, x * y, y * y, x, y, torch.ones_like(x)))
    power = (-0.5 * terms) @ basis  # (t, k, pixels)
    opacity = torch.where(members < 0, 0.0, gaussians.opacity[members])
    alpha = (opacity[..., None] * power.clamp(max=0).exp()).clamp(max=0.99)
    alpha = torch.where((alpha < 1 / 255) | (power < -0.5 * _CUT**2), 0.0, alpha)
    through = (1 - alpha).cumprod(1)
    return alpha * torch.cat((torch.ones_like(through[:, :1]), through[:, :-1]), 1)
