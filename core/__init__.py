"""One frame in, one frame out. This folder imports none of the others.

The files beside this one are the base: frames, pixels, errors, checkpoints, and the contract of a
restorer. The rooms build on it.

references/  pictures of the same person, placed and aligned on a frame
compact/     the small restorer that ships inside
estimator/   how blurred and noisy a frame is; clean frames left alone
turbo/       the SD-Turbo restorer
perceptual/  LPIPS and its arithmetic
restore/     a restorer by name, and frames through it
"""

from splatmend.core.checkpoint import (
    CheckpointHeader,
    load_checkpoint,
    read_header,
    save_checkpoint,
)
from splatmend.core.color_lock import LOCK_REACH, lock_colors, low_frequencies
from splatmend.core.compact.network import Compact, CompactConfig
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
from splatmend.core.estimator.gate import Gated
from splatmend.core.estimator.network import DegradationEstimator, artifact_score, load_estimator
from splatmend.core.frame import AlphaKind, Frame
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
from splatmend.core.restore.frames import RestoreOptions, alpha_box, restore_frames, restore_pixels
from splatmend.core.restore.registry import available_restorers, load_restorer, pick_device
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
