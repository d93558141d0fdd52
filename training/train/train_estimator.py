"""`splatmend train-estimator`: degradation scores learned from damage that is known.

Every pair (degraded, clean) is made here, so the truth costs nothing: `degradation_targets`
compares the two and the network sees the degraded one alone. The report judges it beside a
constant guess, on people that it was not trained on and on renders.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from splatmend.core.checkpoint import CheckpointHeader, save_checkpoint
from splatmend.core.compact.network import laplacian_bands
from splatmend.core.errors import InputError
from splatmend.core.estimator.network import (
    CELL,
    DegradationEstimator,
    artifact_score,
    load_estimator,
    pool_cells,
)
from splatmend.core.perceptual.lpips import Lpips, load_lpips
from splatmend.core.pixels import pad_to_multiple
from splatmend.core.resample import blur
from splatmend.training.data.batches import load_people, start_worker
from splatmend.training.data.pairs import folder_pairs, split_folders
from splatmend.training.data.portraits import Portrait, Split, draw_batch, has_manifest
from splatmend.training.degradations.recipes import add_noise
from splatmend.training.train.estimator_options import (
    LARGEST_WINDOW,
    OCTAVES,
    EstimatorTrainConfig,
    read_options,
)
from splatmend.training.train.schedule import learning_rate_share

__all__ = [
    "EstimatorTrainConfig",
    "agreement",
    "correlation",
    "degradation_cells",
    "degradation_targets",
    "main",
    "train_estimator",
]

_JUST_VISIBLE = (2 / 255) ** 2  # energy of detail that counts half
_HELD_OUT_SEEDS: Mapping[Split, int] = {"val": 30_000, "test": 40_000}  # far from any other
_DRAW = 16  # pairs drawn at once

Figures = dict[str, dict[str, float]]
"""Figures of one set, by score."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend train-estimator ...`; errors are the caller's to report."""
    train_estimator(read_options(arguments, str(__doc__)))


def degradation_cells(degraded: Tensor, clean: Tensor) -> Tensor:
    """Compute the truth that `DegradationEstimator.cells` estimates, from pairs (n, 3, h, w).

    (n, 4, h/16, w/16) in [0, 1], sides rounded up to multiples of 64 pixels. In windows of
    each octave of a Laplacian pyramid the degraded detail d is projected on the clean c:
    d = g c + r with g = <d, c> / <c, c> in [0, 1]. Blur is the share of detail that is lost,
    1 - g; noise the share of energy that is foreign, |r|^2 / (|r|^2 + |c|^2). A window counts
    for blur as far as c is visible, for noise as far as c or r is. Equal pictures give 0.

    The model of an attenuated signal with something added: Sheikh & Bovik 2006, "Image
    Information and Visual Quality"; the split into loss and addition: Li et al. 2011, "Image
    Quality Assessment by Separately Evaluating Detail Losses and Additive Impairments".

    Raises:
        InputError: the two differ in shape.
    """
    if degraded.shape != clean.shape:
        raise InputError(
            f"a pair must agree in shape, got {tuple(degraded.shape)} and {tuple(clean.shape)}"
        )
    planes = (pad_to_multiple(x, LARGEST_WINDOW) for x in (degraded, clean))
    bands = zip(*(laplacian_bands(x, OCTAVES) for x in planes), strict=True)
    octaves = [_octave(d, c, CELL * 2**i) for i, (d, c) in enumerate(bands)]
    lost, seen, foreign, felt = torch.stack(octaves).mean(0).unbind(1)
    tiny = 1e-9
    return torch.stack((lost / (seen + tiny), seen, foreign / (felt + tiny), felt), 1)


def _octave(d: Tensor, c: Tensor, window: int) -> Tensor:
    """Compute (lost * seen, seen, foreign * felt, felt) of one octave -> (n, 4, h/16, w/16)."""
    cc, cd, dd = (F.avg_pool2d((a * b).mean(1), window) for a, b in ((c, c), (c, d), (d, d)))
    gain = (cd / cc.clamp(min=1e-12)).clamp(0, 1)  # exactly 1 for equal pictures
    rest = (dd - 2 * gain * cd + gain.square() * cc).clamp(min=0)
    seen = cc / (cc + _JUST_VISIBLE)
    felt = (cc + rest) / (cc + rest + _JUST_VISIBLE)
    foreign = rest / (cc + rest + _JUST_VISIBLE)
    maps = torch.stack(((1 - gain) * seen, seen, foreign * felt, felt), 1)
    return F.interpolate(maps, scale_factor=window / CELL, mode="nearest")


