"""Options that do not fit the pictures, the machine or the length of a run, fitted and said.

A first trial (`--max-steps 20`, small pictures, a CPU) then just works. A long run says at its
start which of its settings it does not use.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from splatmend.core.errors import InputError, ModelError
from splatmend.core.perceptual.lpips import Backbone, load_lpips
from splatmend.core.restore.registry import fast_dtype
from splatmend.training.config import TrainConfig
from splatmend.training.data.manifest import read_manifest
from splatmend.training.data.pairs import PICTURE_SUFFIXES, matched_names
from splatmend.training.data.shifted_crops import MOST

__all__ = ["fit_options", "leave_out_absent_lpips"]

_CELL = 32  # crops are multiples of it
_SAMPLE = 8  # portraits whose size is looked at: those of a folder are alike
_PNG = b"\x89PNG\r\n\x1a\n"
_TERMS: Mapping[Backbone, Sequence[str]] = {
    "alex": ("lpips_alex",),
    "vgg": ("lpips_vgg", "gram", "dists", "adversarial"),
}
_CACHED: Mapping[Backbone, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}
"""Files of torchvision's hub, as `lpips` fetches them."""


def fit_options(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Fit the values of a `TrainConfig` to one another, to the pictures and to the machine.

    Returns:
        The values, and a line for each that was changed.

    Raises:
        InputError: the pictures are too small for any crop, or folders have nothing in common.
    """
    fitted, said = dict(values), []

    def change(name: str, value: Any, reason: str) -> None:
        said.append(f"{name.replace('_', '-')} {fitted[name]} -> {value}: {reason}")
        fitted[name] = value

    steps = fitted["max_steps"]
    if fitted["warmup_steps"] >= steps > 1:
        change("warmup_steps", steps // 2, f"the run has {steps} steps")
    crop, reason = _fitting_crop(fitted)
    if crop != fitted["crop"]:
        change("crop", crop, reason)
    if fitted["vgg_side"] > crop:
        change("vgg_side", crop, "a crop is no larger")
    precision, reason = _fitting_precision(fitted)
    if precision != fitted["mixed_precision"]:
        change("mixed_precision", precision, reason)
    fewest = min((len(names) for _, names in _pair_files(fitted)), default=0)
    if fitted["holdout"] > fewest > 0:
        change("holdout", fewest if fewest > 1 else 0, f"there are {fewest} pairs")
    return fitted, said


def leave_out_absent_lpips(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Set loss terms to 0 whose backbone is neither at hand nor to be downloaded.

    A folder that --lpips-weights names is not checked here: without its files the run ends.

    Returns:
        The run, and a line for each backbone that is missing.
    """
    said: list[str] = []
    if config.lpips_weights is not None:
        return config, said
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for backbone, names in _TERMS.items():
        wanted = [name for name in names if getattr(config.loss, name)]
        if not wanted or (cache / _CACHED[backbone]).exists():
            continue
        try:
            load_lpips(backbone, None)
        except ModelError as error:
            config = replace(config, loss=replace(config.loss, **dict.fromkeys(wanted, 0.0)))
            flags = ", ".join(f"loss.{name.replace('_', '-')}" for name in wanted)
            said.append(f"{flags} -> 0: {error}")
    return config, said


def _fitting_crop(values: Mapping[str, Any]) -> tuple[int, str]:
    """Find the largest crop that all pictures have room for, at most the one given; say why."""
    crop = values["crop"]
    reason = f"it must be a multiple of {_CELL}"
    margin = MOST if values["temporal"] else 0
    for side, source, rim in (*_pair_sides(values, margin), *_portrait_sides(values)):
        if side - rim < crop:
            crop = side - rim
            moved = f", of which --temporal takes {rim}" if rim else ""
            reason = f"{source} has a side of {side} pixels{moved}"
            if crop < _CELL:
                raise InputError(f"{reason}: crops need at least {_CELL}, give larger pictures")
    return max(crop // _CELL, 1) * _CELL, reason


def _fitting_precision(values: Mapping[str, Any]) -> tuple[str, str]:
    precision = str(values["mixed_precision"])
    on_cpu = values["device"] == "cpu" or not torch.accelerator.is_available()
    if precision == "no" or not on_cpu:
        return precision, ""
    fast = fast_dtype(torch.device("cpu")) == torch.bfloat16
    if precision == "fp16":
        return "bf16" if fast else "no", "fp16 needs an accelerator"
    return (precision, "") if fast else ("no", "bf16 is slow on this CPU")


def _pair_files(values: Mapping[str, Any]) -> Iterator[tuple[Path, list[str]]]:
    """List the folder of renders of each --pairs, with the names that its truths have too."""
    for folders in values["pairs"]:
        renders, _, rest = folders.partition(":")
        truths = rest.partition(":")[0]
        if truths:
            yield Path(renders), matched_names(Path(renders), Path(truths))


def _pair_sides(values: Mapping[str, Any], margin: int) -> Iterator[tuple[int, Path, int]]:
    """List shorter side, file and margin of every picture of the pairs."""
    files = [folder / name for folder, names in _pair_files(values) for name in names]
    for manifest in values["manifests"]:
        if manifest.is_file():
            records, _ = read_manifest(manifest, skip=True)
            files += [manifest.parent / record.degraded for record in records]
    for file in files:
        side = _side(file)
        if side is not None:  # one that cannot be read is for the run to refuse or to leave out
            yield side, file, margin


def _portrait_sides(values: Mapping[str, Any]) -> Iterator[tuple[int, Path, int]]:
    """List side, folder and margin of the largest of some portraits; smaller ones are padded."""
    for folder in values["faces"]:
        if not folder.is_dir():
            continue
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        chosen = np.linspace(0, len(files) - 1, min(len(files), _SAMPLE)).round().astype(int)
        sides = [side for index in chosen if (side := _side(files[index])) is not None]
        if sides:
            yield max(sides), folder, 0


def _side(file: Path) -> int | None:
    """Read the shorter side of a picture in pixels; None if it cannot be read."""
    try:
        with file.open("rb") as opened:
            head = opened.read(24)
    except OSError:
        return None
    if head[:8] == _PNG and len(head) == 24:
        return int(min(struct.unpack(">II", head[16:])))
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    return None if picture is None else int(min(picture.shape[:2]))
