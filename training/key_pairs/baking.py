"""`splatmend references`: key pairs for a light avatar, from the poses where they help most.

splatmend references avatar.ply light.ply keys/ --count 16
restore-video in.mp4 out.mp4 --keys keys/renders:keys/photos
"""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tqdm import tqdm

from splatmend.core.command_line import OmitArgPrefixes, Positional, parse, shown
from splatmend.core.errors import InputError
from splatmend.core.pixels import from_tensor
from splatmend.core.references.collection import LEAST_SIDE
from splatmend.training.avatars.thin_and_render import (
    Drawing,
    Lens,
    check_seen,
    claim,
    write_frame,
)
from splatmend.training.gaussians.gsplat_backend import pick_backend
from splatmend.training.gaussians.ply import Splats, read_ply
from splatmend.training.gaussians.rasterizer import Camera, Render
from splatmend.training.key_pairs.pose_choice import REACH, View, choose_keys, degrees_between

__all__ = ["BakeConfig", "bake_keys", "main"]

_CHOICE_SIDE = 256
"""Longest side in pixels of the views that the poses are chosen by."""
_EXAMPLES = """\
examples:
  splatmend references avatar.ply light.ply keys/ --count 16
  restore-video in.mp4 out.mp4 --keys keys/renders:keys/photos
  splatmend serve --references keys/
"""
_SAME = 1e-6
"""Mean squared error below which both avatars look the same."""


@dataclass(frozen=True)
class _Files:
    """Both avatars, and the folder for the key pairs."""

    whole: Annotated[Path, Positional, shown("AVATAR.ply")]
    """The whole avatar, a 3DGS PLY file: how every view should look."""
    light: Annotated[Path, Positional, shown("LIGHT.ply")]
    """The light avatar, whose renders are to be mended."""
    out: Annotated[Path, Positional, shown("KEYS")]
    """Folder for the pairs."""


@dataclass(frozen=True)
class _Choice:
    """Number of pairs, and the poses among which they are chosen."""

    count: int = 16
    """Largest number of pairs; there are fewer where another one would bring nothing."""
    yaw: tuple[float, float] = (-40.0, 40.0)
    """Range around the vertical axis, degrees; 0 looks along -z."""
    pitch: tuple[float, float] = (-15.0, 15.0)
    """Range above the horizon, degrees."""
    grid: tuple[int, int] = (17, 5)
    """Poses across both ranges; more of them take longer."""


@dataclass(frozen=True)
class BakeConfig(Drawing, Lens, _Choice, _Files):
    """Bake key pairs: views of a light avatar beside those of the whole one.

    Writes renders/0000.png (the light avatar), photos/0000.png (the whole one) and so on, with
    alpha, and cameras.json. Called again after an interruption it goes on.
    """

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or self.distance <= 0 or not 0 < self.fov < 180:
            raise InputError(
                f"references needs grid and distance above 0 and fov in (0, 180), got "
                f"{self.grid}, {self.distance}, {self.fov}"
            )
        if not 1 <= self.count <= math.prod(self.grid):
            raise InputError(
                f"count must lie in 1 to {math.prod(self.grid)}, the poses of the grid, got "
                f"{self.count}"
            )
        if min(self.size) < LEAST_SIDE:
            raise InputError(f"size must be at least {LEAST_SIDE} a side, got {self.size}")


@dataclass(frozen=True)
class _Options:
    """The options of `splatmend references`, in groups."""

    files: Annotated[_Files, OmitArgPrefixes]
    choice: Annotated[_Choice, OmitArgPrefixes] = _Choice()
    cameras: Annotated[Lens, OmitArgPrefixes] = Lens()  # noqa: RUF009 (frozen)
    drawing: Annotated[Drawing, OmitArgPrefixes] = Drawing()  # noqa: RUF009


