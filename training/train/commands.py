"""`splatmend train`, `train-adapter` and `train-turbo`: options in, a checkpoint out.

`--help` needs the base dependencies alone, so the loop is imported when a run begins.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial

from splatmend.core.command_line import EXTRAS, need
from splatmend.training.config import TrainConfig
from splatmend.training.train.fitting import fit_options, leave_out_absent_lpips
from splatmend.training.train.options import Job, read_options

__all__ = ["adapter_main", "check_installed", "compact_main", "run_job", "turbo_main"]


def run_job(job: Job, arguments: Sequence[str] | None = None) -> None:
    """Run one of the three commands; errors are the caller's to report.

    Raises:
        InputError: options, data or a missing package that end the run before its first step.
        TrainingError: see `train`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    values, said = fit_options(read_options(job, given))
    config = TrainConfig(**values)
    check_installed(config)
    config, absent = leave_out_absent_lpips(config)
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes the first speaks
        for line in (*said, *absent):
            sys.stderr.write(f"splatmend {job}: {line}\n")
    from splatmend.training.train.loop import train  # needs accelerate

    sys.stdout.write(f"written to {train(config)}\n")


compact_main = partial(run_job, "train")
adapter_main = partial(run_job, "train-adapter")
turbo_main = partial(run_job, "train-turbo")


def check_installed(config: TrainConfig) -> None:
    """Check that the packages of a run are installed.

    Raises:
        InputError: one is missing; names the extras that bring it.
    """
    weights = config.loss
    backbones = (weights.lpips_vgg, weights.lpips_alex, weights.gram, weights.dists)
    measured = any((*backbones, weights.adversarial))
    modules = EXTRAS["train"] if measured else ("accelerate",)
    if config.base == "turbo":
        need("train,turbo", *modules, *EXTRAS["turbo"])
    elif config.rank:
        need("train,turbo", *modules, "peft")
    else:
        need("train", *modules)
