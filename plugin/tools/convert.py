"""`splatmend convert`: turbo weights from any format that is read into one that is written.

What upstream's files leave open (timestep, input range, prompt, the scale of the LoRA)
is filled with what upstream's own programs do, or with the options given here.
"""

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from safetensors import SafetensorError

from splatmend.core.errors import InputError
from splatmend.core.lora import Lora
from splatmend.core.turbo.base import encode_prompts, find_base
from splatmend.core.turbo.files import read_turbo_kind, save_turbo
from splatmend.core.turbo.folders import is_adapter_folder, save_adapters
from splatmend.core.turbo.network import InputRange, TurboSettings
from splatmend.core.turbo.pickles import save_img2img_turbo
from splatmend.core.turbo.weights import TurboWeights

__all__ = ["ConvertConfig", "Format", "convert", "main"]

Format = Literal["splatmend", "img2img-turbo", "peft"]
_FORMATS: dict[str, Format] = {
    ".safetensors": "splatmend",
    ".pkl": "img2img-turbo",
    "": "peft",
}


@dataclass(frozen=True)
class ConvertConfig:
    """What to read, what to write, and what the source does not say."""

    source: tyro.conf.Positional[Path]
    """.pkl of img2img-turbo, Difix3D or S3Diff, nvidia/difix, peft adapters, or .safetensors."""
    target: tyro.conf.Positional[Path]
    """NAME.safetensors (ours), NAME.pkl (img2img-turbo's) or a folder (peft adapters)."""
    to: Format | None = None
    """The format, where the target's name does not say it."""
    timestep: int | None = None
    """Step that the weights were trained at."""
    input_range: InputRange | None = None
    """What the encoder was trained to see: 01 is [0, 1], pm1 is [-1, 1]."""
    views: bool | None = None
    """Whether the weights were trained with a reference beside each frame, as Difix with
    --mv_unet; of Difix's files only the folder difix_ref says so."""
    prompt: str | None = None
    """Words that the weights were trained with; a stored embedding of others is dropped."""
    base: str | None = None
    """Folder of SD-Turbo (or "download") whose text encoder embeds the prompt, so that whoever
    uses the result needs none."""
    alpha: float | None = None
    """Scale of the LoRAs times their rank; files that do not say mean 8."""
    half: bool = False
    """Write network weights in float16 (ours only)."""
    overwrite: bool = False
    """Replace a target that exists."""

    @property
    def format(self) -> Format:
        """What will be written.

        Raises:
            InputError: neither --to nor the target's name says it.
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
    """`splatmend convert SOURCE TARGET`; errors are the caller's to report."""
    config = tyro.cli(ConvertConfig, args=arguments, prog="splatmend convert", description=__doc__)
    sys.stdout.write(f"{convert(config)}\n")


def convert(config: ConvertConfig) -> str:
    """Convert and return one line about what was found and written.

    Raises:
        CheckpointError: the source cannot be read as turbo weights.
        InputError: the target exists, cannot be written, or cannot hold these weights.
        ModelError: there is no text encoder at the base.
    """
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
    target, is_folder = config.target, config.format == "peft"
    if (config.half or config.base is not None) and config.format != "splatmend":
        raise InputError(f"--half and --base are for our .safetensors, not for {config.format}")
    if not target.exists():
        return
    if not config.overwrite:
        raise InputError(f"{target} exists: give another name, or --overwrite to replace it")
    if is_folder != target.is_dir() or (is_folder and not is_adapter_folder(target)):
        raise InputError(f"{target} is something else and is not replaced: give another name")


def _with_options(weights: TurboWeights, config: ConvertConfig) -> TurboWeights:
    given = {
        "timestep": config.timestep,
        "input_range": config.input_range,
        "views": config.views,
        "prompt": config.prompt,
    }
    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    settings = replace(weights.settings, **changes)
    if config.prompt not in (None, weights.settings.prompt):
        weights = replace(weights, prompts=None)
    if config.alpha is not None:
        if not 0 < config.alpha < math.inf:
            raise InputError(f"alpha must be a number above 0, got {config.alpha}")
        weights = replace(
            weights,
            unet_lora=replace(weights.unet_lora, alpha=config.alpha),
            vae_lora=replace(weights.vae_lora, alpha=config.alpha),
        )
    return replace(weights, settings=settings)


def _write(config: ConvertConfig, weights: TurboWeights) -> None:
    match config.format:
        case "splatmend":
            dtype = torch.float16 if config.half else None
            save_turbo(config.target, weights, notes={"from": config.source.name}, dtype=dtype)
        case "img2img-turbo":
            save_img2img_turbo(config.target, weights)
        case "peft":
            save_adapters(config.target, weights)


def _summary(weights: TurboWeights) -> str:
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


def _stated(settings: TurboSettings) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in settings.to_dict().items())


def _size(path: Path) -> float:
    """Megabytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


if __name__ == "__main__":
    main()