@dataclass(frozen=True)
class _Pose:
    """Angles of a camera, degrees."""

    yaw: float
    pitch: float

    def camera(self, config: BakeConfig, size: tuple[int, int]) -> Camera:
        yaw, pitch = math.radians(self.yaw), math.radians(self.pitch)
        return Camera.orbit(
            yaw, pitch, config.distance, target=config.target, fov_y=config.fov, size=size
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend references ...`; errors are the caller's to report."""
    given = parse(
        _Options,
        arguments,
        prog="splatmend references",
        description=str(BakeConfig.__doc__),
        epilog=_EXAMPLES,
    )
    groups = (given.files, given.choice, given.cameras, given.drawing)
    bake_keys(BakeConfig(**{name: v for group in groups for name, v in vars(group).items()}))


def bake_keys(config: BakeConfig) -> int:
    """Choose poses, render both avatars there; returns the number of pairs.

    Raises:
        InputError: no PLY, cameras that miss an avatar, avatars that look the same, or `out`
            holds keys of other settings.
    """
    avatars = read_ply(config.whole), read_ply(config.light)
    draw = pick_backend(config.backend)
    cameras = config.out / "cameras.json"
    if not cameras.exists():
        _check_both_seen(config, avatars, draw)
    _claim(config)
    if not cameras.exists():
        _write_cameras(cameras, _choose(config, avatars, draw), config)
    poses = [_Pose(row["yaw"], row["pitch"]) for row in json.loads(cameras.read_text())]
    _say(f"stage 3 of 3: {2 * len(poses)} renders of {config.size[1]} x {config.size[0]} pixels")
    for index, pose in enumerate(tqdm(poses, "pairs", disable=not sys.stderr.isatty())):
        for splats, folder in zip(avatars, ("photos", "renders"), strict=True):
            stem = config.out / folder / f"{index:04d}"
            if not stem.with_suffix(".png").exists():
                frame = _draw(config, draw, splats, pose.camera(config, config.size))
                write_frame(stem, frame, planes=False)
    sys.stdout.write(
        f"{len(poses)} key pairs in {config.out}; use them: restore-video in.mp4 out.mp4 --keys "
        f"{config.out / 'renders'}:{config.out / 'photos'}; or live: splatmend serve --references "
        f"{config.out}\n"
    )
    return len(poses)


def _claim(config: BakeConfig) -> None:
    folders = [config.out / name for name in ("renders", "photos")]
    if not (config.out / "settings.json").exists():
        for folder in folders:
            if folder.exists():
                raise InputError(f"{folder} was not made by this command: name another folder")
    config.out.mkdir(parents=True, exist_ok=True)
    settings = asdict(config)
    del settings["backend"]
    stats = [path.stat() for path in (config.whole, config.light)]
    files = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    claim(config.out, settings | {"files": files}, "keys")
    for folder in folders:
        folder.mkdir(exist_ok=True)


def _poses(config: BakeConfig) -> list[_Pose]:
    def across(ends: tuple[float, float], count: int) -> list[float]:
        if count == 1:
            return [sum(ends) / 2]
        return [round(float(angle), 4) for angle in np.linspace(*ends, count)]

    rows, columns = across(config.pitch, config.grid[1]), across(config.yaw, config.grid[0])
    return [_Pose(yaw, pitch) for pitch, yaw in product(rows, columns)]


def _frontal(poses: Sequence[_Pose]) -> int:
    return min(range(len(poses)), key=lambda i: math.hypot(poses[i].yaw, poses[i].pitch))


def _draw(
    config: BakeConfig, draw: Callable[..., Render], splats: Splats, camera: Camera
) -> Render:
    with torch.inference_mode():
        return draw(splats, camera, low_pass=config.low_pass)


def _choice_size(config: BakeConfig) -> tuple[int, int]:
    shrink = min(1.0, _CHOICE_SIDE / max(config.size))
    height, width = (max(round(side * shrink), LEAST_SIDE) for side in config.size)
    return height, width


def _check_both_seen(
    config: BakeConfig, avatars: tuple[Splats, Splats], draw: Callable[..., Render]
) -> None:
    """Refuse cameras that miss an avatar before anything is written."""
    poses = _poses(config)
    camera = poses[_frontal(poses)].camera(config, _choice_size(config))
    for splats, source in zip(avatars, (config.whole, config.light), strict=True):
        alpha = _draw(config, draw, splats, camera).alpha
        check_seen(float((alpha > 0.5).float().mean()), splats, source, config.fov)


def _choose(
    config: BakeConfig, avatars: tuple[Splats, Splats], draw: Callable[..., Render]
) -> list[_Pose]:
    """Choose the poses of the keys; say of each how far it lowers the error."""
    poses, size = _poses(config), _choice_size(config)
    began = time.monotonic()
    _say(f"stage 1 of 3: {2 * len(poses)} renders of {size[1]} x {size[0]} pixels, to choose by")

    def picture(splats: Splats, pose: _Pose) -> Any:
        frame = _draw(config, draw, splats, pose.camera(config, size))
        return from_tensor(frame.over()[None].clamp(0, 1), np.uint8)[0]

    views = []
    for pose in tqdm(poses, "views", disable=not sys.stderr.isatty()):
        truth, render = (picture(splats, pose) for splats in avatars)
        views.append(View(pose.yaw, pose.pitch, render, truth))
    drawn = time.monotonic()
    _say(f"stage 2 of 3: up to {config.count} of {len(poses)} poses; the first is the frontal one")
    chosen: list[_Pose] = []
    for key in choose_keys(views, config.count, first=_frontal(poses)):
        pose = poses[key.index]
        sys.stdout.write(
            f"{len(chosen):04d}: yaw {pose.yaw:+.1f}, pitch {pose.pitch:+.1f}: PSNR of all "
            f"{len(views)} poses {_decibels(key.before)} -> {_decibels(key.after)} dB\n"
        )
        sys.stdout.flush()
        chosen.append(pose)
        if len(chosen) == 1 < config.count:
            judged = time.monotonic() - drawn
            _say(_rest(config, views, drawing=drawn - began, judging=judged))
    if not chosen:
        raise InputError(
            f"a key pair mends nothing of {config.light}: it must be a light copy of {config.whole}"
        )
    if len(chosen) < config.count:
        sys.stdout.write(f"no other pose brings more: {len(chosen)} of {config.count} pairs\n")
    return chosen


def _rest(config: BakeConfig, views: Sequence[View], *, drawing: float, judging: float) -> str:
    """Say how much is left after the first key.

    Args:
        config: The command's options.
        views: The views of all poses.
        drawing: Seconds that the views took.
        judging: Seconds that one key took on all views.
    """
    trials = int((degrees_between(views) <= REACH).sum())
    height, width = _choice_size(config)
    larger = math.prod(config.size) / (height * width)
    seconds = judging * (trials / len(views) + config.count - 1)
    seconds += drawing / len(views) * config.count * larger
    return (
        f"{trials} trials of one key on one view, then {config.count - 1} keys and their renders: "
        f"about {max(round(seconds), 1)} s more"
    )


def _say(line: str) -> None:
    """Write a line at once: without a terminal there is no bar."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _decibels(error: float) -> str:
    return f"{-10 * math.log10(max(error, _SAME)):.2f}"


def _write_cameras(path: Path, poses: Sequence[_Pose], config: BakeConfig) -> None:
    cameras = [pose.camera(config, config.size) for pose in poses]
    rows = [
        {"world_to_camera": c.world_to_camera.tolist(), "focal": c.focal} | asdict(pose)
        for c, pose in zip(cameras, poses, strict=True)
    ]
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(rows, indent=1))
    unfinished.replace(path)
