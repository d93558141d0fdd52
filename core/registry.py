"""From a name or a file to a restorer."""

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import torch

from splatmend.core.checkpoint import CheckpointHeader, load_checkpoint
from splatmend.core.compact import Compact, CompactConfig
from splatmend.core.errors import CheckpointError, InputError, UnknownModelError
from splatmend.core.restorer import Copy, NetworkRestorer, Restorer, UnsharpMask

__all__ = ["available_restorers", "load_restorer", "pick_device"]

_Weights = dict[str, torch.Tensor]
_Builder = Callable[[str, CheckpointHeader, _Weights, torch.device], Restorer]


def available_restorers() -> list[str]:
    """Names that `load_restorer` knows without a file."""
    return sorted([*_WITHOUT_WEIGHTS, *_EMBEDDED])


def load_restorer(name_or_path: str | Path, *, device: str | torch.device = "auto") -> Restorer:
    """Load a restorer by name ("compact") or from a checkpoint file.

    `device` is torch's ("cpu", "cuda:1"); "auto" takes the first accelerator, else the CPU.

    Raises:
        UnknownModelError: neither a known name nor a file.
        CheckpointError: the file cannot be read or does not fit its own header.
        InputError: no such device here.
    """
    target = pick_device(device)
    if name_or_path in _WITHOUT_WEIGHTS:
        return _WITHOUT_WEIGHTS[str(name_or_path)](target)
    if name_or_path in _EMBEDDED:
        with as_file(files("splatmend.core") / _EMBEDDED[str(name_or_path)]) as path:
            return _from_file(path, str(name_or_path), target)
    path = Path(name_or_path)
    if not path.is_file():
        raise UnknownModelError(
            f"no restorer called {str(name_or_path)!r} and no file of that name: "
            f"use one of {', '.join(available_restorers())}, or the path of a checkpoint"
        )
    return _from_file(path, path.stem, target)


def pick_device(device: str | torch.device) -> torch.device:
    """Turn an option into a device that exists here.

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


def _from_file(path: Path, name: str, device: torch.device) -> Restorer:
    header, weights = load_checkpoint(path)
    if header.architecture not in _BUILDERS:
        raise CheckpointError(
            f"{path} holds a {header.architecture!r}, this release knows "
            f"{', '.join(sorted(_BUILDERS))}: update Splatmend or use another file"
        )
    try:
        return _BUILDERS[header.architecture](name, header, weights, device)
    except (TypeError, RuntimeError, InputError) as error:
        raise CheckpointError(
            f"{path} does not fit the {header.architecture!r} that its header describes: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _build_compact(
    name: str, header: CheckpointHeader, weights: _Weights, device: torch.device
) -> Restorer:
    network = Compact(CompactConfig.from_dict(header.config))
    network.load_state_dict(weights)
    network.to(device, _fast_dtype(device)).to(memory_format=torch.channels_last)
    network.eval().requires_grad_(requires_grad=False)
    return NetworkRestorer(
        name,
        network,
        device,
        network.multiple,
        network.receptive_field,
        network.config.color_lock,
    )


def _fast_dtype(device: torch.device) -> torch.dtype:
    """Half precision where the hardware multiplies in it; elsewhere it is ten times slower."""
    if device.type == "cpu":
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        has_bf16 = bool(capabilities.get("avx512_bf16"))
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.float16


_WITHOUT_WEIGHTS: dict[str, Callable[[torch.device], Restorer]] = {
    "copy": Copy,
    "unsharp": UnsharpMask,
}
_EMBEDDED = {"compact": "compact.safetensors"}
_BUILDERS: dict[str, _Builder] = {"compact": _build_compact}
