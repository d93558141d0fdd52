"""The way in: a restorer by name, and frames through it.

`registry` loads a restorer from a name or a file. `frames` sends frames through it: it crops to the
alpha box, lays a matte, applies strength and references, and puts alpha back.
"""

from splatmend.core.restore.frames import (
    RestoreOptions,
    alpha_box,
    restore_frames,
    restore_pixels,
)
from splatmend.core.restore.registry import (
    available_restorers,
    fast_dtype,
    load_restorer,
    pick_device,
)

__all__ = [
    "RestoreOptions",
    "alpha_box",
    "available_restorers",
    "fast_dtype",
    "load_restorer",
    "pick_device",
    "restore_frames",
    "restore_pixels",
]
