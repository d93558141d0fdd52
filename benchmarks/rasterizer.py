"""Time of one frame of the reference rasteriser, with motion and at a smaller size.

    python benchmarks/rasterizer.py [avatar.ply]

Without a file, 20,000 Gaussians on a ball take the place of a head.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from splatmend.training import Camera, Splats, read_ply, render

SIZE, REPEATS = 512, 9


def ball(n: int = 20_000) -> Splats:
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    return Splats(
        center=0.13 * direction,
        log_scale=torch.randn(n, 3, generator=generator) * 0.5 - 6,
        rotation=torch.randn(n, 4, generator=generator),
        opacity=torch.randn(n, generator=generator) + 2,
        harmonics=torch.randn(n, 1, 3, generator=generator),
    )


def median_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    splats = read_ply(Path(sys.argv[1])) if len(sys.argv) > 1 else ball()
    camera = Camera.look_at((0, 0, 0.8), fov_y=30, size=(SIZE, SIZE))
    other = Camera.look_at((0.02, 0, 0.8), fov_y=30, size=(SIZE, SIZE))
    small = Camera.look_at((0, 0, 0.8), fov_y=30, size=(SIZE // 4, SIZE // 4))
    with torch.inference_mode():
        render(splats, camera)
        plain = median_seconds(lambda: render(splats, camera))
        rows = {
            f"{len(splats)} Gaussians, {SIZE} x {SIZE}": plain,
            "with motion": median_seconds(lambda: render(splats, camera, towards=(splats, other))),
            "a sixteenth of the pixels": median_seconds(lambda: render(splats, small)),
        }
    print(f"{torch.get_num_threads()} threads, median of {REPEATS}")
    for name, seconds in rows.items():
        print(f"{name:36} {1e3 * seconds:8.1f} ms {seconds / plain:6.2f} of the first")


if __name__ == "__main__":
    main()
