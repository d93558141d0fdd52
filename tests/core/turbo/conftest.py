"""Networks over the miniature of SD-Turbo in tests/core/conftest.py."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from splatmend.core.turbo.base import load_base
from splatmend.core.turbo.network import Turbo, TurboSettings


@pytest.fixture
def make_turbo(tiny_base: Path) -> Callable[..., Turbo]:
    """`make_turbo(timestep=199, ...)`: the tiny base under these settings, each time the same."""

    def make(**settings: Any) -> Turbo:
        prompts = torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(3))
        prompts = prompts if settings.get("cfg_scale", 1) != 1 else prompts[:1]
        return Turbo(*load_base(tiny_base), prompts, TurboSettings(**settings)).eval()

    return make


@pytest.fixture
def base_with_words(tiny_base: Path, tmp_path: Path) -> Path:
    """`tiny_base` with a text encoder of few channels and a tokenizer of three letters."""
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base-with-words"))
    words = ["!", "a</w>", "b</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
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
