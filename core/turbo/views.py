"""Reference views beside the frames, mixed in by the self-attention of the UNet.

Difix, Wu et al. 2025, "Difix3D+: Improving 3D Reconstructions with Single-Step Diffusion Models".
A frame and its reference are pictures of one batch, and every self-attention sees the tokens of
both at once. Cross-attention, convolutions and the autoencoder see each picture by itself. There
are no weights for it: it is learnt by those that SD-Turbo has.
"""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

__all__ = ["VIEWS", "MixedAttention", "interleave"]

VIEWS = 2
"""Pictures that belong together: a frame and its reference. Difix knows no other number."""


def interleave(frames: Tensor, references: Tensor) -> Tensor:
    """Lay two batches (n, ...) into one (2 n, ...): each frame, then its reference."""
    return torch.stack((frames, references), 1).flatten(0, 1)


class MixedAttention:
    """How diffusers' attention layers attend when told the number of views, else as ever.

    The UNet hands its `cross_attention_kwargs` to this: {"views": 2} for an interleaved batch.
    """

    def __init__(self) -> None:
        self._attend = AttnProcessor2_0()  # the one that diffusers' layers come with

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        views: int = 1,
    ) -> Tensor:
        """Attend with tokens (n * views, t, width); those of one frame's views see one another."""
        rest = encoder_hidden_states, attention_mask, temb
        if views == 1 or encoder_hidden_states is not None:  # alone, or to the prompt
            return torch.as_tensor(self._attend(attn, hidden_states, *rest))
        size = hidden_states.shape
        together = hidden_states.reshape(size[0] // views, views * size[1], size[2])
        return torch.as_tensor(self._attend(attn, together, *rest)).reshape(size)
