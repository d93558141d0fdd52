"""How much pictures of the same person help: every set in one run, against the damaged input.

    python benchmarks/references.py --data DATA --lpips-weights WEIGHTS [--model FILE]

DATA holds faces/ (with manifest.json), clips/talk_a.mp4, avatars/james and avatars/status. Printed:
LPIPS (VGG), LPIPS (AlexNet) as ratios to the input's with bootstrap intervals, PSNR against it,
identity (cosine of dlib's embedding) and sharpness over the truth's. Nothing here was trained on,
but for the outline of the avatar "james". `--before` adds the weights of an earlier release.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

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
from splatmend.training.degradations.recipes import Recipe, degrade, draw_recipe
from splatmend.training.degradations.resplatting import SplatOptions
from splatmend.training.evaluate.metrics import Measures, MetricName
from splatmend.training.evaluate.report import paired_bootstrap

Picture = NDArray[np.uint8]
SPLATS = (
    SplatOptions(spacing=4.0, detail=0.9, spread=0.7, anisotropy=0.3, hardness=1.0),
    SplatOptions(spacing=1.9, keep=0.12, detail=0.9, spread=0.7, anisotropy=0.3, hardness=1.0),
)
VIEWS = (3, 10, 16)
"""Poses of an avatar whose whole renders are references."""
NAMES: tuple[MetricName, ...] = ("lpips_vgg", "lpips_alex", "psnr", "identity")


@dataclass(frozen=True)
class Sample:
    """One frame to restore, its truth, and what is known of the person."""

    damaged: Picture
    truth: Picture
    references: References | None = None
    box: tuple[slice, slice] = (slice(None), slice(None))
    """The part that is judged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lpips-weights", type=Path, help="folder; else downloaded")
    parser.add_argument("--model", default="compact", help="name or checkpoint of the restorer")
    parser.add_argument("--before", help="checkpoint of an earlier release, without references")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--every", type=int, default=1, help="judge every so many samples only")
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
    """Values of every row, by measure."""
    rows: dict[str, Values] = {}
    for index, sample in enumerate(samples):
        frame = Frame(color=sample.damaged)
        shown = {"input": sample.damaged}
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
    """Mean absolute difference to the mean of the four neighbours."""
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


def resplatted(picture: Picture, number: int, kind: int) -> Picture:
    generator = torch.Generator().manual_seed(number)
    recipe = Recipe(splat=SPLATS[kind % 2])
    return from_tensor(degrade(to_tensor([picture]), recipe, generator), np.uint8)[0]


def read(path: Path) -> Picture:
    stored = cv2.imread(str(path))
    if stored is None:
        raise SystemExit(f"{path} cannot be read as a picture")
    return stored[..., ::-1].copy()


def subject(picture: Picture) -> tuple[slice, slice]:
    """The box around what is not white, on multiples of 8."""
    sides = []
    for axis in (1, 0):
        shown = np.flatnonzero((picture.min(-1) < 250).any(axis))
        length = picture.shape[1 - axis]
        low, high = max(shown[0] - 8, 0) // 8 * 8, min(length, (shown[-1] + 16) // 8 * 8)
        sides.append(slice(low, high))
    return sides[0], sides[1]


def pictures(*shown: Picture) -> References:
    return References(Reference(picture=picture) for picture in shown)


def talk(data: Path) -> Iterator[Sample]:
    """A talking head, its first frame as reference, twelve frames over twelve seconds."""
    with av.open(str(data / "clips" / "talk_a.mp4")) as clip:
        frames = [f.to_ndarray(format="rgb24") for f in clip.decode(video=0)][::12]
    for number, truth in enumerate(frames[1:13], 1):
        yield Sample(resplatted(truth, number, number), truth, pictures(frames[0]))


def people(data: Path) -> list[Portrait]:
    return load_portraits(data / "faces", "val")


