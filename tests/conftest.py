"""Fixtures for all tests: random state put back, small random networks, CUDA marker."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.core import CheckpointHeader, Compact, CompactConfig, save_checkpoint


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
