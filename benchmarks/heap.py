"""Time saved by `keep_freed_memory`: compact on 512 x 512 frames, with and without, in turns.

    python benchmarks/heap.py

Each measurement runs in a process of its own, because the setting cannot be undone.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from splatmend.core import Frame, RestoreOptions, keep_freed_memory, load_restorer, restore_frames

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Config:
    size: int = 512
    frames: int = 60
    rounds: int = 3


def measure(config: Config, keep: bool, results: Any) -> None:
    """Put (milliseconds, page faults) per frame into `results`."""
    if keep:
        keep_freed_memory()
    restorer, options = load_restorer("compact", device="cpu"), RestoreOptions()
    noise = np.random.default_rng(0).integers(0, 256, (config.size, config.size, 3), np.uint8)
    frame = Frame(color=noise)
    for _ in range(10):
        restore_frames(restorer, [frame], options)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    began = time.perf_counter()
    for _ in range(config.frames):
        restore_frames(restorer, [frame], options)
    milliseconds = (time.perf_counter() - began) * 1e3 / config.frames
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    results.put((milliseconds, faults / config.frames))


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    rows: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(config.rounds):
        for keep, row in rows.items():
            results = SPAWN.Queue()
            process = SPAWN.Process(target=measure, args=(config, keep, results))
            process.start()
            row.append(results.get())
            process.join()
    sys.stdout.write("| freed memory | ms a frame | page faults a frame |\n|---|---|---|\n")
    for keep, row in rows.items():
        ms, faults = (statistics.median(column) for column in zip(*row, strict=True))
        sys.stdout.write(f"| {'kept' if keep else 'given back'} | {ms:.1f} | {faults:.0f} |\n")


if __name__ == "__main__":
    main()
