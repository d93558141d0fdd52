"""`splatmend convert`: convert turbo weights from one format into another.

Upstream's files leave some settings open: timestep, input range, prompt, the scale of the LoRA.
The options of this command fill them, or else the values of upstream's own programs do.
"""

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from safetensors import SafetensorError

from splatmend.core.command_line import (
    FlagConversionOff,
    OmitArgPrefixes,
    Positional,
    arg,
    need,
    parse,
    shown,
)
from splatmend.core.errors import InputError
from splatmend.core.lora import Lora

if (
    TYPE_CHECKING
):  # here and in the functions: diffusers, which is an extra, takes seconds to import
    from splatmend.core.turbo.network import TurboSettings
    from splatmend.core.turbo.weights import TurboWeights

__all__ = ["ConvertConfig", "Format", "convert", "main"]

Format = Literal["splatmend", "img2img-turbo", "peft"]
_FORMATS: dict[str, Format] = {
    ".safetensors": "splatmend",
    ".pkl": "img2img-turbo",
    "": "peft",
}


@dataclass(frozen=True)
class Training:
    """How the weights were trained, where the source does not say it."""

    timestep: Annotated[int | None, shown("N", default="as upstream's programs")] = None
    """Step that the weights were trained at."""
    input_range: Annotated[Literal["01", "pm1"] | None, shown(default="as upstream's programs")] = (
        None
    )
    """Input range of the encoder: 01 is [0, 1], pm1 is [-1, 1]."""
    views: Annotated[
        FlagConversionOff[bool | None],
        shown("{True,False}", default="True for the folder difix_ref, else False"),
    ] = None
    """Whether a reference stood beside each frame in training, as in Difix with --mv_unet."""
    prompt: Annotated[str | None, shown("WORDS", default="as upstream's programs")] = None
    """Words that the weights were trained with; a stored embedding of others is dropped."""
    alpha: Annotated[float | None, shown("ALPHA", default="the file's, else 8")] = None
    """Scale of the LoRAs times their rank."""


@dataclass(frozen=True)
class ConvertConfig:
    """The file to read, the file to write, and facts that the source leaves open."""

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """.pkl of img2img-turbo, Difix3D or S3Diff, nvidia/difix, peft adapters, or .safetensors."""
    target: Annotated[Positional[Path], arg(metavar="TARGET")]
    """NAME.safetensors (ours), NAME.pkl (img2img-turbo's) or a folder (peft adapters)."""
    to: Annotated[Format | None, shown(default="by the target's name")] = None
    """The format to write."""
    base: Annotated[str | None, shown("DIR")] = None
    """Folder of SD-Turbo, or "download": embeds the prompt, so the result needs no text encoder."""
    half: bool = False
    """Write network weights in float16 (ours only)."""
    overwrite: bool = False
    """Replace a target that exists."""
    training: OmitArgPrefixes[Training] = field(default_factory=Training)

    @property
    def format(self) -> Format:
        """Return the format of the target.

        Raises:
            InputError: neither --to nor the target's name tells it.
        """
        if self.to is not None:
            return self.to
        if self.target.suffix not in _FORMATS:
            raise InputError(
                f"the name {self.target.name} does not say what to write: use .safetensors, .pkl, "
                f"no suffix for a folder of adapters, or --to"
            )
        return _FORMATS[self.target.suffix]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend convert SOURCE TARGET`; the caller reports errors."""
    config = parse(ConvertConfig, arguments, prog="splatmend convert", description=__doc__ or "")
    sys.stdout.write(f"{convert(config)}\n")


def convert(config: ConvertConfig) -> str:
    """Convert, and return one line about the source and the result.

    Raises:
        CheckpointError: the source cannot be read as turbo weights.
        InputError: the target exists, cannot be written, or cannot hold these weights.
        ModelError: there is no text encoder at the base.
    """
    need("turbo", "diffusers", "huggingface_hub", "transformers")
    from splatmend.core.turbo.base import encode_prompts, find_base
    from splatmend.core.turbo.files import read_turbo_kind

    _check_target(config)
    kind, found = read_turbo_kind(config.source)
    weights = _with_options(found, config)
    if config.base is not None:
        folder = find_base(config.base, words=True)
        prompts = encode_prompts(folder, weights.settings.prompt_texts)
        weights = replace(weights, prompts=prompts)
    try:
        _write(config, weights)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last
        with contextlib.suppress(OSError):
            config.target.with_name(config.target.name + ".part").unlink()
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{config.target} cannot be written ({reason}): see whether there is room for it and "
            f"whether its folder may be written to"
        ) from error
    return f"{kind} -> {config.format}: {_summary(weights)}; {_size(config.target):.1f} MB"


def _check_target(config: ConvertConfig) -> None:
    from splatmend.core.turbo.folders import is_adapter_folder

    target, is_folder = config.target, config.format == "peft"
    if (config.half or config.base is not None) and config.format != "splatmend":
        raise InputError(f"--half and --base are for our .safetensors, not for {config.format}")
    if not target.exists():
        return
    if not config.overwrite:
        raise InputError(f"{target} exists: give another name, or --overwrite to replace it")
    if is_folder != target.is_dir() or (is_folder and not is_adapter_folder(target)):
        raise InputError(f"{target} is something else and is not replaced: give another name")


def _with_options(weights: "TurboWeights", config: ConvertConfig) -> "TurboWeights":
    given = {
        "timestep": config.training.timestep,
        "input_range": config.training.input_range,
        "views": config.training.views,
        "prompt": config.training.prompt,
    }
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    settings = replace(weights.settings, **changes)
    if config.training.prompt not in (None, weights.settings.prompt):
        weights = replace(weights, prompts=None)
    if config.training.alpha is not None:
        if not 0 < config.training.alpha < math.inf:
            raise InputError(f"alpha must be a number above 0, got {config.training.alpha}")
        weights = replace(
            weights,
            unet_lora=replace(weights.unet_lora, alpha=config.training.alpha),
            vae_lora=replace(weights.vae_lora, alpha=config.training.alpha),
        )
    return replace(weights, settings=settings)


def _write(config: ConvertConfig, weights: "TurboWeights") -> None:
    from splatmend.core.turbo.files import save_turbo
    from splatmend.core.turbo.folders import save_adapters
    from splatmend.core.turbo.pickles import save_img2img_turbo

    match config.format:
        case "splatmend":
            dtype = torch.float16 if config.half else None
            save_turbo(config.target, weights, notes={"from": config.source.name}, dtype=dtype)
        case "img2img-turbo":
            save_img2img_turbo(config.target, weights)
        case "peft":
            save_adapters(config.target, weights)


def _summary(weights: "TurboWeights") -> str:
    parts = [
        _described("UNet", weights.unet_lora, len(weights.unet_plain)),
        _described("autoencoder", weights.vae_lora, len(weights.vae_plain)),
    ]
    if weights.guidance is not None:
        parts.append("with guidance")
    if weights.prompts is not None:
        parts.append("with a prompt embedding")
    return f"{', '.join(parts)}; {_stated(weights.settings)}"


def _described(network: str, lora: Lora, plain: int) -> str:
    rank = f"LoRA of rank {lora.rank} on {len(lora.down)} layers, scale {lora.scale:g}"
    return f"{network} {rank if lora.down else 'without LoRA'}, {plain} weights of its own"


def _stated(settings: "TurboSettings") -> str:
    return ", ".join(f"{name} {value!r}" for name, value in settings.to_dict().items())


def _size(path: Path) -> float:
    """Megabytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


if __name__ == "__main__":
    main()
