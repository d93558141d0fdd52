"""Checkpoints of upstream's programs: dicts written by torch.save.

img2img-turbo (Parmar et al. 2024), Difix3D (Wu et al. 2025) and S3Diff (Zhang et al. 2024).
A pickle can run programs when it is read. Torch's restricted unpickler reads these files. It
knows only tensors and plain values, and the archive is checked first.
"""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from splatmend.core.errors import CheckpointError, InputError
from splatmend.core.lora import PEFT_ALPHA, Lora
from splatmend.core.turbo.adapters import UNET_ADAPTER, VAE_ADAPTER
from splatmend.core.turbo.content import (
    as_guidance,
    as_lora,
    as_rank,
    as_targets,
    as_tensors,
    entry,
    first_line,
    has_skips,
)
from splatmend.core.turbo.network import TurboSettings
from splatmend.core.turbo.weights import TurboWeights

__all__ = [
    "DIFIX_SETTINGS",
    "adapter_state",
    "check_difix_unet",
    "read_pickle",
    "save_img2img_turbo",
]

DIFIX_SETTINGS = TurboSettings(timestep=199, input_range="pm1", prompt="remove degradation")
_S3DIFF_PROMPT = (  # src/inference_s3diff.py
    "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, "
    "and natural lighting."
)
_S3DIFF_NEGATIVE_PROMPT = (
    "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, "
    "oversmooth"
)
_S3DIFF_SETTINGS = TurboSettings(
    input_range="pm1",
    skips=False,
    cfg_scale=1.07,
    prompt=f"{_S3DIFF_PROMPT}\n{_S3DIFF_NEGATIVE_PROMPT}",
)
_S3DIFF_MLPS = tuple(
    f"{network}_{part}_mlp" for network in ("vae", "unet") for part in ("de", "block", "fuse")
)
_UNET_PARTS = {
    "conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks", "conv_norm_out",
    "conv_out",
}  # fmt: skip


