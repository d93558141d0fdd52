"""turbo in training: LoRA, skip convolutions and conv_in on a frozen SD-Turbo.

Source: pix2pix-turbo, Parmar et al. 2024, with the seed's skip dropout; see core/turbo/network.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from splatmend.core.errors import CheckpointError
from splatmend.core.lora import Lora, split_state
from splatmend.core.turbo.adapters import (
    UNET_ADAPTER,
    UNET_TARGETS,
    VAE_ADAPTER,
    VAE_TARGETS,
    add_lora,
    decoder_targets,
    trainable_parameters,
)
from splatmend.core.turbo.base import encode_prompts, find_base, load_base
from splatmend.core.turbo.files import read_turbo, save_turbo
from splatmend.core.turbo.network import Turbo, TurboSettings
from splatmend.core.turbo.weights import TurboWeights
from splatmend.training.config import TrainConfig, TurboTraining

__all__ = ["TurboModel"]

_ADAPTERS = {"unet": UNET_ADAPTER, "vae": VAE_ADAPTER}


class TurboModel(nn.Module):
    """The `Model` of turbo. Trained weights are float32; frozen ones may be in half precision."""

    file_name = "turbo.safetensors"

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.options = options = config.turbo
        stored = None if config.init is None else read_turbo(config.init)
        self.network = _network(options, stored)
        targets = decoder_targets(self.network.vae) if options.decoder_only else VAE_TARGETS
        add_lora(
            self.network,
            rank_unet=options.rank_unet,
            rank_vae=options.rank_vae,
            vae_targets=targets,
        )
        self._targets = {"unet": UNET_TARGETS, "vae": tuple(targets)}
        trained = dict(trainable_parameters(self.network))
        for parameter in trained.values():
            parameter.requires_grad = True
        if stored is not None:
            _take_up(trained, stored, str(config.init))
        if config.mixed_precision != "no":
            half = torch.bfloat16 if config.mixed_precision == "bf16" else torch.float16
            _halve_frozen(self.network, half)
        if options.gradient_checkpointing:
            self.network.unet.enable_gradient_checkpointing()

    def forward(self, degraded: Tensor, chance: Tensor) -> Tensor:
        """Run one step of SD-Turbo; each sample drops some of its skips."""
        network, settings = self.network, self.network.settings
        picture = 2 * degraded - 1 if settings.input_range == "pm1" else degraded
        moments, skips = self._run(network.encode, picture)
        keep = (chance >= self.options.skip_dropout).to(degraded.dtype)
        skips = tuple(
            skip * keep[:, level].view(-1, 1, 1, 1).to(skip.dtype)
            for level, skip in enumerate(skips)
        )
        latent = network.denoise(network.latent(moments)) / network.vae.config.scaling_factor
        restored: Tensor = self._run(network.decode, latent.to(degraded.dtype), skips)
        return (restored.float() + 1) / 2

    def _run(self, part: Any, *inputs: Any) -> Any:
        """Run a half of the autoencoder, with gradient checkpointing if the options ask for it."""
        if self.options.gradient_checkpointing and self.training:
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def save(self, path: Path, trained: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write our own safetensors with the prompt's embedding, float32."""
        parts = {}
        for part, adapter in _ADAPTERS.items():
            prefix = f"network.{part}."
            state = {n.removeprefix(prefix): v for n, v in trained.items() if n.startswith(prefix)}
            lora, plain = split_state(state, adapter)
            parts[part] = replace(lora, targets=self._targets[part]), plain
        (unet_lora, unet_plain), (vae_lora, vae_plain) = parts["unet"], parts["vae"]
        network = self.network
        weights = TurboWeights(
            network.settings, unet_lora, vae_lora, unet_plain, vae_plain, network.prompts.float()
        )
        save_turbo(path, weights, notes=notes)


def _network(options: TurboTraining, stored: TurboWeights | None) -> Turbo:
    """Load the base in float32, with the settings of the run or of the file that it starts from."""
    if stored is not None:
        settings, prompts = stored.settings, stored.prompts
    else:
        settings = TurboSettings(
            timestep=options.timestep, input_range=options.input_range, prompt=options.prompt
        )
        prompts = None
    folder = find_base(options.sd_turbo, words=prompts is None)
    if prompts is None:
        prompts = encode_prompts(folder, settings.prompt_texts)
    return Turbo(*load_base(folder), prompts, settings)


def _take_up(trained: Mapping[str, nn.Parameter], stored: TurboWeights, source: str) -> None:
    """Copy a checkpoint's LoRA and plain weights to the trained parameters.

    Raises:
        CheckpointError: it is guided, or its layers or ranks differ from the run's.
    """
    if stored.guidance is not None:
        raise CheckpointError(f"{source} is guided (S3Diff), which is not trained here")
    found: dict[str, Tensor] = {}
    for part, lora, plain in (
        ("unet", stored.unet_lora, stored.unet_plain),
        ("vae", stored.vae_lora, stored.vae_plain),
    ):
        found |= _named_as_peft(part, lora)
        layers = {name.partition(".lora_")[0] for name in trained if ".lora_" in name}
        for name, value in plain.items():
            module, _, kind = name.rpartition(".")
            wrapped = f"{part}.{module}" in layers
            found[f"{part}.{module}.base_layer.{kind}" if wrapped else f"{part}.{name}"] = value
    for name, value in found.items():
        own = trained.get(name)
        if own is None or own.shape != value.shape:
            shape = "nothing" if own is None else tuple(own.shape)
            raise CheckpointError(
                f"{source} has {name} {tuple(value.shape)}, this run trains {shape} there: "
                f"use its ranks (--turbo.rank-unet, --turbo.rank-vae) and --turbo.decoder-only"
            )
        with torch.no_grad():
            own.copy_(value)


def _named_as_peft(part: str, lora: Lora) -> dict[str, Tensor]:
    """Convert a LoRA to peft's default scale and parameter names."""
    adapter, factor = _ADAPTERS[part], lora.alpha / Lora(lora.rank).alpha
    down = {f"{part}.{n}.lora_A.{adapter}.weight": v.float() for n, v in lora.down.items()}
    up = {f"{part}.{n}.lora_B.{adapter}.weight": v.float() * factor for n, v in lora.up.items()}
    return down | up


def _halve_frozen(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert frozen products to half precision; norms and trained weights stay float32."""
    for module in network.modules():
        frozen = not any(p.requires_grad for p in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d | nn.Linear) and frozen:
            module.to(dtype)
