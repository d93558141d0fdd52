"""The options of `splatmend train-estimator`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from splatmend.core.command_line import OmitArgPrefixes, parse
from splatmend.core.errors import InputError
from splatmend.core.estimator.network import CELL
from splatmend.core.perceptual.lpips import Backbone

__all__ = ["LARGEST_WINDOW", "OCTAVES", "EstimatorTrainConfig", "read_options"]

OCTAVES = 3
"""Octaves of detail, of 1 to 8 pixels, which splats lose and add."""
LARGEST_WINDOW = CELL * 2 ** (OCTAVES - 1)
"""Side in pixels of the window of the last octave."""


@dataclass(frozen=True)
class _Main:
    """Portraits to learn from, output and length."""

    faces: tuple[Path, ...]
    """Folders of aligned portraits; those with a manifest.json give the held-out people."""
    out: Path = Path("runs/estimator")
    """Folder for estimator.safetensors, report.json and report.md."""
    pool: int = 4000
    """Pairs drawn once and kept; each step turns and mirrors some of them."""
    max_steps: int = 6000
    """Number of updates."""
    batch: int = 16
    """Crops of an update."""
    crop: int = 128
    """Side of a crop in pixels."""
    learning_rate: float = 4e-3
    """Highest learning rate: it rises during --warmup-steps and then falls to 0."""


@dataclass(frozen=True)
class _Optimizer:
    """Settings of the optimiser."""

    warmup_steps: int = 100
    """Updates during which the learning rate rises."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Longest gradient; longer ones are scaled down to it."""


@dataclass(frozen=True)
class _Report:
    """The report on people that are not trained on, and on renders."""

    held_out: int = 256
    """Pairs of each of the splits val and test in the report."""
    held_out_crop: int = 256
    """Side of their crops in pixels."""
    pairs: tuple[str, ...] = ()
    """Real pairs, each "renders:references", for one set of the report: give several grades."""
    lpips_weights: Path | None = None
    """Folder with the LPIPS backbones; without it the report has no correlation with LPIPS."""
    lpips: tuple[Backbone, ...] = ("alex",)
    """Backbones to correlate with; vgg takes about 20 times as long."""


@dataclass(frozen=True)
class _Machine:
    """Hardware, processes and the seed."""

    workers: int = 1
    """Processes that draw pairs; 0 draws in the main process."""
    device: str = "cpu"
    """cpu, cuda or another device of torch."""
    seed: int = 0
    """Names every random choice."""


@dataclass(frozen=True)
class EstimatorTrainConfig(_Machine, _Report, _Optimizer, _Main):
    """All settings of the training of an estimator, and of its report."""

    def __post_init__(self) -> None:
        if not 0 < self.warmup_steps < self.max_steps:
            raise InputError(
                f"warmup_steps must lie between 0 and max_steps ({self.max_steps}), "
                f"got {self.warmup_steps}"
            )
        crops = self.crop, self.held_out_crop
        if min(self.pool, self.held_out, *crops) < 1 or any(c % LARGEST_WINDOW for c in crops):
            raise InputError(
                f"pool and held_out must be at least 1 and crops multiples of {LARGEST_WINDOW}, "
                f"got pool {self.pool}, held_out {self.held_out}, crops {crops}"
            )


@dataclass(frozen=True)
class _Options:
    """The options of `splatmend train-estimator`, in groups."""

    main: Annotated[_Main, OmitArgPrefixes]
    optimizer: Annotated[_Optimizer, OmitArgPrefixes] = _Optimizer()
    report: Annotated[_Report, OmitArgPrefixes] = _Report()
    machine: Annotated[_Machine, OmitArgPrefixes] = _Machine()


def read_options(arguments: Sequence[str] | None, about: str) -> EstimatorTrainConfig:
    """Read the command line; `about` is the text of --help.

    Raises:
        InputError: an option that is unknown or cannot be used.
    """
    name = "splatmend train-estimator"
    given = parse(_Options, arguments, prog=name, description=about)
    groups = (given.main, given.optimizer, given.report, given.machine)
    return EstimatorTrainConfig(**{key: v for group in groups for key, v in vars(group).items()})
