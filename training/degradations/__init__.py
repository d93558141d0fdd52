"""Synthetic degradations that look like a bad splat render.

`resplatting` redraws a picture with 2-D Gaussians. `recipes` degrade crops in the training loop.
`steps` are the fourteen of `splatmend prepare`, each within `patch_masks`. `augmentation` comes
last.
"""

from splatmend.training.degradations.augmentation import Augmentation, augment
from splatmend.training.degradations.recipes import Recipe, degrade, draw_recipe
from splatmend.training.degradations.resplatting import (
    Gaussians,
    SplatOptions,
    place,
    rasterize,
    resplat,
    thin,
)
from splatmend.training.degradations.steps import Drawn, apply_steps, draw_steps

__all__ = [
    "Augmentation",
    "Drawn",
    "Gaussians",
    "Recipe",
    "SplatOptions",
    "apply_steps",
    "augment",
    "degrade",
    "draw_recipe",
    "draw_steps",
    "place",
    "rasterize",
    "resplat",
    "thin",
]
