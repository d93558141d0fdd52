"""Making restorers: degradations, pairs, losses, the loop, evaluation.

splatting     re-splat a picture with 2-D Gaussians: the heart of the degradation
degradations  named, seeded steps and the recipe that strings them together
clips         moving clips made from one picture and its splats
ply           the Gaussians of a 3DGS file, read and written
rasterizer    3-D Gaussians to colour, alpha, depth and exact motion, without CUDA
harmonics     their colour by direction of view
foreground    heads cut out of portraits
dataset       portraits split by person; crops named by (seed, step, index)
losses        L1, LPIPS, Gram
config, train, run_state  the run as a value, as a loop, and what resumes it (`splatmend train`)
pair_crops    crops from real pairs, for adapters
damage, avatar  avatars thinned and rendered (`splatmend thin`, `splatmend render`)
estimator     the measured truth of damage, and the network that guesses it
pairs, metrics, evaluate  one table on the same pictures (`splatmend evaluate`)

Imports core and temporal, never plugin.
"""

from splatmend.training.clips import CameraPath, View, look, move, splat_clip
from splatmend.training.config import LossWeights, TrainConfig
from splatmend.training.dataset import Portrait, Split, draw_batch, load_portraits
from splatmend.training.degradations import Recipe, degrade, draw_recipe
from splatmend.training.harmonics import evaluate_harmonics
from splatmend.training.ply import Splats, read_ply, write_ply
from splatmend.training.rasterizer import Camera, Render, render
from splatmend.training.splatting import (
    Gaussians,
    SplatOptions,
    place,
    rasterize,
    resplat,
    thin,
)

__all__ = [
    "Camera",
    "CameraPath",
    "Gaussians",
    "LossWeights",
    "Portrait",
    "Recipe",
    "Render",
    "SplatOptions",
    "Splats",
    "Split",
    "TrainConfig",
    "View",
    "degrade",
    "draw_batch",
    "draw_recipe",
    "evaluate_harmonics",
    "load_portraits",
    "look",
    "move",
    "place",
    "rasterize",
    "read_ply",
    "render",
    "resplat",
    "splat_clip",
    "thin",
    "write_ply",
]
