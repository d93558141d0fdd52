"""`splatmend bench`: time each step towards speed on this machine, in one run.

Each model climbs a ladder of rungs, from the plain program to the fastest. All rungs and a square
matrix product, the upper bound of the device, are timed in turns, so that they see the same
machine. Figures are medians, of frames that are on the device already.

The speed of turbo does not depend on the values of its weights: --random-weights measures it at
full size without any file. Every output is compared with the first one, byte by byte.
"""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from splatmend.core.command_line import OmitArgPrefixes, arg, need, parse, shown
from splatmend.core.errors import InputError
from splatmend.core.restore.registry import pick_device
from splatmend.plugin.tools.bench_ladder import LADDERS, Rung, TurboSource, build, suited

__all__ = ["BenchConfig", "bench", "count_flops", "main"]


@dataclass(frozen=True)
class TurboWeights:
    """The weights of turbo; its speed is the same with any."""

    checkpoint: Annotated[Path | None, shown("FILE")] = None
    """turbo's weights, in any format that load_restorer reads."""
    base: Annotated[str | None, shown("DIR")] = None
    """Folder of SD-Turbo, or "download"."""
    random_weights: bool = False
    """turbo at full size with random weights: nothing is read or downloaded."""
    tiny: bool = False
    """A few random channels, to try the command; no measurement."""

    @property
    def are_named(self) -> bool:
        """Tell whether there are weights to measure with."""
        return self.checkpoint is not None or self.random_weights or self.tiny


@dataclass(frozen=True)
class BenchConfig:
    """The models, the frames and the rounds of a measurement."""

    models: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ("compact",)
    """compact, turbo, or both."""
    rungs: Annotated[tuple[str, ...], shown("NAME [NAME ...]", default="all")] = ()
    """Only these; all stay in memory together, so name a few where it is small."""
    size: Annotated[int, arg(metavar="PX")] = 512
    """Side of the square frames in pixels."""
    batches: Annotated[tuple[int, ...], shown("N [N ...]", default="1 4 8; on a CPU 1")] = ()
    """Frames at once."""
    rounds: Annotated[int | None, shown("N", default="30; on a CPU 3")] = None
    """How often everything is measured in turn."""
    device: Annotated[str, shown("NAME", default="the best there is")] = "auto"
    """cpu, cuda, cuda:1 or mps."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/bench")
    """Receives bench.json and bench.md."""
    turbo: OmitArgPrefixes[TurboWeights] = field(default_factory=TurboWeights)

    def __post_init__(self) -> None:
        least = min(self.size, *self.batches, 1 if self.rounds is None else self.rounds)
        if least < 1:
            raise InputError(f"size, batches and rounds must be 1 or more, got {least}")
        if unknown := set(self.models) - set(LADDERS):
            raise InputError(f"models are {', '.join(LADDERS)}, got {min(unknown)!r}")
        known = {rung.name: None for model in self.models for rung in LADDERS[model]}
        if wrong := set(self.rungs) - set(known):
            raise InputError(f"rungs are {', '.join(known)}, got {min(wrong)!r}")
        if "turbo" in self.models and not self.turbo.are_named:
            raise InputError("turbo needs --checkpoint, or --random-weights to measure its speed")


@dataclass(frozen=True)
class _Point:
    """One rung at one batch size."""

    model: str
    rung: Rung
    dtype: torch.dtype
    batch: int
    call: Callable[[], Tensor]
    flops: int
    """Of one call."""
    peak: int
    """Bytes of memory."""
    first: Tensor
    """Result of the first call."""
    seconds: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    """Whether each call gave the bytes of the first."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend bench ...`; the caller reports errors."""
    bench(parse(BenchConfig, arguments, prog="splatmend bench", description=__doc__ or ""))


def bench(config: BenchConfig) -> dict[str, Any]:
    """Measure, print the table, write the report; return the content of bench.json."""
    if "turbo" in config.models:
        need("turbo", "diffusers")
    device = pick_device(config.device)
    on_cpu = device.type == "cpu"
    rounds = config.rounds or (3 if on_cpu else 30)
    batches = config.batches or ((1,) if on_cpu else (1, 4, 8))
    points = [
        point
        for model in config.models
        for rung in suited(LADDERS[model], config.rungs, device)
        for point in _prepare(model, rung, config, batches, device)
    ]
    floor = _measure(points, rounds, device)
    report = {
        "machine": _machine(device),
        "size": config.size,
        "turbo_weights": str(
            config.turbo.checkpoint or ("tiny" if config.turbo.tiny else "random")
        ),
        "rounds": rounds,
        "memory": "peak of the device" if device.type == "cuda" else "peak of the whole process",
        "matrix_product_tflops": {_short(dtype): rate / 1e12 for dtype, rate in floor.items()},
        "rows": [_row(point, points, floor) for point in points],
    }
    text = _markdown(report, points)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "bench.json").write_text(json.dumps(report, indent=1))
    (config.out / "bench.md").write_text(text)
    sys.stdout.write(f"{text}\nwritten to {config.out}\n")
    return report


