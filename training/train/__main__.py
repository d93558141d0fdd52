"""`python -m splatmend.training.train`, as `accelerate launch -m` and `torchrun -m` start it.

The first word may name the job (train, train-adapter, train-turbo); without it, compact is trained.
"""

import sys

from splatmend.core.errors import SplatmendError
from splatmend.core.heap import keep_freed_memory
from splatmend.training.train.commands import run_job
from splatmend.training.train.options import JOBS, Job


def _main(words: list[str]) -> int:
    """Run a job; an error is one line, as the `splatmend` command has it."""
    job: Job = next((name for name in JOBS if words[:1] == [name]), "train")
    keep_freed_memory()  # as the command does, which `accelerate launch` passes by
    try:
        run_job(job, words[1:] if words[:1] == [job] else words)
    except SplatmendError as error:
        sys.stderr.write(f"splatmend {job}: error: {' '.join(str(error).split())}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
