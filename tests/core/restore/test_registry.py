"""Checkpoints and the registry: what loads, and what is refused how."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from splatmend.core import (
    CheckpointError,
    CheckpointHeader,
    InputError,
    UnknownModelError,
    available_restorers,
    load_checkpoint,
    load_restorer,
    read_header,
    save_checkpoint,
)


def test_a_checkpoint_rebuilds_the_model_from_its_header(tiny_checkpoint: Path) -> None:
    header, weights = load_checkpoint(tiny_checkpoint)
    assert header.architecture == "compact"
    assert header.config["widths"] == [8, 12]
    restorer = load_restorer(tiny_checkpoint, device="cpu")
    assert restorer.traits.name == "tiny"
    copy = tiny_checkpoint.with_name("copy.safetensors")
    save_checkpoint(copy, header, weights)
    rgb = torch.rand(1, 3, 40, 40)
    assert torch.equal(load_restorer(copy, device="cpu")(rgb), restorer(rgb))


def test_half_precision_halves_the_file_and_hardly_moves_the_output(tiny_checkpoint: Path) -> None:
    header, weights = load_checkpoint(tiny_checkpoint)
    half = tiny_checkpoint.with_name("half.safetensors")
    save_checkpoint(half, header, weights, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * tiny_checkpoint.stat().st_size
    rgb = torch.rand(1, 3, 40, 40)
    full, rounded = (load_restorer(p, device="cpu")(rgb) for p in (tiny_checkpoint, half))
    assert (full - rounded).abs().amax() < 1 / 255


def test_saving_leaves_no_unfinished_file(tiny_checkpoint: Path) -> None:
    assert not list(tiny_checkpoint.parent.glob("*.part"))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownModelError, match=r"'compac'.*compact, copy, unsharp"):
        load_restorer("compac")
    assert available_restorers() == ["compact", "copy", "unsharp"]


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(InputError, match=r"device 'tpu9'.*use auto, cpu"):
        load_restorer("copy", device="tpu9")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "lost.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read: there is no such file"):
            read_header(path)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def test_a_pickle_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_restorer(path)
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_file_is_refused(tiny_checkpoint: Path) -> None:
    whole = tiny_checkpoint.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        tiny_checkpoint.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or another format"):
            load_restorer(tiny_checkpoint)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a Splatmend checkpoint"):
        read_header(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={"splatmend": "{"})
    with pytest.raises(CheckpointError, match="damaged 'splatmend' header"):
        read_header(path)
    newer = json.dumps({"version": 99, "architecture": "compact", "config": {}})
    save_file({"weight": torch.zeros(2)}, path, metadata={"splatmend": newer})
    with pytest.raises(CheckpointError, match=r"version 99.*update"):
        read_header(path)


def test_weights_must_fit_the_header(tiny_checkpoint: Path) -> None:
    header, weights = load_checkpoint(tiny_checkpoint)
    for config in ({**header.config, "widths": [8, 16]}, {**header.config, "depth": 3}):
        save_checkpoint(tiny_checkpoint, CheckpointHeader("compact", config), weights)
        with pytest.raises(CheckpointError, match="does not fit the 'compact'"):
            load_restorer(tiny_checkpoint)
    save_checkpoint(tiny_checkpoint, CheckpointHeader("gigantic", {}), weights)
    with pytest.raises(CheckpointError, match="'gigantic', this release knows compact"):
        load_restorer(tiny_checkpoint)
