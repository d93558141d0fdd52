"""Recorded clips as sources of sequences: real people, and avatars rendered whole and damaged.

`splatmend render --planes` of a whole avatar and of a damaged one from the same cameras
makes the truest sequences there are: real damage, real flicker, exact motion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.pixels import from_tensor, to_tensor
from splatmend.temporal.motion.flow import FlowEstimator
from splatmend.temporal.motion.validity import flows_agree
from splatmend.temporal.motion.warping import warp
from splatmend.training.data.pairs import matched_names, read_pair, read_picture
from splatmend.training.data.sequences import SequencePair, record
from splatmend.training.degradations.recipes import draw_recipe
from splatmend.training.degradations.resplatting import resplat
from splatmend.training.gaussians.ply import Splats
from splatmend.training.gaussians.rasterizer import Camera, render

__all__ = ["Recording", "load_recording", "render_recording"]

_CHANGED = 0.08  # mean error of a channel at which clean frames do not show the same thing
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True, eq=False)
class Recording:
    """t frames of one clip, kept in memory."""

    name: str
    clean: NDArray[np.uint8]  # (t, h, w, 3)
    degraded: NDArray[np.uint8] | None = None  # (t, h, w, 3); without it splats are made up
    motion: NDArray[np.float16] | None = None  # (t - 1, 2, h, w) backward; else estimated
    flow: FlowEstimator | None = None

    def __post_init__(self) -> None:
        frames, height, width, _ = self.clean.shape
        motion = None if self.motion is None else self.motion.shape
        fits = motion in (None, (frames - 1, 2, height, width))
        if not fits or (self.degraded is not None and self.degraded.shape != self.clean.shape):
            raise InputError(
                f"{self.name}: planes of {frames} clean frames of {width}x{height} do not fit: "
                f"motion {motion}, degraded {getattr(self.degraded, 'shape', None)}"
            )
        if self.motion is None and self.flow is None:
            raise InputError(f"{self.name} has no motion: give it, or an estimator of flow")

    def draw(self, rng: np.random.Generator, *, frames: int, crop: int) -> SequencePair:
        """A window of `frames` frames on, the same place in all of them.

        Raises:
            InputError: the clip is shorter or smaller than that.
        """
        count, height, width, _ = self.clean.shape
        if count < frames or min(height, width) < crop:
            raise InputError(
                f"{self.name} has {count} frames of {width}x{height}: too few for {frames} "
                f"frames of {crop}x{crop}"
            )
        start = int(rng.integers(count - frames + 1))
        top, left = (int(rng.integers(n - crop + 1)) for n in (height, width))
        area = np.s_[start : start + frames, top : top + crop, left : left + crop]
        clean = to_tensor(list(self.clean[area]))
        if self.motion is not None:
            known = self.motion[start : start + frames - 1, :, area[1], area[2]]
            flow = torch.from_numpy(known.astype(np.float32))
            held = torch.ones_like(flow[:, :1], dtype=torch.bool)
        else:
            assert self.flow is not None
            flow = self.flow(clean[:-1], clean[1:])
            held = flows_agree(flow, self.flow(clean[1:], clean[:-1]))
        moved, inside = warp(clean[:-1], flow)
        # frames are clean: where they differ after warping something appeared, or blinked
        same = (clean[1:] - moved).abs().mean(1, keepdim=True) < _CHANGED
        if self.degraded is not None:
            degraded = to_tensor(list(self.degraded[area]))
        else:
            degraded = _splatted(clean, torch.Generator().manual_seed(int(rng.integers(2**62))))
        return SequencePair(degraded, clean, flow, held & inside & same)


def _splatted(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Splats made up frame by frame: half of the time they swim along, else they boil."""
    recipe = draw_recipe(generator)
    splatted = clean
    if recipe.splat is not None:
        steady = int(torch.randint(2**62, (), generator=generator))
        boils = bool(torch.rand((), generator=generator) < 0.5)
        drawn = []
        for frame in clean:
            # places are drawn along the cumulative density: the same draws move with the picture
            own = generator if boils else torch.Generator().manual_seed(steady)
            drawn.append(resplat(frame[None], recipe.splat, own)[0])
        splatted = torch.cat(drawn)
    return record(splatted, clean, recipe, generator)


def load_recording(
    source: Path,
    *,
    degraded: Path | None = None,
    flow: FlowEstimator | None = None,
    limit: int = 240,
) -> Recording:
    """Read at most `limit` frames of a video, or of a folder of pictures.

    With `degraded`, a folder with pictures of the same names, the damage is real. Where
    `splatmend render --planes` left its .npz files in `source` the motion is exact.

    Raises:
        InputError: nothing there that can be read, or frames of several sizes.
    """
    if source.is_dir() and degraded is not None:
        names = matched_names(degraded, source)[:limit]
        ours, clean = zip(*(read_pair(degraded / n, source / n) for n in names), strict=True)
        return Recording(source.name, _stack(clean), _stack(ours), _motion(source, names), flow)
    if degraded is not None:
        raise InputError(f"damaged frames go with a folder of pictures, and {source} is none")
    if source.is_dir():
        names = sorted(p.name for p in source.iterdir() if p.suffix.lower() in _PICTURES)[:limit]
        pictures = [read_picture(source / name) for name in names]
        return Recording(source.name, _stack(pictures), None, _motion(source, names), flow)
    try:
        with av.open(str(source)) as container:
            decoded = islice(container.decode(video=0), limit)
            pictures = [np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in decoded]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise InputError(f"{source} is neither a folder nor a video: {error}") from error
    return Recording(source.name, _stack(pictures), flow=flow)


def _stack(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    shapes = {p.shape for p in pictures}
    if len(shapes) != 1:
        raise InputError(f"a recording needs frames of one size, got {sorted(shapes)}")
    return np.stack(pictures)


def _motion(folder: Path, names: Sequence[str]) -> NDArray[np.float16] | None:
    """The planes "motion" beside all pictures but the first, if they are there."""
    files = [(folder / name).with_suffix(".npz") for name in names[1:]]
    if not all(file.exists() for file in files):
        return None
    planes = []
    for file in files:
        with np.load(file) as stored:
            planes.append(stored["motion"])
    return np.stack(planes).astype(np.float16)


def render_recording(
    whole: Splats, damaged: Splats, cameras: Sequence[Camera], *, ground: float = 1.0
) -> Recording:
    """An avatar along a path of cameras, whole and damaged, over a grey ground.

    The reference rasteriser takes about a second a frame: render before training, not in it.
    """
    clean, degraded, motion = [], [], []
    for before, camera in zip([None, *cameras], cameras, strict=False):
        towards = (whole, before) if before is not None else None
        with torch.inference_mode():
            frame, thin = render(whole, camera, towards=towards), render(damaged, camera)
        clean.append(from_tensor(frame.over(ground)[None], np.uint8)[0])
        degraded.append(from_tensor(thin.over(ground)[None], np.uint8)[0])
        if frame.motion is not None:
            motion.append(frame.motion.numpy().astype(np.float16))
    return Recording("avatar", np.stack(clean), np.stack(degraded), np.stack(motion))