def portraits(data: Path) -> Iterator[Sample]:
    """Validation portraits, guided by another photograph, or themselves moved and relit."""
    known = people(data)
    others = other_pictures(known)
    for number, portrait in enumerate(known):
        generator = torch.Generator().manual_seed(number)
        damaged = degrade(to_tensor([portrait.pixels]), draw_recipe(generator), generator)
        degraded = from_tensor(damaged, np.uint8)[0]
        if np.array_equal(degraded, portrait.pixels):
            continue  # the recipe does nothing
        moved = draw_moved(portrait.pixels, np.random.default_rng(number))
        yield Sample(degraded, portrait.pixels, pictures(others.get(portrait.name, moved)))


def views(avatar: str, thinned: str) -> Callable[[Path], Iterator[Sample]]:
    """Poses of a thinned avatar, guided by three clean views."""

    def samples(data: Path) -> Iterator[Sample]:
        folder = data / "avatars" / avatar
        whole = [read(path) for path in sorted((folder / "ref").iterdir())]
        damaged = [read(path) for path in sorted((folder / thinned).iterdir())]
        references = pictures(*(whole[view] for view in VIEWS))
        for pose in set(range(len(whole))) - set(VIEWS):
            yield Sample(damaged[pose], whole[pose], references, subject(whole[pose]))

    return samples


def keys(avatar: str, thinned: str, chosen: Sequence[int]) -> Callable[[Path], Iterator[Sample]]:
    """Odd poses of a thinned avatar, guided by key pairs of even ones."""

    def samples(data: Path) -> Iterator[Sample]:
        folder = data / "avatars" / avatar
        whole = [read(path) for path in sorted((folder / "ref").iterdir())]
        damaged = [read(path) for path in sorted((folder / thinned).iterdir())]
        pairs = References(Reference(picture=whole[k], render=damaged[k]) for k in chosen)
        for pose in range(1, len(whole), 2):
            yield Sample(damaged[pose], whole[pose], pairs, subject(whole[pose]))

    return samples


def talking_avatar(data: Path) -> Iterator[Sample]:
    """An animated avatar, re-splatted, its first frame as reference."""
    files = sorted((data / "avatars" / "james" / "talk").iterdir())
    first = read(files[0])
    for number in range(12, 53, 4):
        truth = read(files[number])
        damaged = resplatted(truth, number, number // 4)
        yield Sample(damaged, truth, pictures(first), subject(truth))


def worn(strong: bool) -> Callable[[Path], Iterator[Sample]]:
    """Portraits under other damage: blur patches, clumps, noise, lost colour."""

    def samples(data: Path) -> Iterator[Sample]:
        for number, portrait in enumerate(people(data)):
            rng = np.random.default_rng((7, number))
            yield Sample(wear(portrait.pixels, rng, strong=strong), portrait.pixels)

    return samples


def wear(picture: Picture, rng: np.random.Generator, *, strong: bool) -> Picture:
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
    """Portraits guided by somebody else, by bricks, or by noise: nothing may change."""
    known = people(data)
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    row, column = np.mgrid[:512, :512]
    bricks = np.stack([(row // 24 + column // 60) % 2 * 90 + 80] * 3, -1).astype(np.uint8)
    for number, portrait in enumerate(known):
        wrong = (known[(number + 5) % len(known)].pixels, bricks, noise)[number % 3]
        damaged = resplatted(portrait.pixels, number, number)
        yield Sample(damaged, portrait.pixels, pictures(wrong))


SETS: dict[str, Callable[[Path], Iterator[Sample]]] = {
    "talk": talk,
    "portraits": portraits,
    "james 25, three views": views("james", "d25"),
    "james 10, three views": views("james", "d10"),
    "bust 25, three views": views("status", "d25"),
    "james talking": talking_avatar,
    "james 25, one key": keys("james", "d25", (10,)),
    "james 25, four keys": keys("james", "d25", (0, 6, 12, 18)),
    "worn": worn(strong=False),
    "worn hard": worn(strong=True),
    "wrong references": strangers,
}


if __name__ == "__main__":
    main()
