"""`splatmend evaluate`: one table for each set, all rows on the same pictures.

Rows are the degraded input itself and every restorer named. Sets are the test split of
portraits, degraded by fixed recipes, and folders of real (render, reference) pairs.
Nothing here ever selects a checkpoint.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from splatmend.core.errors import InputError
from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.core.registry import load_restorer
from splatmend.core.restore import RestoreOptions, restore_pixels
from splatmend.core.restorer import Restorer
from splatmend.training.metrics import METRICS, Measures
from splatmend.training.pairs import (
    PairSource,
    folder_pairs,
    portrait_pairs,
    split_folders,
)

__all__ = ["EvaluateConfig", "evaluate", "main", "markdown_table"]

_GRID_ROWS = 6


@dataclass(frozen=True)
class EvaluateConfig:
    """What to measure on what."""

    faces: Path | None = None
    """Folder of portraits with a manifest; its test split becomes the set "portraits"."""
    pairs: tuple[str, ...] = ()
    """Real pairs, each "folder of renders:folder of references", matched by file name."""
    holdout: int = 0
    """Judge only every k-th pose of the pairs, which `splatmend train --holdout k` left out."""
    restorers: tuple[str, ...] = ("unsharp", "compact")
    """Names or checkpoints, one row each; "compact+FILE" puts a personal adapter on."""
    strength: float = 1.0
    out: Path = Path("runs/evaluation")
    """Receives evaluation.json, evaluation.md and one comparison picture for each set."""
    lpips_weights: Path | None = None
    """Folder with the LPIPS backbones; without it they are downloaded."""
    device: str = "auto"
    limit: int | None = None
    """At most this many pictures of each set, evenly spaced."""

    def __post_init__(self) -> None:
        if self.faces is None and not self.pairs:
            raise InputError("nothing to evaluate: give --faces, --pairs or both")


Values = dict[str, list[float]]
"""One value a picture for each measure."""


def main(arguments: Sequence[str] | None = None) -> None:
    """`splatmend evaluate ...`; errors are the caller's to report."""
    config = tyro.cli(
        EvaluateConfig, args=arguments, prog="splatmend evaluate", description=__doc__
    )
    evaluate(config)


def evaluate(config: EvaluateConfig) -> dict[str, dict[str, Values]]:
    """Measure every set, write the report, return {set: {row: {measure: values}}}."""
    restorers = {name: _load(name, config.device) for name in config.restorers}
    device = next((r.device for r in restorers.values()), torch.device("cpu"))
    measures = Measures(config.lpips_weights, device)
    config.out.mkdir(parents=True, exist_ok=True)
    report, tables = {}, []
    for name, pairs in _sets(config):
        rows, grid = _measure(pairs, restorers, measures, config.strength, device)
        report[name] = rows
        tables.append(f"### {name}\n\n{markdown_table(rows)}")
        cv2.imwrite(str(config.out / f"{name.replace('/', '_')}.png"), grid[..., ::-1])
    text = "\n\n".join(tables) + "\n"
    (config.out / "evaluation.json").write_text(json.dumps(report, indent=1))
    (config.out / "evaluation.md").write_text(text)
    sys.stdout.write(f"{text}\nwritten to {config.out}\n")
    return report


def _load(name: str, device: str) -> Restorer:
    base, _, adapter = name.partition("+")
    return load_restorer(base, device=device, adapter=adapter or None)


def markdown_table(rows: dict[str, Values]) -> str:
    """Means (and medians) by row, with the ratio to the input's mean where lower is better."""
    header = "| | n | " + " | ".join(f"{m} mean (median)" for m in METRICS) + " |"
    lines = [header, "|---|---|" + "---|" * len(METRICS)]
    for name, row in rows.items():
        cells = []
        for metric in METRICS:
            values, reference = row[metric], rows["input"][metric]
            cell = f"{mean(values):.4f} ({median(values):.4f})"
            if metric != "psnr" and name != "input" and mean(reference) > 0:
                cell += f" x{mean(values) / mean(reference):.2f}"
            cells.append(cell)
        lines.append(f"| {name} | {len(row['psnr'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure(
    pairs: Sequence[PairSource],
    restorers: Mapping[str, Restorer],
    measures: Measures,
    strength: float,
    device: torch.device,
) -> tuple[dict[str, Values], NDArray[np.uint8]]:
    """All values of one set, and a picture with input, outputs and reference side by side."""
    options = RestoreOptions(strength=strength)
    rows: dict[str, Values] = {}
    pictures = []
    shown = set(np.linspace(0, len(pairs) - 1, _GRID_ROWS).round().astype(int).tolist())
    for index, load in enumerate(tqdm(pairs, disable=not sys.stderr.isatty())):
        degraded, clean = (plane.to(device) for plane in load())
        outputs = {"input": degraded}
        outputs |= {n: restore_pixels(r, degraded, options) for n, r in restorers.items()}
        # judged as a viewer gets them: rounded to 8 bits
        rounded = {n: to_tensor(from_tensor(o, np.uint8), device) for n, o in outputs.items()}
        for name, row in measures(rounded, clean).items():
            for metric, value in row.items():
                rows.setdefault(name, {}).setdefault(metric, []).append(value)
        if index in shown:
            pictures.append(np.hstack([_thumbnail(p) for p in (*outputs.values(), clean)]))
    return rows, np.vstack(pictures)


def _thumbnail(picture: Tensor) -> NDArray[np.uint8]:
    array = from_tensor(picture, np.uint8)[0]
    return np.asarray(cv2.resize(array, (384, 384), interpolation=cv2.INTER_AREA), np.uint8)


def _sets(config: EvaluateConfig) -> Iterator[tuple[str, list[PairSource]]]:
    if config.faces is not None:
        yield "portraits", _thin_out(portrait_pairs(config.faces), config.limit)
    for folders in config.pairs:
        renders, references = split_folders(folders)
        pairs = folder_pairs(renders, references)
        if config.holdout:
            pairs = pairs[config.holdout - 1 :: config.holdout]
        yield "/".join(renders.parts[-2:]), _thin_out(pairs, config.limit)


def _thin_out(pairs: list[PairSource], limit: int | None) -> list[PairSource]:
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, limit).round().astype(int)]


if __name__ == "__main__":
    main()