def read_pickle(path: Path) -> tuple[str, TurboWeights]:
    """Read a `.pkl` of img2img-turbo, Difix3D or S3Diff, recognised by its keys.

    Upstream's files lack the scale 8 / rank, timestep, input range and prompt. They get the
    values of upstream's programs. A Difix UNet trained on pairs of views (--mv_unet) has the
    names of a single-view one. It is read as single-view until its settings say `views`.

    Raises:
        CheckpointError: truncated, foreign, hostile, or inconsistent.
    """
    content = _load(path)
    try:
        return _interpret(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _interpret(content: Mapping[str, Any]) -> tuple[str, TurboWeights]:
    if "state_embeddings" in content:
        return "S3Diff", _s3diff(content)
    if "rank_unet" in content and "sd_encoder" in content:
        raise CheckpointError(
            "CycleGAN-turbo translates in two directions with one adapter for each part of "
            "the UNet, which is not supported: use an img2img-turbo (paired) file"
        )
    if "rank_unet" in content:
        return "img2img-turbo", _img2img_turbo(content)
    if "rank_vae" in content:
        return "Difix", _difix(content)
    found = ", ".join(sorted(map(repr, content))[:5]) or "nothing"
    raise CheckpointError(
        f"not a checkpoint of img2img-turbo, Difix3D or S3Diff: it holds {found:.200}"
    )


def _load(path: Path) -> Mapping[str, Any]:
    try:
        _check_archive(path)
        content = _unpickle(path)
    except CheckpointError:
        raise
    except UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"it asks for {culprit[1]}" if culprit else "its pickle is damaged or foreign"
        raise CheckpointError(
            f"{path} holds more than tensors and plain values ({found}), which could run a "
            f"program: refused; save its state dicts alone, from a program that you trust"
        ) from error
    except Exception as error:  # the parsers fail in many ways on a broken file
        raise CheckpointError(
            f"{path} cannot be read as a torch.save archive ({first_line(error)}): "
            f"it is truncated or damaged"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of a dict")
    return content


def _unpickle(path: Path) -> Any:
    if path.suffix == ".safetensors":  # torch.load would trust the suffix
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    # mapped: Difix files contain an optimizer twice the size of the UNet
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _check_archive(path: Path) -> None:
    """Refuse archives that torch.save does not write: compressed, or larger when unpacked."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if not any(Path(one.filename).name == "data.pkl" for one in entries):
        raise CheckpointError(f"{path} is a zip archive, but not one of torch.save")
    unpacked = sum(one.file_size for one in entries)
    size = path.stat().st_size
    if unpacked > size or any(one.compress_type != zipfile.ZIP_STORED for one in entries):
        raise CheckpointError(
            f"{path} would unpack from {size} to {unpacked} bytes: torch.save never packs, "
            f"so this is not a checkpoint"
        )


def _img2img_turbo(content: Mapping[str, Any]) -> TurboWeights:
    unet = as_tensors(entry(content, "state_dict_unet"), "state_dict_unet")
    unet_lora, unet_plain = as_lora(
        _current_conv_in(unet), UNET_ADAPTER, targets=_targets(content, "unet"),
        rank=_rank(content, "unet"),
    )  # fmt: skip
    vae_lora, vae_plain = _vae(content)
    settings = TurboSettings(skips=has_skips(vae_plain))
    return TurboWeights(settings, unet_lora, vae_lora, unet_plain, vae_plain)


def _current_conv_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reduce the stochastic sketch model's UNet to r = 1.

    The model mixes conv_in_pretrained and conv_in_curr by 1 - r and r, and likewise noise and
    input. At r = 1 only the trained conv_in is left. LoRA and skips then have full weight, and
    no noise enters.
    """
    mixed, used = "conv_in.conv_in_pretrained.", "conv_in.conv_in_curr."
    return {k.replace(used, "conv_in."): v for k, v in state.items() if not k.startswith(mixed)}


def _difix(content: Mapping[str, Any]) -> TurboWeights:
    unet = as_tensors(entry(content, "state_dict_unet"), "state_dict_unet")
    check_difix_unet(unet)
    unet_lora, unet_plain = as_lora(unet, UNET_ADAPTER)
    vae_lora, vae_plain = _vae(content)
    settings = replace(DIFIX_SETTINGS, skips=has_skips(vae_plain))
    return TurboWeights(settings, unet_lora, vae_lora, unet_plain, vae_plain)


def check_difix_unet(state: Mapping[str, Tensor]) -> None:
    """Check that a UNet has SD-Turbo's parts and no others.

    Raises:
        CheckpointError: it has further weights; Difix mixes reference views without any.
    """
    if foreign := sorted(name for name in state if name.split(".")[0] not in _UNET_PARTS):
        raise CheckpointError(
            f"its UNet has {foreign[0]}, which SD-Turbo lacks: views mixed in by weights of "
            f"their own are not supported; use Difix as it is published"
        )


def _s3diff(content: Mapping[str, Any]) -> TurboWeights:
    unet = as_tensors(entry(content, "state_dict_unet"), "state_dict_unet")
    rank_unet, rank_vae = _rank(content, "unet"), _rank(content, "vae")
    unet_lora, unet_plain = as_lora(
        unet, UNET_ADAPTER, targets=_targets(content, "unet"), rank=rank_unet
    )
    vae_lora, vae_plain = _vae(content)
    return TurboWeights(
        _S3DIFF_SETTINGS,
        unet_lora,
        vae_lora,
        unet_plain,
        vae_plain,
        guidance=as_guidance(_guidance_state(content), rank_unet=rank_unet, rank_vae=rank_vae),
    )


def _guidance_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Collect S3Diff's scattered entries under the names of its module."""
    state = as_tensors({"w": entry(content, "w")}, "guidance")
    for mlp in _S3DIFF_MLPS:
        part = as_tensors(entry(content, f"state_dict_{mlp}"), f"state_dict_{mlp}")
        state |= {f"{mlp}.{name}": value for name, value in part.items()}
    embeddings = entry(content, "state_embeddings")
    for network in ("vae", "unet"):
        name = f"state_dict_{network}_block"
        values = embeddings.get(name) if isinstance(embeddings, Mapping) else None
        part = as_tensors(values, f"state_embeddings.{name}")
        state |= {f"{network}_block_embeddings.{name}": value for name, value in part.items()}
    return state


def _vae(content: Mapping[str, Any]) -> tuple[Lora, dict[str, Tensor]]:
    return as_lora(
        as_tensors(entry(content, "state_dict_vae"), "state_dict_vae"),
        VAE_ADAPTER,
        targets=_targets(content, "vae"),
        rank=_rank(content, "vae"),
    )


def _rank(content: Mapping[str, Any], network: str) -> int:
    return as_rank(entry(content, f"rank_{network}"), f"rank_{network}")


def _targets(content: Mapping[str, Any], network: str) -> tuple[str, ...] | str:
    name = f"{network}_lora_target_modules"
    return as_targets(entry(content, name), name)


def save_img2img_turbo(path: Path, weights: TurboWeights) -> None:
    """Write the dict that img2img-turbo's own programs load.

    These programs use the fixed scale 8 / rank, so another alpha is multiplied into the
    weights. Settings and a stored prompt embedding are not written.

    Raises:
        InputError: those programs cannot run these weights correctly.
    """
    settings = weights.settings
    if settings != TurboSettings(prompt=settings.prompt):
        raise InputError(
            "img2img-turbo's programs always run timestep 999, input 01, gamma 1, with skips, one "
            f"prompt and no views; this checkpoint is for {settings}: write .safetensors instead"
        )
    if weights.guidance is not None or not (weights.unet_lora.down and weights.vae_lora.down):
        raise InputError(
            "img2img-turbo's format holds one plain LoRA for each network, which this checkpoint "
            "does not have: write .safetensors instead"
        )
    content: dict[str, Any] = {}
    for network, lora, plain, adapter in (
        ("unet", weights.unet_lora, weights.unet_plain, UNET_ADAPTER),
        ("vae", weights.vae_lora, weights.vae_plain, VAE_ADAPTER),
    ):
        targets = lora.targets or sorted(lora.down)
        content[f"{network}_lora_target_modules"] = (
            targets if isinstance(targets, str) else list(targets)
        )
        content[f"rank_{network}"] = lora.rank
        content[f"state_dict_{network}"] = adapter_state(
            _at_default_scale(lora), plain, f".{adapter}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    torch.save(content, unfinished)
    unfinished.replace(path)


def _at_default_scale(lora: Lora) -> Lora:
    factor = lora.alpha / PEFT_ALPHA
    if factor == 1:
        return lora
    return replace(lora, alpha=PEFT_ALPHA, up={k: v * factor for k, v in lora.up.items()})


def adapter_state(lora: Lora, plain: Mapping[str, Tensor], adapter: str = "") -> dict[str, Tensor]:
    """Name a LoRA and plain weights as peft does; `adapter` is a suffix such as ".default"."""
    state: dict[str, Tensor] = {}
    for half, values in (("A", lora.down), ("B", lora.up)):
        state |= {f"{name}.lora_{half}{adapter}.weight": v for name, v in values.items()}
    for name, value in plain.items():
        module, _, parameter = name.rpartition(".")
        inner = ".base_layer" if module in lora.down else ""  # peft wraps the layer itself
        state[f"{module}{inner}.{parameter}"] = value
    # copied: torch.save would write the whole storage behind a view
    return {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()
    }