def count_flops(network: nn.Module, batch: int, size: int) -> int:
    """Count floating-point operations (two for a multiply-add) of a call, without computing."""
    tensors = chain(network.named_parameters(), network.named_buffers())
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    dtype = next(network.parameters()).dtype
    rgb = torch.empty(batch, 3, size, size, dtype=dtype, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(network, shapes, (rgb,))
    return int(counter.get_total_flops())


def _prepare(
    model: str, rung: Rung, config: BenchConfig, batches: Sequence[int], device: torch.device
) -> Iterator[_Point]:
    _say(f"{model}, {rung.name}: preparing")
    source = TurboSource(config.turbo.checkpoint, config.turbo.base, tiny=config.turbo.tiny)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            restorer, network = build(model, rung, source, device)
        dtype = next(network.parameters()).dtype
        multiple = restorer.traits.multiple
        padded = -(-config.size // multiple) * multiple
        for batch in batches:
            shape = (batch, 3, config.size, config.size)
            rgb = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
            call = partial(restorer, rgb)
            flops = count_flops(network, batch, padded)
            peak, first = _warm_up(call, network, device)
            yield _Point(model, rung, dtype, batch, call, flops, peak, first)
    except torch.OutOfMemoryError:
        _say(f"{model}, {rung.name}: out of memory, the rest of this rung is left out")


def _warm_up(
    call: Callable[[], Tensor], network: nn.Module, device: torch.device
) -> tuple[int, Tensor]:
    """Compile, choose kernels; return the peak memory in bytes and the result of the call."""
    if device.type != "cuda":
        first = call()
        return _resident(), first
    own = sum(t.nbytes for t in chain(network.parameters(), network.buffers()))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)  # other rungs' weights too
    for _ in range(3):  # a CUDA graph is recorded at the second call, played at the third
        first = call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + own, first


def _resident() -> int:
    """Return the peak memory of this process in bytes; 0 where the system does not tell it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _measure(
    points: Sequence[_Point], rounds: int, device: torch.device
) -> dict[torch.dtype, float]:
    """Fill in every point's seconds, in turns; return the rate of matrix products, in FLOP/s."""
    side = 1024 if device.type == "cpu" else 8192
    dtypes = dict.fromkeys([torch.bfloat16, *(point.dtype for point in points)])
    products: dict[torch.dtype, tuple[Callable[[], Tensor], list[float]]] = {}
    for dtype in dtypes:
        factor = torch.rand(side, side, dtype=dtype, device=device)
        products[dtype] = partial(torch.mm, factor, factor), []
        _time(products[dtype][0], device)
    for _ in tqdm(range(rounds), desc="rounds", file=sys.stderr):
        for call, seconds in products.values():
            seconds.append(_time(call, device)[0])
        for point in points:
            seconds_now, restored = _time(point.call, device)
            point.seconds.append(seconds_now)
            point.same.append(torch.equal(restored, point.first))
    return {dtype: 2 * side**3 / median(seconds) for dtype, (_, seconds) in products.items()}


def _time(call: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    _wait(device)
    began = time.perf_counter()
    result = call()
    _wait(device)
    return time.perf_counter() - began, result


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _row(
    point: _Point, points: Sequence[_Point], floor: dict[torch.dtype, float]
) -> dict[str, Any]:
    """Collect the figures of a point; `of_*` are shares of the matrix product of that precision."""
    typical = median(point.seconds)
    rate = point.flops / typical
    first = next(p for p in points if (p.model, p.batch) == (point.model, point.batch))
    low, high = np.percentile(point.seconds, (50, 95)) * 1e3
    return {
        "model": point.model,
        "rung": point.rung.name,
        "precision": _short(point.dtype),
        "batch": point.batch,
        "ms_per_frame": typical / point.batch * 1e3,
        "p50_ms": low,
        "p95_ms": high,
        "frames_per_second": point.batch / typical,
        "times_first": median(first.seconds) / typical,
        "peak_bytes": point.peak,
        "tflop_per_frame": point.flops / point.batch / 1e12,
        "tflops": rate / 1e12,
        "of_bfloat16": rate / floor[torch.bfloat16],
        "of_own": rate / floor[point.dtype],
        "same_bytes": all(point.same),
    }


def _markdown(report: dict[str, Any], points: Sequence[_Point]) -> str:
    products = ", ".join(f"{n} {v:.3g}" for n, v in report["matrix_product_tflops"].items())
    head = (
        "| model | rung | precision | batch | ms/frame | p50 / p95 of a call, ms | frames/s "
        "| x first | memory, GB | TFLOP/s | of bf16 product | of own | same bytes |"
    )
    frames = f"{report['size']} x {report['size']}, turbo's weights: {report['turbo_weights']}"
    lines = [
        f"{report['machine']}; {frames}; medians of {report['rounds']} rounds.",
        f"Matrix products in the same run, TFLOP/s: {products}. Memory: {report['memory']}.",
        "",
        head,
        "|" + "---|" * (head.count("|") - 1),
    ]
    lines += [
        f"| {row['model']} | {row['rung']} | {row['precision']} | {row['batch']} "
        f"| {_figure(row['ms_per_frame'])} | {_figure(row['p50_ms'])} / {_figure(row['p95_ms'])} "
        f"| {_figure(row['frames_per_second'])} | {row['times_first']:.2f} "
        f"| {row['peak_bytes'] / 1e9:.2f} | {row['tflops']:.3g} | {row['of_bfloat16']:.0%} "
        f"| {row['of_own']:.0%} | {'yes' if row['same_bytes'] else 'no'} |"
        for row in report["rows"]
    ]
    notes = dict.fromkeys((point.model, point.rung.name, point.rung.note) for point in points)
    lines += ["", *(f"- {model}, {name}: {note}" for model, name, note in notes)]
    return "\n".join(lines) + "\n"


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        tf32 = "with" if torch.backends.cudnn.allow_tf32 else "without"
        name = f"{torch.cuda.get_device_name(device)}, float32 convolutions {tf32} TF32"
    else:
        kind = platform.processor() or platform.machine()
        name = f"{device.type.upper()} {kind}, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _say(line: str) -> None:
    sys.stderr.write(f"bench: {line}\n")


if __name__ == "__main__":
    main()
