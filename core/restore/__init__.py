"""The entry point: a restorer by name, and the restoration of frames.

`registry` loads a restorer by name or from a file. `frames` restores frames with it: it crops to
the alpha box, adds a matte, applies strength and references, and puts alpha back.
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
