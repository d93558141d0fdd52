"""Time of the stabiliser for a 512 x 512 frame, by part, and against compact in the same run.

    python benchmarks/temporal.py [--threads 2] [--frames 40]

Frames show a texture that drifts and turns. Parts are timed inside a real stream, after the
network, whose tensors push all other data out of the caches. The parts do not add up to the whole:
the memories also slow the network down.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch

from splatmend.core import Frame, keep_freed_memory, load_restorer, restore_frames
from splatmend.temporal import Stream, stream

SIZE = 512
BLOCK = 8
PARTS = {
    "flow": ["between"],
    "input memory": ["split_colors", "antialias"],
    "residual memory": ["accumulate"],
}


def clip(frames: int) -> list[Frame]:
    """Draw a texture at several scales that drifts 1.3 pixels and turns 0.2 degrees a frame."""
    rng = np.random.default_rng(0)
    field = np.zeros((SIZE + 128, SIZE + 128, 3), np.float32)
    for sigma in (1.2, 4, 16):
        field += sigma * cv2.GaussianBlur(rng.normal(size=field.shape).astype("f4"), (0, 0), sigma)
    texture = np.clip(128 + 40 * field / field.std(), 0, 255).astype(np.uint8)
    middle = texture.shape[0] / 2
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    made, last = [], None
    for index in range(frames):
        view = cv2.getRotationMatrix2D((middle, middle), 0.2 * index, 1)
        view[:, 2] += 1.3 * index - 64
        color = cv2.warpAffine(texture, view, (SIZE, SIZE), flags=cv2.INTER_CUBIC)
        motion = np.zeros((SIZE, SIZE, 2), np.float32)
        if last is not None:  # back to the texture through this view, then through the last
            back = cv2.invertAffineTransform(view)
            points = np.stack([x, y, np.ones_like(x)], -1) @ back.T
            motion = (np.concatenate([points, np.ones_like(x)[..., None]], -1) @ last.T).astype(
                "f4"
            )
            motion -= np.stack([x, y], -1)
        made.append(Frame(color=color, motion=motion))
        last = view
    return made


class Stopwatch:
    """The durations of named calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = call(*arguments, **options)
            self.seconds.setdefault(name, []).append(time.perf_counter() - start)
            return result

        return timed

    def median(self, name: str) -> float:
        return 1e3 * statistics.median(self.seconds.get(name, [0.0]))


class TimedFlow:
    """An estimator whose calls are timed."""

    name = "timed"

    def __init__(self, inner: Any, watch: Stopwatch) -> None:
        self.between = watch.around("between", inner.between)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=40)
    arguments = parser.parse_args()
    keep_freed_memory()  # like the commands
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)

    watch = Stopwatch()
    for name in (name for names in PARTS.values() for name in names if name != "between"):
        setattr(stream, name, watch.around(name, getattr(stream, name)))
    restorer = load_restorer("compact", device="cpu")
    moving = clip(arguments.frames)
    plain = [Frame(color=f.color) for f in moving]
    supplied, estimated, idle = Stream(restorer), Stream(restorer), Stream(restorer)
    estimated.flow = TimedFlow(estimated.flow, watch)
    idle.restore(plain[:1])
    calls = {
        "compact alone": lambda i: restore_frames(restorer, [plain[i]]),
        "with supplied motion": lambda i: supplied.restore([moving[i]]),
        "with DIS": lambda i: estimated.restore([plain[i]]),
        "the same frame again": lambda _: idle.restore([plain[0]]),
    }
    for first in range(0, arguments.frames, BLOCK):  # a machine's pace changes
        for name, call in calls.items():
            timed = watch.around(name, call)
            for index in range(first, min(first + BLOCK, arguments.frames)):
                timed(index)

    alone = watch.median("compact alone")
    print(f"{arguments.threads} threads, {SIZE} x {SIZE}, medians of {arguments.frames} frames")
    print(f"{'compact alone':26} {alone:7.2f} ms")
    for name in list(calls)[1:]:
        more = watch.median(name) - alone if "again" not in name else watch.median(name)
        print(f"{name:26} {watch.median(name):7.2f} ms, {more:6.2f} of it new {more / alone:6.1%}")
    total = 0.0
    for part, names in PARTS.items():
        spent = sum(watch.median(n) for n in names)
        total += spent if part != "flow" else 0
        print(f"  {part:24} {spent:7.2f} ms {spent / alone:6.1%} of compact")
    flow = sum(watch.median(n) for n in PARTS["flow"])
    print(f"  {'all but flow':24} {total:7.2f} ms {total / alone:6.1%}")
    print(f"  {'all with flow':24} {total + flow:7.2f} ms {(total + flow) / alone:6.1%}")


if __name__ == "__main__":
    main()
