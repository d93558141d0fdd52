"""The rungs of `splatmend bench`: each model from the plain program to the fastest."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import nn

from splatmend.core.errors import InputError
from splatmend.core.restore.registry import fast_dtype, load_restorer
from splatmend.core.restorer import NetworkRestorer, Restorer

if TYPE_CHECKING:
    from splatmend.core.turbo.network import Turbo

__all__ = ["LADDERS", "Rung", "TurboSource", "build", "random_turbo", "suited"]


@dataclass(frozen=True)
class Rung:
    """One way to run a model."""

    name: str
    note: str
    lora_apart: bool = False
    half: bool = False
    channels_last: bool = False
    compile: bool = False
    small_decoder: bool = False


_HALF = Rung("half", "half precision", half=True)
_CHANNELS_LAST = replace(
    _HALF, name="channels-last", note="half, channels last", channels_last=True
)
_COMPILED = replace(
    _CHANNELS_LAST, name="compiled", note="channels-last, torch.compile, CUDA graphs", compile=True
)
_TAESD = replace(
    _COMPILED, name="taesd", note="small decoder besides: fine detail is lost", small_decoder=True
)
LADDERS = {
    "compact": (Rung("eager", "float32"), _HALF, _CHANNELS_LAST, _COMPILED),
    "turbo": (
        Rung("unmerged", "float32, LoRA beside the weights: as upstream runs it", lora_apart=True),
        Rung("merged", "float32, LoRA added to the weights"),
        _HALF,
        _CHANNELS_LAST,
        _COMPILED,
        _TAESD,
    ),
}
_TINY_UNET = {
    "block_out_channels": (16, 16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "attention_head_dim": (2, 2, 4, 4),
}
_TINY_VAE = {"block_out_channels": (8, 16, 32, 32), "layers_per_block": 1, "norm_num_groups": 4}
_RANKS = 16, 8  # of random weights


@dataclass(frozen=True)
class TurboSource:
    """Where turbo's weights come from."""

    checkpoint: Path | None = None
    """Random weights without one."""
    base: str | None = None
    tiny: bool = False


def suited(rungs: Sequence[Rung], names: Sequence[str], device: torch.device) -> list[Rung]:
    """The rungs of these names (all, if there are none) as this device can run them.

    A CPU has no CUDA graphs and often no half precision; rungs that are one then are kept once.
    """
    has_half = fast_dtype(device) != torch.float32
    kept: dict[Rung, Rung] = {}
    for rung in rungs:
        if not names or rung.name in names:
            compiles = rung.compile and device.type != "cpu"
            fitted = replace(rung, half=rung.half and has_half, compile=compiles)
            kept.setdefault(replace(fitted, name="", note=""), fitted)
    return list(kept.values())


def build(
    model: str, rung: Rung, source: TurboSource, device: torch.device
) -> tuple[Restorer, nn.Module]:
    """A restorer, and its network as it was before compilation."""
    return _turbo(rung, source, device) if model == "turbo" else _compact(rung, device)


def _compact(rung: Rung, device: torch.device) -> tuple[Restorer, nn.Module]:
    released = load_restorer("compact", device="cpu")
    assert isinstance(released, NetworkRestorer)
    layout = torch.channels_last if rung.channels_last else torch.contiguous_format
    network = released.network.to(device, _dtype(rung, device)).to(memory_format=layout)
    used: nn.Module = network
    if rung.compile:
        used = cast(nn.Module, torch.compile(network, mode="reduce-overhead", dynamic=False))
    return replace(released, network=used, device=device), network


def _turbo(rung: Rung, source: TurboSource, device: torch.device) -> tuple[Restorer, nn.Module]:
    from splatmend.core.turbo.adapters import add_lora
    from splatmend.core.turbo.restorer import TurboOptions, turbo_restorer

    if source.checkpoint is None:
        with device:
            network, ranks = random_turbo(tiny=source.tiny), _RANKS
    else:
        network, ranks = _stored_turbo(source.checkpoint, source.base, merged=not rung.lora_apart)
    if rung.lora_apart:  # of these ranks with random weights, which cost the same
        add_lora(network, rank_unet=ranks[0], rank_vae=ranks[1])
    precision = str(_dtype(rung, device)).removeprefix("torch.")
    options = TurboOptions(
        dtype=cast(Literal["float32", "bfloat16", "float16"], precision),
        compile=rung.compile,
        channels_last=rung.channels_last,
    )
    with tempfile.TemporaryDirectory() as folder:
        if rung.small_decoder:
            _write_random_taesd(Path(folder), tiny=source.tiny)
            options = replace(options, decoder="taesd", taesd=Path(folder))
        restorer = turbo_restorer(network, device=device, options=options)
    return restorer, restorer.network


def _dtype(rung: Rung, device: torch.device) -> torch.dtype:
    return fast_dtype(device) if rung.half else torch.float32


def random_turbo(*, tiny: bool) -> "Turbo":
    """Turbo at SD-Turbo's size, or with a few channels, on torch's default device."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from splatmend.core.turbo.base import SD_TURBO_UNET, SD_TURBO_VAE
    from splatmend.core.turbo.network import Turbo

    unet = UNet2DConditionModel(**SD_TURBO_UNET | (_TINY_UNET if tiny else {}))
    vae = AutoencoderKL(**SD_TURBO_VAE | (_TINY_VAE if tiny else {}))
    return Turbo(unet, vae, torch.zeros(1, 77, unet.config.cross_attention_dim))


def _stored_turbo(
    checkpoint: Path, base: str | None, *, merged: bool
) -> tuple["Turbo", tuple[int, int]]:
    """A checkpoint's network, with or without its LoRA, and the LoRA's ranks."""
    from splatmend.core.lora import Lora
    from splatmend.core.turbo.files import read_turbo
    from splatmend.core.turbo.restorer import load_network

    weights = read_turbo(checkpoint)
    if weights.guidance is not None:
        raise InputError(f"{checkpoint} has other weights for each frame: bench cannot merge it")
    ranks = weights.unet_lora.rank, weights.vae_lora.rank
    if not merged:
        weights = replace(weights, unet_lora=Lora(rank=1), vae_lora=Lora(rank=1))
    return load_network(weights, base=base), ranks


def _write_random_taesd(folder: Path, *, tiny: bool) -> None:
    from diffusers import AutoencoderTiny

    width = (8 if tiny else 64,) * 4
    AutoencoderTiny(
        encoder_block_out_channels=width, decoder_block_out_channels=width
    ).save_pretrained(folder)
