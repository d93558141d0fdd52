"""The real SD-Turbo, on the meta device: which layers are adapted, how many numbers are trained."""

from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from splatmend.core.turbo.adapters import (
    UNET_TARGETS,
    VAE_TARGETS,
    add_lora,
    decoder_targets,
    trainable_parameters,
)
from splatmend.core.turbo.base import SD_TURBO_UNET, SD_TURBO_VAE
from splatmend.core.turbo.network import Turbo, TurboSettings

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
PROJECTIONS = ("proj_in", "proj_out")
FEED_FORWARD = ("ff.net.2", "ff.net.0.proj")
CONVOLUTIONS = ("conv", "conv1", "conv2", "conv_shortcut", "conv_out")


def full_size(**settings: bool) -> Turbo:
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**SD_TURBO_UNET), AutoencoderKL(**SD_TURBO_VAE)
        return Turbo(unet, vae, torch.empty(1, 77, 1024), TurboSettings(**settings))


def adapted(
    *,
    ranks: tuple[int, int] = (16, 8),
    unet: tuple[str, ...] = UNET_TARGETS,
    vae: Callable[[nn.Module], tuple[str, ...]] = lambda _: VAE_TARGETS,
) -> Turbo:
    network = full_size()
    with torch.device("meta"):
        add_lora(
            network,
            rank_unet=ranks[0],
            rank_vae=ranks[1],
            unet_targets=unet,
            vae_targets=vae(network.vae),
        )
    return network


def count(parameters: dict[str, nn.Parameter] | nn.Module, *needles: str) -> int:
    named = dict(parameters.named_parameters()) if isinstance(parameters, nn.Module) else parameters
    return sum(p.numel() for name, p in named.items() if all(n in name for n in needles))


@pytest.fixture(scope="module")
def as_upstream() -> Turbo:
    """What img2img-turbo adapts, with the seed's ranks 16 and 8."""
    return adapted()


def test_the_base_has_the_released_size() -> None:
    network = full_size(skips=False)
    vae = network.vae
    assert count(network.unet) == 865_910_724
    assert count(network.unet.conv_in) == 11_840
    assert count(vae) == 83_653_863
    assert count(vae.encoder) == 34_163_592
    assert count(vae.decoder) == 49_490_179
    assert (count(vae.quant_conv), count(vae.post_quant_conv)) == (72, 20)
    assert count(full_size().vae, "skip_conv") == 491_520
    assert (network.multiple, network.period) == (8, 64)


def test_upstreams_targets_are_these_layers(as_upstream: Turbo) -> None:
    down = [name for name, _ in as_upstream.named_parameters() if ".lora_A." in name]
    parts = {
        "unet": [n for n in down if n.startswith("unet.")],
        "skip convolutions": [n for n in down if ".skip_conv_" in n],
        "encoder": [n for n in down if n.startswith("vae.encoder.")],
        "decoder": [n for n in down if n.startswith("vae.decoder.") and ".skip_conv_" not in n],
    }
    counts = {part: len(names) for part, names in parts.items()}
    assert counts == {"unet": 257, "skip convolutions": 4, "encoder": 31, "decoder": 39}
    assert len(down) == sum(counts.values())


def test_exactly_so_many_numbers_are_trained(as_upstream: Turbo) -> None:
    trained = dict(trainable_parameters(as_upstream))
    assert count(trained) == 18_506_960
    assert count(trained, "unet.", "lora_") == 16_217_152
    assert count(trained, "vae.encoder.", "lora_") == 738_584
    assert count(trained, "skip_conv", "lora_") == 22_528
    assert count(trained, "vae.decoder.", "lora_") == 1_025_336 + 22_528
    assert count(trained, "skip_conv", "base_layer") == 491_520
    assert len(trained) == len({id(p) for p in trained.values()})  # none is stepped twice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "expected"),
    [((4, 4), (4_054_288, 893_224)), ((8, 8), (8_108_576, 1_786_448)), ((32, 0), (32_434_304, 0))],
)
def test_other_ranks(ranks: tuple[int, int], expected: tuple[int, int]) -> None:
    network = adapted(ranks=ranks)
    assert (count(network.unet, "lora_"), count(network.vae, "lora_")) == expected


@pytest.mark.parametrize(
    ("targets", "modules", "expected"),
    [
        (ATTENTION, 128, 3_319_808),
        ((*ATTENTION, *PROJECTIONS), 160, 4_118_528),
        ((*ATTENTION, *PROJECTIONS, *FEED_FORWARD), 192, 6_914_048),
        ((*ATTENTION, *CONVOLUTIONS), 193, 12_622_912),
    ],
)
def test_subsets_of_the_unet(targets: tuple[str, ...], modules: int, expected: int) -> None:
    unet = adapted(ranks=(16, 0), unet=targets).unet
    assert sum(".lora_A." in name for name, _ in unet.named_parameters()) == modules
    assert count(unet, "lora_") == expected


EVERYWHERE, DECODER = (lambda _: VAE_TARGETS), decoder_targets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "unet", "vae", "conv_in", "expected"),
    [
        ((16, 8), UNET_TARGETS, EVERYWHERE, False, 18_495_120),
        ((16, 8), ATTENTION, DECODER, False, 4_859_192),
        ((16, 8), ATTENTION, EVERYWHERE, False, 5_597_776),
        ((16, 8), (*UNET_TARGETS, "time_emb_proj"), DECODER, True, 18_541_496),
        ((8, 4), UNET_TARGETS, EVERYWHERE, True, 9_505_160),
        ((8, 4), UNET_TARGETS, DECODER, True, 9_135_868),
    ],
)
def test_other_sets_have_other_counts(ranks, unet, vae, conv_in: bool, expected: int) -> None:
    """What else "about 18.5 million" could have meant."""
    trained = dict(trainable_parameters(adapted(ranks=ranks, unet=unet, vae=vae)))
    without = 0 if conv_in else count(trained, "unet.conv_in.")
    assert count(trained) - without == expected


def test_decoder_only_as_difix() -> None:
    network = adapted(vae=decoder_targets)
    trained = dict(trainable_parameters(network))
    assert count(trained) == 17_768_376
    assert not any(name.startswith("vae.encoder.") for name in trained)
    assert count(trained) - count(trained, "unet.conv_in.") == 17_756_536
    assert count(trained) - count(trained, "skip_conv", "lora_") - 11_840 == 17_734_008


def test_the_encoder_hands_over_what_it_has_before_each_block() -> None:
    network = full_size()
    moments, skips = network.encode(torch.empty(1, 3, 512, 512, device="meta"))
    assert moments.shape == (1, 8, 64, 64)
    shapes = [tuple(skip.shape[1:]) for skip in skips]
    assert shapes == [(128, 512, 512), (128, 256, 256), (256, 128, 128), (512, 64, 64)]
    restored = network.decode(torch.empty(1, 4, 64, 64, device="meta"), skips)
    assert restored.shape == (1, 3, 512, 512)


def test_channels_of_the_skip_convolutions() -> None:
    decoder = full_size().vae.decoder
    shapes = [tuple(getattr(decoder, f"skip_conv_{i}").weight.shape[:2]) for i in range(1, 5)]
    assert shapes == [(512, 512), (512, 256), (512, 128), (256, 128)]
