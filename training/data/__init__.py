"""Training data: portraits, pairs and sequences, and the batches drawn from them.

`portraits`, `pairs` and `manifest` read files. `batches` draws from `pair_crops`, `sequences` and
the pools. `camera_paths` moves one picture as a clip.
"""

from splatmend.training.data.camera_paths import CameraPath, View, look, move, splat_clip
from splatmend.training.data.portraits import Portrait, Split, draw_batch, load_portraits

__all__ = [
    "CameraPath",
    "Portrait",
    "Split",
    "View",
    "draw_batch",
    "load_portraits",
    "look",
    "move",
    "splat_clip",
]
