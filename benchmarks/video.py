"""Time of restore-video against the network alone, on this machine, in one run.

    make bench           (or: python benchmarks/video.py --frames 96 --size 512)

It prints milliseconds per frame of compact alone and of decoding alone. It then times
restore-video end to end, with a restorer that copies its input and with compact. Watch the ratio
of the last to the first; absolute times depend on the machine.
"""

import platform
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import av
import numpy as np
import torch
from skimage.data import astronaut
from skimage.transform import resize

from splatmend.core import keep_freed_memory, load_restorer
from splatmend.plugin import VideoOptions, restore_video


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="compact")
    options = parser.parse_args()
    keep_freed_memory()  # like the command
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.mp4"
        write_clip(source, options.frames, options.size)
        rows: dict[str, list[float]] = {}
        for _ in range(options.rounds):  # interleaved, so all rows see the same machine load
            for name, value in measure(source, options.model, options.size).items():
                rows.setdefault(name, []).append(value)
    report({name: statistics.median(values) for name, values in rows.items()}, options.size)


def write_clip(path: Path, frames: int, size: int) -> None:
    """Write a portrait that drifts by a pixel a frame, as H.264."""
    picture = (resize(astronaut(), (size, size)) * 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "16"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            shown = np.ascontiguousarray(np.roll(picture, index, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, "rgb24")))
        container.mux(stream.encode())


def measure(source: Path, model: str, size: int) -> dict[str, float]:
    """Measure milliseconds per frame of each part."""
    restorer, copy = load_restorer(model), load_restorer("copy")
    rgb = torch.rand(1, 3, size, size, device=restorer.device)
    for _ in range(3):
        restorer(rgb)
    started = time.perf_counter()
    for _ in range(20):
        restorer(rgb).cpu()
    rows = {f"{model} alone": (time.perf_counter() - started) / 20 * 1e3}
    started = time.perf_counter()
    with av.open(str(source)) as container:
        count = sum(1 for _ in container.decode(video=0))
    rows["decode alone"] = (time.perf_counter() - started) / count * 1e3
    for each in (copy, restorer):
        target = source.with_name(f"{each.traits.name}.mp4")
        started = time.perf_counter()
        summary = restore_video(source, target, each, VideoOptions())
        seconds = time.perf_counter() - started
        rows[f"restore-video, {each.traits.name}"] = seconds / summary.frames * 1e3
        target.unlink()
    return rows


def report(rows: dict[str, float], size: int) -> None:
    alone = next(iter(rows.values()))
    lines = [(f"{size} x {size}, {platform.processor() or platform.machine()}, "
             f"{torch.get_num_threads()} threads, torch {torch.__version__}")]  # fmt: skip
    lines += [f"{name:<28}{value:8.1f} ms   x{value / alone:.2f}" for name, value in rows.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
