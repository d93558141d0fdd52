"""Reference views, mixed in by the self-attention of the UNet.

Difix, Wu et al. 2025, "Difix3D+: Improving 3D Reconstructions with Single-Step Diffusion Models".
A frame and its reference are pictures of one batch, and every self-attention sees the tokens of
both. Cross-attention, convolutions and the autoencoder see each picture by itself. The mixing adds
no weights to SD-Turbo's.
"""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

__all__ = ["VIEWS", "MixedAttention", "interleave"]

VIEWS = 2
"""Number of pictures that belong together: a frame and its reference, as in Difix."""


def interleave(frames: Tensor, references: Tensor) -> Tensor:
    """Interleave two batches (n, ...) into (2 n, ...): each frame, then its reference."""
    return torch.stack((frames, references), 1).flatten(0, 1)


class MixedAttention:
    """An attention processor of diffusers that mixes the views of an interleaved batch.

    The UNet passes its `cross_attention_kwargs` to it: {"views": 2} for an interleaved batch.
    With 1 view it attends like diffusers' own processor.
    """

    def __init__(self) -> None:
        self._attend = AttnProcessor2_0()  # the default of diffusers' layers

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        views: int = 1,
    ) -> Tensor:
        """Attend over tokens (n * views, t, width), jointly for the views of one frame."""
        rest = encoder_hidden_states, attention_mask, temb
        if views == 1 or encoder_hidden_states is not None:  # alone, or to the prompt
            return torch.as_tensor(self._attend(attn, hidden_states, *rest))
        size = hidden_states.shape
        together = hidden_states.reshape(size[0] // views, views * size[1], size[2])
        return torch.as_tensor(self._attend(attn, together, *rest)).reshape(size)
