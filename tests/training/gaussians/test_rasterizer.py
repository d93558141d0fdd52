import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y
from torch.nn import functional as F

from splatmend.core import InputError
from splatmend.training.gaussians.ply import Splats, read_ply
from splatmend.training.gaussians.rasterizer import Camera, render
from splatmend.training.gaussians.spherical_harmonics import evaluate_harmonics

AVATARS = Path(__file__).resolve().parents[4] / "shared" / "data" / "avatars"
FRONT = Camera.look_at((0, 0, 2), fov_y=45, size=(96, 128))
_C0 = 0.28209479177387814


def splats(center: object, *, scale: float = 0.02, opacity: float = 0.9, color: object = 0.5):
    points = torch.as_tensor(center, dtype=torch.float32).view(-1, 3)
    n = len(points)
    gray = torch.as_tensor(color, dtype=torch.float32).expand(n, 3)
    return Splats(
        center=points,
        log_scale=torch.full((n, 3), math.log(scale)),
        rotation=torch.tensor([1.0, 0, 0, 0]).expand(n, 4),
        opacity=torch.full((n,), math.log(opacity / (1 - opacity))),
        harmonics=((gray - 0.5) / _C0)[:, None],
    )


def wall(scale: float = 0.03) -> Splats:
    """A plane of many Gaussians that faces the camera, in a smooth pattern of colours."""
    y, x = torch.meshgrid(
        torch.arange(-0.6, 0.6, 0.02), torch.arange(-0.8, 0.8, 0.02), indexing="ij"
    )
    center = torch.stack((x, y, torch.zeros_like(x)), -1).view(-1, 3)
    color = 0.5 + 0.4 * torch.stack(((9 * x).sin(), (11 * y).cos(), (7 * (x + y)).sin()), -1).view(
        -1, 3
    )
    return replace(
        splats(center, scale=scale, opacity=0.95), harmonics=((color - 0.5) / _C0)[:, None]
    )


def test_one_gaussian_lands_where_a_pinhole_puts_it_and_as_wide() -> None:
    picture = render(splats([0.3, 0.2, 0.0], scale=0.06), FRONT)
    alpha = picture.alpha[0].double()
    focal = 48 / math.tan(math.radians(22.5))
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    # up in the world is up in the picture, and right is right
    assert (alpha * x).sum() / alpha.sum() == pytest.approx(64 + focal * 0.3 / 2, abs=0.02)
    assert (alpha * y).sum() / alpha.sum() == pytest.approx(48 - focal * 0.2 / 2, abs=0.02)
    assert alpha.max() == pytest.approx(0.9, abs=0.02)
    row = alpha[int(alpha.argmax()) // 128]
    sigma = math.sqrt((focal * 0.06 / 2) ** 2 + 0.3)
    half_width = (row > alpha.max() * math.exp(-0.5)).sum() / 2
    assert half_width == pytest.approx(sigma, abs=0.6)
    assert picture.depth[picture.alpha > 0.01].sub(2).abs().max() < 1e-4


def test_the_nearer_one_covers_the_other() -> None:
    near, far = [0.0, 0.0, 0.3], [0.0, 0.0, -0.3]
    for order in ((near, far), (far, near)):
        colors = [[1.0, 0, 0] if point is near else [0, 0, 1.0] for point in order]
        both = splats(list(order), scale=0.1, opacity=0.8, color=torch.tensor(colors))
        red, _, blue = render(both, FRONT).color[:, 48, 64]
        assert red == pytest.approx(0.8, abs=0.01)
        assert blue == pytest.approx(0.8 * 0.2, abs=0.01)


def test_behind_the_camera_and_outside_the_picture_there_is_nothing() -> None:
    picture = render(splats([[0, 0, 3.0], [9.0, 0, 0]]), FRONT)
    assert not picture.alpha.any()
    assert not picture.color.any()
    assert picture.depth.isfinite().all()


def test_a_stretched_gaussian_turns_with_its_quaternion() -> None:
    long = replace(splats([0.0, 0, 0]), log_scale=torch.tensor([[0.1, 0.01, 0.01]]).log())
    upright = replace(long, rotation=torch.tensor([[1.0, 0, 0, 1]]))  # 90 degrees about z
    lying, standing = (render(s, FRONT).alpha[0] for s in (long, upright))
    assert lying[48, 72] > 0.2 > lying[56, 64]
    assert standing[56, 64] > 0.2 > standing[48, 72]


def test_harmonics_are_the_real_spherical_harmonics() -> None:
    direction = F.normalize(torch.randn(40, 3), dim=-1)
    x, y, z = direction.double().numpy().T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    for index in range(16):
        degree = int(index**0.5)
        order = index - degree * degree - degree
        value = sph_harm_y(degree, abs(order), polar, azimuth)
        # the real ones; the Condon-Shortley phase is part of both conventions
        expected = value.real if order == 0 else 2**0.5 * (value.imag if order < 0 else value.real)
        coefficients = torch.zeros(40, 16, 3)
        coefficients[:, index] = 1
        ours = evaluate_harmonics(coefficients, direction)[:, 0]
        np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6, err_msg=str(index))


