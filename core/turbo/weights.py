"""The content of a turbo checkpoint, and its merge into SD-Turbo."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from splatmend.core.errors import CheckpointError
from splatmend.core.lora import Lora, merge_lora
from splatmend.core.turbo.guidance import Guidance
from splatmend.core.turbo.network import Turbo, TurboSettings

__all__ = ["TurboWeights", "build_turbo"]

_NO_LORA = Lora(rank=1)


@dataclass(frozen=True)
class TurboWeights:
    """The content of a checkpoint, in the precision of the file, on the CPU."""

    settings: TurboSettings
    unet_lora: Lora = _NO_LORA
    vae_lora: Lora = _NO_LORA
    unet_plain: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights that replace the base's: `conv_in.*`, or a whole UNet (Difix)."""
    vae_plain: Mapping[str, Tensor] = field(default_factory=dict)
    """`decoder.skip_conv_{1..4}.weight`, and other weights that replace the base's."""
    prompts: Tensor | None = None
    """(1 or 2, tokens, width) if the file stores them; upstream's files do not."""
    guidance: Guidance | None = None
    """S3Diff's degradation guidance; with it the LoRAs are merged for each frame."""


def build_turbo(
    unet: UNet2DConditionModel, vae: AutoencoderKL, prompts: Tensor, weights: TurboWeights
) -> Turbo:
    """Put a checkpoint into base networks, which are changed in place.

    LoRAs are merged, except under guidance. `prompts` are used if the file has none.

    Raises:
        CheckpointError: the file does not fit these networks.
    """
    stored = prompts if weights.prompts is None else weights.prompts
    network = Turbo(unet, vae, stored, weights.settings)
    _replace(unet, weights.unet_plain, "UNet")
    _replace(vae, weights.vae_plain, "autoencoder")
    if weights.guidance is None:
        merge_lora(unet, weights.unet_lora)
        merge_lora(vae, weights.vae_lora)
    return network.eval().requires_grad_(requires_grad=False)


def _replace(network: nn.Module, plain: Mapping[str, Tensor], what: str) -> None:
    own = network.state_dict()
    for name, value in plain.items():
        if name not in own or own[name].shape != value.shape:
            found = tuple(own[name].shape) if name in own else "no such weight"
            raise CheckpointError(
                f"{name} {tuple(value.shape)} of the file does not fit the {what} "
                f"({found}): the file belongs to another base model"
            )
    network.load_state_dict(dict(plain), strict=False)
