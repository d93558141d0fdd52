"""Checkpoints: safetensors whose JSON header rebuilds the model. Nothing in them executes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from splatmend.core.errors import CheckpointError

__all__ = [
    "CheckpointHeader",
    "config_from_json",
    "load_checkpoint",
    "read_header",
    "save_checkpoint",
]

_KEY = "splatmend"
_VERSION = 1

_Config = TypeVar("_Config")


@dataclass(frozen=True)
class CheckpointHeader:
    """Metadata of a checkpoint."""

    architecture: str
    """Name by which core/restore/registry.py selects the network."""
    config: Mapping[str, Any]
    """Arguments that rebuild the network."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Provenance: steps, data, figures. Loading does not read it."""


def save_checkpoint(
    path: Path,
    header: CheckpointHeader,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights under their final name only once the file is whole.

    `dtype` converts floating tensors first. float16 halves the file and is
    finer than bfloat16 for weights of this size.
    """
    tensors = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else None).contiguous()
        for name, value in state.items()
    }
    text = json.dumps(
        {
            "version": _VERSION,
            "architecture": header.architecture,
            "config": dict(header.config),
            "notes": dict(header.notes),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    save_file(tensors, unfinished, metadata={_KEY: text})
    unfinished.replace(path)


def read_header(path: Path) -> CheckpointHeader:
    """Read the header alone.

    Raises:
        CheckpointError: missing, not a safetensors file, truncated, foreign, or of a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} cannot be read: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}): it is truncated or another format"
        ) from error
    if _KEY not in metadata:
        raise CheckpointError(
            f"{path} is safetensors but not a Splatmend checkpoint: no {_KEY!r} in its header"
        )
    try:
        values = json.loads(metadata[_KEY])
        version = values["version"]
        header = CheckpointHeader(
            str(values["architecture"]), dict(values["config"]), dict(values.get("notes", {}))
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged {_KEY!r} header: {error}") from error
    if version != _VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {version}, this release reads {_VERSION}: "
            f"update Splatmend"
        )
    return header


def config_from_json(kind: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Build `kind(**values)`; lists become tuples again, which JSON does not have.

    Raises:
        TypeError: `kind` has no argument of one of these names.
    """
    restored: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return kind(**restored)


def load_checkpoint(path: Path) -> tuple[CheckpointHeader, dict[str, Tensor]]:
    """Read header and tensors, on the CPU, in the dtype of the file.

    Raises:
        CheckpointError: as `read_header`.
    """
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
