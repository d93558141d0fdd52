"""Files that a training run leaves and takes up again: state, checkpoints, log, pictures.

Every crop and every random choice is named by (seed, step, sample). So the state is the trained
weights, their average, the optimiser and the number of the step. A killed run goes on from its last
save and ends with the weights of one that was not killed.
"""

import copy
import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from splatmend.core.errors import CheckpointError, InputError
from splatmend.training.config import TrainConfig

__all__ = ["RunState"]

_IDENTITY = ("base", "seed", "rank", "optimizer")  # of a run; two that differ here are two runs


class RunState:
    """Where a run is, and everything it writes into its folder."""

    def __init__(self, config: TrainConfig, model: nn.Module, *, writes: bool = True) -> None:
        """Start at step 0; `writes` is False in every process but the first."""
        self.config, self.model, self.writes = config, model, writes
        self.step, self.seconds, self.best = 0, 0.0, float("inf")
        self.bad_updates = 0
        """Updates left out because the loss or the gradient was not a number."""
        self.average = {name: p.detach().clone() for name, p in self._trained()}

    @property
    def _file(self) -> Path:
        return self.config.out / "state.pt"

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def resume(self, optimizer: Optimizer, extra: Mapping[str, Any]) -> None:
        """Take up the state in the folder, if there is one.

        `extra` are other objects with a state: a scaler, a discriminator.

        Raises:
            CheckpointError: the state is damaged or of another form.
            InputError: it belongs to another run.
        """
        if not self._file.exists():
            return
        try:
            stored = torch.load(self._file, weights_only=True, map_location="cpu")
            theirs = {key: stored["run"][key] for key in _IDENTITY}
        except Exception as error:  # torch.load passes on every error of the unpickler
            raise CheckpointError(
                f"{self._file} is damaged or of another version ({error}): remove it to start anew"
            ) from error
        ours = {key: getattr(self.config, key) for key in _IDENTITY}
        if theirs != ours:
            raise InputError(
                f"{self._file} was made with {_words(theirs)}, not {_words(ours)}: use those or "
                f"another --out"
            )
        self.step, self.seconds = stored["step"], stored["seconds"]
        self.best, self.bad_updates = stored["best"], stored["bad_updates"]
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(stored["trained"][name])
                self.average[name].copy_(stored["average"][name])
        optimizer.load_state_dict(stored["optimizer"])
        for name, thing in extra.items():
            thing.load_state_dict(stored["extra"][name])
        if self.writes:
            _cut(self.config.out / "log.jsonl", self.step)  # rows are of updates, from 0
            _cut(self.config.out / "validation.jsonl", self.step + 1)  # after so many of them

    def advance(self, seconds: float) -> None:
        """Count an update and average its weights."""
        self.step += 1
        self.seconds += seconds
        # a young average would remember the initialisation: let it grow with the run
        decay = min(self.config.ema, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self._trained():
                self.average[name].lerp_(value, 1 - decay)

    def averaged(self) -> nn.Module:
        """Copy the model with the averaged weights, for judging."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average, strict=False)
        return model.eval()

    def save(self, optimizer: Optimizer, extra: Mapping[str, Any]) -> Path:
        """Write the state for resuming and the averaged weights; returns the checkpoint."""
        path = self.config.out / str(self.model.file_name)
        if not self.writes:
            return path
        state = {
            "run": {key: getattr(self.config, key) for key in _IDENTITY},
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "bad_updates": self.bad_updates,
            "trained": {name: value.detach() for name, value in self._trained()},
            "average": self.average,
            "optimizer": optimizer.state_dict(),
            "extra": {name: thing.state_dict() for name, thing in extra.items()},
        }
        unfinished = self._file.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(self._file)
        self._write_checkpoint(path)
        return path

    def keep_best(self, score: float) -> None:
        """Write best_<name> if no validation before scored lower."""
        if score < self.best:
            self.best = score
            if self.writes:
                self._write_checkpoint(self.config.out / f"best_{self.model.file_name}")

    def _write_checkpoint(self, path: Path) -> None:
        notes = {"steps": self.step, "seconds": round(self.seconds), "seed": self.config.seed}
        self.model.save(path, self.average, notes)  # type: ignore[operator]

    def log(self, name: str, row: Mapping[str, float]) -> None:
        """Append one row to <name>.jsonl."""
        if self.writes:
            with (self.config.out / f"{name}.jsonl").open("a") as file:
                file.write(
                    json.dumps({k: v if isfinite(v) else None for k, v in row.items()}) + "\n"
                )


def _words(run: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in run.items())


def _cut(log: Path, step: int) -> None:
    """Drop rows that a killed run logged after its last save: those updates are done again."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines():
        try:
            if json.loads(line)["step"] < step:
                kept.append(line)
        except ValueError:
            break  # torn by the kill
    log.write_text("".join(f"{line}\n" for line in kept))
