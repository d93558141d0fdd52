"""Several runs' weights into one file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splatmend.core import InputError
from splatmend.core.checkpoint import (
    CheckpointHeader,
    config_from_json,
    load_checkpoint,
    save_checkpoint,
)
from splatmend.core.compact.adapter import fingerprint
from splatmend.core.compact.network import Compact, CompactConfig
from splatmend.core.errors import CheckpointError
from splatmend.training.train.average import AverageConfig, average, main


@pytest.fixture
def runs(tmp_path: Path, tiny_checkpoint: Path) -> tuple[Path, Path]:
    """The tiny checkpoint, and one with random weights of the same shape."""
    header, weights = load_checkpoint(tiny_checkpoint)
    generator = torch.Generator().manual_seed(5)
    other = {n: torch.randn(v.shape, generator=generator).half() for n, v in weights.items()}
    save_checkpoint(tmp_path / "other.safetensors", header, other)
    return tiny_checkpoint, tmp_path / "other.safetensors"


def residual_of(path: Path, picture: torch.Tensor) -> torch.Tensor:
    """What compact's layers write, before the detail floor looks at it."""
    header, weights = load_checkpoint(path)
    network = Compact(replace(config_from_json(CompactConfig, header.config), detail_floor=False))
    network.load_state_dict(weights)
    with torch.inference_mode():
        return network(picture)


def test_every_weight_is_the_mean_by_shares(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "mean.safetensors"
    average(AverageConfig(runs, out=out, shares=(3, 1)))
    (_, first), (_, second), (header, mean) = map(load_checkpoint, (*runs, out))
    assert mean.keys() == first.keys()
    for name, value in mean.items():
        expected = (0.75 * first[name].double() + 0.25 * second[name].double()).half()
        assert torch.equal(value, expected), name
    assert [(part["share"], part["fingerprint"]) for part in header.notes["average_of"]] == [
        (0.75, fingerprint(first)),
        (0.25, fingerprint(second)),
    ]


def test_a_run_of_an_earlier_release_lacks_newer_settings(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    header, weights = load_checkpoint(runs[0])
    old = CheckpointHeader(
        "compact", {k: v for k, v in header.config.items() if k != "detail_floor"}
    )
    save_checkpoint(tmp_path / "old.safetensors", old, weights)
    out = tmp_path / "mean.safetensors"
    average(AverageConfig((tmp_path / "old.safetensors", runs[1]), out=out))
    assert load_checkpoint(out)[0].config == header.config


def test_without_shares_all_count_alike(runs: tuple[Path, Path], tmp_path: Path) -> None:
    average(AverageConfig((*runs, *runs), out=tmp_path / "four.safetensors"))
    average(AverageConfig(runs, out=tmp_path / "two.safetensors"))
    four, two = (load_checkpoint(tmp_path / f"{n}.safetensors")[1] for n in ("four", "two"))
    assert all(torch.equal(four[name], two[name]) for name in two)


def test_gain_enlarges_the_answer_alone(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "twice.safetensors"
    main([str(runs[0]), str(runs[0]), "--out", str(out), "--gain", "2"])
    assert str(out) in capsys.readouterr().out
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    once, twice = (residual_of(path, picture) for path in (runs[0], out))
    assert once.abs().max() > 0.01
    torch.testing.assert_close(twice, 2 * once, atol=1e-3, rtol=1e-2)  # float16 weights


def test_settings_that_make_no_average_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "mean.safetensors"
    for wrong, message in (
        ({"checkpoints": runs[:1]}, "two checkpoints or more, got 1"),
        ({"shares": (1.0,)}, "1 shares for 2 checkpoints"),
        ({"shares": (1.0, -1.0)}, "share must be a number above 0, got -1.0"),
        ({"gain": float("nan")}, "gain must be a number above 0, got nan"),
        ({"out": runs[0]}, "exists: give --out a new name"),
    ):
        with pytest.raises(InputError, match=message):
            AverageConfig(**{"checkpoints": runs, "out": out, **wrong})


def test_what_is_no_run_of_the_same_network_is_refused(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    header, weights = load_checkpoint(runs[0])
    name = min(weights)
    lora = CheckpointHeader("compact-lora", {})
    other = CheckpointHeader("compact", dict(header.config) | {"color_lock": False})
    unknown = CheckpointHeader("compact", dict(header.config) | {"wings": 2})
    wrong = (
        (lora, weights, "compact-lora.*splatmend average takes a checkpoint of compact"),
        (other, weights, "another shape"),
        (unknown, weights, "shape that this release does not know.*'wings'"),
        (header, {n: v for n, v in weights.items() if n != name}, "another shape"),
        (header, weights | {name: weights[name] * torch.nan}, f"NaN or infinity in {name}"),
    )
    for number, (head, state, message) in enumerate(wrong):
        bad, out = tmp_path / f"bad{number}.safetensors", tmp_path / f"out{number}.safetensors"
        save_checkpoint(bad, head, state)
        with pytest.raises(CheckpointError, match=f"bad{number}.*{message}"):
            average(AverageConfig((runs[0], bad), out=out))
        assert not out.exists()
