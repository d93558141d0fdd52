import numpy as np
import torch

from splatmend.core import to_tensor
from splatmend.training import SplatOptions, place, rasterize
from splatmend.training.data.camera_paths import CameraPath, View, look, move, splat_clip


def test_splats_and_picture_move_together(face: np.ndarray) -> None:
    picture = to_tensor([face])
    view = View((150.0, 100.0), zoom=1.4, roll=0.3)
    options = SplatOptions(spacing=1.5, detail=0.3)
    gaussians = place(picture, options, torch.Generator().manual_seed(0))
    color, weight, _ = rasterize(move(gaussians, view, 192), (192, 192))
    shown = look(picture, view, 192)
    error = (color / weight.clamp(min=1e-3) - shown).abs()[..., 16:-16, 16:-16]
    still = shown - look(picture, View((153.0, 100.0), 1.4, 0.3), 192)
    assert error.mean() < 0.03
    assert error.mean() < 0.5 * still.abs().mean()  # a shift of 3 pixels would show


def test_a_look_straight_on_is_the_picture(face: np.ndarray) -> None:
    picture = to_tensor([face])
    torch.testing.assert_close(look(picture, View((127.5, 127.5), 1, 0), 256), picture)


def test_the_path_is_closed(face: np.ndarray) -> None:
    path = CameraPath((120, 120))
    np.testing.assert_allclose(
        np.hstack([*path.at(0.0, 256).focus, path.at(0.0, 256).zoom]),
        np.hstack([*path.at(1.0, 256).focus, path.at(1.0, 256).zoom]),
    )
    clip = list(splat_clip(to_tensor([face]), path, SplatOptions(), frames=3, side=64))
    assert len(clip) == 3
    assert all(d.shape == c.shape == (1, 3, 64, 64) for d, c in clip)
    assert not torch.equal(clip[0][1], clip[1][1])
