"""Degradation guidance: a frame's degradation scores modulate the LoRA (S3Diff).

Zhang et al. 2024, "Degradation-Guided One-Step Image Super-Resolution with Diffusion
Priors". Each block of the networks has a matrix M, computed from the scores. M stands between
the two halves of every LoRA in the block: W + s * up @ M^T @ down. It replaces the identity,
so the product is still one weight and can be merged for a frame.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from splatmend.core.errors import CheckpointError
from splatmend.core.lora import Lora, adapted_weight
from splatmend.core.turbo.network import Turbo

__all__ = ["Guidance", "guided_weights"]

SCORES = 2  # blur, noise
_FREQUENCIES, _SCORE_WIDTH, _BLOCK_WIDTH = 64, 256, 64
_UNET_BLOCKS = 10  # 4 down, mid, 4 up, the rest
_VAE_BLOCKS = 6  # 4 down, mid, the rest


class Guidance(nn.Module):
    """A map from degradation scores to one matrix for each block; weight names are S3Diff's.

    Untrained, it returns the identity for every score, so that training starts at the plain LoRA.
    S3Diff starts near 0 instead, where both factors of the product have almost no gradient.
    """

    def __init__(self, rank_unet: int, rank_vae: int) -> None:
        super().__init__()
        # random Fourier features (Tancik et al. 2020), never trained but part of the file
        self.register_buffer("w", torch.randn(_FREQUENCIES))
        self.vae_de_mlp, self.unet_de_mlp = (
            _layer(2 * SCORES * _FREQUENCIES, _SCORE_WIDTH) for _ in range(2)
        )
        self.vae_block_mlp, self.unet_block_mlp = (
            _layer(_BLOCK_WIDTH, _BLOCK_WIDTH) for _ in range(2)
        )
        self.vae_fuse_mlp, self.unet_fuse_mlp = map(_identity, (rank_vae, rank_unet))
        self.vae_block_embeddings = nn.Embedding(_VAE_BLOCKS, _BLOCK_WIDTH)
        self.unet_block_embeddings = nn.Embedding(_UNET_BLOCKS, _BLOCK_WIDTH)

    def mixing(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Map scores (n, 2), blur and noise in [0, 1], to M for each block.

        Returns:
            Autoencoder (n, 6, rank_vae, rank_vae), UNet (n, 10, rank_unet, rank_unet).
        """
        w = self.get_buffer("w")
        angle = 2 * math.pi * scores.to(w)[..., None] * w  # (n, 2, 64)
        waves = torch.cat((angle.sin(), angle.cos()), -1).flatten(1)  # (n, 256)
        of_vae = _matrices(
            self.vae_de_mlp(waves),
            self.vae_block_mlp(self.vae_block_embeddings.weight),
            self.vae_fuse_mlp,
        )
        of_unet = _matrices(
            self.unet_de_mlp(waves),
            self.unet_block_mlp(self.unet_block_embeddings.weight),
            self.unet_fuse_mlp,
        )
        return of_vae, of_unet


def _layer(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, after), nn.ReLU())


def _identity(rank: int) -> nn.Linear:
    """Make a layer that returns the identity matrix for every input until it is trained."""
    layer = nn.Linear(_SCORE_WIDTH + _BLOCK_WIDTH, rank * rank)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.eye(rank).flatten())
    return layer


def _matrices(scores: Tensor, blocks: Tensor, fuse: nn.Linear) -> Tensor:
    """Fuse embeddings (n, 256) of scores and (b, 64) of blocks into (n, b, rank, rank)."""
    size = len(scores), len(blocks), -1
    both = torch.cat((scores[:, None].expand(size), blocks[None].expand(size)), -1)
    rank = math.isqrt(fuse.out_features)
    return torch.as_tensor(fuse(both)).view(*both.shape[:2], rank, rank)


def guided_weights(
    network: Turbo, unet_lora: Lora, vae_lora: Lora, guidance: Guidance, score: Tensor
) -> dict[str, Tensor]:
    """Compute an unmerged network's weights for frames of one score (2,).

    Use them with `torch.func.functional_call(network, weights, (rgb,))`; the network itself is
    never changed. Gradients reach the LoRA halves and the guidance. The weights have the
    network's device and dtype; LoRA halves that have them too are not copied.

    Raises:
        CheckpointError: LoRA, guidance and network do not fit one another.
    """
    for_vae, for_unet = guidance.mixing(score[None])
    parts = (
        ("unet", network.unet, unet_lora, for_unet[0]),
        ("vae", network.vae, vae_lora, for_vae[0]),
    )
    return {
        f"{part}.{name}.weight": weight
        for part, model, lora, mixing in parts
        for name, weight in _mixed(part, model, lora, mixing)
    }


def _mixed(part: str, model: nn.Module, lora: Lora, mixing: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer of the LoRA with its weight under `mixing` (blocks, rank, rank)."""
    if lora.down and lora.rank != mixing.shape[-1]:
        raise CheckpointError(
            f"the guidance is for a {part} LoRA of rank {mixing.shape[-1]}, the file has rank "
            f"{lora.rank}: its parts belong to different trainings"
        )
    block_of = unet_block if part == "unet" else vae_block
    parameters = dict(model.named_parameters())
    for name, down in lora.down.items():
        weight = adapted_weight(parameters, lora, name)
        matrix = mixing[block_of(name)]
        up = lora.up[name].to(matrix).flatten(1) @ matrix.T
        # product and sum in one go: a float32 change of every weight would double the memory
        changed = torch.addmm(
            weight.flatten(1), up.to(weight), down.to(weight).flatten(1), alpha=lora.scale
        )
        yield name, changed.view_as(weight)


def unet_block(name: str) -> int:
    """Return the index of the matrix for the UNet's module `name`."""
    block, _, rest = name.partition(".")
    if block == "mid_block":
        return 4
    first = {"down_blocks": 0, "up_blocks": 5}.get(block)
    return -1 if first is None else first + int(rest.partition(".")[0])


def vae_block(name: str) -> int:
    """Return the index of the matrix for the autoencoder's module `name`, as in S3Diff."""
    block, _, rest = name.partition(".")[2].partition(".")
    if block == "mid_block":
        return -2
    return int(rest.partition(".")[0]) if block == "down_blocks" else -1
