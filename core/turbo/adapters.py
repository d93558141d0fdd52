"""LoRA for turbo: its target layers, their names, and the other trained weights.

The lists are img2img-turbo's (src/pix2pix_turbo.py).
"""

from collections.abc import Iterator, Sequence

from torch import nn

from splatmend.core.lora import PEFT_ALPHA
from splatmend.core.turbo.network import Turbo

__all__ = [
    "UNET_ADAPTER",
    "UNET_TARGETS",
    "VAE_ADAPTER",
    "VAE_TARGETS",
    "add_lora",
    "decoder_targets",
    "trainable_parameters",
]

UNET_ADAPTER, VAE_ADAPTER = "default", "vae_skip"
UNET_TARGETS = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out",
    "proj_in", "proj_out", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip
VAE_TARGETS = (
    "conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out",
    "skip_conv_1", "skip_conv_2", "skip_conv_3", "skip_conv_4", "to_k", "to_q", "to_v", "to_out.0",
)  # fmt: skip


def decoder_targets(vae: nn.Module) -> tuple[str, ...]:
    """Return the full names of the decoder's target layers, as Difix trains them."""
    return tuple(
        name
        for name, _ in vae.named_modules()
        if name.startswith("decoder") and name.endswith(VAE_TARGETS)
    )


def add_lora(
    network: Turbo,
    *,
    rank_unet: int = 16,
    rank_vae: int = 8,
    unet_targets: Sequence[str] | str = UNET_TARGETS,
    vae_targets: Sequence[str] | str = VAE_TARGETS,
) -> None:
    """Add new LoRA layers to both networks through peft, in place, and freeze the base.

    The scale is 8 / rank, as in upstream's files. A rank of 0 leaves that network unchanged.
    Weights are drawn from torch's global generator: seed it for a repeatable start.
    """
    from peft import LoraConfig  # here: inference works without peft

    network.requires_grad_(requires_grad=False)
    for model, rank, targets, adapter in (
        (network.unet, rank_unet, unet_targets, UNET_ADAPTER),
        (network.vae, rank_vae, vae_targets, VAE_ADAPTER),
    ):
        if rank:
            wanted = targets if isinstance(targets, str) else list(targets)
            config = LoraConfig(
                r=rank, lora_alpha=PEFT_ALPHA, init_lora_weights="gaussian", target_modules=wanted
            )
            model.add_adapter(config, adapter_name=adapter)


def trainable_parameters(network: Turbo) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the trained weights, each once: LoRA, skip convolutions, the UNet's conv_in."""
    for name, parameter in network.named_parameters():
        if ".lora_" in name or ".skip_conv_" in name or name.startswith("unet.conv_in."):
            yield name, parameter
