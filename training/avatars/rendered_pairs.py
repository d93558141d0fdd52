"""Pairs of made avatars: whole and degraded, from random cameras, with alpha."""

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from splatmend.training.avatars.thin_and_render import claim, write_frame
from splatmend.training.avatars.thinning import fade, grow, jitter, merge, prune
from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.rasterizer import Camera, render

__all__ = ["SIDE", "PairsConfig", "bend", "degrade_avatar", "front_camera", "write_pairs"]

SIDE = 512
"""Side of every picture, in pixels."""
_WAVES = 4
_BEND = 0.02  # largest shift by one wave, as a share of the head's radius


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Where pairs go, and which."""

    out: Path
    """Folder for the folders of pictures."""
    count: int = 500
    """Number of pairs."""
    distance: float = 0.8
    """From the camera to the origin, in the avatar's units."""
    fov: float = 30.0
    """Vertical field of view, degrees."""
    seed: int = 0
    """Names every random choice; pairs of another seed need another folder."""
    references: bool = False
    """Also write the whole avatar as another camera sees it, to a third folder, `other`."""


def write_pairs(config: PairsConfig, make: Callable[[np.random.Generator], Splats]) -> None:
    """Write the missing pairs; each is named by the seed and its number.

    Raises:
        InputError: `out` has pairs of other settings; only their number may change.
    """
    names = ("thin", "whole", "other") if config.references else ("thin", "whole")
    folders = [config.out / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    claim(config.out, asdict(replace(config, count=0)), "pairs")
    for number in tqdm(range(config.count), disable=not sys.stderr.isatty()):
        stems = [folder / f"{number:05d}" for folder in folders]
        if all(stem.with_suffix(".png").exists() for stem in stems):
            continue
        rng = np.random.default_rng((config.seed, number))
        with torch.inference_mode():
            whole = bend(make(rng), rng)
            camera, low_pass = _draw_camera(config, rng)
            views = [(degrade_avatar(whole, rng), camera), (whole, camera)]
            if config.references:
                views.append((whole, _draw_camera(config, rng)[0]))
            for stem, (splats, seen_by) in zip(stems, views, strict=True):
                write_frame(stem, render(splats, seen_by, low_pass=low_pass), planes=False)
    sys.stdout.write(f"{config.count} pairs in {', '.join(map(str, folders))}\n")


def degrade_avatar(whole: Splats, rng: np.random.Generator) -> Splats:
    """Decimate most avatars by merging; prune and grow, move, or fade the others."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    kind = rng.random()
    if kind < 0.75:
        keep = math.exp(rng.uniform(math.log(0.05), math.log(0.4)))
        haste = rng.uniform(0.15, 0.5)
        if rng.random() < 0.5:
            return merge(whole, keep, generator, haste=0.5, pairing="nearest")
        return merge(whole, keep, generator, haste=haste)
    if kind < 0.87:
        keep = rng.uniform(0.25, 0.8)
        return grow(prune(whole, keep, generator), keep ** -rng.uniform(0.2, 0.6))
    if kind < 0.95:
        return jitter(whole, rng.uniform(0.2, 1.0), generator)
    return fade(grow(whole, rng.uniform(1.0, 1.4)), rng.uniform(0.5, 0.9))


def bend(splats: Splats, rng: np.random.Generator) -> Splats:
    """Stretch a head along each axis and bend it by a few long waves."""
    stretch = torch.tensor(rng.uniform(0.9, 1.1, 3), dtype=torch.float32)
    sizes = splats.log_scale + stretch.log().mean()
    size = (splats.center - splats.center.median(0).values).norm(dim=1).quantile(0.9).item()
    center = splats.center * stretch
    for _ in range(_WAVES):
        toward, along = rng.normal(size=(2, 3))
        wave = toward / np.linalg.norm(toward) * 2 * math.pi / (size * rng.uniform(0.6, 2.0))
        shift = along * size * rng.uniform(0.0, _BEND) / np.linalg.norm(along)
        phase = splats.center @ torch.tensor(wave, dtype=torch.float32) + rng.uniform(0, 7)
        center = center + phase.sin()[:, None] * torch.tensor(shift, dtype=torch.float32)
    return replace(splats, center=center, log_scale=sizes)


def front_camera(config: PairsConfig) -> Camera:
    """Place a camera before the face, on +z."""
    return _camera(config, yaw=0.0, pitch=0.0, nearer=1.0)


def _draw_camera(config: PairsConfig, rng: np.random.Generator) -> tuple[Camera, float]:
    """Draw a camera before the face, and the low-pass of one of two engines."""
    yaw, pitch = rng.normal(0, 0.2), rng.uniform(-0.15, 0.15)
    camera = _camera(config, yaw=yaw, pitch=pitch, nearer=rng.uniform(0.7, 1.1))
    return camera, 0.3 if rng.random() < 0.5 else 0.075


def _camera(config: PairsConfig, *, yaw: float, pitch: float, nearer: float) -> Camera:
    size = (SIDE, SIDE)
    return Camera.orbit(yaw, pitch, config.distance * nearer, fov_y=config.fov, size=size)
