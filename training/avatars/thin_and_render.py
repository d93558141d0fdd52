"""`splatmend thin` and `splatmend render`: real pairs from one avatar file.

splatmend thin avatar.ply thin.ply --keep 0.25
splatmend render avatar.ply whole/
splatmend render thin.ply thin/
splatmend evaluate --pairs thin/:whole/
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from splatmend.core.command_line import OmitArgPrefixes, Positional, parse, shown
from splatmend.core.errors import InputError
from splatmend.training.avatars.thinning import fade, grow, jitter, merge, prune
from splatmend.training.gaussians.gsplat_backend import Backend, pick_backend
from splatmend.training.gaussians.ply import Splats, read_ply, write_ply
from splatmend.training.gaussians.rasterizer import Camera, Render

__all__ = [
    "ArcCameras",
    "Drawing",
    "FrameDrawing",
    "Lens",
    "RenderConfig",
    "RenderFiles",
    "ThinConfig",
    "check_seen",
    "claim",
    "render_avatar",
    "thin_avatar",
    "write_frame",
]

_LEAST_SEEN = 0.02
"""Smallest share of the frame that the avatar may cover; a head fills a third."""


@dataclass(frozen=True)
class ThinConfig:
    """Write a damaged copy of an avatar. Steps run in the order of the options."""

    source: Annotated[Path, Positional, shown("AVATAR.ply")]
    """A 3DGS PLY file."""
    target: Annotated[Path, Positional, shown("LIGHT.ply")]
    """The PLY file to write; it must not exist."""
    keep: float = 1.0
    """Share of the Gaussians left by merging neighbours of like colour, as decimating tools do."""
    prune: float = 1.0
    """Share left by throwing Gaussians away at random."""
    jitter: float = 0.0
    """Displacement of the centres, in each Gaussian's own standard deviations."""
    grow: float = 1.0
    """Factor of every size: above 1 hazy, below 1 gaps."""
    fade: float = 1.0
    """Factor of every opacity, at most 1."""
    seed: int = 0
    """Names every random choice."""


@dataclass(frozen=True)
class RenderFiles:
    """The avatar, and the folder for its renders."""

    source: Annotated[Path, Positional, shown("AVATAR.ply")]
    """A 3DGS PLY file."""
    out: Annotated[Path, Positional, shown("FOLDER")]
    """Folder that receives the files."""


@dataclass(frozen=True)
class Lens:
    """Distance, direction and size of every view."""

    distance: float = 0.8
    """From the camera to `target`, in the avatar's units."""
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Point that the cameras look at, in the avatar's units."""
    fov: float = 30.0
    """Vertical field of view, degrees."""
    size: tuple[int, int] = (512, 512)
    """Height and width in pixels."""


@dataclass(frozen=True)
class Arc:
    """An arc of cameras."""

    frames: int = 20
    """Number of views along the arc."""
    yaw: tuple[float, float] = (-23.0, 23.0)
    """First and last angle around the vertical axis, degrees; 0 looks along -z."""
    pitch: tuple[float, float] = (0.0, 0.0)
    """First and last angle above the horizon, degrees."""


@dataclass(frozen=True)
class ArcCameras(Lens, Arc):
    """An arc of cameras."""


@dataclass(frozen=True)
class Drawing:
    """How Gaussians become pixels."""

    low_pass: float = 0.3
    """Square pixels added to each variance: 0.3 as gsplat, 0.075 as the PlayCanvas engine."""
    backend: Backend = "auto"
    """gsplat needs CUDA and is many times faster; auto takes it where both are at hand."""


@dataclass(frozen=True)
class FrameDrawing(Drawing):
    """How Gaussians become pixels."""

    planes: bool = False
    """Also write 0000.npz with float16 depth and backward motion (x, y, pixels; frame 0: none)."""


@dataclass(frozen=True)
class RenderConfig(FrameDrawing, ArcCameras, RenderFiles):
    """Render an avatar along an arc of cameras: PNG with alpha, cameras.json beside them."""

    def __post_init__(self) -> None:
        if self.frames < 1 or min(self.size) < 1 or self.distance <= 0 or not 0 < self.fov < 180:
            raise InputError(
                f"render needs frames, size and distance above 0 and fov in (0, 180), got "
                f"{self.frames}, {self.size}, {self.distance}, {self.fov}"
            )


@dataclass(frozen=True)
class _RenderOptions:
    """The options of `splatmend render`, in groups."""

    files: Annotated[RenderFiles, OmitArgPrefixes]
    cameras: Annotated[ArcCameras, OmitArgPrefixes] = ArcCameras()
    drawing: Annotated[FrameDrawing, OmitArgPrefixes] = FrameDrawing()


def thin_main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend thin ...`; errors are the caller's to report."""
    about = str(ThinConfig.__doc__)
    thin_avatar(parse(ThinConfig, arguments, prog="splatmend thin", description=about))


def render_main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend render ...`; errors are the caller's to report."""
    about = str(RenderConfig.__doc__)
    given = parse(_RenderOptions, arguments, prog="splatmend render", description=about)
    render_avatar(RenderConfig(**vars(given.files), **vars(given.cameras), **vars(given.drawing)))


