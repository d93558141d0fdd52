"""Flicker of frames that a reference guides: a talking head, four seconds after the reference.

    python benchmarks/reference_flicker.py --data DATA --lpips-weights WEIGHTS [--model FILE]

The clip's first frame is the reference. Its frames 96 to 120 are splatted, each by itself. The
rows are compact alone, guided, and guided with memory (`--temporal`). It prints LPIPS (VGG) and
PSNR against the input's, and the warping error over the true clip's own. The motion is estimated
on the true clip.
"""

import numpy as np
from reference_setup import option_parser, read_talking_head, references_of, resplatted

from splatmend.core import (
    Frame,
    Guide,
    keep_freed_memory,
    load_restorer,
    restore_frames,
    to_tensor,
)
from splatmend.core.perceptual.lpips import load_lpips
from splatmend.temporal import Stream, TemporalMeasures, load_flow

FIRST, COUNT, LEARNING = 96, 25, 4


def main() -> None:
    arguments = option_parser(__doc__).parse_args()
    keep_freed_memory()
    pictures = read_talking_head(arguments.data)
    truth = pictures[FIRST : FIRST + COUNT]
    frames = [Frame(color=resplatted(p, i, 0), pts=i) for i, p in enumerate(truth)]
    restorer = load_restorer(arguments.model)
    guide = Guide(references_of(pictures[0]))
    clips = {
        "input": frames,
        "alone": [restore_frames(restorer, [f])[0] for f in frames],
        "guided": [restore_frames(restorer, [f], references=guide)[0] for f in frames],
        "guided, steady": Stream(restorer, references=guide).restore(frames),
    }
    measures = TemporalMeasures(
        ["true", *clips],
        guide="true",
        truth=True,
        flow=load_flow("dis"),
        perceptual=load_lpips("vgg", arguments.lpips_weights),
    )
    for index in range(LEARNING, COUNT):
        shown = {name: to_tensor([c[index].color])[0] for name, c in clips.items()}
        measures.add({"true": to_tensor([truth[index]])[0], **shown})
    found = {name: dict(result.figures) for name, result in measures.result().items()}
    print(f"{'':16} {'warping / true':>14} {'LPIPS':>7} {'PSNR':>7} lag")
    for name in clips:
        row, first = found[name], found["input"]
        error = row["warping_error"] / found["true"]["warping_error"]
        lpips, gain = row["lpips"] / first["lpips"], row["psnr"] - first["psnr"]
        print(f"{name:16} {error:14.2f} {lpips:7.3f} {gain:+7.2f} {np.round(row['lag']):.0f}")


if __name__ == "__main__":
    main()
