"""Clips for the benchmarks of time, fixed by seeds: damaged frames, their truth, their motion.

Portraits become 2-D Gaussians that move along the demo's path. They stick to the head, or tremble:
positions, order, colours and presence change in each frame. Onto the trembling clip come the events
that mislead a memory. A thinned avatar turns by 0.6 degrees a frame. A talking head is splatted
anew in each frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from reference_setup import Picture, read_picture, read_talking_head, resplatted

from splatmend.core import Frame, from_tensor, to_tensor
from splatmend.training import CameraPath, SplatOptions
from splatmend.training.data.camera_paths import View, look, move
from splatmend.training.data.sequences import Flicker, flicker, view_flow
from splatmend.training.degradations.resplatting import Gaussians, normalize, place, rasterize
from splatmend.training.gaussians.ply import read_ply
from splatmend.training.gaussians.rasterizer import Camera, render

SIDE, LOOP = 512, 48
DAMAGE = SplatOptions(spacing=2.6, detail=1.1, spread=0.65, hardness=0.6, anisotropy=0.4)
STICKS = Flicker()
TREMBLES = Flicker(jitter=0.12, order=0.6, color=0.01, drop=0.07)
EVENT = 12
"""The frame at which a cut, a flash, a blink or a hand begins."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A damaged clip and its truth."""

    frames: list[Frame]
    """With exact motion where it is known."""
    truth: list[Picture]


@dataclass(frozen=True, eq=False)
class _Moving:
    """A portrait and its Gaussians along a path."""

    whole: torch.Tensor
    gaussians: Gaussians
    views: list[View]

    def render(self, trembling: Flicker) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (degraded, clean), each (1, 3, SIDE, SIDE), for every view."""
        generator = torch.Generator().manual_seed(0)
        for view in self.views:
            shown = move(flicker(self.gaussians, trembling, generator), view, SIDE)
            color, total, _ = rasterize(shown, (SIDE, SIDE))
            clean = look(self.whole, view, SIDE)
            yield normalize(color, total, clean).clamp(0, 1), clean


def _moving(picture: Picture, views: list[View]) -> _Moving:
    whole = to_tensor([picture])
    return _Moving(whole, place(whole, DAMAGE, torch.Generator().manual_seed(0)), views)


def portrait_clip(
    picture: Picture, path: CameraPath, trembling: Flicker, count: int, *, still: bool = False
) -> Clip:
    """Render a moving portrait, or with `still` one at rest, with its exact motion."""
    views = [path.at(0 if still else i / LOOP, SIDE) for i in range(count)]
    rendered = list(_moving(picture, views).render(trembling))
    steps = [torch.zeros(1, 2, SIDE, SIDE), *(view_flow(b, a, SIDE) for a, b in pairwise(views))]
    frames = [
        Frame(color=_bytes(degraded), motion=step[0].permute(1, 2, 0).numpy(), pts=index)
        for index, ((degraded, _), step) in enumerate(zip(rendered, steps, strict=True))
    ]
    return Clip(frames, [_bytes(clean) for _, clean in rendered])


def without_motion(clip: Clip) -> Clip:
    """Leave the motion out, so that it is estimated."""
    return replace(clip, frames=[replace(f, motion=None) for f in clip.frames])


def fading(clip: Clip) -> Clip:
    """Fade out to an eighth in the first half of a clip, and in again in the second."""
    half = len(clip.frames) / 2
    shares = [1 - 0.875 * (1 - abs(i - half) / half) for i in range(len(clip.frames))]
    return _mapped(clip, lambda picture, index: _dimmed(picture, shares[index]))


def shading(clip: Clip) -> Clip:
    """Move the edge of a soft shadow across a clip."""
    y, x = np.mgrid[:SIDE, :SIDE]

    def shaded(picture: Picture, index: int) -> Picture:
        across = (x + 0.4 * y + 60 - 22 * index) / 40
        return _dimmed(picture, (1 - 0.45 / (1 + np.exp(-across)))[..., None])

    return _mapped(clip, shaded)


def flashing(clip: Clip) -> Clip:
    """Light two frames of a clip half as much again."""
    lit = range(EVENT, EVENT + 2)
    return _mapped(clip, lambda p, index: _dimmed(p, 1.5 if index in lit else 1))


def cutting(clip: Clip, other: Clip) -> Clip:
    """Cut from a clip to another one."""
    at = min(EVENT, len(clip.frames))
    frames = clip.frames[:at] + other.frames[at:]
    return Clip(frames, clip.truth[:at] + other.truth[at:])


def blinking(picture: Picture, path: CameraPath, eyes: list[tuple[int, int]], count: int) -> Clip:
    """Close the eyes at x, y of a trembling portrait for four frames; without motion."""
    lids, mask = picture.copy(), np.zeros(picture.shape[:2], np.float32)
    for x, y in eyes:
        cv2.ellipse(mask, (x, y), (34, 17), 0, 0, 360, 1.0, -1)
    skin = cv2.inpaint(lids, (mask > 0).astype(np.uint8), 9, cv2.INPAINT_TELEA)
    for x, y in eyes:
        cv2.ellipse(skin, (x, y + 2), (26, 9), 0, 15, 165, (70, 45, 40), 2, cv2.LINE_AA)
    lids = np.ascontiguousarray(skin, np.uint8)
    soft = torch.from_numpy(cv2.GaussianBlur(mask, (0, 0), 3))[None, None]
    views = [path.at(i / LOOP, SIDE) for i in range(count)]
    rendered = [list(_moving(p, views).render(TREMBLES)) for p in (picture, lids)]
    frames, truth = [], []
    for index, (view, opened, closed) in enumerate(zip(views, *rendered, strict=True)):
        share = {0: 0.5, 1: 1.0, 2: 1.0, 3: 0.5}.get(index - EVENT, 0.0)
        there = look(soft, view, SIDE) * share
        shown = [_bytes(a + there * (b - a)) for a, b in zip(opened, closed, strict=True)]
        frames.append(Frame(color=shown[0], pts=index))
        truth.append(shown[1])
    return Clip(frames, truth)


def covering(clip: Clip, skin: Picture) -> Clip:
    """Move a hand of a portrait's skin across the clip; without motion."""
    texture = cv2.resize(skin[300:400, 200:320], (340, 300), interpolation=cv2.INTER_CUBIC)
    hand = np.zeros((SIDE, SIDE, 3), np.uint8)
    shape = np.zeros((SIDE, SIDE), np.float32)
    hand[150:450, 60:400] = texture
    cv2.ellipse(shape, (200, 330), (70, 80), 0, 0, 360, 1.0, -1)
    for finger in range(4):
        cv2.line(shape, (150 + 33 * finger, 300), (130 + 45 * finger, 180), 1.0, 26, cv2.LINE_AA)
    damaged = resplatted(hand, 0, 0)
    frames, truth = [], []
    for index, (frame, clean) in enumerate(zip(clip.frames, clip.truth, strict=True)):
        shift = np.float64([[1, 0, 40 * (index - 9) - 100], [0, 1, 3 * index - 60]])
        over = cv2.warpAffine(shape, shift, (SIDE, SIDE))[..., None]
        pair = []
        for below, above in ((frame.color, damaged), (clean, hand)):
            moved = cv2.warpAffine(above, shift, (SIDE, SIDE), flags=cv2.INTER_CUBIC)
            pair.append(np.rint(below + over * (moved.astype(np.float32) - below)).astype(np.uint8))
        frames.append(replace(frame, color=pair[0], motion=None))
        truth.append(pair[1])
    return Clip(frames, truth)


