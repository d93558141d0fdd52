"""Flicker and quality with the stabiliser: a moving portrait of splats that tremble.

    python benchmarks/steadiness.py --lpips-weights WEIGHTS [portrait.jpg ...] [--estimate]

Each portrait (by default scikit-image's astronaut) becomes 2-D Gaussians that move along the
demo's path. They stick to the head in one clip and tremble in another. Trembling Gaussians change
their positions, order, colours and presence in each frame. compact restores both clips, frame by
frame and with the stabiliser, which gets the exact motion or estimates it.

It prints the warping error along the exact motion, in levels of 255, and the change of its excess
over the true clip's own. It also prints LPIPS (AlexNet) averaged over four offsets on AlexNet's
grid, PSNR and lag. The first frames, in which the stabiliser learns, do not count.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from reference_setup import Picture, option_parser, read_picture
from skimage.data import astronaut

from splatmend.core import (
    Frame,
    Restorer,
    from_tensor,
    keep_freed_memory,
    load_restorer,
    restore_frames,
    to_tensor,
)
from splatmend.core.perceptual.lpips import Lpips, Perceptual, load_lpips
from splatmend.temporal import Stream, TemporalMeasures, load_flow
from splatmend.training import CameraPath, SplatOptions
from splatmend.training.data.camera_paths import look, move
from splatmend.training.data.sequences import Flicker, flicker, view_flow
from splatmend.training.degradations.resplatting import normalize, place, rasterize

SIDE, LEARNING, LOOP = 512, 4, 48
DAMAGE = SplatOptions(spacing=2.6, detail=1.1, spread=0.65, hardness=0.6, anisotropy=0.4)
KINDS = {"sticks": Flicker(), "trembles": Flicker(jitter=0.12, order=0.6, color=0.01, drop=0.07)}


class FromAnyPixel:
    """LPIPS averaged over crops, because AlexNet's grid of 4 pixels prefers aligned detail.

    Detail of compact is aligned with this grid in single frames, but not where its own grid moves
    with the head.
    """

    places = ((0, 0), (1, 2), (2, 1), (3, 3))

    def __init__(self, lpips: Lpips) -> None:
        self.lpips = lpips

    def features(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        height, width = (side - 3 for side in rgb.shape[-2:])
        crops = [rgb[..., y : y + height, x : x + width] for y, x in self.places]
        return self.lpips.features(torch.cat(crops))

    def distance(
        self, ours: Sequence[torch.Tensor], target: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        return self.lpips.distance(ours, target).mean(0, keepdim=True)


def main() -> None:
    parser = option_parser(__doc__, data=False)
    parser.add_argument("portraits", type=Path, nargs="*", help="512 x 512, face in the middle")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--estimate", action="store_true", help="estimate the motion")
    parser.add_argument("--lpips-weights", type=Path, help="folder; else downloaded")
    arguments = parser.parse_args()
    keep_freed_memory()
    restorer = load_restorer(arguments.model)
    lpips = FromAnyPixel(load_lpips("alex", arguments.lpips_weights))
    path = CameraPath((256, 256), zoom=1.1)
    portraits = {p.stem: (read_picture(p), path) for p in arguments.portraits}
    portraits = portraits or {"astronaut": (astronaut(), CameraPath((226, 163), zoom=1.75))}
    print(
        f"{'portrait':20} {'splats':9} {'true':>5} {'input':>6} {'alone':>6} {'steady':>6}", end=""
    )
    print(f" {'change':>7} {'of excess':>9} {'LPIPS':>7} {'PSNR':>9} lag")
    for name, (picture, path) in portraits.items():
        for kind, trembling in KINDS.items():
            frames, truth = clip(picture, path, trembling, arguments.frames)
            figures = judge(restorer, lpips, frames, truth, estimate=arguments.estimate)
            print(f"{name[:20]:20} {kind:9} {report(figures)}", flush=True)


def clip(
    picture: Picture, path: CameraPath, trembling: Flicker, count: int
) -> tuple[list[Frame], torch.Tensor]:
    """Render frames with exact motion, and the true ones (n, 3, h, w)."""
    whole, generator = to_tensor([picture]), torch.Generator().manual_seed(0)
    gaussians = place(whole, DAMAGE, generator)
    views = [path.at(i / LOOP, SIDE) for i in range(count)]
    steps = [torch.zeros(1, 2, SIDE, SIDE), *(view_flow(b, a, SIDE) for a, b in pairwise(views))]
    frames, truth = [], []
    for view, step in zip(views, steps, strict=True):
        shown = move(flicker(gaussians, trembling, generator), view, SIDE)
        color, total, _ = rasterize(shown, (SIDE, SIDE))
        clean = look(whole, view, SIDE)
        splatted = normalize(color, total, clean).clamp(0, 1)
        motion = step[0].permute(1, 2, 0).numpy()
        frames.append(Frame(color=from_tensor(splatted, np.uint8)[0], motion=motion))
        truth.append(clean)
    return frames, torch.cat(truth)


def judge(
    restorer: Restorer,
    lpips: Perceptual,
    frames: list[Frame],
    truth: torch.Tensor,
    *,
    estimate: bool,
) -> dict[str, dict[str, float]]:
    given = [replace(frame, motion=None) for frame in frames] if estimate else frames
    clips = {
        "input": frames,
        "alone": [restore_frames(restorer, [frame])[0] for frame in frames],
        "steady": Stream(restorer).restore(given),
    }
    measures = TemporalMeasures(
        ["true", *clips], guide="true", truth=True, flow=load_flow("dis"), perceptual=lpips
    )
    for index in range(LEARNING, len(frames)):
        shown = {name: to_tensor([c[index].color])[0] for name, c in clips.items()}
        motion = torch.from_numpy(frames[index].motion).permute(2, 0, 1)
        measures.add({"true": truth[index], **shown}, flow=motion)
    return {name: dict(found.figures) for name, found in measures.result().items()}


def report(figures: dict[str, dict[str, float]]) -> str:
    errors = {name: 255 * found["warping_error"] for name, found in figures.items()}
    alone, steady = figures["alone"], figures["steady"]
    row = f"{errors['true']:5.2f} {errors['input']:6.2f}"
    row += f" {errors['alone']:6.2f} {errors['steady']:6.2f}"
    row += f" {errors['steady'] / errors['alone'] - 1:+7.1%}"
    excess = errors["alone"] - errors["true"]
    known = excess > 0.1 * errors["true"]  # the share of a tiny excess is meaningless
    spared = (errors["steady"] - errors["alone"]) / excess if known else None
    row += f" {'none' if spared is None else f'{spared:+.0%}':>9}"
    row += (
        f" {steady['lpips'] / alone['lpips'] - 1:+7.1%} {steady['psnr'] - alone['psnr']:+6.2f} dB"
    )
    return f"{row} {steady['lag']:3.0f}"


if __name__ == "__main__":
    main()
