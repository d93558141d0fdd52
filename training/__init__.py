"""Making restorers: degradations, pairs, losses, the loop, evaluation.

Pictures to pairs:
splatting     re-splat a picture with 2-D Gaussians: the heart of the degradation
degradations  the recipe that the loop draws for each crop
morton        an order in which neighbours are near: the splats'
foreground    heads cut out of portraits
dataset       portraits split by person; crops named by (seed, step, index)
sources, align, regions, patches, steps (steps_splat, steps_camera), pair_maker, contact_sheet,
prepare       pictures and clips to aligned, degraded pairs on disk (`splatmend prepare`)
manifest      the list of such pairs
augmentation  what strikes the input besides, while training

Avatars to pairs:
ply, harmonics, rasterizer, gsplat_backend  3-D Gaussians to colour, alpha, depth, exact motion
damage, avatar  thinned and rendered (`splatmend thin`, `splatmend render`)
key_choice, key_baking  key pairs from the poses where they help most (`splatmend references`)
covariance    shapes that mix: for merging and laying on surfaces
relief        an avatar made of every portrait (`splatmend relief`)
retexture     one avatar dressed as many people (`splatmend retexture`)
avatar_pairs, coloring  what both share: cameras, damage, colours that show a picture

The loop:
config, train, run_state  the run as a value, as a loop, and what resumes it (`splatmend train`)
batches, pair_crops, sequences, recordings  what it draws: crops of degraded portraits or of pairs,
              clips with exact motion
rolling_pool, frame_pool, sequence_pool  the same from larger pieces, each used many times
shifts        crops seen again whole pixels away: what a network makes of its own grid
models, turbo_model  what is trained: compact, its adapters, turbo
objective, losses, dists, adversarial, opponent, identity  the terms of the loss
validation    what is judged on the way
clips         moving clips made from one picture and its splats

Judging:
pairs, metrics, report, evaluate  one table on the same pictures (`splatmend evaluate`)
guided_rows   the references of its rows "NAME + references" and "NAME + keys"
estimator     the measured truth of damage, and the network that guesses it

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
