"""`splatmend bench`: its report, its ladders, what it counts."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from splatmend.core import InputError
from splatmend.core.turbo.base import SD_TURBO_UNET, SD_TURBO_VAE
from splatmend.core.turbo.files import save_turbo
from splatmend.core.turbo.network import Turbo
from splatmend.core.turbo.weights import TurboWeights
from splatmend.plugin.tools import bench as module
from splatmend.plugin.tools.bench import BenchConfig, count_flops, main
from splatmend.plugin.tools.bench_ladder import LADDERS, random_turbo, suited


def run(tmp_path: Path, *arguments: str) -> dict:
    main([*arguments, "--device", "cpu", "--size", "64", "--rounds", "2", "--out", str(tmp_path)])
    return json.loads((tmp_path / "bench.json").read_text())


@pytest.mark.slow
def test_the_report_of_both_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rungs = ("--rungs", "eager", "unmerged", "merged")
    report = run(tmp_path, "--models", "compact", "turbo", "--tiny", "--batches", "1", "2", *rungs)
    said = capsys.readouterr()
    assert report["machine"].startswith("CPU ")
    assert report["turbo_weights"] == "tiny"
    rows = {(row["model"], row["rung"], row["batch"]): row for row in report["rows"]}
    assert len(rows) == len(report["rows"])
    ladder = [("compact", "eager"), ("turbo", "unmerged"), ("turbo", "merged")]
    assert list(rows) == [(*rung, batch) for rung in ladder for batch in (1, 2)]
    for row in report["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["ms_per_frame"] * row["batch"] == pytest.approx(row["p50_ms"])
        assert row["frames_per_second"] == pytest.approx(1e3 / row["ms_per_frame"])
        rate = row["tflop_per_frame"] * row["frames_per_second"]
        assert row["tflops"] == pytest.approx(rate)
        product = report["matrix_product_tflops"]["bfloat16"]
        assert row["of_bfloat16"] == pytest.approx(rate / product)
        assert row["peak_bytes"] > 0
        assert row["same_bytes"]
        assert f"| {row['model']} | {row['rung']} | {row['precision']} |" in said.out
    first, second = (rows["turbo", rung, 1] for rung in ("unmerged", "merged"))
    assert first["times_first"] == 1
    assert second["times_first"] == pytest.approx(first["p50_ms"] / second["p50_ms"])
    assert second["tflop_per_frame"] < first["tflop_per_frame"]  # LoRA costs on its own
    assert (tmp_path / "bench.md").read_text() in said.out
    assert "turbo, merged: preparing" in said.err


@pytest.mark.slow
def test_chosen_rungs_only(tmp_path: Path) -> None:
    report = run(tmp_path, "--models", "turbo", "--tiny", "--rungs", "merged", "taesd")
    assert [row["rung"] for row in report["rows"]] == ["merged", "taesd"]
    assert report["rows"][1]["tflop_per_frame"] < report["rows"][0]["tflop_per_frame"]


@pytest.mark.slow
def test_a_real_checkpoint_is_measured_too(tmp_path: Path) -> None:
    network = random_turbo(tiny=True)
    network.unet.save_pretrained(tmp_path / "base" / "unet")
    AutoencoderKL.from_config(network.vae.config).save_pretrained(tmp_path / "base" / "vae")
    weights = TurboWeights(network.settings, prompts=network.prompts)
    save_turbo(tmp_path / "own.safetensors", weights)
    report = run(
        tmp_path,
        *("--models", "turbo", "--checkpoint", str(tmp_path / "own.safetensors")),
        *("--base", str(tmp_path / "base"), "--rungs", "unmerged", "merged"),
    )
    assert report["turbo_weights"].endswith("own.safetensors")
    assert len(report["rows"]) == 2


@pytest.mark.slow
def test_full_size_counts_as_known() -> None:
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**SD_TURBO_UNET), AutoencoderKL(**SD_TURBO_VAE)
        network = Turbo(unet, vae, torch.empty(1, 77, 1024))
    assert count_flops(network, 1, 512) == pytest.approx(2 * 2233.8e9, rel=1e-3)
    assert count_flops(network, 2, 512) == pytest.approx(4 * 2233.8e9, rel=1e-3)


def test_a_device_without_half_precision_has_fewer_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert suited(LADDERS["turbo"], (), gpu) == list(LADDERS["turbo"])
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False
    )
    names = [rung.name for rung in suited(LADDERS["turbo"], (), cpu)]
    assert names == ["unmerged", "merged", "channels-last", "taesd"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert "half" in [rung.name for rung in suited(LADDERS["turbo"], (), cpu)]


def test_what_does_not_fit_in_memory_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = module._warm_up
    sizes = iter((False, True))

    def warm_up(*arguments: object) -> tuple[int, torch.Tensor]:
        if next(sizes, False):
            raise torch.OutOfMemoryError
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_warm_up", warm_up)
    report = run(tmp_path, "--rungs", "eager", "--batches", "1", "2")
    assert [row["batch"] for row in report["rows"]] == [1]
    assert "compact, eager: out of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"models": ("turbo",)}, "--checkpoint, or --random-weights"),
        ({"models": ("turbojet",)}, "models are compact, turbo, got 'turbojet'"),
        ({"rungs": ("merged",)}, "rungs are eager, half, channels-last, compiled, got 'merged'"),
        ({"size": 0}, "1 or more, got 0"),
        ({"rounds": 0}, "1 or more, got 0"),
    ],
)
def test_options_that_cannot_be(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchConfig(**wrong)
