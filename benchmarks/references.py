"""Quality with references: every set in one run, against the degraded input.

    python benchmarks/references.py --data DATA --lpips-weights WEIGHTS [--model FILE]

DATA holds faces/ (with manifest.json), clips/talk_a.mp4, avatars/james (a LAM avatar) and
avatars/status (a bust). It prints LPIPS (VGG) and LPIPS (AlexNet) as ratios to the input's with
bootstrap intervals, and PSNR against the input's. It also prints identity (cosine of dlib's
embedding) and sharpness over the truth's. No set was in the training, except for the outline of
the LAM avatar 'james'. `--before` adds the weights of an earlier release.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from reference_setup import (
    Picture,
    option_parser,
    read_picture,
    read_talking_head,
    references_of,
    resplatted,
)

from splatmend.core import (
    Frame,
    Guide,
    Reference,
    References,
    Restorer,
    from_tensor,
    keep_freed_memory,
    load_restorer,
    restore_frames,
    to_tensor,
)
from splatmend.training.data.guided_frames import draw_moved, other_pictures
from splatmend.training.data.portraits import Portrait, load_portraits
from splatmend.training.degradations.recipes import degrade, draw_recipe
from splatmend.training.evaluate.metrics import Measures, MetricName
from splatmend.training.evaluate.report import paired_bootstrap

VIEWS = (3, 10, 16)
"""Poses of an avatar whose whole renders are references."""
NAMES: tuple[MetricName, ...] = ("lpips_vgg", "lpips_alex", "psnr", "identity")


@dataclass(frozen=True)
class Sample:
    """One frame to restore, its truth, and references of the person."""

    degraded: Picture
    truth: Picture
    references: References | None = None
    box: tuple[slice, slice] = (slice(None), slice(None))
    """The part that is evaluated."""


def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--before", help="checkpoint of an earlier release, without references")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--every", type=int, default=1, help="evaluate every N-th sample only")
    parser.add_argument("--pictures", type=Path, help="folder for input | alone | guided | truth")
    arguments = parser.parse_args()
    keep_freed_memory()
    restorers = {"alone": load_restorer(arguments.model)}
    if arguments.before:
        restorers["before"] = load_restorer(arguments.before)
    measures = Measures(arguments.lpips_weights, names=NAMES)
    print(f"{'set':24} {'row':7} {'n':>3} {'VGG':>20} {'AlexNet':>20} {'PSNR':>7} {'id':>6} sharp")
    for name in arguments.sets:
        samples = list(SETS[name](arguments.data))[:: arguments.every]
        rows = judge(restorers, measures, samples, name, arguments.pictures)
        for row, values in rows.items():
            print(f"{name:24} {row:7} {report(values, rows['input'])}", flush=True)


Values = dict[str, list[float]]


def judge(
    restorers: dict[str, Restorer],
    measures: Measures,
    samples: Sequence[Sample],
    name: str,
    folder: Path | None,
) -> dict[str, Values]:
    """Restore and measure every sample -> the values of every row, by measure."""
    rows: dict[str, Values] = {}
    for index, sample in enumerate(samples):
        frame = Frame(color=sample.degraded)
        shown = {"input": sample.degraded}
        for row, restorer in restorers.items():
            shown[row] = restore_frames(restorer, [frame])[0].color
        if sample.references is not None:
            (guided,) = restore_frames(
                restorers["alone"], [frame], references=Guide(sample.references)
            )
            shown["guided"] = guided.color
        cut = {row: to_tensor([picture[sample.box]]) for row, picture in shown.items()}
        truth = to_tensor([sample.truth[sample.box]])
        for row, found in measures(cut, truth).items():
            found["sharp"] = sharpness(cut[row]) / sharpness(truth)
            for measure, value in found.items():
                rows.setdefault(row, {}).setdefault(measure, []).append(value)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            row = [p for key, p in shown.items() if key != "before"]
            strip = np.hstack([p[sample.box] for p in (*row, sample.truth)])
            cv2.imwrite(str(folder / f"{name.replace(' ', '_')}_{index:02d}.png"), strip[..., ::-1])
    return rows


def sharpness(rgb: torch.Tensor) -> float:
    """Average the absolute difference to the mean of the four neighbours."""
    inner = rgb[..., 1:-1, 1:-1]
    around = rgb[..., :-2, 1:-1] + rgb[..., 2:, 1:-1] + rgb[..., 1:-1, :-2] + rgb[..., 1:-1, 2:]
    return float((inner - around / 4).abs().mean())


def report(values: Values, reference: Values) -> str:
    parts = [f"{len(values['psnr']):3}"]
    for measure in ("lpips_vgg", "lpips_alex"):
        change = paired_bootstrap(values[measure], reference[measure])
        ratio = None if change is None else change.ratio
        parts.append(
            f"{np.mean(values[measure]):20.3f}" if ratio is None
            else f"{ratio.value:6.3f} ({ratio.low:.3f}-{ratio.high:.3f})"
        )  # fmt: skip
    gain = np.mean(values["psnr"]) - np.mean(reference["psnr"])
    parts += [f"{gain:+7.2f}", f"{np.nanmean(values['identity']):6.3f}"]
    parts.append(f"{np.mean(values['sharp']):5.2f}")
    return " ".join(parts)


def subject(picture: Picture) -> tuple[slice, slice]:
    """Find the box around all pixels that are not white, on multiples of 8."""
    sides = []
    for axis in (1, 0):
        shown = np.flatnonzero((picture.min(-1) < 250).any(axis))
        length = picture.shape[1 - axis]
        low, high = max(shown[0] - 8, 0) // 8 * 8, min(length, (shown[-1] + 16) // 8 * 8)
        sides.append(slice(low, high))
    return sides[0], sides[1]


def talk(data: Path) -> Iterator[Sample]:
    """Sample a talking head with its first frame as reference: twelve frames in twelve seconds."""
    frames = read_talking_head(data)[::12]
    for number, truth in enumerate(frames[1:13], 1):
        yield Sample(resplatted(truth, number, number), truth, references_of(frames[0]))


def people(data: Path) -> list[Portrait]:
    return load_portraits(data / "faces", "val")


def portraits(data: Path) -> Iterator[Sample]:
    """Sample validation portraits, guided by another photograph, or by themselves, warped."""
    known = people(data)
    others = other_pictures(known)
    for number, portrait in enumerate(known):
        generator = torch.Generator().manual_seed(number)
        found = degrade(to_tensor([portrait.pixels]), draw_recipe(generator), generator)
        degraded = from_tensor(found, np.uint8)[0]
        if np.array_equal(degraded, portrait.pixels):
            continue  # the recipe does nothing
        moved = draw_moved(portrait.pixels, np.random.default_rng(number))
        yield Sample(degraded, portrait.pixels, references_of(others.get(portrait.name, moved)))


def views(avatar: str, thinned: str) -> Callable[[Path], Iterator[Sample]]:
    """Sample poses of a thinned avatar, guided by three clean views."""

    def samples(data: Path) -> Iterator[Sample]:
        whole, thin = poses(data, avatar, thinned)
        references = references_of(*(whole[view] for view in VIEWS))
        for pose in set(range(len(whole))) - set(VIEWS):
            yield Sample(thin[pose], whole[pose], references, subject(whole[pose]))

    return samples


def keys(avatar: str, thinned: str, chosen: Sequence[int]) -> Callable[[Path], Iterator[Sample]]:
    """Sample odd poses of a thinned avatar, guided by key pairs of even ones."""

    def samples(data: Path) -> Iterator[Sample]:
        whole, thin = poses(data, avatar, thinned)
        pairs = References(Reference(picture=whole[k], render=thin[k]) for k in chosen)
        for pose in range(1, len(whole), 2):
            yield Sample(thin[pose], whole[pose], pairs, subject(whole[pose]))

    return samples


def poses(data: Path, avatar: str, thinned: str) -> tuple[list[Picture], list[Picture]]:
    """Read all renders of a whole avatar and of its thinned copy."""
    folders = (data / "avatars" / avatar / name for name in ("ref", thinned))
    whole, thin = ([read_picture(path) for path in sorted(f.iterdir())] for f in folders)
    return whole, thin


def talking_avatar(data: Path) -> Iterator[Sample]:
    """Sample an animated avatar, re-splatted, with its first frame as reference."""
    files = sorted((data / "avatars" / "james" / "talk").iterdir())
    first = read_picture(files[0])
    for number in range(12, 53, 4):
        truth = read_picture(files[number])
        degraded = resplatted(truth, number, number // 4)
        yield Sample(degraded, truth, references_of(first), subject(truth))


def camera_damage(strong: bool) -> Callable[[Path], Iterator[Sample]]:
    """Sample portraits without references under other damage than splatting."""

    def samples(data: Path) -> Iterator[Sample]:
        for number, portrait in enumerate(people(data)):
            rng = np.random.default_rng((7, number))
            degraded = blur_bend_and_fade(portrait.pixels, rng, strong=strong)
            yield Sample(degraded, portrait.pixels)

    return samples


def blur_bend_and_fade(picture: Picture, rng: np.random.Generator, *, strong: bool) -> Picture:
    """Degrade a picture by patches of blur, small shifts, lost colour and noise."""
    side = picture.shape[0]
    x = picture.astype(np.float32)
    field = cv2.resize(rng.uniform(0, 1, (5, 5)).astype(np.float32), (side, side), interpolation=2)
    small = cv2.resize(x, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    x += np.clip(field, 0, 1)[..., None] * (soft - x)
    row, column = np.mgrid[:side, :side].astype(np.float32)
    low, high = (1.6, 6.0) if strong else (0.8, 3.2)
    for _ in range(int(rng.integers(6, 9))):
        blurred = cv2.GaussianBlur(x, (0, 0), rng.uniform(low, high), sigmaY=rng.uniform(low, high))
        cy, cx = rng.uniform(0.15, 0.85, 2) * side
        ry, rx = rng.uniform(0.06, 0.2, 2) * side
        mask = np.exp(-(((column - cx) / rx) ** 2 + ((row - cy) / ry) ** 2))
        x += mask[..., None] * (blurred - x)
    shift = cv2.resize(
        rng.normal(0, 2.0 if strong else 1.2, (24, 24, 2)).astype(np.float32),
        (side, side),
        interpolation=cv2.INTER_CUBIC,
    )
    places = np.stack((column, row), -1) + shift
    x = cv2.remap(x, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    gray = x.mean(2, keepdims=True)
    x = gray + (x - gray) * (0.7 if strong else 0.85)
    gain = cv2.resize(rng.normal(1, 0.05, (4, 4)).astype(np.float32), (side, side), interpolation=2)
    x = x * gain[..., None] + rng.normal(0, 4.5 if strong else 2.5, x.shape)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def strangers(data: Path) -> Iterator[Sample]:
    """Sample portraits guided by a stranger, by bricks, or by noise: nothing may change."""
    known = people(data)
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    row, column = np.mgrid[:512, :512]
    bricks = np.stack([(row // 24 + column // 60) % 2 * 90 + 80] * 3, -1).astype(np.uint8)
    for number, portrait in enumerate(known):
        wrong = (known[(number + 5) % len(known)].pixels, bricks, noise)[number % 3]
        degraded = resplatted(portrait.pixels, number, number)
        yield Sample(degraded, portrait.pixels, references_of(wrong))


SETS: dict[str, Callable[[Path], Iterator[Sample]]] = {
    "talk": talk,
    "portraits": portraits,
    "james 25, three views": views("james", "d25"),
    "james 10, three views": views("james", "d10"),
    "bust 25, three views": views("status", "d25"),
    "james talking": talking_avatar,
    "james 25, one key": keys("james", "d25", (10,)),
    "james 25, four keys": keys("james", "d25", (0, 6, 12, 18)),
    "camera damage": camera_damage(strong=False),
    "strong camera damage": camera_damage(strong=True),
    "wrong references": strangers,
}


if __name__ == "__main__":
    main()
