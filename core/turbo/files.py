"""Files of turbo weights: upstream's formats and our own, recognised by content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatmend.core.checkpoint import CheckpointHeader, load_checkpoint, save_checkpoint
from splatmend.core.errors import CheckpointError
from splatmend.core.lora import Lora, check_lora
from splatmend.core.turbo.content import (
    as_guidance,
    as_number,
    as_rank,
    as_settings,
    as_targets,
    as_tensors,
    entry,
)
from splatmend.core.turbo.folders import read_folder
from splatmend.core.turbo.pickles import read_pickle
from splatmend.core.turbo.weights import TurboWeights

__all__ = ["ARCHITECTURE", "read_turbo", "read_turbo_kind", "save_turbo", "turbo_weights"]

ARCHITECTURE = "turbo"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def read_turbo(path: Path) -> TurboWeights:
    """Read a file or folder of turbo weights; the content decides the format, not the name.

    The formats are `.pkl` of img2img-turbo, Difix3D and S3Diff, the folder of nvidia/difix,
    peft adapter folders, and our own safetensors. Adapters are one folder for the UNet, or
    unet/ and vae/. Nothing in a file is executed. Tensors keep the file's precision. Large
    ones may stay mapped from the file until they are used.

    Raises:
        CheckpointError: missing, truncated, foreign, hostile, or at odds with itself.
    """
    return read_turbo_kind(path)[1]


def read_turbo_kind(path: Path) -> tuple[str, TurboWeights]:
    """Read like `read_turbo`, and return the name of the format first.

    Raises:
        CheckpointError: as `read_turbo`.
    """
    if path.is_dir():
        return read_folder(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if start[8:] == b"{":  # after the length of the header, whose bytes can be anything
        return "Splatmend", _read_own(path)
    if start.startswith(_ZIP):
        return read_pickle(path)
    if start.startswith(_PICKLE):
        raise CheckpointError(
            f"{path} is a bare pickle, which could run a program: refused unopened; use an archive "
            f"that torch.save of PyTorch 1.6 or later wrote"
        )
    raise CheckpointError(
        f"{path} is neither a torch.save archive (.pkl) nor safetensors: it is empty, "
        f"truncated or another format"
    )


def _read_own(path: Path) -> TurboWeights:
    header, tensors = load_checkpoint(path)
    try:
        return turbo_weights(header, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def save_turbo(
    path: Path,
    weights: TurboWeights,
    *,
    notes: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write our own format, complete or not at all.

    `dtype` converts LoRA and network weights. Guidance and prompts keep theirs: they are
    small, and guidance starts with values below the range of float16.
    """
    state: dict[str, Tensor] = {}
    for network, lora, plain in (
        ("unet", weights.unet_lora, weights.unet_plain),
        ("vae", weights.vae_lora, weights.vae_plain),
    ):
        state |= {f"{network}_lora.down.{name}": value for name, value in lora.down.items()}
        state |= {f"{network}_lora.up.{name}": value for name, value in lora.up.items()}
        state |= {f"{network}_plain.{name}": value for name, value in plain.items()}
    state = {name: value.to(dtype or value.dtype) for name, value in state.items()}
    if weights.guidance is not None:
        parameters = weights.guidance.state_dict()
        state |= {f"guidance.{name}": value for name, value in parameters.items()}
    if weights.prompts is not None:
        state["prompts"] = weights.prompts
    config = {
        "settings": weights.settings.to_dict(),
        "unet_lora": _lora_config(weights.unet_lora),
        "vae_lora": _lora_config(weights.vae_lora),
        "guidance": weights.guidance is not None,
    }
    save_checkpoint(path, CheckpointHeader(ARCHITECTURE, config, notes or {}), state)


def _lora_config(lora: Lora) -> dict[str, Any]:
    return {"rank": lora.rank, "alpha": lora.alpha, "targets": lora.targets}


def turbo_weights(header: CheckpointHeader, tensors: Mapping[str, Tensor]) -> TurboWeights:
    """Parse our own format after `load_checkpoint`.

    Raises:
        CheckpointError: another architecture, or header and tensors disagree.
    """
    if header.architecture != ARCHITECTURE:
        raise CheckpointError(
            f"this is a {header.architecture!r} checkpoint, not {ARCHITECTURE!r}: "
            f"load it by splatmend.core.load_restorer"
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in as_tensors(tensors, "tensors").items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    config = header.config
    unet_lora = _lora(config, "unet_lora", parts.pop("unet_lora", {}))
    vae_lora = _lora(config, "vae_lora", parts.pop("vae_lora", {}))
    guidance, prompts = parts.pop("guidance", {}), parts.pop("prompts", {}).get("")
    unet_plain, vae_plain = parts.pop("unet_plain", {}), parts.pop("vae_plain", {})
    if parts:
        raise CheckpointError(f"no part of turbo is called {min(parts)!r}")
    if bool(guidance) is not entry(config, "guidance"):
        raise CheckpointError("its header and its tensors disagree about guidance")
    if prompts is not None and (prompts.ndim != 3 or len(prompts) not in (1, 2)):
        raise CheckpointError(
            f"prompts must be (1 or 2, tokens, width), got {tuple(prompts.shape)}"
        )
    ranks = {"rank_unet": unet_lora.rank, "rank_vae": vae_lora.rank}
    return TurboWeights(
        as_settings(entry(config, "settings")),
        unet_lora,
        vae_lora,
        unet_plain,
        vae_plain,
        prompts,
        as_guidance(guidance, **ranks) if guidance else None,
    )


def _lora(config: Mapping[str, Any], part: str, tensors: Mapping[str, Tensor]) -> Lora:
    stated = entry(config, part)
    if not isinstance(stated, Mapping):
        raise CheckpointError(f"{part} must be an object, got {type(stated).__name__}")
    halves: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}}
    for name, value in tensors.items():
        half, _, module = name.partition(".")
        if half not in halves or not module:
            raise CheckpointError(f"{part}.{name} is neither down nor up of a layer")
        halves[half][module] = value
    lora = Lora(
        rank=as_rank(entry(stated, "rank"), f"{part}.rank"),
        alpha=as_number(entry(stated, "alpha"), f"{part}.alpha"),
        targets=as_targets(entry(stated, "targets"), f"{part}.targets"),
        down=halves["down"],
        up=halves["up"],
    )
    check_lora(lora)
    return lora
