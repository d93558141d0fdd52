"""`splatmend train`: the loop that makes compact and its adapters, with exact resume."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import torch
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from splatmend.training.config import TrainConfig
from splatmend.training.dataset import Portrait, Split, draw_batch, load_portraits
from splatmend.training.losses import LpipsLoss, gram_distance, log_mse
from splatmend.training.metrics import load_lpips, psnr
from splatmend.training.pair_crops import draw_pair_batch, load_pairs
from splatmend.training.run_state import RunState

__all__ = ["learning_rate_share", "main", "train"]

_VALIDATION_SEED = 10_000  # far from any training seed; the test split is never read here


def main(arguments: Sequence[str] | None = None) -> None:
    """`splatmend train ...`; errors are the caller's to report."""
    train(tyro.cli(TrainConfig, args=arguments, prog="splatmend train", description=__doc__))


def learning_rate_share(step: int, warmup: int, total: int) -> float:
    """Linear rise over `warmup` updates, then linear fall to 0 at `total`."""
    return min((step + 1) / warmup, (total - step) / (total - warmup))


def train(config: TrainConfig) -> Path:
    """Train until `max_steps`, resuming from `out` if it holds a state; returns the checkpoint.

    Every step draws its own pictures from (seed, step), so a resumed run repeats
    an uninterrupted one exactly.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    draw, draw_validation = _sources(config)
    state = RunState(config)
    network, optimizer = state.network, state.optimizer
    trained = [p for p in network.parameters() if p.requires_grad]
    losses = _Losses(config)
    batches = _batches(draw, config, state.step)
    bar = tqdm(batches, initial=state.step, total=config.max_steps)
    started = time.monotonic()
    for step, batch in enumerate(bar, state.step):
        share = learning_rate_share(step, config.warmup_steps, config.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        degraded, clean = (t.to(config.device) for t in batch)
        with torch.autocast(config.device, torch.bfloat16, enabled=config.bf16):
            restored = degraded + network(degraded)
        terms = losses(restored.float(), clean, step)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        state.advance(time.monotonic() - started)
        started = time.monotonic()
        row = {"step": step, "loss": loss.item(), "norm": norm.item(), "lr_share": share}
        row |= {name: value.item() for name, value in terms.items()}
        bar.set_postfix_str(" ".join(f"{k} {v:.3f}" for k, v in row.items() if k != "step"))
        _log(config.out / "log.jsonl", row)
        if draw_validation and state.step % config.validate_every == 0:
            _log(config.out / "validation.jsonl", _validate(state, losses, draw_validation))
        if state.step % config.save_every == 0:
            state.save()
    return state.save()


_Draw = Callable[..., tuple[Tensor, Tensor]]
"""Draws the batch (degraded, clean) of the keyword `step`; can be sent to a worker."""


def _sources(config: TrainConfig) -> tuple[_Draw, _Draw | None]:
    """What the run trains on, and what it validates on, if anything."""
    size = {"seed": config.seed, "batch": config.batch, "crop": config.crop}
    judged = size | {"seed": _VALIDATION_SEED, "batch": 4}
    if config.pairs:
        pairs = [p for f in config.pairs for p in load_pairs(f, "train", holdout=config.holdout)]
        draw = partial(draw_pair_batch, pairs, **size)
        if not config.holdout:
            return draw, None
        held = [p for f in config.pairs for p in load_pairs(f, "held out", holdout=config.holdout)]
        return draw, partial(draw_pair_batch, held, **judged)
    portraits = [p for f in config.faces for p in _load(f, "train", config)]
    validation = [p for f in config.faces if _has_manifest(f) for p in _load(f, "val", config)]
    draw = partial(draw_batch, portraits, **size)
    return draw, partial(draw_batch, validation, **judged) if validation else None


class _Steps(Dataset[tuple[Tensor, Tensor]]):
    """The batches of a run, by step: a worker needs nothing but the number."""

    def __init__(self, draw: _Draw) -> None:
        self.draw = draw

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.draw(step=step)


def _batches(draw: _Draw, config: TrainConfig, start: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """The batches from step `start` on, in order, whatever the number of workers."""
    return DataLoader(
        _Steps(draw),
        batch_size=None,
        sampler=range(start, config.max_steps),
        num_workers=config.workers,
        worker_init_fn=_start_worker,
    )


def _start_worker(_: int) -> None:
    """OpenCV's threads do not survive a fork."""
    cv2.setNumThreads(0)


