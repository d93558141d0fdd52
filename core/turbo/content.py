"""Checks shared by all readers: every value of a file is checked before use."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from splatmend.core.errors import CheckpointError, InputError
from splatmend.core.lora import PEFT_ALPHA, Lora, check_lora, split_state
from splatmend.core.turbo.guidance import Guidance
from splatmend.core.turbo.network import TurboSettings

__all__ = [
    "as_guidance",
    "as_lora",
    "as_number",
    "as_rank",
    "as_settings",
    "as_targets",
    "as_tensors",
    "entry",
    "first_line",
    "has_skips",
]


def entry(values: Mapping[str, Any], name: str) -> Any:
    """Return `values[name]`.

    Raises:
        CheckpointError: the name is missing.
    """
    if name not in values:
        raise CheckpointError(f"{name!r} is missing: the file is incomplete or of another kind")
    return values[name]


def as_tensors(value: object, what: str) -> dict[str, Tensor]:
    """Check a state dict of dense floating tensors on the CPU; parameters become tensors.

    Raises:
        CheckpointError: anything else, including views that claim more than their memory.
    """
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{what} must be a state dict, got {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{what} must map names to tensors, got {name!r}: {type(tensor).__name__}"
            )
        if not tensor.is_floating_point() or tensor.layout is not torch.strided or not tensor.ndim:
            raise CheckpointError(
                f"{what}.{name} must be a dense floating tensor, got {tensor.dtype} "
                f"{tuple(tensor.shape)}"
            )
        if (
            tensor.device.type != "cpu"
            or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
        ):
            raise CheckpointError(
                f"{what}.{name} {tuple(tensor.shape)} lacks the data that its shape claims"
            )
    return {name: tensor.detach() for name, tensor in value.items()}


def as_rank(value: object, what: str) -> int:
    """Check a LoRA's rank.

    Raises:
        CheckpointError: not an integer from 1 up.
    """
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{what} must be an integer from 1 up, got {value!r}")
    return value


def as_number(value: object, what: str) -> float:
    """Check a finite number.

    Raises:
        CheckpointError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{what} must be a finite number, got {value!r}")
    return float(value)


def as_targets(value: object, what: str) -> tuple[str, ...] | str:
    """Check the target modules of a LoRA: suffixes of names, or one regular expression.

    Raises:
        CheckpointError: anything else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise CheckpointError(f"{what} must be a list of names or one expression, got {value!r:.80}")


def as_settings(values: object) -> TurboSettings:
    """Build settings from plain values, each of the type of its default.

    Raises:
        CheckpointError: unknown names, wrong types or values out of range.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"settings must be an object, got {type(values).__name__}")
    types = {field.name: type(field.default) for field in fields(TurboSettings)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            raise CheckpointError(
                f"no setting is called {name!r}; there are {', '.join(types)}: "
                f"the file may be newer than this release"
            )
        if types[name] is float:
            checked[name] = as_number(value, name)
        elif type(value) is types[name]:
            checked[name] = value
        else:
            raise CheckpointError(f"{name} must be {types[name].__name__}, got {value!r}")
    try:
        return TurboSettings(**checked)
    except InputError as error:
        raise CheckpointError(str(error)) from error


def as_lora(
    state: Mapping[str, Tensor],
    adapter: str,
    *,
    targets: tuple[str, ...] | str = (),
    rank: int | None = None,
    alpha: float = PEFT_ALPHA,
) -> tuple[Lora, dict[str, Tensor]]:
    """Split a peft state dict into a checked LoRA and the plain weights beside it.

    `rank` is the rank that the file states; without it the tensors decide.

    Raises:
        CheckpointError: a half is missing, or shapes and rank disagree.
    """
    found, plain = split_state(state, adapter)
    known = found.rank if rank is None else rank
    lora = replace(found, rank=known, alpha=alpha, targets=targets)
    check_lora(lora)
    return lora, plain


def as_guidance(state: Mapping[str, Tensor], *, rank_unet: int, rank_vae: int) -> Guidance:
    """Build degradation guidance for LoRAs of these ranks, float32.

    Raises:
        CheckpointError: names or shapes do not match.
    """
    try:
        with torch.device("meta"):  # a false rank costs no memory
            guidance = Guidance(rank_unet, rank_vae)
        guidance.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"guidance does not fit its LoRAs: {reason:.200}") from error
    return guidance.float().eval().requires_grad_(requires_grad=False)


def has_skips(vae_plain: Mapping[str, Tensor]) -> bool:
    """Tell whether the decoder has skip convolutions."""
    return any(".skip_conv_" in name for name in vae_plain)


def first_line(error: BaseException) -> str:
    """Return an error's message as one short line without control characters."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return "".join(filter(str.isprintable, line))[:200]
