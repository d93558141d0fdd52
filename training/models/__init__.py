"""The models in training and their checkpoints.

`compact` trains the small network or a LoRA on it. `turbo` trains LoRA and skip convolutions on
SD-Turbo; it needs diffusers and is imported late.
"""

from splatmend.training.models.compact import build_model, frozen_compact, read_compact

__all__ = ["build_model", "frozen_compact", "read_compact"]
