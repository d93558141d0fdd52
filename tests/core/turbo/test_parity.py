"""Our networks give the pictures that upstream's own programs gave for the same files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load
from torch import Tensor

from splatmend.core.turbo.files import read_turbo
from splatmend.core.turbo.guidance import guided_weights
from splatmend.core.turbo.network import Turbo
from splatmend.core.turbo.weights import TurboWeights, build_turbo

TOLERANCE = 1e-4
SEED = 11
UNET: dict[str, Any] = {
    "block_out_channels": (4, 4, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": 8,
    "attention_head_dim": (1, 1, 2, 2),
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "block_out_channels": (4, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "latent_channels": 4,
}
Run = Callable[[TurboWeights], Tensor]
Change = Callable[[TurboWeights], TurboWeights]
MODES = ("img2img_turbo", "difix", "s3diff", "s3diff_cfg")


@pytest.fixture(scope="module")
def expected(vector: Callable[[str], bytes]) -> dict[str, Tensor]:
    return load(vector("expected.safetensors"))


@pytest.fixture(scope="module")
def base(vector: Callable[[str], bytes]) -> dict[str, Tensor]:
    return {name: value.float() for name, value in load(vector("base.safetensors")).items()}


@pytest.fixture
def file(upstream: Callable[[str], Path]) -> Callable[[str], TurboWeights]:
    """The file of a mode as upstream saved it, with the settings of its vector."""

    def read(mode: str) -> TurboWeights:
        weights = read_turbo(upstream(mode.removesuffix("_cfg")))
        if mode == "s3diff":  # its training program, which knows one prompt
            return replace(weights, settings=replace(weights.settings, cfg_scale=1))
        return weights

    return read


@pytest.fixture
def run(base: dict[str, Tensor], expected: dict[str, Tensor]) -> Run:
    """What our network makes of the vectors' picture, under weights from a file."""

    @torch.no_grad()
    def restored(weights: TurboWeights) -> Tensor:
        unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
        for name, model in (("unet.", unet), ("vae.", vae)):
            state = {k.removeprefix(name): v for k, v in base.items() if k.startswith(name)}
            model.load_state_dict(state)
        prompts = expected["prompts"]
        prompts = prompts if weights.settings.cfg_scale != 1 else prompts[:1]
        network = build_turbo(unet, vae, prompts, weights)
        return restore(network, weights, expected["picture"] / 255, expected["score"])

    return restored


def restore(network: Turbo, weights: TurboWeights, rgb: Tensor, score: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)  # upstream samples the posterior
    overrides = {}
    if weights.guidance is not None:
        overrides = guided_weights(
            network, weights.unet_lora, weights.vae_lora, weights.guidance, score
        )
    return torch.func.functional_call(network, overrides, (rgb,), {"generator": generator})


def error(restored: Tensor, upstream: Tensor) -> float:
    """Largest difference over the largest value, both in [0, 1]."""
    reference = (upstream + 1) / 2
    return float((restored - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("mode", MODES)
def test_upstreams_file_gives_upstreams_picture(
    mode: str,
    file: Callable[[str], TurboWeights],
    run: Run,
    expected: dict[str, Tensor],
) -> None:
    restored = run(file(mode))
    assert restored.shape == expected[mode].shape
    assert restored.std() > 0.05  # not a constant that anything would reproduce
    assert error(restored, expected[mode]) <= TOLERANCE


def with_settings(**changes: Any) -> Change:
    return lambda weights: replace(weights, settings=replace(weights.settings, **changes))


def with_alpha(part: str) -> Change:
    return lambda weights: replace(weights, **{part: replace(getattr(weights, part), alpha=8.1)})


def without_conv_in(weights: TurboWeights) -> TurboWeights:
    plain = {k: v for k, v in weights.unet_plain.items() if not k.startswith("conv_in.")}
    return replace(weights, unet_plain=plain)


def with_other_waves(weights: TurboWeights) -> TurboWeights:
    assert weights.guidance is not None
    weights.guidance.get_buffer("w").mul_(1.01)
    return weights


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("img2img_turbo", with_settings(timestep=998)),
        ("img2img_turbo", with_settings(input_range="pm1")),
        ("img2img_turbo", with_settings(gamma=0.99)),
        ("img2img_turbo", with_alpha("unet_lora")),
        ("img2img_turbo", with_alpha("vae_lora")),
        ("img2img_turbo", without_conv_in),
        ("difix", with_settings(timestep=200)),
        ("difix", with_settings(input_range="01")),
        ("difix", with_settings(gamma=0.99)),
        ("difix", with_alpha("vae_lora")),
        ("s3diff", with_settings(timestep=998)),
        ("s3diff", with_settings(input_range="01")),
        ("s3diff", with_alpha("unet_lora")),
        ("s3diff", with_alpha("vae_lora")),
        ("s3diff", without_conv_in),
        ("s3diff", with_other_waves),
        ("s3diff_cfg", with_settings(cfg_scale=1.06)),
    ],
)
def test_the_comparison_sees_what_is_a_little_wrong(
    mode: str,
    change: Change,
    file: Callable[[str], TurboWeights],
    run: Run,
    expected: dict[str, Tensor],
) -> None:
    assert error(run(change(file(mode))), expected[mode]) > 5 * TOLERANCE


def test_without_a_generator_the_posteriors_mode_is_taken(
    file: Callable[[str], TurboWeights],
    base: dict[str, Tensor],
    expected: dict[str, Tensor],
    run: Run,
) -> None:
    """The vectors hold a sample, as upstream draws; a video must not flicker with it."""
    weights = file("difix")
    sampled = run(weights)
    unet, vae = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
    vae.load_state_dict({k[4:]: v for k, v in base.items() if k.startswith("vae.")})
    network = build_turbo(unet, vae, expected["prompts"][:1], weights)
    rgb = expected["picture"] / 255
    with torch.no_grad():
        first, second = network(rgb), network(rgb)
    assert torch.equal(first, second)
    assert not torch.allclose(first, sampled, atol=1e-3)
