"""Speed of core/perceptual/feature_math.py in a training step on a CPU, against plain formulas.

    python benchmarks/feature_math.py [--batch 4] [--side 128]

It times the distances of LPIPS and Gram with their gradients to the features. The features have
the shapes of VGG-16's five levels, channels last. Both kinds take turns in one process.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import tyro
from torch import Tensor

from splatmend.core import keep_freed_memory
from splatmend.core.perceptual.feature_math import gram, square_distance, unit_length

WIDTHS = (64, 128, 256, 512, 512)  # VGG-16; each level has half the side of the one before


@dataclass(frozen=True)
class Config:
    batch: int = 4
    """Crops of one update."""
    side: int = 128
    """Pixels of a crop's side."""
    rounds: int = 7
    updates: int = 5
    """Updates of each kind in each round."""
    threads: int = 2


def plain_unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def plain_distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    return ((a - b).square() * weights.view(1, -1, 1, 1)).sum(1).mean((1, 2))


def plain_gram(x: Tensor) -> Tensor:
    return torch.einsum("nchw,ndhw->ncd", x, x) / x[0, 0].numel()


KINDS = {
    "plain": (plain_unit, plain_distance, plain_gram),
    "feature_math": (unit_length, square_distance, gram),
}


def update(
    levels: list[Tensor],
    targets: list[Tensor],
    unit: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor, Tensor], Tensor],
    matrix: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Compute the gradients of LPIPS + Gram with respect to each level."""
    loss = levels[0].new_zeros(())
    for ours, target in zip(levels, targets, strict=True):
        a, b = unit(ours), unit(target)
        loss = loss + distance(a, b, torch.ones(ours.shape[1])).sum()
        loss = loss + (matrix(a) - matrix(b)).square().sum()
    return list(torch.autograd.grad(loss, levels))


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    keep_freed_memory()  # like `splatmend train`
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    sides = [config.side >> level for level in range(len(WIDTHS))]
    both: list[list[Tensor]] = [
        [
            torch.rand(config.batch, width, side, side).to(memory_format=torch.channels_last)
            for width, side in zip(WIDTHS, sides, strict=True)
        ]
        for _ in range(2)
    ]
    levels, targets = [x.requires_grad_() for x in both[0]], both[1]
    results = [update(levels, targets, *kind) for kind in KINDS.values()]  # and the warm-up
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(config.rounds):
        for name, kind in KINDS.items():
            marks = [time.perf_counter()]
            for _ in range(config.updates):
                update(levels, targets, *kind)
                marks.append(time.perf_counter())
            seconds[name] += [b - a for a, b in pairwise(marks)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    sys.stdout.write("| formulas | ms an update | of the plain ones |\n|---|---|---|\n")
    for name, value in medians.items():
        share = value / medians["plain"]
        sys.stdout.write(f"| {name} | {1e3 * value:.1f} | {share:.2f} |\n")


if __name__ == "__main__":
    main()
