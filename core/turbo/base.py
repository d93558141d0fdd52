"""SD-Turbo's own weights: finding them, loading them, and its text encoder."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download, try_to_load_from_cache
from torch import Tensor
from transformers.utils import logging as transformers_logging

from splatmend.core.errors import CheckpointError, ModelError

__all__ = [
    "BASE_VARIABLE",
    "DOWNLOAD",
    "SD_TURBO_UNET",
    "SD_TURBO_VAE",
    "encode_prompts",
    "find_base",
    "load_base",
    "load_part",
]

BASE_VARIABLE = "SPLATMEND_SD_TURBO"
"""Environment variable with the folder of SD-Turbo, or `DOWNLOAD`."""
DOWNLOAD = "download"
"""Value instead of a folder: download SD-Turbo from the hub if this machine lacks it."""

SD_TURBO_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),  # of heads: diffusers keeps the wrong name
    "use_linear_projection": True,
}
SD_TURBO_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
"""The released configurations, for tests and measurements without the weights."""

_REPOSITORY = "stabilityai/sd-turbo"
_LICENCE = (
    f"downloading {_REPOSITORY} (1.9 GB, once). Powered by Stability AI: it is under the "
    f"Stability AI Community License, free below a yearly revenue of 1 million US dollars, and "
    f"a product built on it carries that notice; see LICENSE.md of the repository"
)
_NETWORKS = ("unet", "vae")
_WORDS = ("tokenizer", "text_encoder")
_FILES = ("*.json", "*.txt", "*.fp16.safetensors")  # fp16: half the size, and finer than bf16
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def find_base(source: str | Path | None = None, *, words: bool = False) -> Path:
    """Find the folder of SD-Turbo in diffusers' layout.

    The order is `source`, the folder that SPLATMEND_SD_TURBO names, and the hub's cache.
    Only the value "download" in place of a folder starts a download. It names the licence
    and shows its progress on stderr.

    Args:
        source: folder with unet/ and vae/, or "download".
        words: whether tokenizer/ and text_encoder/ are needed as well.

    Raises:
        ModelError: the named folder lacks it, no folder was found, or the download failed.
    """
    needed = (*_NETWORKS, *_WORDS) if words else _NETWORKS
    given = source or os.environ.get(BASE_VARIABLE)
    if given and str(given) != DOWNLOAD:
        folder = Path(given).expanduser()
        if missing := _missing(folder, needed):
            raise ModelError(
                f"{folder} is not a folder of SD-Turbo for this checkpoint: it has no {missing[0]}/"
            )
        return folder
    cached = _cached()
    if cached is not None and not _missing(cached, needed):
        return cached
    if given:
        return _download(needed)
    what = "the text encoder of SD-Turbo" if cached else "SD-Turbo"
    raise ModelError(
        f"turbo needs {what}, which is not in the hub's cache: give its folder as the base, "
        f"set {BASE_VARIABLE} to the folder, or give {DOWNLOAD!r} as the base (1.9 GB, Stability "
        f"AI Community License); the restorer compact needs no download"
    )


def load_base(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Load UNet and autoencoder of a folder on the CPU, from safetensors, never from pickles.

    Raises:
        CheckpointError: a part is missing, damaged or incomplete.
    """
    unet = load_part(UNet2DConditionModel, folder / "unet", dtype)
    return unet, load_part(AutoencoderKL, folder / "vae", dtype)


@torch.inference_mode()
def encode_prompts(folder: Path, prompts: Sequence[str]) -> Tensor:
    """Encode prompts for the UNet's cross-attention: (n, 77, width), float32, on the CPU.

    The text encoder (1.4 GB) is loaded for this call only. Our own checkpoints store its
    output and do not need it.

    Raises:
        CheckpointError: tokenizer/ or text_encoder/ is missing or damaged.
    """
    if missing := _missing(folder, _WORDS):
        raise CheckpointError(
            f"{folder} has no {missing[0]}/, and the checkpoint stores no prompt: give a base "
            f"with it, or a checkpoint written by `splatmend convert`, which stores its prompt"
        )
    from transformers import CLIPTextModel, CLIPTokenizer  # slow to import, rarely needed

    encoder = load_part(CLIPTextModel, folder / "text_encoder", torch.float32, stem="model")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{folder / 'tokenizer'} cannot be read: {_brief(error)}") from error
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    # cloned: a tensor made in inference mode could not be a buffer of a trained network
    encoded: Tensor = encoder(tokens).last_hidden_state
    with torch.inference_mode(mode=False):
        return encoded.float().clone()


def load_part(
    model: Any, folder: Path, dtype: torch.dtype, *, stem: str = "diffusion_pytorch_model"
) -> Any:
    """Load one network of diffusers or transformers, complete or not at all.

    Half precision ("fp16" variants) is read if the folder holds nothing finer.

    Raises:
        CheckpointError: no safetensors, damaged, or weights missing, which the libraries
            themselves would fill with random numbers.
    """
    variant = None
    if not any(folder.glob(f"{stem}*.safetensors")):
        raise CheckpointError(
            f"{folder} holds no {stem}.safetensors: download it again, pickles are not read"
        )
    whole = (f"{stem}.safetensors", f"{stem}.safetensors.index.json")
    if not any((folder / name).is_file() for name in whole):
        variant = "fp16"
    try:
        if not isinstance(json.loads((folder / "config.json").read_text()), dict):
            raise CheckpointError(f"{folder / 'config.json'} is not a JSON object")
        with _quiet():
            network, report = model.from_pretrained(
                folder,
                torch_dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{folder} cannot be read: {_brief(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder} is incomplete: {len(missing)} weights are missing, among them {missing[0]}"
        )
    return network.eval()


def _missing(folder: Path, needed: Sequence[str]) -> list[str]:
    """List parts that are missing or lack their weights, as after an interrupted download."""
    kind = {"tokenizer": "*.json"}
    return [
        name for name in needed if not any((folder / name).glob(kind.get(name, "*.safetensors")))
    ]


def _cached() -> Path | None:
    """Return SD-Turbo's folder in the hub's cache, complete or not."""
    # not snapshot_download: it calls a folder incomplete for lack of files that we never need
    config = try_to_load_from_cache(_REPOSITORY, "unet/config.json")
    return Path(config).parents[1] if isinstance(config, str) else None


def _download(needed: Sequence[str]) -> Path:
    sys.stderr.write(f"{_LICENCE}\n")
    patterns = ["LICENSE*", *(f"{part}/{kind}" for part in needed for kind in _FILES)]
    try:
        folder = Path(snapshot_download(_REPOSITORY, allow_patterns=patterns))
    except Exception as error:  # the hub passes on those of whichever HTTP library it uses
        raise ModelError(
            f"{_REPOSITORY} could not be downloaded ({_brief(error)}): give a folder as the base, "
            f"or use the restorer compact"
        ) from error
    if missing := _missing(folder, needed):
        raise ModelError(f"{_REPOSITORY} was downloaded without its {missing[0]}/: {folder}")
    return folder


def _brief(error: Exception) -> str:
    """Return the first sentence of a library's message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries' messages and progress bars, and restore them afterwards."""
    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()
