"""Restorers by name or from a file."""

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import torch

from splatmend.core.checkpoint import config_from_json, load_checkpoint, read_header
from splatmend.core.compact.adapter import load_adapter
from splatmend.core.compact.network import Compact, CompactConfig
from splatmend.core.errors import CheckpointError, InputError, ModelError, UnknownModelError
from splatmend.core.lora import merge_lora
from splatmend.core.restorer import Copy, NetworkRestorer, Restorer, RestorerTraits, UnsharpMask

__all__ = ["available_restorers", "fast_dtype", "load_restorer", "pick_device"]

_COMPACT, _TURBO = "compact", "turbo"
_TURBO_VARIABLE = "SPLATMEND_TURBO"
_UPSTREAM_SUFFIXES = (".pkl", ".pt", ".pth")


def available_restorers() -> list[str]:
    """List the names that `load_restorer` knows without a file; "turbo" needs one."""
    return sorted([*_WITHOUT_WEIGHTS, _COMPACT])


def load_restorer(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "auto",
    base: str | Path | None = None,
    adapter: str | Path | None = None,
) -> Restorer:
    """Load a restorer by name ("compact") or from a checkpoint: a file, or a folder of turbo's.

    "turbo" is the checkpoint that the environment variable SPLATMEND_TURBO names.

    >>> restorer = load_restorer("compact", device="cpu")
    >>> restorer.traits.name, restorer.device
    ('compact', device(type='cpu'))

    Args:
        name_or_path: one of `available_restorers`, "turbo", or a path.
        device: a device of torch ("cpu", "cuda:1"); "auto" takes the first accelerator, or the
            CPU if there is none.
        base: for turbo only: the folder of SD-Turbo, or "download"; without it, the folder
            that SPLATMEND_SD_TURBO names, or the hub's cache.
        adapter: for compact only: a personal adapter from `splatmend fit` or `train-adapter`.

    Raises:
        UnknownModelError: neither a known name nor a file.
        CheckpointError: the file cannot be read or does not fit its own header.
        ModelError: turbo lacks diffusers, SD-Turbo, or weights of its own.
        InputError: no such device here, or an adapter for a restorer that takes none.
    """
    target = pick_device(device)
    if name_or_path in _WITHOUT_WEIGHTS:
        _refuse_adapter(name_or_path, adapter)
        return _WITHOUT_WEIGHTS[str(name_or_path)](target)
    if name_or_path == _COMPACT:
        with as_file(files("splatmend.core.compact") / "weights.safetensors") as path:
            return _load_compact(path, _COMPACT, target, adapter)
    path = _turbo_path() if name_or_path == _TURBO else Path(name_or_path)
    if not path.exists():
        raise UnknownModelError(
            f"no restorer called {str(name_or_path)!r} and no file {path}: use one of "
            f"{', '.join(available_restorers())}, turbo with weights, or the path of a checkpoint"
        )
    if not _is_turbo(path):
        return _load_compact(path, path.stem, target, adapter)
    _refuse_adapter(name_or_path, adapter)
    return _load_turbo(path, _TURBO if name_or_path == _TURBO else path.stem, target, base)


def _refuse_adapter(name: str | Path, adapter: str | Path | None) -> None:
    if adapter is not None:
        raise InputError(f"{name} takes no adapter, only compact does: leave {adapter} out")


def pick_device(device: str | torch.device) -> torch.device:
    """Turn an option into a device of this machine.

    Raises:
        InputError: torch does not know the device, or the machine does not have it.
    """
    if device == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        wanted = torch.device(device)
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {str(device)!r} cannot be used here ({reason}): "
            f"use auto, cpu, or a device that torch lists"
        ) from error
    return wanted


def _turbo_path() -> Path:
    given = os.environ.get(_TURBO_VARIABLE)
    if not given:
        raise ModelError(
            f"turbo comes without weights of its own: train some, or get those of img2img-turbo, "
            f"Difix3D or S3Diff, and give their path or set {_TURBO_VARIABLE} to it; the "
            f"restorer compact needs neither"
        )
    return Path(given).expanduser()


def _load_turbo(path: Path, name: str, device: torch.device, base: str | Path | None) -> Restorer:
    try:  # here: diffusers takes seconds to import, and compact does not need it
        from splatmend.core.turbo.files import read_turbo
        from splatmend.core.turbo.restorer import load_turbo
    except ModuleNotFoundError as error:
        raise ModelError(
            f"turbo needs {error.name}, which is not installed: pip install 'splatmend[turbo]', "
            f"or use the restorer compact"
        ) from error
    try:
        return load_turbo(read_turbo(path), base=base, device=device, name=name)
    except InputError as error:
        raise CheckpointError(f"{path} cannot be run: {error}") from error


def _is_turbo(path: Path) -> bool:
    if path.is_dir() or path.suffix in _UPSTREAM_SUFFIXES:
        return True
    architecture = read_header(path).architecture
    if architecture not in (_TURBO, _COMPACT):
        raise CheckpointError(
            f"{path} holds a {architecture!r}, this release knows {_COMPACT} and {_TURBO} as "
            f"restorers: update Splatmend or use another file"
        )
    return architecture == _TURBO


def _load_compact(
    path: Path, name: str, device: torch.device, adapter: str | Path | None
) -> Restorer:
    header, weights = load_checkpoint(path)
    lora = None if adapter is None else load_adapter(Path(adapter), weights)
    try:
        config = config_from_json(CompactConfig, header.config)
        if lora is not None:  # an adapter has learned its avatar's size and detail
            config = replace(config, detail_floor=False, small=0)
        network = Compact(config)
        network.load_state_dict(weights)
    except (TypeError, RuntimeError, InputError) as error:
        raise CheckpointError(
            f"{path} does not fit the {header.architecture!r} that its header describes: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if lora is not None:
        merge_lora(network, lora)
    network.to(device, fast_dtype(device)).to(memory_format=torch.channels_last)
    network.eval().requires_grad_(requires_grad=False)
    traits = RestorerTraits(
        name,
        multiple=network.multiple,
        period=network.period,
        reach=network.receptive_field,
        keeps_colors=network.config.color_lock,
        small=network.config.small,
        takes_guidance=network.config.references,
    )
    return NetworkRestorer(traits, network, device)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Pick half precision where the hardware supports it; elsewhere it is ten times slower."""
    if device.type == "cpu":
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        has_bf16 = bool(capabilities.get("avx512_bf16"))
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.float16


_WITHOUT_WEIGHTS: dict[str, Callable[[torch.device], Restorer]] = {
    "copy": Copy,
    "unsharp": UnsharpMask,
}
