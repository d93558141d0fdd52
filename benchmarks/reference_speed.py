"""Time of references per frame, as ratios to the restorer alone in one run.

    python benchmarks/reference_speed.py [--model FILE] [--rounds 30]

The frames of 512 x 512 show a moving portrait (scikit-image's astronaut). One or two references
guide them, chosen from 1, 2 or 64. The rounds are interleaved, and medians are printed.
"""

import time

import cv2
import numpy as np
from reference_setup import option_parser, references_of
from skimage.data import astronaut

from splatmend.core import Frame, Guide, keep_freed_memory, load_restorer, restore_frames


def main() -> None:
    parser = option_parser(__doc__, data=False)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    keep_freed_memory()
    restorer = load_restorer(arguments.model)
    pictures = [np.ascontiguousarray(np.roll(astronaut(), 2 * i, 1)) for i in range(64)]
    guides = {
        "alone": None,
        "one reference": Guide(references_of(pictures[0]), blend=1),
        "one of 64": Guide(references_of(*pictures), blend=1),
        "two of 2": Guide(references_of(*pictures[:2])),
        "two of 64": Guide(references_of(*pictures)),
    }
    frames = [
        Frame(color=np.asarray(cv2.GaussianBlur(np.roll(pictures[0], i % 4, 1), (0, 0), 1.5)))
        for i in range(arguments.rounds)
    ]
    times: dict[str, list[float]] = {name: [] for name in guides}
    for frame in [frames[0], *frames]:  # the first round warms up
        for name, guide in guides.items():
            began = time.perf_counter()
            restore_frames(restorer, [frame], references=guide)
            times[name].append(time.perf_counter() - began)
    alone = float(np.median(times["alone"][1:]))
    for name, taken in times.items():
        median = float(np.median(taken[1:]))
        print(f"{name:14} {1000 * median:7.1f} ms  {median / alone:.2f}")


if __name__ == "__main__":
    main()
