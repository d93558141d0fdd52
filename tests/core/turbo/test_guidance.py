"""Degradation guidance: the merged weights are the layers that S3Diff describes."""

import math
from copy import deepcopy

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from splatmend.core import CheckpointError
from splatmend.core.lora import Lora
from splatmend.core.turbo.adapters import UNET_TARGETS, VAE_TARGETS
from splatmend.core.turbo.guidance import Guidance, guided_weights
from splatmend.core.turbo.network import Turbo, TurboSettings

BLUR, NOISE = 0.3, 0.8


@pytest.fixture(scope="module")
def network() -> Turbo:
    """The shape of SD-Turbo, four blocks each, at 8 channels."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    network = Turbo(unet, vae, torch.randn(1, 3, 8), TurboSettings(skips=False))
    return network.eval().requires_grad_(requires_grad=False)


def random_lora(network: nn.Module, targets: tuple[str, ...], rank: int, prefix: str = "") -> Lora:
    down, up = {}, {}
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        wanted = any(f".{name}".endswith(f".{target}") for target in targets)  # as peft's rule
        if weight is not None and wanted and name.startswith(prefix):
            down[name] = 0.3 * torch.randn(rank, *weight.shape[1:])
            up[name] = 0.3 * torch.randn(len(weight), rank, *[1] * (weight.ndim - 2))
    return Lora(rank=rank, targets=targets, down=down, up=up)


@pytest.fixture(scope="module")
def loras(network: Turbo) -> tuple[Lora, Lora]:
    torch.manual_seed(1)
    return (
        random_lora(network.unet, UNET_TARGETS, 3),
        random_lora(network.vae, VAE_TARGETS, 2, "encoder."),
    )


@pytest.fixture
def guidance() -> Guidance:
    """As trained: every block and every score gives another matrix."""
    guidance = Guidance(3, 2)
    for layer in (guidance.unet_fuse_mlp, guidance.vae_fuse_mlp):
        nn.init.normal_(layer.weight, std=0.3)
    return guidance.requires_grad_(requires_grad=False)


def test_the_parameters_are_those_of_the_released_guidance() -> None:
    guidance = Guidance(rank_unet=32, rank_vae=16)
    assert sum(p.numel() for p in guidance.parameters()) == 551_808
    assert {k: tuple(v.shape) for k, v in guidance.state_dict().items()} == {
        "w": (64,),
        "vae_de_mlp.0.weight": (256, 256),
        "vae_de_mlp.0.bias": (256,),
        "unet_de_mlp.0.weight": (256, 256),
        "unet_de_mlp.0.bias": (256,),
        "vae_block_mlp.0.weight": (64, 64),
        "vae_block_mlp.0.bias": (64,),
        "unet_block_mlp.0.weight": (64, 64),
        "unet_block_mlp.0.bias": (64,),
        "vae_fuse_mlp.weight": (256, 320),
        "vae_fuse_mlp.bias": (256,),
        "unet_fuse_mlp.weight": (1024, 320),
        "unet_fuse_mlp.bias": (1024,),
        "vae_block_embeddings.weight": (6, 64),
        "unet_block_embeddings.weight": (10, 64),
    }


def test_one_entry_of_a_matrix_computed_by_hand(guidance: Guidance) -> None:
    frequencies = guidance.w.tolist()
    waves = [
        wave(2 * math.pi * score * f)
        for score in (BLUR, NOISE)
        for wave in (math.sin, math.cos)
        for f in frequencies
    ]
    of_score = F.relu(guidance.unet_de_mlp[0](torch.tensor(waves)))
    block = 7
    of_block = F.relu(guidance.unet_block_mlp[0](guidance.unet_block_embeddings.weight[block]))
    layer, row, column = guidance.unet_fuse_mlp, 1, 2
    entry = layer.weight[3 * row + column] @ torch.cat((of_score, of_block))
    entry += layer.bias[3 * row + column]
    _, for_unet = guidance.mixing(torch.tensor([[0.1, 0.2], [BLUR, NOISE]]))
    assert for_unet.shape == (2, 10, 3, 3)
    assert for_unet[1, block, row, column].item() == pytest.approx(entry.item(), rel=1e-4)


def unmerged(layer: nn.Module, x: Tensor, lora: Lora, name: str, mixing: Tensor) -> Tensor:
    """W x + s * up (M^T (down x)), for both kinds of layer that a LoRA can change."""
    down, up = lora.down[name], lora.up[name]
    if isinstance(layer, nn.Conv2d):
        inner = F.conv2d(x, down, stride=layer.stride, padding=layer.padding)
        mixed = torch.einsum("nkhw,kr->nrhw", inner, mixing)
        return layer(x) + lora.scale * F.conv2d(mixed, up)
    return layer(x) + lora.scale * (x @ down.T @ mixing) @ up.T


UNET_BLOCKS = {
    "down_blocks.0.resnets.0.conv1": 0,
    "down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_out.0": 2,
    "down_blocks.2.downsamplers.0.conv": 2,
    "mid_block.attentions.0.proj_in": 4,
    "up_blocks.0.resnets.1.conv_shortcut": 5,
    "up_blocks.3.attentions.1.transformer_blocks.0.ff.net.0.proj": 8,
    "conv_out": 9,
}
VAE_BLOCKS = {
    "encoder.down_blocks.0.downsamplers.0.conv": 0,
    "encoder.down_blocks.3.resnets.0.conv2": 3,
    "encoder.mid_block.attentions.0.to_q": 4,
    "encoder.mid_block.resnets.1.conv1": 4,
    "encoder.conv_in": 5,
    "encoder.conv_out": 5,
}


@pytest.mark.parametrize(("part", "names"), [("unet", UNET_BLOCKS), ("vae", VAE_BLOCKS)])
def test_merged_layers_are_the_unmerged_ones_with_their_blocks_matrix(
    network: Turbo,
    loras: tuple[Lora, Lora],
    guidance: Guidance,
    part: str,
    names: dict[str, int],
) -> None:
    score = torch.tensor([BLUR, NOISE])
    weights = guided_weights(network, *loras, guidance, score)
    for_vae, for_unet = guidance.mixing(score[None])
    model, lora = getattr(network, part), loras[part == "vae"]
    matrices = (for_unet if part == "unet" else for_vae)[0]
    for name, block in names.items():
        layer = model.get_submodule(name)
        width = layer.weight.shape[1]
        x = torch.randn((1, width, 6, 6) if isinstance(layer, nn.Conv2d) else (5, width))
        merged = torch.func.functional_call(layer, {"weight": weights[f"{part}.{name}.weight"]}, x)
        expected = unmerged(layer, x, lora, name, matrices[block])
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
        other = unmerged(layer, x, lora, name, matrices[block - 1])
        assert not torch.allclose(merged, other, rtol=1e-2)


def test_every_layer_of_the_loras_is_overridden_and_the_network_stays(
    network: Turbo, loras: tuple[Lora, Lora], guidance: Guidance
) -> None:
    before = {k: v.clone() for k, v in network.state_dict().items()}
    weights = guided_weights(network, *loras, guidance, torch.tensor([BLUR, NOISE]))
    wanted = {f"unet.{n}.weight" for n in loras[0].down}
    assert weights.keys() == wanted | {f"vae.{n}.weight" for n in loras[1].down}
    assert all(weights[name].shape == before[name].shape for name in weights)
    assert all(torch.equal(value, before[k]) for k, value in network.state_dict().items())


@torch.no_grad()
def test_the_score_changes_the_picture(
    network: Turbo, loras: tuple[Lora, Lora], guidance: Guidance
) -> None:
    rgb = torch.rand(1, 3, network.multiple, network.multiple)

    def restore(blur: float, noise: float) -> Tensor:
        weights = guided_weights(network, *loras, guidance, torch.tensor([blur, noise]))
        return torch.func.functional_call(network, weights, (rgb,))

    first = restore(0.2, 0.2)
    assert torch.equal(first, restore(0.2, 0.2))
    assert (first - restore(0.9, 0.2)).abs().max() > 1e-3
    assert (first - restore(0.2, 0.9)).abs().max() > 1e-3


def test_fresh_guidance_is_the_plain_lora_and_can_be_trained(
    network: Turbo, loras: tuple[Lora, Lora]
) -> None:
    guidance = Guidance(3, 2)
    weights = guided_weights(network, *loras, guidance, torch.tensor([BLUR, NOISE]))
    name = "down_blocks.0.resnets.0.conv1"
    expected = network.unet.get_parameter(f"{name}.weight") + loras[0].change(name)
    torch.testing.assert_close(weights[f"unet.{name}.weight"], expected, rtol=1e-4, atol=1e-6)
    sum(w.square().sum() for w in weights.values()).backward()
    assert guidance.unet_fuse_mlp.weight.grad.abs().sum() > 0
    assert guidance.vae_fuse_mlp.weight.grad.abs().sum() > 0


def test_half_precision_networks_get_half_precision_weights(
    network: Turbo, loras: tuple[Lora, Lora], guidance: Guidance
) -> None:
    score = torch.tensor([BLUR, NOISE])
    full = guided_weights(network, *loras, guidance, score)
    half = guided_weights(deepcopy(network).bfloat16(), *loras, guidance, score)
    assert {w.dtype for w in half.values()} == {torch.bfloat16}
    for name, weight in full.items():
        # bfloat16 has 8 bits; the weight, the product and the sum are each rounded once
        assert (half[name].float() - weight).abs().max() < 0.02 * weight.abs().max()


def test_parts_that_do_not_fit_are_refused(network: Turbo, loras: tuple[Lora, Lora]) -> None:
    score, (for_unet, for_vae) = torch.tensor([BLUR, NOISE]), loras
    with pytest.raises(CheckpointError, match="unet LoRA of rank 4, the file has rank 3"):
        guided_weights(network, for_unet, for_vae, Guidance(4, 2), score)
    wide = {name: torch.zeros(3, 99) for name in for_unet.down}
    with pytest.raises(CheckpointError, match="belongs to another base model"):
        guided_weights(
            network, Lora(rank=3, down=wide, up=for_unet.up), for_vae, Guidance(3, 2), score
        )
    lost = Lora(rank=3, down={"x": torch.zeros(3, 8)}, up={"x": torch.zeros(8, 3)})
    with pytest.raises(CheckpointError, match=r"LoRA of x .* no such layer"):
        guided_weights(network, lost, for_vae, Guidance(3, 2), score)
