"""A trained-looking checkpoint for the miniature of SD-Turbo."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def tiny_turbo(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A checkpoint for `tiny_base`, far from the identity: LoRA, open skips, stored prompt."""
    from splatmend.core.lora import Lora
    from splatmend.core.turbo.base import load_base
    from splatmend.core.turbo.files import save_turbo
    from splatmend.core.turbo.network import TurboSettings
    from splatmend.core.turbo.weights import TurboWeights

    dice = torch.Generator().manual_seed(11)

    def lora(network: torch.nn.Module, rank: int, *layers: str) -> Lora:
        shapes = {n: network.get_submodule(n).weight.shape for n in layers}
        down = {n: torch.randn(rank, *s[1:], generator=dice) * 0.1 for n, s in shapes.items()}
        up = {
            n: torch.randn(s[0], rank, *[1] * (len(s) - 2), generator=dice) * 0.1
            for n, s in shapes.items()
        }
        return Lora(rank=rank, targets=layers, down=down, up=up)

    unet, vae = load_base(tiny_base)
    sides = ((32, 32), (32, 16), (32, 8), (16, 8))
    skips = {
        f"decoder.skip_conv_{index}.weight": torch.randn(*side, 1, 1, generator=dice) * 0.1
        for index, side in enumerate(sides, 1)
    }
    attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    weights = TurboWeights(
        TurboSettings(),
        unet_lora=lora(unet, 4, f"{attention}.to_q", f"{attention}.to_v", "conv_out"),
        vae_lora=lora(vae, 2, "encoder.conv_in", "decoder.conv_out"),
        vae_plain=skips,
        prompts=torch.randn(1, 77, 16, generator=dice),
    )
    path = tmp_path_factory.mktemp("tiny-turbo") / "tiny.safetensors"
    save_turbo(path, weights)
    return path
