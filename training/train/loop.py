"""The training loop, which makes compact, its adapters and turbo's.

On accelerate: one process, or several, by `accelerate launch -m splatmend.training.train ...`
or, where MPI is missing on CPUs, by `torchrun -m splatmend.training.train ...`. p processes
with batch b see the crops, and give the curve, of one with batch p b.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

from splatmend.core.errors import InputError, TrainingError
from splatmend.temporal.loss import self_condition
from splatmend.training.config import TrainConfig
from splatmend.training.data.batches import Batch, load_batches, open_data
from splatmend.training.losses.objective import Objective
from splatmend.training.models.compact import build_model
from splatmend.training.train.muon import Muon
from splatmend.training.train.run_state import RunState
from splatmend.training.train.schedule import learning_rate_share
from splatmend.training.train.validation import Validation

__all__ = ["learning_rate_share", "train"]


@dataclass(frozen=True)
class _Run:
    """The parts of a run, wrapped by accelerate where it wants to."""

    config: TrainConfig
    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    state: RunState
    validation: Validation | None

    def save(self) -> Path:
        """Write state and checkpoint."""
        return self.state.save(self.optimizer, _extra(self.accelerator, self.objective))


def train(config: TrainConfig) -> Path:
    """Train until `max_steps`, resuming from `out` if it holds a state; returns the checkpoint.

    Raises:
        InputError: data or settings that cannot be used.
        ModelError: a base or a checkpoint that cannot be loaded.
        TrainingError: the loss is not a number for too long; the last save is kept.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    accelerator = _accelerator(config)
    draw, draw_validation = open_data(config)
    objective = Objective(config, accelerator.device)
    validation = draw_validation and Validation(draw_validation, objective, config)
    run = _prepare(config, accelerator, objective, validation)
    loader = load_batches(
        draw,
        config,
        start=run.state.step,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    try:
        return _loop(run, iter(loader))
    finally:
        accelerator.end_training()


def _accelerator(config: TrainConfig) -> Accelerator:
    # accelerate keeps one state a process and refuses a second run of other precision
    AcceleratorState._reset_state()
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if cpu and config.mixed_precision == "fp16":
        raise InputError("fp16 needs an accelerator: use --mixed-precision bf16, or no")
    installed = {tracker.value for tracker in get_available_trackers()}
    if missing := sorted(set(config.trackers) - installed):
        raise InputError(f"{missing[0]} is not installed: pip install {missing[0]}")
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        log_with=list(config.trackers) or None,
        project_dir=str(config.out),
    )
    if config.trackers:
        accelerator.init_trackers("splatmend")
    if accelerator.is_main_process:
        settings = json.dumps(asdict(config), indent=1, default=str)
        (config.out / "config.json").write_text(settings)
    return accelerator


