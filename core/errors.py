"""The errors that Splatmend raises.

    SplatmendError
    ├── InputError (also ValueError)    a frame, a tensor or an option cannot be used as it came
    ├── ModelError
    │   ├── UnknownModelError           no restorer of that name, no file at that path
    │   └── CheckpointError             the file exists but is not a checkpoint that we can read
    ├── TrainingError                   a run cannot go on; its last save is whole
    └── VideoError
        ├── VideoInputError             nothing could be read: no such file, no video stream
        ├── VideoOutputError            the target cannot be written: read-only, disk full, codec
        └── DamagedInputError           part was read; that part is whole under the final name

Each message names the input, the allowed values and the next step. The command
line prints it as one line and ends with `exit_code`.
"""

__all__ = [
    "CheckpointError",
    "DamagedInputError",
    "InputError",
    "ModelError",
    "SplatmendError",
    "TrainingError",
    "UnknownModelError",
    "VideoError",
    "VideoInputError",
    "VideoOutputError",
]


class SplatmendError(Exception):
    """The root of the tree; catch this to catch all of them."""

    exit_code = 2


class InputError(SplatmendError, ValueError):
    """A frame, a tensor or an option that cannot be used as it came."""


class ModelError(SplatmendError):
    """Something is wrong with a restorer or its weights."""


class UnknownModelError(ModelError):
    """Neither a registered name nor a checkpoint file."""


class CheckpointError(ModelError):
    """The file exists but is truncated, foreign or made for another architecture."""


class TrainingError(SplatmendError):
    """A training run cannot go on; its last save is whole."""


class VideoError(SplatmendError):
    """A clip could not be read or written."""


class VideoInputError(VideoError):
    """Nothing of the input could be read."""


class VideoOutputError(VideoError):
    """The output could not be written; the final name was left as it was."""


class DamagedInputError(VideoError):
    """The input ended early or was damaged; everything readable was written."""

    exit_code = 3