def thin_avatar(config: ThinConfig) -> None:
    """Write a degraded copy of `source` to `target`.

    Raises:
        InputError: `target` exists, `source` cannot be read, or an option is out of range.
    """
    if config.target.exists():
        raise InputError(f"{config.target} exists: remove it or name another target")
    whole = splats = read_ply(config.source)
    generator = torch.Generator().manual_seed(config.seed)
    splats = merge(splats, config.keep, generator)
    splats = prune(splats, config.prune, generator)
    splats = jitter(splats, config.jitter, generator) if config.jitter else splats
    splats = grow(splats, config.grow) if config.grow != 1 else splats
    splats = fade(splats, config.fade) if config.fade != 1 else splats
    write_ply(config.target, splats)
    sys.stdout.write(f"{len(splats)} of {len(whole)} Gaussians written to {config.target}\n")


def render_avatar(config: RenderConfig) -> None:
    """Render every camera of the arc; final names appear only when the files are complete."""
    splats, draw = read_ply(config.source), pick_backend(config.backend)
    config.out.mkdir(parents=True, exist_ok=True)
    cameras = list(_arc(config))
    rows = [{"world_to_camera": c.world_to_camera.tolist(), "focal": c.focal} for c in cameras]
    (config.out / "cameras.json").write_text(json.dumps(rows, indent=1))
    for index, camera in enumerate(tqdm(cameras, disable=not sys.stderr.isatty())):
        towards = (splats, cameras[index - 1]) if config.planes and index else None
        with torch.inference_mode():
            frame = draw(splats, camera, towards=towards, low_pass=config.low_pass)
        write_frame(config.out / f"{index:04d}", frame, planes=config.planes)
    sys.stdout.write(f"{len(cameras)} frames written to {config.out}\n")


def claim(folder: Path, settings: Mapping[str, Any], contents: str) -> None:
    """Store the settings of a folder's files, or refuse to mix files of different settings.

    Paths are compared in full; the folder's own location does not count.

    Args:
        folder: the folder.
        settings: its settings; "out" is ignored.
        contents: a word for its files, for the message.

    Raises:
        InputError: the folder has files of other settings.
    """
    lasting = {
        name: value.resolve() if isinstance(value, Path) else value
        for name, value in settings.items()
        if name != "out"
    }
    note, text = folder / "settings.json", json.dumps(lasting, indent=1, default=str)
    if note.exists() and note.read_text() != text:
        raise InputError(
            f"{folder} has {contents} of other settings ({note}): use them again, or another folder"
        )
    note.write_text(text)


def check_seen(share: float, avatar: Splats, source: Path, fov: float) -> None:
    """Check that the cameras see the avatar; avatars come in many places and units.

    Args:
        share: the share of a frame that the avatar covers.
        avatar: the avatar, whose position gives the proposed target.
        source: its file, for the message.
        fov: vertical field of view, degrees.

    Raises:
        InputError: the avatar covers less than a fiftieth of the frame.
    """
    if share >= _LEAST_SEEN:
        return
    middle = avatar.center.median(0).values
    reach = (avatar.center - middle).norm(dim=1).quantile(0.9).item()
    distance = 1.3 * reach / math.tan(math.radians(fov) / 2)
    place = " ".join(f"{x:.3g}" for x in middle.tolist())
    raise InputError(
        f"the cameras see next to nothing of {source} ({share:.1%} of the frame): try "
        f"--target {place} --distance {distance:.3g}, and another folder"
    )


def _arc(config: RenderConfig) -> Iterator[Camera]:
    for share in np.linspace(0, 1, config.frames):
        yaw, pitch = (math.radians(a + share * (b - a)) for a, b in (config.yaw, config.pitch))
        yield Camera.orbit(
            yaw, pitch, config.distance, target=config.target, fov_y=config.fov, size=config.size
        )


def write_frame(stem: Path, frame: Render, *, planes: bool) -> None:
    """Write `stem`.png with straight alpha and, with `planes`, `stem`.npz with depth and motion."""
    straight = frame.color / frame.alpha.clamp(min=1e-6)
    pixels = torch.cat((straight, frame.alpha)).clamp(0, 1).mul(255).round()
    array = pixels.permute(1, 2, 0).numpy().astype(np.uint8)
    done, encoded = cv2.imencode(".png", cv2.cvtColor(array, cv2.COLOR_RGBA2BGRA))
    if not done:
        raise InputError(f"{stem}.png cannot be encoded: {array.shape} pixels")
    unfinished = stem.with_suffix(".part")
    unfinished.write_bytes(encoded.tobytes())
    unfinished.replace(stem.with_suffix(".png"))
    if planes:
        depth = frame.depth[0].numpy().astype(np.float16)
        if frame.motion is None:
            np.savez_compressed(stem.with_suffix(".npz"), depth=depth)
        else:
            motion = frame.motion.numpy().astype(np.float16)
            np.savez_compressed(stem.with_suffix(".npz"), depth=depth, motion=motion)