def _prepare(
    config: TrainConfig,
    accelerator: Accelerator,
    objective: Objective,
    validation: Validation | None,
) -> _Run:
    model = build_model(config).to(accelerator.device)
    state = RunState(config, model, writes=accelerator.is_main_process)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = {"adamw": AdamW, "muon": Muon}[config.optimizer](
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
    state.resume(optimizer, _extra(accelerator, objective))
    prepared, stepping = accelerator.prepare(model, optimizer)
    if objective.opponent is not None:
        objective.opponent.prepare(accelerator)
    return _Run(config, accelerator, prepared, stepping, objective, state, validation)


def _extra(accelerator: Accelerator, objective: Objective) -> dict[str, Any]:
    """Collect the other objects that have a state to resume."""
    things = {"scaler": accelerator.scaler, "opponent": objective.opponent}
    return {name: thing for name, thing in things.items() if thing is not None}


def _loop(run: _Run, loader: Iterator[Batch]) -> Path:
    config, state = run.config, run.state
    hidden = not run.accelerator.is_local_main_process
    bar = tqdm(initial=state.step, total=config.max_steps, disable=hidden)
    bad_in_row = 0
    while state.step < config.max_steps:
        started, step = time.monotonic(), state.step
        terms, norm = _update(run, islice(loader, config.accumulate), step)
        # a scaler's first updates overflow by design: it looks after the norm by itself
        watched = [*terms.values(), *([] if run.accelerator.scaler else [norm])]
        bad_in_row = 0 if all(v.isfinite() for v in watched) else bad_in_row + 1
        state.bad_updates += bad_in_row > 0
        if bad_in_row >= config.max_bad_updates:
            raise TrainingError(_describe_bad(run, terms, bad_in_row))
        state.advance(time.monotonic() - started)
        _report(run, bar, step, terms, norm)
        if run.validation and state.step % config.validate_every == 0:
            _validate(run)
        if state.step % config.save_every == 0:
            run.save()
    bar.close()
    return run.save()


def _update(run: _Run, parts: Iterator[Batch], step: int) -> tuple[dict[str, Tensor], Tensor]:
    """Step the optimiser once on `accumulate` batches -> (mean terms, gradient norm)."""
    accelerator, optimizer, config = run.accelerator, run.optimizer, run.config
    share = learning_rate_share(step, config.warmup_steps, config.max_steps)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * share
    sums: dict[str, Tensor] = {}
    norm = torch.zeros(())
    for part in parts:
        batch = part.to(accelerator.device)
        with accelerator.accumulate(run.model):
            hint = () if batch.guidance is None else (batch.guidance,)
            restored = run.model(_inputs(run, batch), batch.chance, *hint).float()
            terms = run.objective(restored, batch, step)
            accelerator.backward(torch.stack(list(terms.values())).sum())
            if accelerator.sync_gradients:
                parameters = [p for p in run.model.parameters() if p.requires_grad]
                norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
                if accelerator.scaler is not None or norm.isfinite():
                    optimizer.step()
            optimizer.zero_grad()
            if run.objective.opponent is not None:
                window = run.objective.window(step)
                learned = run.objective.opponent.learn(batch.clean[window], restored[window])
                terms["opponent"] = learned
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() / config.accumulate
    means = accelerator.reduce(torch.stack(list(sums.values())), reduction="mean")
    return dict(zip(sums, means, strict=True)), norm


def _inputs(run: _Run, batch: Batch) -> Tensor:
    """Give the network's input: the damage, in some sequences mixed with its own past."""
    share = run.config.self_conditioning
    if batch.flow is None or batch.valid is None or not share:
        return batch.degraded
    with torch.no_grad():
        restored = run.model(batch.degraded, batch.chance).float().clamp(0, 1)
    clips = (batch.as_clips(batch.degraded), batch.as_clips(restored))
    own = batch.as_clips(batch.chance)[:, 0, -2:]
    mixed = self_condition(*clips, batch.flow, batch.valid, share=share, chance=own)
    return mixed.flatten(0, 1)


def _report(run: _Run, bar: Any, step: int, terms: dict[str, Tensor], norm: Tensor) -> None:
    row = {name: value.item() for name, value in terms.items()}
    loss = sum(value for name, value in row.items() if name != "opponent")
    row = {"loss": loss, **row, "norm": norm.item()}
    row["learning_rate"] = run.optimizer.param_groups[0]["lr"]
    row["bad_updates"] = run.state.bad_updates
    bar.update()
    bar.set_postfix_str(" ".join(f"{name} {value:.3g}" for name, value in row.items()))
    run.state.log("log", {"step": step, **row})
    if run.config.trackers:
        run.accelerator.log(row, step=step)


def _validate(run: _Run) -> None:
    assert run.validation is not None
    state = run.state
    if run.accelerator.is_main_process:
        picture = run.config.out / f"validation_{state.step:06d}.jpg"
        row = run.validation(state.averaged(), picture)
        state.log("validation", {"step": state.step, **row})
        state.keep_best(run.validation.score(row))
        tqdm.write(f"step {state.step}: " + " ".join(f"{k} {v:.4f}" for k, v in row.items()))
        if run.config.trackers:
            run.accelerator.log({f"validation/{k}": v for k, v in row.items()}, step=state.step)
    run.accelerator.wait_for_everyone()


def _describe_bad(run: _Run, terms: dict[str, Tensor], count: int) -> str:
    bad = [name for name, value in terms.items() if not value.isfinite()]
    named = f"the term {', '.join(bad)} is" if bad else "the gradient is"
    return (
        f"{count} updates in a row up to step {run.state.step} were left out: {named} not finite. "
        f"{run.config.out} keeps the last save; use a lower --learning-rate, or "
        f"--mixed-precision no"
    )
