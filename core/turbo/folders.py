"""Checkpoint folders: NVIDIA's Difix pipeline and peft adapters. No code in them runs."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from splatmend.core.errors import CheckpointError, InputError
from splatmend.core.lora import Lora
from splatmend.core.turbo.adapters import UNET_ADAPTER, VAE_ADAPTER
from splatmend.core.turbo.content import (
    as_lora,
    as_number,
    as_rank,
    as_settings,
    as_targets,
    as_tensors,
    entry,
    first_line,
    has_skips,
)
from splatmend.core.turbo.network import TurboSettings
from splatmend.core.turbo.pickles import DIFIX_SETTINGS, adapter_state, check_difix_unet
from splatmend.core.turbo.weights import TurboWeights

__all__ = ["is_adapter_folder", "read_folder", "save_adapters"]

_PIPELINE = "model_index.json"
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SETTINGS = "turbo.json"
_PEFT_PREFIX = "base_model.model."
# allowed values; any other changes more than W + alpha / r * up @ down
_PLAIN_LORA: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "bias": ("none", None),
    "layer_replication": (None,),
}


def read_folder(path: Path) -> tuple[str, TurboWeights]:
    """Read a diffusers folder of Difix, or peft adapters.

    An adapter folder is for the UNet, or has sub-folders unet/ and vae/. A turbo.json in it,
    as `save_adapters` writes, states the settings; without it they are img2img-turbo's.

    Raises:
        CheckpointError: neither kind, incomplete, or a kind that one LoRA cannot express.
    """
    try:
        if (path / _PIPELINE).is_file():
            return "Difix folder", _read_difix(path)
        return "peft adapters", _read_adapters(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def is_adapter_folder(path: Path) -> bool:
    """Tell whether a folder holds peft adapters that `read_folder` knows."""
    return any((path / part / _ADAPTER).is_file() for part in ("", "unet", "vae"))


def _read_difix(path: Path) -> TurboWeights:
    vae_lora, vae_plain = as_lora(_component(path / "vae"), VAE_ADAPTER)
    if not has_skips(vae_plain):
        raise CheckpointError(
            "a pipeline without skip convolutions is not a restorer: if it is SD-Turbo itself, "
            "give it as the base"
        )
    config = _json(path / "vae" / "config.json")  # Difix's autoencoder keeps three values here
    if config.get("ignore_skip", False) is not False or config.get("lora_rank") not in (
        None,
        vae_lora.rank,
    ):
        raise CheckpointError(
            f"vae/config.json ignores the skips, or states another rank than its weights have, "
            f"{vae_lora.rank} (ignore_skip, lora_rank): use the folder as it is published"
        )
    settings = replace(
        DIFIX_SETTINGS, gamma=as_number(config.get("gamma", 1), "gamma"), views=_mixes_views(path)
    )
    unet = _component(path / "unet")
    check_difix_unet(unet)
    unet_lora, unet_plain = as_lora(unet, UNET_ADAPTER)
    return TurboWeights(settings, unet_lora, vae_lora, unet_plain, vae_plain)


def _mixes_views(path: Path) -> bool:
    """Tell whether a Difix folder is difix_ref: the same weights, but a UNet with own code."""
    index = _json(path / _PIPELINE)
    library = index.get("unet")
    own_code = isinstance(library, list) and library[:1] != ["diffusers"]
    named = "_ref" in str(index.get("_name_or_path"))
    return own_code or named or any((path / "unet").glob("*.py"))


def _component(folder: Path) -> dict[str, Tensor]:
    """Read the weights of one part of a diffusers folder under either of the usual names."""
    for variant in ("", ".fp16"):
        path = folder / f"diffusion_pytorch_model{variant}.safetensors"
        if path.is_file():
            return _safetensors(path)
    raise CheckpointError(
        f"{folder.name}/ lacks diffusion_pytorch_model.safetensors: download it (only "
        f"safetensors in one piece are read)"
    )


def _read_adapters(path: Path) -> TurboWeights:
    if not is_adapter_folder(path):
        raise CheckpointError(
            f"a folder must hold {_PIPELINE} (Difix), or {_ADAPTER} or unet/{_ADAPTER} (peft)"
        )
    unet_folder = path if (path / _ADAPTER).is_file() else path / "unet"
    unet_lora, unet_plain = _read_adapter(unet_folder, UNET_ADAPTER)
    vae_lora, vae_plain = _read_adapter(path / "vae", VAE_ADAPTER)
    stated = path / _SETTINGS
    settings = (
        as_settings(_json(stated))
        if stated.is_file()
        else TurboSettings(skips=has_skips(vae_plain))
    )
    return TurboWeights(settings, unet_lora, vae_lora, unet_plain, vae_plain)


def _read_adapter(folder: Path, adapter: str) -> tuple[Lora, dict[str, Tensor]]:
    if not (folder / _ADAPTER).is_file():
        return Lora(rank=1), {}
    config = _json(folder / _ADAPTER)
    for name, allowed in _PLAIN_LORA.items():
        if (value := config.get(name)) not in allowed:
            raise CheckpointError(
                f"{_ADAPTER} has {name} = {value!r}, only plain LoRA ({name} = {allowed[0]!r}) is "
                f"supported: merge the adapter into its base with peft first"
            )
    state = {
        name.removeprefix(_PEFT_PREFIX): value
        for name, value in _safetensors(folder / _ADAPTER_WEIGHTS).items()
    }
    return as_lora(
        state,
        adapter,
        targets=as_targets(entry(config, "target_modules"), "target_modules"),
        rank=as_rank(entry(config, "r"), "r"),
        alpha=as_number(entry(config, "lora_alpha"), "lora_alpha"),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name} must hold an object, got {type(values).__name__}")
    return values


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as safetensors ({first_line(error)}): it is missing, "
            f"truncated or another format"
        ) from error
    return as_tensors(tensors, path.parent.name)


def save_adapters(path: Path, weights: TurboWeights) -> None:
    """Write peft adapter folders unet/ and vae/ with turbo.json beside them.

    Weights that are not LoRA (skip convolutions, conv_in) go into the same files under the
    names of the adapted network; peft loads them too. A stored prompt embedding is not
    written. An existing folder at `path` is replaced once everything is written.

    Raises:
        InputError: the checkpoint has guidance, or plain weights without a LoRA.
    """
    parts = {
        "unet": (weights.unet_lora, weights.unet_plain),
        "vae": (weights.vae_lora, weights.vae_plain),
    }
    if weights.guidance is not None:
        raise InputError("peft adapters cannot hold guidance: write .safetensors instead")
    for part, (lora, plain) in parts.items():
        if plain and not lora.down:
            raise InputError(
                f"peft adapters cannot hold {len(plain)} weights of the {part} without a LoRA "
                f"beside them: write .safetensors instead"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as scratch:
        unfinished = Path(scratch) / "new"
        unfinished.mkdir()
        for part, (lora, plain) in parts.items():
            if lora.down:
                _save_adapter(unfinished / part, lora, plain)
        (unfinished / _SETTINGS).write_text(json.dumps(weights.settings.to_dict(), indent=1))
        if path.exists():
            path.rename(Path(scratch) / "old")
        unfinished.rename(path)


def _save_adapter(folder: Path, lora: Lora, plain: Mapping[str, Tensor]) -> None:
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": (
            lora.targets if isinstance(lora.targets, str) else list(lora.targets or lora.down)
        ),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    (folder / _ADAPTER).write_text(json.dumps(config, indent=1))
    state = {f"{_PEFT_PREFIX}{k}": v for k, v in adapter_state(lora, plain).items()}
    save_file(state, folder / _ADAPTER_WEIGHTS, metadata={"format": "pt"})
