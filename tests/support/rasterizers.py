"""Rasterisers named as the public ones, which render next to nothing."""

from typing import Any

import torch

from splatmend.plugin.attach.patches import Picture

SIZE = (5, 7)


INRIA = '''
from typing import NamedTuple
import torch
from torch import nn

class GaussianRasterizationSettings(NamedTuple):
    image_height: int
    image_width: int
    bg: torch.Tensor

class GaussianRasterizer(nn.Module):
    def __init__(self, raster_settings):
        super().__init__()
        self.raster_settings = raster_settings

    def forward(self, means3D, means2D, opacities, shs=None, colors_precomp=None, scales=None,
                rotations=None, cov3D_precomp=None):
        settings = self.raster_settings
        size = settings.image_height, settings.image_width
        if shs is None:  # of one Gaussian after the other
            index = torch.arange(size[0] * size[1]) % len(means3D)
            image = colors_precomp[index].T.reshape(3, *size)
        else:
            image = torch.linspace(0, 1, 3 * size[0] * size[1]).reshape(3, *size) * shs.mean()
        return image, torch.arange(len(means3D))
'''  # fmt: skip


GSPLAT_RENDERING = '''
import torch

def rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height,
                  near_plane=0.01, far_plane=1e10, sh_degree=None, backgrounds=None,
                  render_mode="RGB"):
    count = {"RGB": colors.shape[-1], "D": 1, "ED": 1}.get(render_mode, colors.shape[-1] + 1)
    cameras = viewmats.shape[-3]
    image = torch.linspace(0, 1, cameras * height * width * count)
    image = image.reshape(cameras, height, width, count) * means.mean()
    return image, torch.full((cameras, height, width, 1), 0.5), {"width": width}

def rasterization_2dgs(means, quats, scales, opacities, colors, viewmats, Ks, width, height,
                       sh_degree=None, backgrounds=None, render_mode="RGB"):
    image, alphas, meta = rasterization(means, quats, scales, opacities, colors, viewmats, Ks,
                                        width, height, render_mode=render_mode)
    return image, alphas, "normals", "surface", "distort", "median", meta
'''  # fmt: skip


def negative(picture: Picture) -> torch.Tensor:
    return 1 - picture.rgb


def inria(module: Any, *, size: tuple[int, int] = SIZE, **colors: Any) -> Any:
    settings = module.GaussianRasterizationSettings(*size, torch.zeros(3))
    if not colors:
        colors = {"shs": torch.ones(4, 16, 3)}
    means = torch.zeros(4, 3)
    return module.GaussianRasterizer(settings)(
        means3D=means, means2D=means, opacities=torch.ones(4, 1), **colors
    )


def gsplat(function: Any, *, cameras: int = 1, channels: int = 3, **options: Any) -> Any:
    means, colors = torch.ones(4, 3), torch.rand(4, channels)
    view = torch.eye(4).expand(cameras, 4, 4)
    return function(means, means, means, means[:, 0], colors, view, view, 7, 5, **options)
