"""Personal adapters: a LoRA of a few hundred kB that fits compact to one avatar."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatmend.core.checkpoint import CheckpointHeader, load_checkpoint, save_checkpoint
from splatmend.core.errors import CheckpointError
from splatmend.core.lora import Lora, check_lora

__all__ = ["fingerprint", "load_adapter", "save_adapter"]

_ARCHITECTURE = "compact-lora"


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Return 16 hexadecimal digits that identify a set of weights in any precision."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_adapter(
    path: Path, lora: Lora, base: Mapping[str, Tensor], notes: Mapping[str, Any]
) -> None:
    """Write an adapter for the network whose weights are `base`, in float16."""
    header = CheckpointHeader(
        _ARCHITECTURE,
        {"rank": lora.rank, "alpha": lora.alpha, "base": fingerprint(base)},
        notes,
    )
    halves = {"down": lora.down, "up": lora.up}
    tensors = {f"{half}.{name}": value for half, m in halves.items() for name, value in m.items()}
    save_checkpoint(path, header, tensors, dtype=torch.float16)


def load_adapter(path: Path, base: Mapping[str, Tensor]) -> Lora:
    """Read an adapter made for the network whose weights are `base`.

    Raises:
        CheckpointError: the file cannot be read, is not an adapter, or belongs to other weights.
    """
    header, tensors = load_checkpoint(path)
    if header.architecture != _ARCHITECTURE:
        raise CheckpointError(
            f"{path} holds a {header.architecture!r}, not an adapter of compact: "
            f"`splatmend fit` or `splatmend train-adapter` makes one"
        )
    try:
        made_for, rank = str(header.config["base"]), int(header.config["rank"])
        alpha = float(header.config["alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error!r}") from error
    if not math.isfinite(alpha):
        raise CheckpointError(f"{path} has a damaged header: alpha is {alpha}")
    if made_for != (ours := fingerprint(base)):
        raise CheckpointError(
            f"{path} was trained on other weights ({made_for}) than those it is put on ({ours}): "
            f"train it again on this base, or use the base that it was made with"
        )
    down, up = (
        {name.removeprefix(half): v for name, v in tensors.items() if name.startswith(half)}
        for half in ("down.", "up.")
    )
    lora = Lora(rank=rank, alpha=alpha, down=down, up=up)
    try:
        check_lora(lora)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return lora