def _has_manifest(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


def _load(folder: Path, split: Split, config: TrainConfig) -> list[Portrait]:
    with_foreground = split == "train" and _has_manifest(folder)
    return load_portraits(
        folder, split, cache=config.out.parent / "foreground", foreground=with_foreground
    )


class _Losses:
    """The weighted terms of one step, by name."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        weights = config.loss
        folder, device = config.lpips_weights, config.device
        self.alex = load_lpips("alex", folder, device) if weights.lpips_alex else None
        needs_vgg = weights.lpips_vgg or weights.gram
        self.vgg = load_lpips("vgg", folder, device) if needs_vgg else None

    def __call__(self, restored: Tensor, clean: Tensor, step: int) -> dict[str, Tensor]:
        weights, config = self.config.loss, self.config
        terms = {
            "l1": weights.l1 * (restored - clean).abs().mean(),
            "log_mse": weights.log_mse * log_mse(restored, clean).mean(),
        }
        if self.alex is not None:
            pictures = (self._features(self.alex, x) for x in (restored, clean))
            terms["lpips_alex"] = weights.lpips_alex * self.alex.distance(*pictures).mean()
        if self.vgg is not None:
            # a random window of some crops is an unbiased sample at a third of the cost
            generator = torch.Generator().manual_seed(step)
            room = config.crop - config.vgg_side + 1
            top, left = torch.randint(room, (2,), generator=generator).tolist()
            side = config.vgg_side
            window = (slice(0, config.vgg_crops), slice(None),
                      slice(top, top + side), slice(left, left + side))  # fmt: skip
            ours = self._features(self.vgg, restored[window])
            with torch.no_grad():
                target = self._features(self.vgg, clean[window])
            terms["lpips_vgg"] = weights.lpips_vgg * self.vgg.distance(ours, target).mean()
            if weights.gram:
                terms["gram"] = weights.gram * gram_distance(ours, target).mean()
        return terms

    def _features(self, backbone: LpipsLoss, rgb: Tensor) -> list[Tensor]:
        """Half the time in bfloat16 and channels last; the distances stay in float32."""
        rgb = rgb.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.config.device, torch.bfloat16, enabled=self.config.bf16):
            return [level.float() for level in backbone.features(rgb)]


@torch.no_grad()
def _validate(state: RunState, losses: _Losses, draw: _Draw) -> Mapping[str, float]:
    """Mean LPIPS and PSNR of the averaged weights and of their input on fixed crops."""
    network = state.averaged()
    totals = {"step": float(state.step)}
    count = 6
    for step in range(count):
        degraded, clean = (t.to(state.config.device) for t in draw(step=step))
        restored = (degraded + network(degraded)).clamp(0, 1)
        for name, picture in (("input", degraded), ("ours", restored)):
            for backbone, metric in (("vgg", losses.vgg), ("alex", losses.alex)):
                if metric is not None:
                    key = f"{backbone}_{name}"
                    value = metric(picture, clean).mean().item() / count
                    totals[key] = totals.get(key, 0.0) + value
            decibel = psnr(picture, clean).mean().item() / count
            totals[f"psnr_{name}"] = totals.get(f"psnr_{name}", 0.0) + decibel
    tqdm.write(" ".join(f"{k} {v:.4f}" for k, v in totals.items()))
    return totals


def _log(path: Path, row: Mapping[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
