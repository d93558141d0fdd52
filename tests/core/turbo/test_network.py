"""The network against diffusers' own parts, and what passes through it as values."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from splatmend.core import InputError
from splatmend.core.lora import split_state
from splatmend.core.turbo.adapters import (
    UNET_ADAPTER,
    VAE_ADAPTER,
    add_lora,
    decoder_targets,
    trainable_parameters,
)
from splatmend.core.turbo.network import Turbo, TurboSettings, signal_share
from splatmend.core.turbo.weights import TurboWeights, build_turbo

Make = Callable[..., Turbo]


@pytest.fixture
def rgb() -> Tensor:
    return torch.rand(2, 3, 64, 128)


def open_skips(network: Turbo, scale: float = 0.2) -> Turbo:
    """Skip convolutions as training leaves them; fresh ones hardly do anything."""
    for index in range(1, 5):
        nn.init.normal_(getattr(network.vae.decoder, f"skip_conv_{index}").weight, std=scale)
    return network


def scheduler() -> DDPMScheduler:
    """With the values of sd-turbo's scheduler file."""
    made = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="trailing",
        prediction_type="epsilon",
    )
    made.set_timesteps(1)
    return made


def test_the_closed_form_is_the_schedulers_step(make_turbo: Make) -> None:
    network, reference = make_turbo(timestep=999), scheduler()
    latent, noise = torch.randn(2, 2, 4, 8, 8)
    network.unet.forward = lambda *_, **__: (noise,)
    expected = reference.step(noise, 999, latent).prev_sample
    torch.testing.assert_close(network.denoise(latent), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("timestep", "share"), [(999, 0.0046601), (399, 0.42609), (199, 0.7552)])
def test_share_of_signal(timestep: int, share: float) -> None:
    assert signal_share(timestep) == pytest.approx(share, abs=5e-5)
    released = scheduler().alphas_cumprod[timestep]
    assert signal_share(timestep) == pytest.approx(float(released), rel=1e-6)


@torch.no_grad()
def test_encoder_and_decoder_are_diffusers_own(make_turbo: Make, rgb: Tensor) -> None:
    network = make_turbo(skips=False)
    posterior = network.vae.encode(rgb).latent_dist
    moments, _ = network.encode(rgb)
    factor = network.vae.config.scaling_factor
    assert torch.equal(network.latent(moments), posterior.mode() * factor)
    seeds = [torch.Generator().manual_seed(5) for _ in range(2)]
    assert torch.equal(
        network.latent(moments, seeds[0]), posterior.sample(generator=seeds[1]) * factor
    )
    latent = torch.randn(2, 4, 8, 16)
    assert torch.equal(network.decode(latent), network.vae.decode(latent).sample)


@torch.no_grad()
def test_the_mode_reads_no_random_state(make_turbo: Make, rgb: Tensor) -> None:
    network, state = make_turbo(), torch.get_rng_state()
    first = network(rgb)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(network(rgb), first)
    sampled = [network(rgb, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])
    assert not torch.equal(sampled[0], first)


@torch.no_grad()
def test_fresh_skips_leave_the_decoder_as_it_is(make_turbo: Make, rgb: Tensor) -> None:
    plain, fresh = make_turbo(skips=False), make_turbo()
    assert (plain(rgb) - fresh(rgb)).abs().max() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_every_skip_is_used(make_turbo: Make, index: int) -> None:
    network = make_turbo()
    _, skips = network.encode(torch.rand(1, 3, 64, 64))
    latent = torch.randn(1, 4, 8, 8)
    before = network.decode(latent, skips)
    nn.init.normal_(getattr(network.vae.decoder, f"skip_conv_{index}").weight, std=0.2)
    assert (network.decode(latent, skips) - before).abs().max() > 1e-2
    others = list(skips)
    others[4 - index] = torch.zeros_like(skips[4 - index])  # 1 is the coarsest, the last skip
    assert (network.decode(latent, tuple(others)) - before).abs().max() < 1e-3


@torch.no_grad()
def test_gamma_scales_what_the_skips_bring(make_turbo: Make) -> None:
    whole, half = open_skips(make_turbo()), make_turbo(gamma=0.5)
    half.load_state_dict(whole.state_dict())
    _, skips = whole.encode(torch.rand(1, 3, 64, 64))
    latent = torch.randn(1, 4, 8, 8)
    halved = tuple(0.5 * skip for skip in skips)
    torch.testing.assert_close(half.decode(latent, skips), whole.decode(latent, halved))
    none = make_turbo(gamma=0.0)
    none.load_state_dict(whole.state_dict())
    assert torch.equal(none.decode(latent, skips), none.decode(latent))


