"""`splatmend average`: one set of weights from several runs of compact.

Runs that began with the same weights end near one another, and their mean mostly does better than
each of them (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima"; Wortsman et al. 2022,
"Model soups"). Judge it on validation people: runs that share no beginning have no mean of any use.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from splatmend.core.checkpoint import CheckpointHeader, save_checkpoint
from splatmend.core.command_line import Positional, parse, shown
from splatmend.core.compact.adapter import fingerprint
from splatmend.core.errors import CheckpointError, InputError
from splatmend.training.models.compact import read_compact

__all__ = ["AverageConfig", "average", "main"]

_COMMAND = "splatmend average"
_ANSWER = ("head.", "gain.")  # the layers of core/compact/network.py that write the residual


@dataclass(frozen=True)
class AverageConfig:
    """The checkpoints, and the file for their average."""

    checkpoints: Annotated[tuple[Path, ...], Positional, shown("CHECKPOINT")]
    """Two or more of compact, of one shape, such as `splatmend train` leaves."""
    out: Path
    """A new file; one that exists is never replaced."""
    shares: tuple[float, ...] = ()
    """Weight of each checkpoint, in their order, above 0; divided by their sum. By default, all
    count alike."""
    gain: float = 1.0
    """Factor of the change that the network makes: averages draw with more restraint than their
    parts."""

    def __post_init__(self) -> None:
        if len(self.checkpoints) < 2:
            raise InputError(f"give two checkpoints or more, got {len(self.checkpoints)}")
        if self.shares and len(self.shares) != len(self.checkpoints):
            raise InputError(
                f"{len(self.shares)} shares for {len(self.checkpoints)} checkpoints: one for each"
            )
        for name, value in (*(("a share", share) for share in self.shares), ("gain", self.gain)):
            if not (isfinite(value) and value > 0):
                raise InputError(f"{name} must be a number above 0, got {value}")
        if self.out.exists():
            raise InputError(f"{self.out} exists: give --out a new name")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend average A B ... --out C`; errors are the caller's to report."""
    config = parse(AverageConfig, arguments, prog=_COMMAND, description=str(__doc__))
    average(config)
    sys.stdout.write(f"{config.out}: see `splatmend evaluate --restorers compact {config.out}`\n")


def average(config: AverageConfig) -> None:
    """Write the average, in float16 as every checkpoint of compact; its notes name the parts.

    Raises:
        CheckpointError: one cannot be read, is not of compact, is of another shape than the first,
            or holds a value that is not a number.
    """
    shares = config.shares or (1.0,) * len(config.checkpoints)
    shares = tuple(share / sum(shares) for share in shares)
    runs = [read_compact(path, _COMMAND) for path in config.checkpoints]
    shape, first = runs[0]
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in first.items()}
    parts = []
    for path, share, (own_shape, weights) in zip(config.checkpoints, shares, runs, strict=True):
        if own_shape != shape or _sizes(weights) != _sizes(first):
            raise CheckpointError(
                f"{path} is of another shape than {config.checkpoints[0]}: give runs of one network"
            )
        if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise CheckpointError(f"{path} has NaN or infinity in {bad[0]}: leave it out")
        for name, value in weights.items():
            total[name] += share * value
        parts.append({"name": path.name, "fingerprint": fingerprint(weights), "share": share})
    for name in total:
        if name.startswith(_ANSWER):
            total[name] *= config.gain
    notes = {"average_of": parts, "gain": config.gain}
    header = CheckpointHeader("compact", shape.to_dict(), notes)
    save_checkpoint(config.out, header, total, dtype=torch.float16)


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}
