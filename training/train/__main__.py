"""`python -m splatmend.training.train`, as `accelerate launch -m` and `torchrun -m` start it."""

from splatmend.core.heap import keep_freed_memory
from splatmend.training.train.loop import main

if __name__ == "__main__":
    keep_freed_memory()  # as the command does, which `accelerate launch` passes by
    main()
