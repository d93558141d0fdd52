"""One frame in, one frame out. This folder imports none of the others.

errors      everything raised on purpose, one tree
frame       Frame: a picture with its planes
pixels      the only uint8 / uint16 HWC <-> float CHW conversion
restorer    the contract of a restorer; copy and unsharp, the yardsticks
references/  pictures of the same person, and what they say about a frame
compact     the network of the embedded restorer
checkpoint  safetensors with a JSON header
lora        low-rank changes to weights, as data
adapter     compact fitted to one avatar: a LoRA file
estimator   how blurred and how noisy a frame is
gate        leave clean frames alone
turbo/      the SD-Turbo restorer
registry    load_restorer(name or path)
color_lock  keep the input's low frequencies
detail_floor  strong detail is redrawn, not wiped off
tiling      overlapping tiles for large pictures
heap        freed memory kept for the next frame
restore     frames through a restorer: alpha box, matte, strength
"""

from splatmend.core.checkpoint import (
    CheckpointHeader,
    load_checkpoint,
    read_header,
    save_checkpoint,
)
from splatmend.core.color_lock import LOCK_REACH, lock_colors, low_frequencies
from splatmend.core.compact import Compact, CompactConfig
from splatmend.core.errors import (
    CheckpointError,
    DamagedInputError,
    InputError,
    ModelError,
    SplatmendError,
    UnknownModelError,
    VideoError,
    VideoInputError,
    VideoOutputError,
)
from splatmend.core.estimator import DegradationEstimator, artifact_score, load_estimator
from splatmend.core.frame import AlphaKind, Frame
from splatmend.core.gate import Gated
from splatmend.core.heap import keep_freed_memory
from splatmend.core.pixels import crop_to, from_tensor, pad_to_multiple, to_tensor
from splatmend.core.references import (
    Choice,
    Guidance,
    Guide,
    Reference,
    ReferenceFit,
    References,
    read_pairs,
    read_picture_rgba,
    read_references,
)
from splatmend.core.registry import available_restorers, load_restorer, pick_device
from splatmend.core.restore import RestoreOptions, alpha_box, restore_frames, restore_pixels
from splatmend.core.restorer import (
    Copy,
    GuidedRestorer,
    NetworkRestorer,
    Restorer,
    RestorerTraits,
    UnsharpMask,
    checked,
    restore_guided,
    takes_guidance,
)
from splatmend.core.tiling import Tiled

__all__ = [
    "LOCK_REACH",
    "AlphaKind",
    "CheckpointError",
    "CheckpointHeader",
    "Choice",
    "Compact",
    "CompactConfig",
    "Copy",
    "DamagedInputError",
    "DegradationEstimator",
    "Frame",
    "Gated",
    "Guidance",
    "Guide",
    "GuidedRestorer",
    "InputError",
    "ModelError",
    "NetworkRestorer",
    "Reference",
    "ReferenceFit",
    "References",
    "RestoreOptions",
    "Restorer",
    "RestorerTraits",
    "SplatmendError",
    "Tiled",
    "UnknownModelError",
    "UnsharpMask",
    "VideoError",
    "VideoInputError",
    "VideoOutputError",
    "alpha_box",
    "artifact_score",
    "available_restorers",
    "checked",
    "crop_to",
    "from_tensor",
    "keep_freed_memory",
    "load_checkpoint",
    "load_estimator",
    "load_restorer",
    "lock_colors",
    "low_frequencies",
    "pad_to_multiple",
    "pick_device",
    "read_header",
    "read_pairs",
    "read_picture_rgba",
    "read_references",
    "restore_frames",
    "restore_guided",
    "restore_pixels",
    "save_checkpoint",
    "takes_guidance",
    "to_tensor",
]
