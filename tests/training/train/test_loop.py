"""The loop: it stops, it resumes, it counts, and it knows a number from none."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splatmend.core import InputError, load_checkpoint, load_restorer, to_tensor
from splatmend.core.errors import CheckpointError, TrainingError
from splatmend.core.resample import blur
from splatmend.training import LossWeights, TrainConfig, load_portraits
from splatmend.training.data import batches as batches_module
from splatmend.training.train import loop as train_module
from splatmend.training.train.loop import learning_rate_share, train

from waiting import until

L1_ONLY = LossWeights(l1=1.0, log_mse=0, lpips_vgg=0, lpips_alex=0, gram=0)


def config(folder: Path, out: Path, **changes: object) -> TrainConfig:
    values: dict = {
        "faces": (folder,), "out": out, "max_steps": 6, "warmup_steps": 2, "batch": 1, "crop": 64,
        "vgg_side": 32, "save_every": 2, "workers": 0, "validate_every": 100, "loss": L1_ONLY,
        "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def rows(run: Path, name: str = "log") -> list[dict]:
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


def same_weights(first: Path, second: Path) -> bool:
    ours, theirs = (load_checkpoint(path)[1] for path in (first, second))
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_rate_rises_falls_and_ends_at_zero() -> None:
    shares = [learning_rate_share(step, 10, 100) for step in range(101)]
    assert shares[0] == 0.1
    assert max(shares) == shares[9] == shares[10] == 1
    assert shares[55] == pytest.approx(0.5)
    assert shares[100] == 0


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_run_stops_at_max_steps_and_the_rate_moves_once_an_update(
    portraits_folder: Path, tmp_path: Path, accumulate: int
) -> None:
    settings = config(portraits_folder, tmp_path / "run", accumulate=accumulate)
    path = train(settings)
    logged = rows(tmp_path / "run")
    assert [row["step"] for row in logged] == list(range(6))
    shares = [learning_rate_share(step, 2, 6) for step in range(6)]
    assert [row["learning_rate"] for row in logged] == pytest.approx([4e-4 * s for s in shares])
    header, _ = load_checkpoint(path)
    assert header.notes["steps"] == 6
    rgb = torch.rand(1, 3, 40, 40)
    assert load_restorer(path, device="cpu")(rgb).shape == rgb.shape


@pytest.mark.slow
def test_accumulated_batches_equal_one_large_one(portraits_folder: Path, tmp_path: Path) -> None:
    for name, batch, accumulate in (("large", 4, 1), ("parts", 2, 2)):
        out = tmp_path / name
        train(config(portraits_folder, out, batch=batch, accumulate=accumulate, max_steps=4))
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("large", "parts")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(
    portraits_folder: Path, tmp_path: Path
) -> None:
    shared = (
        "--faces", str(portraits_folder), "--max-steps", "4", "--warmup-steps", "2",
        "--crop", "64", "--vgg-side", "32", "--workers", "0", "--device", "cpu",
        "--loss.lpips-vgg", "0", "--loss.lpips-alex", "0", "--loss.gram", "0",
    )  # fmt: skip
    launch = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "splatmend.training.train",
    )  # fmt: skip
    alone = (sys.executable, "-m", "splatmend.training.train")
    for name, command, batch in (("one", alone, 4), ("two", launch, 2)):
        words = [*command, *shared, "--batch", str(batch), "--out", str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = ([row["loss"] for row in rows(tmp_path / name)] for name in ("one", "two"))
    assert len(two) == 4
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    portraits_folder: Path, tmp_path: Path, optimizer: str
) -> None:
    settings: dict = {"max_steps": 26, "save_every": 7, "optimizer": optimizer}
    whole = train(config(portraits_folder, tmp_path / "whole", **settings))
    killed = tmp_path / "killed"
    words = [
        "--faces", portraits_folder, "--out", killed, "--max-steps", 26, "--warmup-steps", 2,
        "--batch", 1, "--crop", 64, "--vgg-side", 32, "--save-every", 7, "--workers", 0,
        "--device", "cpu", "--loss.l1", 1, "--loss.log-mse", 0, "--loss.lpips-vgg", 0,
        "--loss.lpips-alex", 0, "--loss.gram", 0, "--optimizer", optimizer,
    ]  # fmt: skip
    command = [sys.executable, "-m", "splatmend.training.train", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        log = killed / "log.jsonl"

        def is_under_way() -> bool:
            assert process.poll() is None
            return log.exists() and log.read_text().count("\n") > 9

        until(is_under_way, 120)
        process.send_signal(signal.SIGKILL)
    resumed = train(config(portraits_folder, killed, **settings))
    assert same_weights(whole, resumed)
    assert [row["step"] for row in rows(killed)] == list(range(26))
    assert rows(killed) == rows(tmp_path / "whole")


@pytest.mark.slow
def test_another_seed_may_not_take_up_a_run(portraits_folder: Path, tmp_path: Path) -> None:
    train(config(portraits_folder, tmp_path / "run", max_steps=3))
    with pytest.raises(InputError, match="with base compact, seed 0, rank 0, optimizer adamw, not"):
        train(config(portraits_folder, tmp_path / "run", max_steps=4, seed=1))
    (tmp_path / "run" / "state.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged .* remove it to start anew"):
        train(config(portraits_folder, tmp_path / "run", max_steps=4))


def fixed_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damaged: Tensor | None = None
) -> None:
    """Every step draws the same blurred crop, or the one given."""
    (portrait, *_) = load_portraits(folder, "train")
    clean = to_tensor([portrait.pixels[64:128, 64:128].copy()])
    degraded = blur(clean, 1.5) if damaged is None else damaged
    monkeypatch.setattr(batches_module, "draw_batch", lambda *_, **__: (degraded, clean))


@pytest.mark.slow
def test_the_loss_falls_on_a_fixed_batch(
    portraits_folder: Path, tmp_path: Path, backbones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_batch(portraits_folder, monkeypatch)
    loss = LossWeights(l1=4, lpips_alex=0.1, lpips_vgg=0.1, gram=0.01)
    train(
        config(
            portraits_folder,
            tmp_path / "run",
            max_steps=25,
            loss=loss,
            lpips_weights=backbones,
        )
    )
    logged = rows(tmp_path / "run")
    assert {"l1", "log_mse", "lpips_alex", "lpips_vgg", "gram"} <= set(logged[0])
    assert logged[-1]["l1"] < 0.85 * logged[0]["l1"]


@pytest.mark.slow
def test_updates_without_a_number_are_left_out_and_counted(
    portraits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = batches_module.draw_batch

    def sometimes_broken(*args: object, step: int, **options: object) -> tuple[Tensor, Tensor]:
        degraded, clean = draw(*args, step=step, **options)
        return (degraded * float("nan") if step == 2 else degraded), clean

    monkeypatch.setattr(batches_module, "draw_batch", sometimes_broken)
    path = train(config(portraits_folder, tmp_path / "run"))
    assert [row["bad_updates"] for row in rows(tmp_path / "run")] == [0, 0, 1, 1, 1, 1]
    assert rows(tmp_path / "run")[2]["l1"] is None
    assert all(value.isfinite().all() for value in load_checkpoint(path)[1].values())


@pytest.mark.slow
def test_a_run_that_gives_no_numbers_ends_and_keeps_its_last_save(
    portraits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(portraits_folder, tmp_path / "run", max_steps=4))
    saved = (tmp_path / "run" / "compact.safetensors").read_bytes()
    fixed_batch(portraits_folder, monkeypatch, torch.full((1, 3, 64, 64), float("nan")))
    with pytest.raises(TrainingError, match=r"3 updates in a row up to step 6 .* the term l1"):
        train(
            config(
                portraits_folder, tmp_path / "run", max_steps=40, max_bad_updates=3, save_every=9
            )
        )
    assert (tmp_path / "run" / "compact.safetensors").read_bytes() == saved


@pytest.mark.slow
def test_half_precision_changes_the_terms_by_little_and_no_trained_weight(
    portraits_folder: Path, tmp_path: Path, backbones: Path
) -> None:
    logged = []
    for precision in ("no", "bf16"):
        run = tmp_path / precision
        loss = LossWeights(l1=1, lpips_alex=1, lpips_vgg=1, gram=1)
        train(
            config(
                portraits_folder, run, max_steps=3, loss=loss, lpips_weights=backbones,
                mixed_precision=precision,
            )
        )  # fmt: skip
        logged.append(rows(run)[0])
        state = torch.load(run / "state.pt", weights_only=True)
        assert {value.dtype for value in state["trained"].values()} == {torch.float32}
    whole, half = logged
    for term in ("l1", "lpips_alex", "lpips_vgg", "gram"):
        assert half[term] == pytest.approx(whole[term], rel=0.03), term
    assert half["lpips_vgg"] != whole["lpips_vgg"]


@pytest.mark.slow
def test_validation_reports_shows_and_keeps_the_best(
    portraits_folder: Path, tmp_path: Path, backbones: Path
) -> None:
    loss = LossWeights(l1=1, lpips_alex=1, lpips_vgg=0, gram=0)
    run = tmp_path / "run"
    train(
        config(
            portraits_folder, run, max_steps=4, validate_every=2, loss=loss,
            lpips_weights=backbones,
        )
    )  # fmt: skip
    judged = rows(run, "validation")
    assert [row["step"] for row in judged] == [2, 4]
    assert set(judged[0]) == {"step", "alex_input", "alex_ours", "psnr_input", "psnr_ours"}
    best = min(judged, key=lambda row: row["alex_ours"])["step"]
    assert load_checkpoint(run / "best_compact.safetensors")[0].notes["steps"] == best
    assert (run / "validation_000002.jpg").exists()


@pytest.mark.slow
def test_trackers_get_every_row_and_missing_ones_are_named(
    portraits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(portraits_folder, tmp_path / "run", trackers=("tensorboard",)))
    assert list((tmp_path / "run" / "splatmend").glob("events.out.tfevents.*"))
    monkeypatch.setattr(train_module, "get_available_trackers", list)
    with pytest.raises(InputError, match="wandb is not installed: pip install wandb"):
        train(config(portraits_folder, tmp_path / "other", trackers=("wandb",)))
