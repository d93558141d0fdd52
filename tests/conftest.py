"""Fixtures for all tests: random state put back, small random networks, CUDA marker."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import alexnet, vgg16

from splatmend.core import CheckpointHeader, Compact, CompactConfig, save_checkpoint

# SD-Turbo in miniature: its layout, its block types, a few random channels
TINY_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "attention_head_dim": (2, 2, 4, 4),  # SD 2.1 means by this the number of heads
    "use_linear_projection": True,
}
TINY_VAE: dict[str, Any] = {
    "block_out_channels": (8, 16, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 64,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))
    if torch.cuda.is_available() or "FAIL_WITHOUT_CUDA" in os.environ:
        return
    skip = pytest.mark.skip(reason="no CUDA device (set FAIL_WITHOUT_CUDA to insist on one)")
    for item in items:
        if "needs_cuda" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    torch.manual_seed(0)
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)  # noqa: NPY002


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Path:
    """A compact of a few channels with random weights: quick, and far from the identity."""
    config = CompactConfig(
        widths=(8, 12), encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)
    )
    network = Compact(config)
    torch.nn.init.normal_(network.head.weight, std=0.02)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, CheckpointHeader("compact", config.to_dict()), network.state_dict())
    return path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as SD-Turbo's own: unet/ and vae/, here with a few random channels."""
    from diffusers import AutoencoderKL, UNet2DConditionModel  # seconds: only where it is used

    folder = tmp_path_factory.mktemp("tiny-base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        UNet2DConditionModel(**TINY_UNET).save_pretrained(folder / "unet")
        AutoencoderKL(**TINY_VAE).save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def base_with_words(tiny_base: Path, tmp_path: Path) -> Path:
    """`tiny_base` with a text encoder of few channels and a tokenizer of three letters."""
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base-with-words"))
    words = ["!", "a</w>", "b</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
    from transformers import CLIPTextConfig, CLIPTextModel  # seconds: only where it is used

    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=4,
        eos_token_id=5,
        pad_token_id=0,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    for name, content in {
        "vocab.json": {word: index for index, word in enumerate(words)},
        "tokenizer_config.json": {"model_max_length": 77, "pad_token": words[5]},
        "special_tokens_map.json": {"pad_token": words[0]},  # SD 2.1's are at odds too: "!" counts
    }.items():
        (tokenizer / name).write_text(json.dumps(content))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    return folder


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of LPIPS and DISTS, random, laid out as real ones: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    for name, network in (("alex", alexnet(weights=None)), ("vgg", vgg16(weights=None))):
        weights = {k: v.half() for k, v in network.features.state_dict().items()}
        save_file(weights, folder / f"lpips_{name}_features.fp16.safetensors")
    shares = {name: torch.rand(1475) for name in ("alpha", "beta")}
    save_file(shares, folder / "dists.safetensors")
    return folder
