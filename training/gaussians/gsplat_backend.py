"""The frames of rasterizer.py, drawn by gsplat on a CUDA device.

Source: Ye et al. 2024, "gsplat: An Open-Source Library for Gaussian Splatting". gsplat blends
any features, so depth and exact motion come from the same pass as colour.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import torch

from splatmend.core.errors import InputError
from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.rasterizer import NEAR, Camera, Render, blended, render, unpack

__all__ = ["Backend", "pick_backend", "render_gsplat"]

Backend = Literal["auto", "gsplat", "reference"]


def pick_backend(wanted: Backend) -> Callable[..., Render]:
    """Choose the function that draws: `render_gsplat`, or `render` of the reference rasteriser.

    Raises:
        InputError: `wanted` is "gsplat", and the package or CUDA is missing.
    """
    lacking = [
        name
        for name, there in (
            ("the package gsplat", find_spec("gsplat") is not None),
            ("a CUDA device", torch.cuda.is_available()),
        )
        if not there
    ]
    if wanted == "gsplat" and lacking:
        raise InputError(f"gsplat needs {' and '.join(lacking)}: use --backend reference")
    return render if wanted == "reference" or lacking else render_gsplat


def render_gsplat(
    splats: Splats,
    camera: Camera,
    *,
    towards: tuple[Splats, Camera] | None = None,
    low_pass: float = 0.3,
    device: str | torch.device = "cuda",
) -> Render:
    """Render as `splatmend.training.gaussians.rasterizer.render`; the frame is on the CPU."""
    from gsplat import rasterization

    pose = torch.cat((camera.world_to_camera, torch.tensor([[0.0, 0.0, 0.0, 1.0]])))
    middle_x, middle_y = camera.width / 2, camera.height / 2
    intrinsics = torch.tensor(
        [[camera.focal, 0.0, middle_x], [0.0, camera.focal, middle_y], [0.0, 0.0, 1.0]]
    )
    gaussians = {
        "means": splats.center,
        "quats": splats.rotation,
        "scales": splats.log_scale.exp(),
        "opacities": splats.opacity.sigmoid(),
        "colors": blended(splats, camera, towards),
        "viewmats": pose[None],
        "Ks": intrinsics[None],
    }
    planes, _, _ = rasterization(
        **{name: value.to(device) for name, value in gaussians.items()},
        width=camera.width,
        height=camera.height,
        near_plane=NEAR,
        eps2d=low_pass,
        packed=False,
    )  # (1, h, w, c)
    return unpack(planes[0].permute(2, 0, 1).cpu())
