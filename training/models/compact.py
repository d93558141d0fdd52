"""The models in training: compact, a LoRA on it, or turbo's LoRA; each writes its checkpoint.

A model maps (degraded (n, 3, h, w) in [0, 1], chance (n, 8) in [0, 1)) to the restored picture.
The result is float32 and not clamped, so gradients reach values out of range. `chance` holds
random numbers of each sample for dropout; the models draw none themselves.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from splatmend.core.checkpoint import (
    CheckpointHeader,
    config_from_json,
    load_checkpoint,
    save_checkpoint,
)
from splatmend.core.compact.adapter import save_adapter
from splatmend.core.compact.network import Compact, CompactConfig
from splatmend.core.errors import CheckpointError, InputError
from splatmend.core.lora import split_state
from splatmend.core.references import Guidance
from splatmend.training.config import TrainConfig

__all__ = ["CompactModel", "Model", "build_model", "frozen_compact", "read_compact"]

_LISTENING = "listener."
"""Prefix of the layers of compact that only guidance uses."""
_ADAPTER = "default"  # peft's name for the only one
_TARGETS = r"stem|head|gain|(down|up)\.\d+|.*\.conv[12]"

Weights = Mapping[str, Tensor]


class Model(Protocol):
    """A network in training; also an nn.Module, whose `requires_grad` marks the trained weights."""

    file_name: str
    """File name of its checkpoint."""

    def __call__(self, degraded: Tensor, chance: Tensor) -> Tensor:
        """Restore; see the module."""
        ...

    def save(self, path: Path, trained: Weights, notes: Mapping[str, Any]) -> None:
        """Write a checkpoint of these trained weights, named like the model's parameters."""
        ...


def build_model(config: TrainConfig) -> nn.Module:
    """Build the `Model` of a run on the CPU; the run's seed draws its fresh weights.

    Raises:
        CheckpointError: `init` cannot be read or does not fit.
        ModelError: SD-Turbo cannot be found.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.base == "compact":
            return CompactModel(config)
        from splatmend.training.models.turbo import TurboModel  # needs diffusers and peft

        return TurboModel(config)


class CompactModel(nn.Module):
    """The `Model` of compact, or with a rank of a LoRA on every convolution of a frozen compact."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.network, self._base = _compact(config)
        self.file_name = "adapter.safetensors" if config.rank else "compact.safetensors"
        if config.rank:
            _add_lora(self.network, config.rank)
        if config.references:  # train the listener alone: without references compact is unchanged
            self.network.requires_grad_(requires_grad=False)
            assert self.network.listener is not None
            self.network.listener.requires_grad_(requires_grad=True)
        self.network.to(memory_format=torch.channels_last)

    def forward(
        self,
        degraded: Tensor,
        chance: Tensor,  # noqa: ARG002
        guidance: Guidance | None = None,
    ) -> Tensor:
        """Add the residual to the input, without dropout."""
        restored: Tensor = degraded + self.network(degraded, guidance)
        return restored

    def save(self, path: Path, trained: Weights, notes: Mapping[str, Any]) -> None:
        """Write a checkpoint of compact, or an adapter bound to its base weights."""
        weights = {name.removeprefix("network."): value for name, value in trained.items()}
        if self._base:
            lora, _ = split_state(weights, _ADAPTER)
            save_adapter(path, replace(lora, alpha=float(lora.rank)), self._base, notes)
        else:
            header = CheckpointHeader("compact", self.network.config.to_dict(), notes)
            whole = {**self.network.state_dict(), **weights}
            save_checkpoint(path, header, whole, dtype=torch.float16)


def frozen_compact(path: Path | None = None) -> Compact:
    """Load a checkpoint, by default the one in the package, without gradients.

    Raises:
        CheckpointError: the file cannot be read or holds something else.
    """
    shape, weights = read_compact(path, "--teacher")
    network = Compact(shape)
    network.load_state_dict(weights)
    return network.requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)


def _compact(config: TrainConfig) -> tuple[Compact, Weights]:
    """Build the network; with a rank, also return the base weights below the adapter as stored."""
    if config.init is None and not config.rank and not config.references:
        return Compact(CompactConfig()), {}
    shape, weights = read_compact(config.init, "--init")
    # the same settings as in `load_restorer`
    network = Compact(
        replace(shape, detail_floor=False)
        if config.rank
        else replace(shape, references=shape.references or config.references)
    )
    # the listener may be missing in the file: then it starts at 0, as in an untrained network
    fresh = {name for name, _ in network.named_parameters() if name.startswith(_LISTENING)}
    begun = {name: value for name, value in network.state_dict().items() if name in fresh}
    network.load_state_dict({**begun, **weights})
    return network, weights if config.rank else {}


def read_compact(path: Path | None, wanted_by: str) -> tuple[CompactConfig, Weights]:
    """Read shape and weights of a checkpoint, by default of the one in the package.

    Raises:
        CheckpointError: the file cannot be read, or is not a checkpoint of compact. The message
            names the option `wanted_by`.
    """
    if path is not None:
        header, weights = load_checkpoint(path)
    else:
        with as_file(files("splatmend.core.compact") / "weights.safetensors") as embedded:
            header, weights = load_checkpoint(embedded)
    if header.architecture != "compact":
        raise CheckpointError(
            f"{path} holds a {header.architecture!r}: {wanted_by} takes a checkpoint of compact"
        )
    try:
        return config_from_json(CompactConfig, header.config), weights
    except (TypeError, InputError) as error:
        raise CheckpointError(
            f"{path} has a shape that this release does not know: {error}"
        ) from error


def _add_lora(network: Compact, rank: int) -> None:
    """Add a LoRA to every convolution, in place, at scale 1; the base is frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(requires_grad=False)
    settings = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=_TARGETS
    )
    inject_adapter_in_model(settings, network, adapter_name=_ADAPTER)
