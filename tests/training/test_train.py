import json
from pathlib import Path

import pytest
import torch

from splatmend.core import InputError, load_checkpoint, load_restorer, to_tensor
from splatmend.training import LossWeights, TrainConfig, load_portraits
from splatmend.training import train as train_module
from splatmend.training.degradations import blur
from splatmend.training.train import learning_rate_share, train

L1_ONLY = LossWeights(l1=1.0, log_mse=0, lpips_vgg=0, lpips_alex=0, gram=0)


def config(folder: Path, out: Path, **changes: object) -> TrainConfig:
    values: dict = {
        "faces": (folder,),
        "out": out,
        "max_steps": 6,
        "warmup_steps": 2,
        "batch": 1,
        "crop": 64,
        "vgg_side": 32,
        "save_every": 2,
        "workers": 0,
        "validate_every": 100,
        "loss": L1_ONLY,
    }
    return TrainConfig(**(values | changes))


def test_the_rate_rises_falls_and_ends_at_zero() -> None:
    shares = [learning_rate_share(step, 10, 100) for step in range(101)]
    assert shares[0] == 0.1
    assert max(shares) == shares[9] == shares[10] == 1
    assert shares[55] == pytest.approx(0.5)
    assert shares[100] == 0


def test_the_run_stops_at_max_steps_and_leaves_a_loadable_checkpoint(
    portraits_folder: Path, tmp_path: Path
) -> None:
    path = train(config(portraits_folder, tmp_path / "run"))
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(r)["step"] for r in rows] == list(range(6))
    header, _ = load_checkpoint(path)
    assert header.notes["steps"] == 6
    rgb = torch.rand(1, 3, 40, 40)
    assert load_restorer(path, device="cpu")(rgb).shape == rgb.shape


def test_a_resumed_run_equals_an_uninterrupted_one(
    portraits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config(portraits_folder, tmp_path / "whole"))
    draw = train_module.draw_batch

    def interrupted(*args: object, step: int, **options: object) -> object:
        if step == 5:
            raise KeyboardInterrupt
        return draw(*args, step=step, **options)

    monkeypatch.setattr(train_module, "draw_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config(portraits_folder, tmp_path / "resumed"))
    monkeypatch.setattr(train_module, "draw_batch", draw)
    resumed = train(config(portraits_folder, tmp_path / "resumed"))
    ours, theirs = (load_checkpoint(p)[1] for p in (whole, resumed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    states = [
        torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("whole", "resumed")
    ]
    assert all(torch.equal(states[0]["network"][n], states[1]["network"][n]) for n in ours)


def test_another_seed_may_not_take_up_a_run(portraits_folder: Path, tmp_path: Path) -> None:
    train(config(portraits_folder, tmp_path / "run", max_steps=3))
    with pytest.raises(InputError, match="made with seed 0 and rank 0, not 1 and 0"):
        train(config(portraits_folder, tmp_path / "run", max_steps=4, seed=1))


def test_the_loss_falls_on_a_fixed_batch(
    portraits_folder: Path, tmp_path: Path, backbones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (portrait, *_) = load_portraits(portraits_folder, "train")
    clean = to_tensor([portrait.pixels[64:128, 64:128].copy()])
    damaged = blur(clean, 1.5)
    monkeypatch.setattr(train_module, "draw_batch", lambda *_, **__: (damaged, clean))
    train(
        config(
            portraits_folder,
            tmp_path / "run",
            max_steps=25,
            loss=LossWeights(l1=4, lpips_alex=0.1, lpips_vgg=0.1, gram=0.01),
            lpips_weights=backbones,
            vgg_crops=1,
        )
    )
    rows = [json.loads(r) for r in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"l1", "lpips_alex", "lpips_vgg", "gram"} <= set(rows[0])
    assert rows[-1]["l1"] < 0.85 * rows[0]["l1"]


def test_half_precision_changes_the_terms_by_little(
    portraits_folder: Path, tmp_path: Path, backbones: Path
) -> None:
    rows = []
    for bf16 in (False, True):
        run = tmp_path / str(bf16)
        loss = LossWeights(l1=1, lpips_alex=1, lpips_vgg=1, gram=1)
        train(
            config(
                portraits_folder, run, max_steps=3, loss=loss, lpips_weights=backbones, bf16=bf16
            )
        )
        rows.append(json.loads((run / "log.jsonl").read_text().splitlines()[0]))
    whole, half = rows
    for term in ("l1", "lpips_alex", "lpips_vgg", "gram"):
        assert half[term] == pytest.approx(whole[term], rel=0.03), term
    assert half["lpips_vgg"] != whole["lpips_vgg"]


def test_validation_reports_input_and_ours(
    portraits_folder: Path, tmp_path: Path, backbones: Path
) -> None:
    train(
        config(
            portraits_folder,
            tmp_path / "run",
            max_steps=3,
            validate_every=3,
            loss=LossWeights(l1=1, lpips_alex=1, lpips_vgg=0, gram=0),
            lpips_weights=backbones,
        )
    )
    (row,) = (tmp_path / "run" / "validation.jsonl").read_text().splitlines()
    assert set(json.loads(row)) == {
        "step", "alex_input", "alex_ours", "psnr_input", "psnr_ours"
    }  # fmt: skip


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crop must be a multiple of 32"):
        TrainConfig(faces=(tmp_path,), crop=150)
    with pytest.raises(InputError, match="warmup_steps must lie between"):
        TrainConfig(faces=(tmp_path,), max_steps=100, warmup_steps=100)
