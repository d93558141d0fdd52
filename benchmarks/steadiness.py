"""Flicker, detail and ghosts with the stabiliser, on clips of known truth (time_clips.py).

    python benchmarks/steadiness.py --data DATA --lpips-weights WEIGHTS [--portraits NAME ...]
        [--clips trembles ...] [--ablate] [--pictures FOLDER]

Each row is a way to restore a clip by compact: the input, each frame alone, forty lines of OpenCV
(`Plain`), the stabiliser without one of its ingredients, and the whole. Columns, after the first
frames, in which the stabiliser learns:

    warp    warping error along the motion, over the truth's own
    change  error of the change along the motion, over that of frames alone
    LPIPS   AlexNet
    fine    energy of the finest detail, over the truth's and over that of frames alone
    PSNR    dB
    event   error where the truth changed within two frames, over that of frames alone; and its
            worst frame
    lag     frames
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from reference_setup import Picture, option_parser
from time_clips import (
    STICKS,
    TREMBLES,
    Clip,
    blinking,
    covering,
    cutting,
    fading,
    flashing,
    portrait,
    portrait_clip,
    shading,
    talking_head,
    turning_avatar,
    without_motion,
)

from splatmend.core import (
    Frame,
    Restorer,
    keep_freed_memory,
    load_restorer,
    restore_frames,
    to_tensor,
)
from splatmend.core.perceptual.lpips import Lpips, load_lpips
from splatmend.temporal import Stream, TemporalOptions
from splatmend.temporal.measures.accumulators import LagMeter
from splatmend.temporal.stabilizer.confidence import Light
from splatmend.training import CameraPath

LEARNING, COUNT = 4, 24
EYES = [(192, 240), (320, 240)]
Float = NDArray[np.float32]
Answer = Callable[[Frame], Frame]


class Plain:
    """The yardstick: both memories in forty lines, without the rest of the stabiliser."""

    def __init__(self, restorer: Restorer) -> None:
        self.restorer = restorer
        self.search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.last: tuple[Picture, Float, Float, Float] | None = None

    def __call__(self, frame: Frame) -> Frame:
        (alone,) = restore_frames(self.restorer, [frame])
        now = _levels(frame.color)
        shown, residual = now, _levels(alone.color) - now
        usual = np.zeros(now.shape[:2], np.float32)
        if self.last is not None:
            color, past, past_residual, past_usual = self.last
            flow = self.search.calc(_gray(frame.color), _gray(color), None)
            change = cv2.blur(np.abs(moved(_levels(color), flow) - now).mean(2), (5, 5))
            if change.mean() < 0.12:  # else a cut
                usual = moved(past_usual, flow)
                trust = np.exp(-np.maximum(change - 2 * usual, 0) / 0.05)[..., None]
                usual += 0.15 * (np.minimum(change, 8 / 255) - usual)
                square = np.ones((3, 3), np.uint8)
                kept = np.clip(
                    moved(past, flow, cv2.INTER_CUBIC),
                    cv2.erode(now, square),
                    cv2.dilate(now, square),
                )
                shown = now + 0.8 * trust**4 * (kept - now)
                residual = residual + 0.9 * trust * (moved(past_residual, flow) - residual)
        self.last = (frame.color, shown, residual, usual)
        answer = np.clip((shown + residual) * 255 + 0.5, 0, 255).astype(np.uint8)
        return frame.with_color(answer)


def ways(restorer: Restorer, *, ablate: bool) -> dict[str, Answer]:
    """Name the rows and the calls that restore one frame after the other."""

    def stream(**options: float) -> Answer:
        memory = Stream(restorer, None, TemporalOptions(**options))
        return lambda frame: memory.restore([frame])[0]

    def without(name: str, substitute: Any) -> Answer:
        answer = stream()

        def answered(frame: Frame) -> Frame:
            with patch(f"splatmend.temporal.stabilizer.{name}", substitute):
                return answer(frame)

        return answered

    rows = {
        "input": lambda frame: frame,
        "alone": lambda frame: restore_frames(restorer, [frame])[0],
        "forty lines": Plain(restorer),
    }
    if ablate:
        same = Light(torch.tensor(1.0), torch.tensor(0.0))
        rows |= {
            "no input memory": stream(input_gain=0),
            "no residual memory": stream(gain=0),
            "no light": without("antialiasing.fit_light", lambda *_: same),
            "no shadows": without("antialiasing.broad", lambda change, _: 0 * change),
            "no usual flicker": without("confidence._GATE", 0.0),
            "no motion share": without("antialiasing.noise_share", lambda usual, *_: 1 + 0 * usual),
            "no persistence": without(
                "antialiasing.learn_persistence", lambda *planes: 1 + 0 * planes[-1]
            ),
            "no detail back": without("accumulation._MOST", 0.0),
            "no edges": without("confidence.erode", lambda plane: plane),
        }
    return rows | {"whole": stream()}


def clips(data: Path, names: Sequence[str]) -> Iterator[tuple[str, Callable[[], Clip]]]:
    """Yield the clips by name, to be made one at a time."""
    for index, name in enumerate(names):
        pair = [portrait(data / "faces" / f"{n}.jpg") for n in (name, names[index - 1])]
        for kind, make in portrait_clips(*pair).items():
            yield f"{name[:12]} {kind}", partial(estimated, make)
            if kind in ("sticks", "trembles"):
                yield f"{name[:12]} {kind}, exact", make
    for avatar in ("james", "status"):
        files = data / "avatars" / avatar
        turn = partial(turning_avatar, files / "avatar.ply", files / "avatar_d25.ply", COUNT)
        yield f"{avatar} turn", partial(estimated, turn)
        yield f"{avatar} turn, exact", turn
    for first in (20, 96):
        yield f"talk {first}", partial(talking_head, data, first, COUNT)


def portrait_clips(
    one: tuple[Picture, CameraPath], other: tuple[Picture, CameraPath]
) -> dict[str, Callable[[], Clip]]:
    """Name the clips of a portrait; the cut goes to another one."""
    picture, path = one
    trembling = partial(portrait_clip, picture, path, TREMBLES, COUNT)
    return {
        "sticks": partial(portrait_clip, picture, path, STICKS, COUNT),
        "trembles": trembling,
        "static": partial(trembling, still=True),
        "fade": lambda: fading(trembling()),
        "shadow": lambda: shading(trembling()),
        "flash": lambda: flashing(trembling()),
        "cut": lambda: cutting(trembling(), portrait_clip(*other, TREMBLES, COUNT)),
        "blink": lambda: blinking(picture, path, EYES, COUNT),
        "hand": lambda: covering(trembling(), picture),
    }


def estimated(make: Callable[[], Clip]) -> Clip:
    return without_motion(make())


@dataclass
class Judge:
    """Measures of clips against one truth."""

    clip: Clip
    lpips: Lpips

    def __post_init__(self) -> None:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        truth = self.clip.truth
        self.flows = [search.calc(_gray(b), _gray(a), None) for a, b in pairwise(truth)]
        self.steps = [self.step(truth, i) for i in range(1, len(truth))]
        self.usable = [np.abs(step).mean(-1) < 25 for step in self.steps]

    def step(self, pictures: Sequence[Picture], index: int) -> Float:
        """Return the change of a clip along the motion, up to frame `index`, in levels."""
        last = moved(pictures[index - 1].astype(np.float32), self.flows[index - 1])
        return pictures[index] - last

    def __call__(self, ours: Sequence[Picture], alone: Sequence[Picture]) -> dict[str, float]:
        truth, late = self.clip.truth, range(LEARNING + 1, len(ours))
        warp, own, change, change_alone, events = [], [], [], [], []
        lag = LagMeter()
        for i in late:
            step, usable, true = self.step(ours, i), self.usable[i - 1], self.steps[i - 1]
            warp.append(np.abs(step).mean(-1)[usable].mean())
            own.append(np.abs(true).mean(-1)[usable].mean())
            change.append(np.abs(step - true).mean())
            change_alone.append(np.abs(self.step(alone, i) - true).mean())
            lag.add(*(to_tensor([p[i]])[0] for p in (ours, truth)))
            new = cv2.dilate(_changed(truth[i - 2], truth[i]), np.ones((9, 9), np.uint8)) > 0
            if new.sum() > 300:
                events.append(
                    [np.abs(p[i] - truth[i].astype(float))[new].mean() for p in (ours, alone)]
                )
        errors = [np.square(a.astype(float) - b).mean() for a, b in zip(ours, truth, strict=True)]
        energy, true_energy, alone_energy = (
            sum(_fine(p).mean() for p in pictures[LEARNING:]) for pictures in (ours, truth, alone)
        )
        found = {
            "change": np.mean(change) / np.mean(change_alone),
            "LPIPS": self.distance(ours),
            "fine": energy / true_energy,
            "of alone": energy / alone_energy,
            "PSNR": 10 * np.log10(65025 / np.array(errors[LEARNING:])).mean(),
            "lag": lag.offset or 0,
        }
        if np.mean(own) > 0.01:  # levels; a still truth has none
            found["warp"] = np.mean(warp) / np.mean(own)
        if events:
            error, usual = np.array(events).T
            found |= {"event": error.sum() / usual.sum(), "worst": (error / usual).max()}
        return {name: float(value) for name, value in found.items()}

    def distance(self, ours: Sequence[Picture]) -> float:
        """Average LPIPS over every second frame."""
        found = []
        with torch.inference_mode():
            for i in range(LEARNING, len(ours), 2):
                a, b = (self.lpips.features(to_tensor([p[i]])) for p in (ours, self.clip.truth))
                found.append(self.lpips.distance(a, b).item())
        return float(np.mean(found))


def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--portraits", nargs="+", default=["interfaces_006", "canada_056f"])
    parser.add_argument("--clips", nargs="+", help="only clips with one of these words")
    parser.add_argument("--ablate", action="store_true", help="also leave each ingredient out")
    parser.add_argument("--pictures", type=Path, help="folder for frames of every row")
    arguments = parser.parse_args()
    keep_freed_memory()
    restorer = load_restorer(arguments.model)
    lpips = load_lpips("alex", arguments.lpips_weights)
    columns = ("warp", "change", "LPIPS", "fine", "of alone", "PSNR", "event", "worst", "lag")
    print(f"{'':26} {'':18} " + " ".join(f"{name:>8}" for name in columns))
    for name, make in clips(arguments.data, arguments.portraits):
        if arguments.clips and not any(word in name for word in arguments.clips):
            continue
        judge = Judge(make(), lpips)
        shown = {
            row: [answer(frame).color for frame in judge.clip.frames]
            for row, answer in ways(restorer, ablate=arguments.ablate).items()
        }
        for row, pictures in shown.items():
            found = judge(pictures, shown["alone"])
            values = " ".join(f"{found[c]:8.3f}" if c in found else f"{'':8}" for c in columns)
            print(f"{name:26} {row:18} {values}", flush=True)
        if arguments.pictures:
            write(arguments.pictures, name, [*shown.values(), judge.clip.truth])


def write(folder: Path, name: str, rows: Sequence[Sequence[Picture]]) -> None:
    """Write every second frame of an event, all rows side by side, and the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(10, 20, 2):
        strip = np.hstack([row[index] for row in rows])
        path = folder / f"{name.replace(' ', '_').replace(',', '')}_{index}.png"
        cv2.imwrite(str(path), strip[..., ::-1])


def moved(picture: Float, flow: Float, how: int = cv2.INTER_LINEAR) -> Float:
    """Warp (h, w, ...) along backward flow (h, w, 2)."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    there = np.stack([x, y], -1) + flow
    return cv2.remap(picture, there, None, how, borderMode=cv2.BORDER_REPLICATE)


def _levels(picture: Picture) -> Float:
    return picture.astype(np.float32) / 255


def _gray(picture: Picture) -> Picture:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _changed(before: Picture, now: Picture) -> NDArray[np.uint8]:
    return (np.abs(now.astype(int) - before).max(-1) > 40).astype(np.uint8)


def _fine(picture: Picture) -> Float:
    gray = _gray(picture).astype(np.float32)
    return (gray - cv2.blur(gray, (3, 3))) ** 2


if __name__ == "__main__":
    main()
