"""A small decoder in place of the full one: a quarter of the arithmetic, and less detail.

TAESD (Ollin Boer Bohan, madebyollin/taesd) decodes the same latents with 64 channels. It
has no skips from the encoder, so fine detail of the input (hair, print, skin) is redrawn
from the latent. Use it for previews, not for final frames.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from splatmend.core.errors import ModelError
from splatmend.core.turbo.base import load_part
from splatmend.core.turbo.network import Turbo

__all__ = ["TinyDecoded", "load_tiny_decoder"]

_REPOSITORY = "madebyollin/taesd"


class TinyDecoded(nn.Module):
    """Turbo with a small decoder; the network's own decoder is removed."""

    def __init__(self, turbo: Turbo, decoder: nn.Module) -> None:
        super().__init__()
        self.turbo, self.decoder = turbo, decoder
        turbo.vae.decoder = nn.Identity()  # frees its memory

    def forward(self, rgb: Tensor, *, view: Tensor | None = None) -> Tensor:
        """Restore (n, 3, h, w) in [0, 1] -> the same, float32; `view` as in `Turbo`."""
        clean, _ = self.turbo.clean(rgb, view=view)  # TAESD takes latents as the UNet has them
        restored: Tensor = self.decoder(clean.to(rgb.dtype))
        return (restored.float().clamp(-1, 1) + 1) / 2


def load_tiny_decoder(folder: str | Path | None = None) -> nn.Module:
    """Load the decoder of an AutoencoderTiny from a folder, or TAESD's from the hub's cache.

    Raises:
        ModelError: the cache lacks it.
        CheckpointError: the folder is damaged or of another kind.
    """
    if folder is None:
        config = try_to_load_from_cache(_REPOSITORY, "config.json")
        if not isinstance(config, str):
            raise ModelError(
                f"the small decoder is not in the hub's cache: `hf download {_REPOSITORY}` puts "
                f"it there (10 MB), or give the folder of an AutoencoderTiny"
            )
        folder = Path(config).parent
    decoder: nn.Module = load_part(AutoencoderTiny, Path(folder), torch.float32).decoder
    return decoder
