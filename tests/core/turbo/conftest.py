"""Networks over the miniature of SD-Turbo in tests/conftest.py, and upstream's files."""

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splatmend.core.turbo.base import load_base
from splatmend.core.turbo.network import Turbo, TurboSettings

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    """`vector("base.safetensors")`: what a file of vectors/ holds; its README says how made."""
    return lambda name: lzma.decompress((VECTORS / f"{name}.xz").read_bytes())


@pytest.fixture
def upstream(vector: Callable[[str], bytes], tmp_path: Path) -> Callable[[str], Path]:
    """`upstream("difix")`: the path of a .pkl as upstream's program saved it."""

    def unpack(name: str) -> Path:
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(vector(path.name))
        return path

    return unpack


@pytest.fixture
def content(upstream: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    """`content("difix")`: the dict in such a file."""
    return lambda name: torch.load(upstream(name), weights_only=True)


@pytest.fixture
def make_turbo(tiny_base: Path) -> Callable[..., Turbo]:
    """`make_turbo(timestep=199, ...)`: the tiny base under these settings, each time the same."""

    def make(**settings: Any) -> Turbo:
        prompts = torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(3))
        prompts = prompts if settings.get("cfg_scale", 1) != 1 else prompts[:1]
        return Turbo(*load_base(tiny_base), prompts, TurboSettings(**settings)).eval()

    return make
