"""How much frames flicker that a reference guides: a talking head, four seconds after it.

    python benchmarks/reference_flicker.py --data DATA --lpips-weights WEIGHTS [--model FILE]

The clip's first frame is the reference. Its frames 96 to 120 are splatted anew, each by itself.
Printed: warping error over the true clip's own (motion estimated on the true clip), LPIPS (VGG) and
PSNR against the input's, for compact alone, guided, and guided with memory (`--temporal`).
"""

import argparse
from pathlib import Path

import av
import numpy as np
from references import resplatted

from splatmend.core import (
    Frame,
    Guide,
    Reference,
    References,
    keep_freed_memory,
    load_restorer,
    restore_frames,
    to_tensor,
)
from splatmend.core.perceptual.lpips import load_lpips
from splatmend.temporal import Stream, TemporalMeasures, load_flow

FIRST, COUNT, LEARNING = 96, 25, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lpips-weights", type=Path, help="folder; else downloaded")
    parser.add_argument("--model", default="compact", help="name or checkpoint of the restorer")
    arguments = parser.parse_args()
    keep_freed_memory()
    with av.open(str(arguments.data / "clips" / "talk_a.mp4")) as clip:
        pictures = [f.to_ndarray(format="rgb24") for f in clip.decode(video=0)]
    truth = pictures[FIRST : FIRST + COUNT]
    frames = [Frame(color=resplatted(p, i, 0), pts=i) for i, p in enumerate(truth)]
    restorer = load_restorer(arguments.model)
    guide = Guide(References([Reference(picture=pictures[0])]))
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