def test_the_motion_is_exact_for_a_wall_seen_from_elsewhere() -> None:
    other = Camera.look_at((0.1, 0.05, 2), target=(0.1, 0.05, 0), fov_y=45, size=(96, 128))
    nearer = Camera.look_at((0, 0, 1.8), fov_y=45, size=(96, 128))
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    inside = np.s_[:, 30:66, 40:88]
    motion = render(wall(), FRONT, towards=(wall(), other)).motion
    shift = FRONT.focal / 2 * torch.tensor([-0.1, 0.05])
    torch.testing.assert_close(motion[inside], shift.view(2, 1, 1).expand(2, 36, 48))
    zoom = render(wall(), FRONT, towards=(wall(), nearer)).motion
    expected = torch.stack((x - 64, y - 48)) * (2 / 1.8 - 1)
    torch.testing.assert_close(zoom[inside], expected[inside], atol=2e-3, rtol=0)


def test_the_motion_of_gaussians_that_move_themselves() -> None:
    angle = math.radians(4)
    spin = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )
    turned = replace(
        wall(),
        center=wall().center @ spin.T,
        rotation=torch.tensor([math.cos(angle / 2), 0, 0, math.sin(angle / 2)]).expand(
            len(wall()), 4
        ),
    )
    motion = render(wall(), FRONT, towards=(turned, FRONT)).motion
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    u, v = x - 64, y - 48  # down the picture is down in the world: the turn is mirrored
    expected = torch.stack(
        (
            u * math.cos(angle) + v * math.sin(angle) - u,
            v * math.cos(angle) - u * math.sin(angle) - v,
        )
    )
    torch.testing.assert_close(
        motion[:, 30:66, 40:88], expected[:, 30:66, 40:88], atol=2e-3, rtol=0
    )


def test_without_change_nothing_moves() -> None:
    motion = render(wall(), FRONT, towards=(wall(), FRONT)).motion
    assert motion.abs().max() < 1e-3


def test_gradients_reach_every_parameter() -> None:
    names = ("center", "log_scale", "rotation", "opacity", "harmonics")
    one = replace(splats([0.02, 0.01, 0]), log_scale=torch.tensor([[-3.0, -4, -4]]))
    free = {name: getattr(one, name).clone().requires_grad_() for name in names}
    picture = render(replace(one, **free), FRONT)
    (picture.over(0)[:, 40:60, 50:66] ** 2).sum().backward()
    assert all(value.grad.isfinite().all() and value.grad.any() for value in free.values())


def test_impossible_cameras_and_poses_are_refused() -> None:
    with pytest.raises(InputError, match="must not stand on its target"):
        Camera.look_at((0, 0, 0), fov_y=30, size=(8, 8))
    with pytest.raises(InputError, match="must not point along the line of sight"):
        Camera.look_at((0, 2, 0), fov_y=30, size=(8, 8))
    with pytest.raises(InputError, match="towards holds 1 Gaussians, expected the same"):
        render(wall(), FRONT, towards=(splats([0.0, 0, 0]), FRONT))


@pytest.mark.slow
@pytest.mark.skipif(not AVATARS.is_dir(), reason="the avatars are not beside this checkout")
@pytest.mark.parametrize("name", ["james", "status"])
def test_it_agrees_with_a_public_renderer(name: str) -> None:
    avatar = read_ply(AVATARS / name / "avatar.ply")
    for index, path in enumerate(sorted((AVATARS / name / "ref").iterdir())):
        if index % 9:
            continue
        yaw = -0.4 + 0.8 * index / 19
        camera = Camera.look_at(
            (0.8 * math.sin(yaw), 0, 0.8 * math.cos(yaw)), fov_y=30, size=(512, 512)
        )
        with torch.inference_mode():
            ours = render(avatar, camera, low_pass=0.075).over(1).clamp(0, 1)
        theirs = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1) / 255
        assert -10 * (ours - theirs).square().mean().log10() > 40
