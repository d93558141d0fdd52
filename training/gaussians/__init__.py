"""3-D Gaussians of an avatar: files, shapes, colours and pictures of them.

`ply` reads and writes 3DGS files. `spherical_harmonics` gives colours and `covariance` shapes.
`rasterizer` renders on a CPU, `gsplat_backend` on CUDA. `morton` sorts by nearness.
"""

from splatmend.training.gaussians.ply import Splats, read_ply, write_ply
from splatmend.training.gaussians.rasterizer import Camera, Render, render
from splatmend.training.gaussians.spherical_harmonics import evaluate_harmonics, plain_harmonics

__all__ = [
    "Camera",
    "Render",
    "Splats",
    "evaluate_harmonics",
    "plain_harmonics",
    "read_ply",
    "render",
    "write_ply",
]