def degradation_targets(degraded: Tensor, clean: Tensor) -> Tensor:
    """Compute true scores (n, 2), blur and noise in [0, 1], of (n, 3, h, w) against its truth.

    Raises:
        InputError: the two differ in shape.
    """
    return pool_cells(degradation_cells(degraded, clean))


def train_estimator(config: EstimatorTrainConfig) -> Path:
    """Draw the pool, train, write the checkpoint and the report; returns the checkpoint.

    Deterministic: one config gives the same weights again on the same machine.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    portraits = [
        p for folder in config.faces for p in load_people(folder, "train", config.out.parent)
    ]
    plan = _Draws(portraits, config.seed, config.pool, config.crop, worsen=True)
    pool, truth = [], []
    for degraded, clean in tqdm(_drawn(plan, config.workers), total=len(plan), desc="drawing"):
        pool.append(degraded)
        truth.append(degradation_cells(degraded / 255, clean / 255))
    pictures, cells = torch.cat(pool), torch.cat(truth)
    network = _fit(pictures, cells, config)
    path = config.out / "estimator.safetensors"
    notes = {"steps": config.max_steps, "pool": len(pictures), "seed": config.seed}
    notes["seconds"] = round(time.monotonic() - started)
    header = CheckpointHeader("estimator", network.config.to_dict(), notes)
    save_checkpoint(path, header, network.state_dict(), dtype=torch.float16)
    _report(path, pool_cells(cells), config)  # of the file, as it will be used
    return path


class _Draws(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (degraded, clean) as bytes (16, 3, crop, crop), by number alone."""

    def __init__(
        self, portraits: Sequence[Portrait], seed: int, pairs: int, crop: int, *, worsen: bool
    ) -> None:
        self.portraits, self.seed, self.pairs, self.crop = portraits, seed, pairs, crop
        self.worsen = worsen

    def __len__(self) -> int:
        return -(-self.pairs // _DRAW)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        count = min(_DRAW, self.pairs - step * _DRAW)
        degraded, clean = draw_batch(
            self.portraits, seed=self.seed, step=step, batch=count, crop=self.crop
        )
        if self.worsen:
            rng = np.random.default_rng((self.seed, step, 0, 1))  # no pair's own
            pairs = zip(degraded, clean, strict=True)
            degraded = torch.stack([_worsened(d, c, rng) for d, c in pairs])
        # later inputs have been through 8 bits, so the truth is taken there too
        return (255 * degraded).round().byte(), (255 * clean).round().byte()


def _worsened(degraded: Tensor, clean: Tensor, rng: np.random.Generator) -> Tensor:
    """Worsen a pair (3, h, w) of the restorers' recipes, more at both ends of either score."""
    kind = rng.random()
    if kind < 0.1:
        return clean
    degraded = degraded[None]
    if kind < 0.22:
        degraded = blur(degraded, 0.4 * 7.5 ** rng.random())  # 0.4 to 3 pixels
    if 0.17 < kind < 0.34:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        degraded = add_noise(degraded, 0.004 * 15 ** rng.random(), generator)  # 0.004 to 0.06
    return degraded[0].clamp(0, 1)


def _drawn(plan: _Draws, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Draw a plan in order, for any number of workers."""
    return DataLoader(plan, batch_size=None, num_workers=workers, worker_init_fn=start_worker)


def _fit(pictures: Tensor, truth: Tensor, config: EstimatorTrainConfig) -> DegradationEstimator:
    """Train a fresh network on bytes (n, 3, h, h) and their true cells (n, 4, h/16, h/16)."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = DegradationEstimator().to(config.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    bar = tqdm(range(config.max_steps), desc="training")
    for step in bar:
        share = learning_rate_share(step, config.warmup_steps, config.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        chosen = torch.randint(len(pictures), (config.batch,), generator=generator)
        turns, mirrored = torch.randint(4, (2,), generator=generator).tolist()
        rgb, cells = (
            (x.flip(3) if mirrored % 2 else x).rot90(turns, (2, 3)).to(config.device)
            for x in (pictures[chosen], truth[chosen])
        )
        loss = _loss(network.cells(rgb / 255), cells)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {loss.item():.3f}")
    return network.eval()


def _loss(ours: Tensor, truth: Tensor) -> Tensor:
    """Sum the cross-entropies of weights, of values where they count, and of pooled scores.

    It is lowest at the truth for soft targets too, and cares for small scores.
    """
    terms = F.binary_cross_entropy(ours, truth, reduction="none")
    value, weight = terms[:, ::2] * truth[:, 1::2], terms[:, 1::2]
    pooled = F.binary_cross_entropy(pool_cells(ours), pool_cells(truth))
    return value.mean() + weight.mean() + pooled


def _report(path: Path, targets: Tensor, config: EstimatorTrainConfig) -> None:
    """Judge a checkpoint on every set; write report.json and report.md."""
    network = load_estimator(path, config.device)
    constant = _with_artifact(targets).mean(0)
    metrics = {
        f"lpips_{name}": load_lpips(name, config.lpips_weights, config.device)
        for name in config.lpips
        if config.lpips_weights is not None
    }
    report = {
        name: _judge(network, pairs, constant, metrics, config.device)
        for name, pairs in _sets(config)
    }
    text = _markdown(report)
    (config.out / "report.json").write_text(json.dumps(report, indent=1))
    (config.out / "report.md").write_text(text)
    sys.stdout.write(f"{text}written to {config.out}\n")


def _sets(config: EstimatorTrainConfig) -> Iterator[tuple[str, Iterable[tuple[Tensor, Tensor]]]]:
    """List held-out people under the plain recipes, and real renders; by name."""
    folders = [folder for folder in config.faces if has_manifest(folder)]
    for split, seed in _HELD_OUT_SEEDS.items() if folders else ():
        portraits = [p for folder in folders for p in load_people(folder, split, config.out.parent)]
        plan = _Draws(portraits, seed, config.held_out, config.held_out_crop, worsen=False)
        yield split, ((d / 255, c / 255) for d, c in _drawn(plan, config.workers))
    if config.pairs:
        yield (
            "renders",
            (load() for entry in config.pairs for load in folder_pairs(*split_folders(entry))),
        )


@torch.inference_mode()
def _judge(
    network: DegradationEstimator,
    pairs: Iterable[tuple[Tensor, Tensor]],
    constant: Tensor,
    metrics: Mapping[str, Lpips],
    device: str,
) -> Figures:
    """Compare each score with the truth, and the artifact score with LPIPS."""
    ours, truth = [], []
    distances: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for pair in pairs:
        degraded, clean = (x.to(device) for x in pair)
        ours.append(network(degraded).cpu())
        truth.append(degradation_targets(degraded, clean).cpu())
        for name, metric in metrics.items():
            distances[name].append(metric(degraded, clean).cpu())
    mine, right = _with_artifact(torch.cat(ours)), _with_artifact(torch.cat(truth))
    rows = {
        name: agreement(mine[:, i], right[:, i], constant=constant[i].item())
        for i, name in enumerate(("blur", "noise", "artifact"))
    }
    for name, parts in distances.items():
        distance = torch.cat(parts)
        rows[f"artifact, against {name}"] = correlation(mine[:, 2], distance)
        rows[f"true artifact, against {name}"] = correlation(right[:, 2], distance)
    return rows


def _with_artifact(scores: Tensor) -> Tensor:
    return torch.cat((scores, artifact_score(scores)[:, None]), 1)


def agreement(ours: Tensor, truth: Tensor, *, constant: float) -> dict[str, float]:
    """Compare `ours` with `truth`, both (n,), beside a constant guess."""
    errors = {"": ours - truth, "_constant": constant - truth}
    figures = correlation(ours, truth)
    for suffix, error in errors.items():
        figures[f"mae{suffix}"] = error.abs().mean().item()
        figures[f"mse{suffix}"] = error.square().mean().item()
    return figures


def correlation(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Compute n, Spearman's and Pearson's correlation of two (n,); 0 where one is constant."""
    a, b = (x.double().numpy() for x in (ours, theirs))
    return {"n": len(a), "spearman": _pearson(_ranks(a), _ranks(b)), "pearson": _pearson(a, b)}


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((count.cumsum() - (count - 1) / 2)[place], np.float64)


def _markdown(report: Mapping[str, Figures]) -> str:
    """Write one row for each set and score."""
    lines = [
        "| set | score | n | Spearman | Pearson | MAE (constant) | MSE (constant) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in report.items():
        for score, row in rows.items():
            cells = [name, score, str(row["n"]), f"{row['spearman']:.3f}", f"{row['pearson']:.3f}"]
            for error in ("mae", "mse"):
                known = error in row
                cells.append(f"{row[error]:.4f} ({row[f'{error}_constant']:.4f})" if known else "")
            lines.append(f"| {' | '.join(cells)} |")
    note = "The constant is the mean over the training pairs; it ranks nothing: correlation 0."
    return "\n".join(lines) + f"\n\n{note}\n"


if __name__ == "__main__":
    main()
