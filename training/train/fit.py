"""`splatmend fit`: from an avatar's PLY to an adapter and key pairs, with figures, in one command.

splatmend fit avatar.ply mine/
restore-video in.mp4 out.mp4 --adapter mine/adapter.safetensors
restore-video in.mp4 out.mp4 --keys mine/keys/renders:mine/keys/photos

The avatar is thinned, both are rendered along an arc of cameras, a LoRA on compact learns from
every other pose what the thinned one lacks. The same poses are key pairs, and the poses between
judge the adapter, the keys and both. Each step is a command of its own (thin, render, train,
references, evaluate) for whoever has other pairs or wants other settings.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro

from splatmend.core.restore.registry import fast_dtype
from splatmend.training.avatars.thin_and_render import (
    RenderConfig,
    ThinConfig,
    check_seen,
    claim,
    render_avatar,
    thin_avatar,
)
from splatmend.training.config import PRESETS, TrainConfig, parse_config
from splatmend.training.data.pairs import names_to_learn_from
from splatmend.training.evaluate.command import EvaluateConfig, evaluate
from splatmend.training.evaluate.guided_rows import KEYS
from splatmend.training.evaluate.metrics import METRICS
from splatmend.training.evaluate.report import INPUT, Values
from splatmend.training.gaussians.ply import Splats, read_ply
from splatmend.training.train.loop import train

__all__ = ["FitConfig", "fit", "main"]

_HOLDOUT = 2  # every other pose judges


@dataclass(frozen=True)
class FitConfig(RenderConfig):
    """Fit compact to one avatar. Called again after an interruption it goes on.

    `out` receives adapter.safetensors; keys/ with the poses that were trained on as key pairs;
    thin.ply and the renders thin/ and whole/; in evaluation/ figures and a picture of the poses
    that were not trained on.
    """

    keep: float = 0.25
    """Share of the Gaussians that the light avatar keeps, the one to be mended."""
    steps: int = PRESETS["adapter"]["max_steps"]
    """Updates of the adapter: 12 to 13 minutes on two shared CPU cores with bfloat16."""
    temporal: bool = False
    """Learn texture that moves with the head instead of boiling, somewhat less of it."""
    lpips_weights: Path | None = None
    """Folder with lpips_{vgg,alex}_features.fp16.safetensors; without it they are downloaded."""
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """`splatmend fit ...`; errors are the caller's to report."""
    fit(tyro.cli(FitConfig, args=arguments, prog="splatmend fit", description=__doc__))


def fit(config: FitConfig) -> Path:
    """Make the pairs, train on half of the poses, judge on the others; returns the adapter.

    It says which of the adapter, the key pairs and both is best.

    Raises:
        InputError: no PLY, settings out of range, cameras that miss the avatar, or `out` holds
            a fit of other settings.
        TrainingError: see `train`.
    """
    avatar = read_ply(config.source)  # refused before anything is written
    config.out.mkdir(parents=True, exist_ok=True)
    claim(config.out, _settings(config), "a fit")
    whole = _render(config, "whole", config.source)
    _check_seen(whole, avatar, config)
    thin = _render_light(config)
    pairs = f"{thin}:{whole}"
    adapter = train(_training(config, pairs))
    keys = _write_keys(thin, whole, config.out / "keys")
    fitted = f"compact+{adapter}"
    (rows,) = evaluate(
        EvaluateConfig(
            pairs=(pairs,),
            holdout=_HOLDOUT,
            restorers=("compact", fitted),
            keys=keys,
            lpips_weights=config.lpips_weights,
            out=config.out / "evaluation",
        )
    ).values()
    sys.stdout.write(
        f"{_best(rows, fitted)}\n"
        f"use it: restore-video in.mp4 out.mp4 --adapter {adapter}\n"
        f"use the key pairs, with it or alone: restore-video in.mp4 out.mp4 --keys {keys}\n"
    )
    return adapter


def _write_keys(thin: Path, whole: Path, out: Path) -> str:
    """Copy the poses that were trained on; returns what `--keys` takes."""
    folders = {out / "renders": thin, out / "photos": whole}
    for folder, source in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name in names_to_learn_from(thin, whole, holdout=_HOLDOUT):
            if not (folder / name).exists():
                unfinished = folder / f"{name}.part"
                shutil.copyfile(source / name, unfinished)
                unfinished.replace(folder / name)
    return ":".join(str(folder) for folder in folders)


def _best(rows: Mapping[str, Values], fitted: str) -> str:
    """One line: which of compact, the adapter, the key pairs and both is best, and by how much."""
    names = {
        "compact": "compact",
        fitted: "the adapter",
        f"compact + {KEYS}": "the key pairs",
        f"{fitted} + {KEYS}": "the adapter with the key pairs",
    }
    measure = next(name for name in METRICS if name in rows[INPUT])
    means = {said: float(np.nanmean(rows[name][measure])) for name, said in names.items()}
    lower = METRICS[measure].lower_is_better
    order = sorted(means, key=lambda name: means[name] if lower else -means[name])
    figures = ", ".join(f"{name} {means[name]:.3f}" for name in order)
    return f"best on the poses that were not trained on: {order[0]} ({measure}: {figures})"


def _settings(config: FitConfig) -> dict[str, Any]:
    """What every file in `out` depends on."""
    settings = asdict(config)
    for name in ("lpips_weights", "backend"):
        del settings[name]
    stat = config.source.stat()
    return settings | {"file": [stat.st_size, stat.st_mtime_ns]}


def _render_light(config: FitConfig) -> Path:
    light = config.out / "thin.ply"
    if not light.exists():
        thin_avatar(ThinConfig(config.source, light, keep=config.keep, seed=config.seed))
    return _render(config, "thin", light)


def _render(config: FitConfig, name: str, source: Path) -> Path:
    """The folder of renders of `source`, made if the last one is not there."""
    folder = config.out / name
    if not (folder / f"{config.frames - 1:04d}.png").exists():
        render_avatar(replace(config, source=source, out=folder))
    return folder


def _check_seen(folder: Path, avatar: Splats, config: FitConfig) -> None:
    """Refuse to train on an empty stage."""
    view = cv2.imread(str(folder / f"{config.frames // 2:04d}.png"), cv2.IMREAD_UNCHANGED)
    share = 0.0 if view is None else float((view[..., 3] > 127).mean())
    check_seen(share, avatar, config.source, config.fov)


def _training(config: FitConfig, pairs: str) -> TrainConfig:
    """The adapter's preset on these pairs, in bfloat16 where that is fast."""
    fast = torch.accelerator.is_available() or fast_dtype(torch.device("cpu")) == torch.bfloat16
    preset = parse_config(["--pairs", pairs, "--holdout", str(_HOLDOUT)])
    return replace(
        preset,
        out=config.out,
        temporal=config.temporal,
        batch=preset.batch // preset.frames if config.temporal else preset.batch,
        max_steps=config.steps,
        warmup_steps=min(preset.warmup_steps, config.steps // 2),
        mixed_precision="bf16" if fast else "no",
        lpips_weights=config.lpips_weights,
        seed=config.seed,
    )