def turning_avatar(avatar: Path, thinned: Path, count: int) -> Clip:
    """Turn a thinned avatar by 0.6 degrees a frame, with its exact motion."""
    whole, thin = read_ply(avatar), read_ply(thinned)
    yaws = np.radians(-8 + 0.6 * np.arange(count))
    cameras = [Camera.orbit(y, 0, 0.8, fov_y=30, size=(SIDE, SIDE)) for y in yaws.tolist()]
    frames, truth = [], []
    with torch.inference_mode():
        for index, camera in enumerate(cameras):
            shown = render(thin, camera, towards=(thin, cameras[max(index - 1, 0)]))
            motion = shown.motion.permute(1, 2, 0).numpy().copy()
            frames.append(Frame(color=_bytes(shown.over()[None].clamp(0, 1)), motion=motion))
            truth.append(_bytes(render(whole, camera).over()[None].clamp(0, 1)))
    return Clip([replace(f, pts=i) for i, f in enumerate(frames)], truth)


def talking_head(data: Path, first: int, count: int) -> Clip:
    """Splat frames of a talking head, each by itself; without motion."""
    truth = read_talking_head(data)[first : first + count]
    frames = [Frame(color=resplatted(p, i, 0), pts=i) for i, p in enumerate(truth)]
    return Clip(frames, truth)


def _mapped(clip: Clip, change: Callable[[Picture, int], Picture]) -> Clip:
    frames = [replace(f, color=change(f.color, i)) for i, f in enumerate(clip.frames)]
    return Clip(frames, [change(p, i) for i, p in enumerate(clip.truth)])


def _dimmed(picture: Picture, share: float | NDArray[np.float64]) -> Picture:
    return np.rint(np.minimum(picture * share, 255)).astype(np.uint8)


def _bytes(picture: torch.Tensor) -> NDArray[np.uint8]:
    return from_tensor(picture, np.uint8)[0]


def portrait(path: Path) -> tuple[Picture, CameraPath]:
    """Read a portrait of 512 x 512 with the face in the middle, and its path."""
    return read_picture(path), CameraPath((256, 256), zoom=1.1)