@torch.no_grad()
def test_streams_that_interleave_do_not_disturb_each_other(make_turbo: Make) -> None:
    network = open_skips(make_turbo())
    streams = torch.rand(2, 1, 3, 64, 64)
    alone = [network(picture) for picture in streams]
    encoded = [network.encode(picture) for picture in streams]
    factor = network.vae.config.scaling_factor
    together = [
        network.decode(network.denoise(network.latent(moments)) / factor, skips)
        for moments, skips in reversed(encoded)
    ]
    for decoded, expected in zip(reversed(together), alone, strict=True):
        assert torch.equal((decoded.clamp(-1, 1) + 1) / 2, expected)


@torch.no_grad()
def test_the_input_range_belongs_to_the_settings(make_turbo: Make, rgb: Tensor) -> None:
    centred = make_turbo(input_range="pm1")(rgb)
    torch.testing.assert_close(centred, make_turbo()(2 * rgb - 1))
    assert (centred - make_turbo()(rgb)).abs().max() > 1e-3


@torch.no_grad()
def test_guidance_over_two_prompts(make_turbo: Make) -> None:
    latent = torch.randn(1, 4, 8, 8)
    both = make_turbo(cfg_scale=1.5)
    positive, negative = make_turbo(), make_turbo()
    negative.prompts = both.prompts[1:]
    clean = [network.denoise(latent) for network in (positive, negative)]
    expected = clean[1] + 1.5 * (clean[0] - clean[1])
    torch.testing.assert_close(both.denoise(latent), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("decoder_only", [False, True])
def test_merged_lora_is_peft_unmerged(make_turbo: Make, rgb: Tensor, *, decoder_only: bool) -> None:
    trained = open_skips(make_turbo())
    plain = {f"decoder.skip_conv_{i}.weight": w for i, w in enumerate(skip_weights(trained), 1)}
    before = trained(rgb)
    targets = {"vae_targets": decoder_targets(trained.vae)} if decoder_only else {}
    add_lora(trained, rank_unet=4, rank_vae=2, **targets)
    for name, parameter in trainable_parameters(trained):
        if ".lora_B." in name:  # they start at zero
            nn.init.normal_(parameter, std=0.1)
    unet_lora, unet_plain = split_state(adapted_part(trained.unet, "conv_in"), UNET_ADAPTER)
    vae_lora, vae_plain = split_state(adapted_part(trained.vae, "skip_conv"), VAE_ADAPTER)
    assert vae_plain.keys() == plain.keys()
    assert any(name.startswith("encoder.") for name in vae_lora.down) != decoder_only
    fresh = make_turbo(skips=False)
    weights = TurboWeights(TurboSettings(), unet_lora, vae_lora, unet_plain, vae_plain)
    merged = build_turbo(fresh.unet, fresh.vae, fresh.prompts, weights)
    expected = trained(rgb)
    torch.testing.assert_close(merged(rgb), expected, rtol=1e-4, atol=2e-5)
    assert (expected - before).abs().max() > 0.02


def skip_weights(network: Turbo) -> list[Tensor]:
    return [getattr(network.vae.decoder, f"skip_conv_{i}").weight for i in range(1, 5)]


def adapted_part(model: nn.Module, beside: str) -> dict[str, Tensor]:
    """What a checkpoint holds of one network."""
    return {n: v for n, v in model.state_dict().items() if "lora" in n or beside in n}


@pytest.mark.slow
def test_it_compiles_in_one_piece() -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    network = Turbo(unet, vae, torch.zeros(1, 77, 16)).eval().requires_grad_(requires_grad=False)
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    rgb = torch.rand(1, 3, 16, 16)
    assert torch.equal(compiled(rgb), network(rgb))


def test_settings_and_prompts_that_cannot_be(tiny_vae: AutoencoderKL, make_turbo: Make) -> None:
    with pytest.raises(InputError, match="between 0 and 999, got 1000"):
        TurboSettings(timestep=1000)
    with pytest.raises(InputError, match='must be "01" or "pm1"'):
        replace(TurboSettings(), input_range="255")  # type: ignore[arg-type]
    unet = make_turbo().unet
    with pytest.raises(InputError, match=r"\(1 or 2, tokens, 16\).*got \(1, 77, 8\)"):
        Turbo(unet, tiny_vae, torch.zeros(1, 77, 8))
    with pytest.raises(InputError, match="negative prompt"):
        Turbo(unet, tiny_vae, torch.zeros(1, 77, 16), TurboSettings(cfg_scale=2))


@pytest.fixture
def tiny_vae(make_turbo: Make) -> AutoencoderKL:
    return make_turbo(skips=False).vae
