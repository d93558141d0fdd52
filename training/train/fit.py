"""`splatmend fit`: from an avatar's PLY to an adapter and key pairs, with figures, in one command.

It thins the avatar and renders both along an arc of cameras. From every other pose a LoRA on
compact learns the detail that the thinned one lacks. The same poses are key pairs. The poses
between judge the adapter, the keys and both. Each step is a command of its own (thin, render,
train-adapter, references, evaluate), for other pairs or other settings.
"""

import inspect
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch

from splatmend.core.command_line import EXTRAS, OmitArgPrefixes, need, parse
from splatmend.core.restore.registry import fast_dtype
from splatmend.training.avatars.thin_and_render import (
    ArcCameras,
    FrameDrawing,
    RenderConfig,
    RenderFiles,
    ThinConfig,
    check_seen,
    claim,
    render_avatar,
    thin_avatar,
)
from splatmend.training.config import TrainConfig
from splatmend.training.data.pairs import names_to_learn_from
from splatmend.training.evaluate.command import EvaluateConfig, evaluate
from splatmend.training.evaluate.guided_rows import KEYS
from splatmend.training.evaluate.metrics import METRICS
from splatmend.training.evaluate.report import INPUT, Values
from splatmend.training.gaussians.ply import Splats, read_ply
from splatmend.training.train.fitting import fit_options, leave_out_absent_lpips
from splatmend.training.train.options import default_values

__all__ = ["FitConfig", "fit", "main"]

_HOLDOUT = 2  # every other pose judges
_EXAMPLES = """\
examples:
  splatmend fit avatar.ply mine/ --lpips-weights WEIGHTS
  restore-video in.mp4 out.mp4 --adapter mine/adapter.safetensors
  restore-video in.mp4 out.mp4 --keys mine/keys/renders:mine/keys/photos
"""
_ADAPTER = default_values("train-adapter")


@dataclass(frozen=True)
class FitMain:
    """Size of the light avatar, and length of the training."""

    keep: float = 0.25
    """Share of the Gaussians that the light avatar keeps, the one to be mended."""
    steps: int = int(_ADAPTER["max_steps"])
    """Updates of the adapter: 12 to 13 minutes on two shared CPU cores with bfloat16."""
    temporal: bool = False
    """Learn texture that moves with the head instead of shimmering, somewhat less of it."""
    lpips_weights: Path | None = None
    """Folder with lpips_{vgg,alex}_features.fp16.safetensors; without it they are downloaded."""
    seed: int = 0
    """Names every random choice."""


@dataclass(frozen=True)
class FitConfig(FitMain, RenderConfig):
    """Fit compact to one avatar. Called again after an interruption it goes on.

    `out` receives adapter.safetensors; keys/ with the poses that were trained on as key pairs;
    thin.ply and the renders thin/ and whole/; in evaluation/ figures and a picture of the poses
    that were not trained on.
    """


@dataclass(frozen=True)
class _Options:
    """The options of `splatmend fit`, in groups."""

    files: Annotated[RenderFiles, OmitArgPrefixes]
    main: Annotated[FitMain, OmitArgPrefixes] = FitMain()
    cameras: Annotated[ArcCameras, OmitArgPrefixes] = ArcCameras()  # noqa: RUF009 (frozen)
    drawing: Annotated[FrameDrawing, OmitArgPrefixes] = FrameDrawing()  # noqa: RUF009


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend fit ...`; errors are the caller's to report."""
    about = f"{__doc__}\n{inspect.cleandoc(str(FitConfig.__doc__))}"
    name = "splatmend fit"
    given = parse(_Options, arguments, prog=name, description=about, epilog=_EXAMPLES)
    groups = (given.files, given.main, given.cameras, given.drawing)
    config = FitConfig(**{name: value for group in groups for name, value in vars(group).items()})
    need("train,turbo", *EXTRAS["train"], "peft")  # said before the avatar is rendered
    fit(config)


def fit(config: FitConfig) -> Path:
    """Make the pairs, train on half of the poses, judge on the others; returns the adapter.

    It says which of the adapter, the key pairs and both is best.

    Raises:
        InputError: no PLY, settings out of range, cameras that miss the avatar, or `out` holds
            a fit of other settings.
        TrainingError: see `train`.
    """
    from splatmend.training.train.loop import train  # needs accelerate, which --help does not

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
    """Copy the poses that were trained on; returns the value for `--keys`."""
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
    """Say in one line which of compact, adapter, key pairs and both is best, and by how much."""
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
    """List the settings that every file in `out` depends on."""
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
    """Render `source` into a folder, unless its last view is there."""
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
    """Put together the adapter's run on these pairs, in bfloat16 where that is fast."""
    fast = torch.accelerator.is_available() or fast_dtype(torch.device("cpu")) == torch.bfloat16
    values, said = fit_options(
        _ADAPTER
        | {
            "pairs": (pairs,),
            "holdout": _HOLDOUT,
            "out": config.out,
            "temporal": config.temporal,
            "batch": _ADAPTER["batch"] // (_ADAPTER["frames"] if config.temporal else 1),
            "max_steps": config.steps,
            "mixed_precision": "bf16" if fast else "no",
            "lpips_weights": config.lpips_weights,
            "seed": config.seed,
        }
    )
    training, absent = leave_out_absent_lpips(TrainConfig(**values))
    for line in (*said, *absent):
        sys.stderr.write(f"splatmend fit: {line}\n")
    return training
