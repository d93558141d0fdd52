"""A first trial just works: settings that do not fit are fitted, and it is said."""

from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import InputError
from splatmend.core.checkpoint import load_checkpoint
from splatmend.core.perceptual import lpips
from splatmend.training import LossWeights, TrainConfig
from splatmend.training.train import fitting
from splatmend.training.train.commands import adapter_main, compact_main
from splatmend.training.train.fitting import fit_options, leave_out_absent_lpips
from splatmend.training.train.options import Job, read_options


def write(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """Three pairs of which the smallest picture is 160 x 100 pixels."""
    for folder in ("thin", "whole"):
        for index, height in enumerate((256, 100, 256)):
            write(tmp_path / folder / f"{index}.png", height, 160)
    return f"{tmp_path / 'thin'}:{tmp_path / 'whole'}"


def fitted(job: Job, *words: str) -> tuple[TrainConfig, str]:
    values, said = fit_options(read_options(job, words))
    return TrainConfig(**values), "; ".join(said)


def test_options_that_fit_stay_as_they_are(pairs: str) -> None:
    words = ["--pairs", pairs, "--crop", "96", "--vgg-side", "96", "--holdout", "3"]
    config, said = fitted("train-adapter", *words, "--device", "cpu")
    assert not said
    assert (config.crop, config.vgg_side, config.warmup_steps, config.holdout) == (96, 96, 100, 3)


def test_a_short_run_warms_up_for_half_of_it(pairs: str) -> None:
    words = ["--pairs", pairs, "--crop", "96", "--vgg-side", "96"]
    config, said = fitted("train-adapter", *words, "--max-steps", "20")
    assert (config.warmup_steps, said) == (10, "warmup-steps 100 -> 10: the run has 20 steps")
    with pytest.raises(InputError, match="warmup_steps must lie between"):
        fitted("train-adapter", *words, "--max-steps", "1")


def test_a_crop_fits_the_smallest_picture(pairs: str, tmp_path: Path) -> None:
    config, said = fitted("train-adapter", "--pairs", pairs)
    assert (config.crop, config.vgg_side) == (96, 96)
    assert f"crop 128 -> 96: {tmp_path / 'thin' / '1.png'} has a side of 100 pixels" in said
    assert "vgg-side 128 -> 96" in said
    moved, said = fitted("train-adapter", "--pairs", pairs, "--temporal")
    assert moved.crop < 96
    assert "of which --temporal takes" in said
    uneven, said = fitted("train-adapter", "--pairs", pairs, "--crop", "80")
    assert (uneven.crop, said.split(";")[0]) == (64, "crop 80 -> 64: it must be a multiple of 32")
    write(tmp_path / "thin" / "0.png", 20, 20)
    with pytest.raises(InputError, match=r"0\.png has a side of 20 pixels: crops need at least 32"):
        fitted("train-adapter", "--pairs", pairs)


def test_a_crop_fits_portraits(tmp_path: Path) -> None:
    for index, side in enumerate((200, 300)):
        write(tmp_path / "faces" / f"{index}.jpg", side, side)
    config, said = fitted("train-turbo", "--faces", str(tmp_path / "faces"))
    assert (config.crop, config.vgg_side) == (288, 288)
    assert f"crop 512 -> 288: {tmp_path / 'faces'} has a side of 300 pixels" in said


def test_poses_are_held_out_as_far_as_there_are_some(pairs: str) -> None:
    config, said = fitted("train-adapter", "--pairs", pairs, "--holdout", "9")
    assert config.holdout == 3
    assert "holdout 9 -> 3: there are 3 pairs" in said


@pytest.mark.parametrize(
    ("wished", "fast", "given"),
    [("bf16", True, "bf16"), ("bf16", False, "no"), ("fp16", True, "bf16"), ("fp16", False, "no")],
)
def test_precision_fits_a_cpu(
    wished: str, fast: bool, given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dtype = torch.bfloat16 if fast else torch.float32
    monkeypatch.setattr(fitting, "fast_dtype", lambda _: dtype)
    write(tmp_path / "faces" / "0.png", 256, 256)
    words = ["--faces", str(tmp_path / "faces"), "--device", "cpu", "--mixed-precision", wished]
    config, said = fitted("train", *words)
    assert config.mixed_precision == given
    assert bool(said) == (wished != given)


def test_without_weights_of_lpips_its_terms_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(lpips, "Lpips", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    config = TrainConfig(faces=(tmp_path,))
    left, said = leave_out_absent_lpips(config)
    assert left.loss == LossWeights(lpips_vgg=0, lpips_alex=0, gram=0)
    assert [line.partition(" -> 0")[0] for line in said] == [
        "loss.lpips-alex", "loss.lpips-vgg, loss.gram"
    ]  # fmt: skip
    assert all("no network" in line and "--lpips-weights" in line for line in said)
    named = TrainConfig(faces=(tmp_path,), lpips_weights=tmp_path)
    assert leave_out_absent_lpips(named) == (named, [])
    (tmp_path / "checkpoints").mkdir()
    for name in ("alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"):
        (tmp_path / "checkpoints" / name).touch()
    assert leave_out_absent_lpips(config) == (config, [])


TRIAL = ["--max-steps", "3", "--workers", "0", "--batch", "1", "--device", "cpu"]
NO_LPIPS = ["--loss.lpips-vgg", "0", "--loss.lpips-alex", "0", "--loss.gram", "0"]


@pytest.mark.slow
def test_first_trials_run_and_say_what_was_fitted(
    pairs: str, portraits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapter"
    adapter_main(["--pairs", pairs, "--out", str(out), *TRIAL, *NO_LPIPS, "--accumulate", "5"])
    said = capsys.readouterr()
    assert f"written to {out / 'adapter.safetensors'}" in said.out
    assert "splatmend train-adapter: crop 128 -> 96" in said.err
    out = tmp_path / "compact"
    words = ["--faces", str(portraits_folder), "--out", str(out), *TRIAL, *NO_LPIPS]
    compact_main([*words, "--crop", "64", "--init", "compact"])
    assert "splatmend train: warmup-steps 100 -> 1" in capsys.readouterr().err
    header, _ = load_checkpoint(out / "compact.safetensors")
    assert header.notes["steps"] == 3
