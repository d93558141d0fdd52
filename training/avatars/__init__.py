"""Pairs from avatars: real ones thinned, and avatars made of portraits.

`thinning` degrades Gaussians and `thin_and_render` renders both versions. `from_portrait` and
`retexture` make avatars with `fit_colors`. `rendered_pairs` writes their pairs.
"""

from splatmend.training.avatars.rendered_pairs import PairsConfig, front_camera
from splatmend.training.avatars.thin_and_render import (
    RenderConfig,
    ThinConfig,
    render_avatar,
    thin_avatar,
)

__all__ = [
    "PairsConfig",
    "RenderConfig",
    "ThinConfig",
    "front_camera",
    "render_avatar",
    "thin_avatar",
]
