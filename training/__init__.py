"""The training of restorers: data, losses, the loop, evaluation.

It imports core and temporal, never plugin. `config` describes a training run as one value.

gaussians/     3-D Gaussians: PLY files, rasterisers, harmonics
faces/         faces found, cut out, parsed
degradations/  synthetic degradations
prepare/       pictures and clips to pairs on disk
avatars/       pairs from avatars
key_pairs/     key pairs for a light avatar
data/          portraits, pairs, sequences, and the batches drawn from them
models/        the networks in training
losses/        the loss and its terms
train/         the loop, resuming, `fit`
evaluate/      metrics and tables
"""

from splatmend.training.config import LossWeights, TrainConfig
from splatmend.training.data.camera_paths import CameraPath, View, look, move, splat_clip
from splatmend.training.data.portraits import Portrait, Split, draw_batch, load_portraits
from splatmend.training.degradations.recipes import Recipe, degrade, draw_recipe
from splatmend.training.degradations.resplatting import (
    Gaussians,
    SplatOptions,
    place,
    rasterize,
    resplat,
    thin,
)
from splatmend.training.gaussians.ply import Splats, read_ply, write_ply
from splatmend.training.gaussians.rasterizer import Camera, Render, render
from splatmend.training.gaussians.spherical_harmonics import evaluate_harmonics

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
