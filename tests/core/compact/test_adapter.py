"""Adapter files: what they hold, whom they fit, and damaged ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatmend.core import CheckpointError, CheckpointHeader, load_checkpoint, save_checkpoint
from splatmend.core.compact.adapter import fingerprint, load_adapter, save_adapter
from splatmend.core.lora import Lora

BASE = {"head.weight": torch.linspace(-1, 1, 8 * 6 * 9).reshape(8, 6, 3, 3)}


@pytest.fixture
def lora() -> Lora:
    down, up = torch.randn(2, 6, 3, 3), torch.randn(8, 2, 1, 1)
    return Lora(2, 3.0, down={"head": down.half()}, up={"head": up.half()})


@pytest.fixture
def path(lora: Lora, tmp_path: Path) -> Path:
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, lora, BASE, {"steps": 7})
    return path


def test_an_adapter_comes_back_as_it_was_saved(path: Path, lora: Lora) -> None:
    again = load_adapter(path, BASE)
    assert (again.rank, again.alpha) == (2, 3.0)
    assert torch.equal(again.change("head"), lora.change("head"))
    assert load_checkpoint(path)[0].notes == {"steps": 7}


def test_the_base_is_known_in_any_precision(path: Path) -> None:
    stored = {name: value.half() for name, value in BASE.items()}
    assert load_adapter(path, stored).rank == 2
    assert fingerprint(BASE) != fingerprint({"tail.weight": BASE["head.weight"]})
    with pytest.raises(CheckpointError, match="was trained on other weights"):
        load_adapter(path, {name: value.flip(0) for name, value in BASE.items()})


DAMAGED: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], object]] = {
    "damaged header: KeyError": lambda c, _: c.pop("base"),
    "damaged header: ValueError": lambda c, _: c.update(rank="two"),
    "damaged header: alpha is inf": lambda c, _: c.update(alpha="inf"),
    "not the two halves of a rank of 3": lambda c, _: c.update(rank=3),
    "only one of its two halves": lambda _, t: t.pop("up.head"),
    "not the two halves": lambda _, t: t.update({"up.head": torch.ones(8, 4, 1, 1)}),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damage_is_named(message: str, path: Path) -> None:
    header, tensors = load_checkpoint(path)
    config = dict(header.config)
    DAMAGED[message](config, tensors)
    save_checkpoint(path, CheckpointHeader(header.architecture, config), tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_adapter(path, BASE)
    assert str(path) in str(caught.value)
