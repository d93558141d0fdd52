import json

import pytest
import torch
from torch.nn import functional as F

from splatmend.core import Compact, CompactConfig, InputError, pad_to_multiple
from splatmend.core.checkpoint import config_from_json
from splatmend.core.compact.network import laplacian_bands

SMALL = CompactConfig(widths=(8, 12), encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))


def test_an_untrained_network_changes_nothing_but_can_learn() -> None:
    network = Compact(SMALL)
    rgb = torch.rand(1, 3, 64, 64)
    assert network(rgb).abs().amax() == 0
    (network(rgb) - 1).square().mean().backward()
    assert network.head.weight.grad is not None
    assert network.head.weight.grad.abs().amax() > 0


def test_sides_need_not_fill_the_coarsest_cells() -> None:
    network = Compact(
        CompactConfig(
            widths=(8, 8, 12, 12), encoder_blocks=(1,) * 3, middle_blocks=1, decoder_blocks=(1,) * 3
        )
    ).requires_grad_(requires_grad=False)
    assert (network.multiple, network.period) == (8, 32)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    reach = network.receptive_field
    rgb = torch.rand(1, 3, reach + 72, reach + 120)  # of odd numbers of cells
    rgb = rgb[..., : reach // 8 * 8 + 72, : reach // 8 * 8 + 120]
    whole = network(rgb)
    assert whole.shape == rgb.shape
    larger = network(pad_to_multiple(rgb, 32))
    inner = (..., slice(64), slice(112))
    torch.testing.assert_close(whole[inner], larger[inner], rtol=0, atol=1e-5)
    # towards the border, beyond which the picture is made up in another way, not much is either
    among = larger[..., : whole.shape[2], : whole.shape[3]]
    assert (whole - among).square().mean() < 0.1 * whole.square().mean()
    assert not torch.equal(whole, among)


def test_the_bands_add_up_to_what_the_coarsest_mean_leaves() -> None:
    rgb = torch.rand(1, 3, 32, 64)
    coarse = F.interpolate(F.avg_pool2d(rgb, 8), scale_factor=8, mode="bilinear")
    bands = list(laplacian_bands(rgb, 3))
    assert len(bands) == 3
    torch.testing.assert_close(torch.stack(bands).sum(0), rgb - coarse)


def test_a_gain_sharpens_what_is_soft() -> None:
    network = Compact(CompactConfig(color_lock=False))
    assert network.gain is not None
    torch.nn.init.constant_(network.gain.bias, 0.5)
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    soft = F.avg_pool2d(F.pad(edge, (4, 4, 0, 0), "replicate"), (1, 9), 1)
    sharp = soft + network(soft).detach()
    assert sharp.diff(dim=3).amax() > 1.1 * soft.diff(dim=3).amax()


def test_the_locked_residual_keeps_the_mean() -> None:
    network = Compact(SMALL)
    torch.nn.init.constant_(network.head.bias, 0.2)
    assert network(torch.rand(1, 3, 128, 128)).abs().amax() < 1e-5


def test_the_default_is_as_large_as_the_card_says() -> None:
    network = Compact()
    assert sum(p.numel() for p in network.parameters()) == 4_562_851
    assert (network.multiple, network.period) == (8, 32)
    stored = json.loads(json.dumps(network.config.to_dict()))
    assert config_from_json(CompactConfig, stored) == network.config


def test_levels_must_agree() -> None:
    with pytest.raises(InputError, match="one entry of encoder_blocks and decoder_blocks"):
        CompactConfig(widths=(8, 16, 32))
