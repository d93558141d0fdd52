"""Sequences for the temporal loss: k degraded frames, their clean truths, and their exact motion.

A still moves along a camera path of shift, scale and roll, so its motion is known exactly. Its
degradation sticks to the head like an avatar's Gaussians. Some of it flickers, as in real splats:
the order of the Gaussians, their positions and colours, their presence, and all noise. A sequence
is named by (seed, step, index) alone, like a crop (see `draw_batch`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core.errors import InputError
from splatmend.core.pixels import to_tensor
from splatmend.core.resample import blur
from splatmend.temporal.motion.warping import warp
from splatmend.training.data.camera_paths import View, look, move
from splatmend.training.data.portraits import Portrait, draw_ground, draw_relit, draw_window
from splatmend.training.degradations.recipes import (
    Recipe,
    add_noise,
    compress,
    draw_recipe,
    floaters,
    patchy,
)
from splatmend.training.degradations.resplatting import (
    Gaussians,
    SplatOptions,
    normalize,
    place,
    rasterize,
    resplat,
    thin,
)

__all__ = [
    "Flicker",
    "SequencePair",
    "degrade_splatted",
    "draw_flicker",
    "draw_sequence_batch",
    "flicker",
    "roomy_side",
    "view_flow",
]

_UNCOVERED = 0.1  # change of alpha along the motion that means occlusion or disocclusion
_ROOM = 1.35  # side of the picture over that of the frames that move across it
_LARGEST = 0.8  # zoom well below 1, because interpolation loses the finest detail


@dataclass(frozen=True)
class SequencePair:
    """One sequence of k frames."""

    degraded: Tensor  # (k, 3, h, w) in [0, 1]
    clean: Tensor  # (k, 3, h, w) in [0, 1]
    flow: Tensor  # (k - 1, 2, h, w) backward, pixels: from frame t + 1 to frame t of `clean`
    valid: Tensor  # (k - 1, 1, h, w) bool


@dataclass(frozen=True)
class Flicker:
    """The properties drawn anew for every frame of a splatted sequence; with all 0, none are."""

    jitter: float = 0.0
    """Displacement of the centres, in each Gaussian's own standard deviations."""
    order: float = 0.0
    """Spread of the log priority, which decides the occlusion between Gaussians."""
    color: float = 0.0
    """Standard deviation of each Gaussian's colour, of [0, 1]."""
    drop: float = 0.0
    """Share of the Gaussians that are missing."""
    redraw: bool = False
    """If true, every Gaussian is placed anew, which is the worst case."""


def draw_flicker(generator: torch.Generator) -> Flicker:
    """Draw from the training distribution: most sequences jitter, some only move or are redrawn."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    kind = uniform(0, 1)
    if kind < 0.1:
        return Flicker()
    if kind > 0.85:
        return Flicker(redraw=True)
    return Flicker(
        jitter=math.exp(uniform(math.log(0.03), math.log(0.5))),
        order=uniform(0, 1.2),
        color=uniform(0, 0.02),
        drop=uniform(0, 0.15),
    )


def draw_sequence_batch(
    portraits: Sequence[Portrait],
    *,
    seed: int,
    step: int,
    batch: int,
    frames: int,
    crop: int,
    first: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw (degraded, clean, flow, valid) of `batch` sequences of `frames` crops.

    Pictures are (batch, frames, 3, crop, crop) in [0, 1]. Flow is (batch, frames - 1, 2, crop,
    crop) in pixels. Validity is (batch, frames - 1, 1, crop, crop) bool. They fit
    `splatmend.temporal.loss`. Sample i is named by (seed, step, first + i).

    Raises:
        InputError: fewer than two frames, or no portraits.
    """
    if frames < 2 or not portraits:
        raise InputError(
            f"a sequence needs at least 2 frames, and portraits to draw from, got {frames} frames "
            f"and {len(portraits)} portraits"
        )
    pairs = []
    for index in range(batch):
        # one number more than a crop's name, so the same step draws other pictures
        rng = np.random.default_rng((seed, step, first + index, frames))
        portrait = portraits[int(rng.integers(len(portraits)))]
        pairs.append(_moving_portrait(portrait, rng, frames=frames, crop=crop))
    return (
        torch.stack([p.degraded for p in pairs]),
        torch.stack([p.clean for p in pairs]),
        torch.stack([p.flow for p in pairs]),
        torch.stack([p.valid for p in pairs]),
    )


def roomy_side(portrait: Portrait) -> int:
    """Compute the side of the largest frames for which a moving portrait is not enlarged."""
    return int(min(portrait.pixels.shape[:2]) * _LARGEST / _ROOM)


def view_flow(view: View, previous: View, side: int) -> Tensor:
    """Compute the backward flow between two views of one picture, (1, 2, side, side) in pixels.

    It is exact: from the frame to the picture through `view`, like `look`, and from there to the
    frame before through `previous`, like `move`.
    """
    middle = (side - 1) / 2
    line = torch.arange(side, dtype=torch.float64) - middle
    y, x = torch.meshgrid(line, line, indexing="ij")
    turn, scale = previous.roll - view.roll, previous.zoom / view.zoom
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    dx, dy = (a - b for a, b in zip(view.focus, previous.focus, strict=True))
    cos_p, sin_p = (previous.zoom * f(previous.roll) for f in (math.cos, math.sin))
    flow_x = x * cos - y * sin + dx * cos_p - dy * sin_p - x
    flow_y = x * sin + y * cos + dx * sin_p + dy * cos_p - y
    return torch.stack((flow_x, flow_y))[None].float()


def flicker(gaussians: Gaussians, options: Flicker, generator: torch.Generator) -> Gaussians:
    """Draw the properties of `options` anew, for the same Gaussians in another frame."""
    center = gaussians.center

    def normal(plane: Tensor) -> Tensor:
        return torch.randn(plane.shape, generator=generator).to(plane)

    size = gaussians.sigma.prod(-1, keepdim=True).sqrt()
    there = torch.rand(gaussians.weight.shape, generator=generator).to(center) >= options.drop
    order = torch.exp(options.order * normal(gaussians.weight))
    return replace(
        gaussians,
        center=center + options.jitter * size * normal(center),
        weight=gaussians.weight * order * there,
        color=gaussians.color + options.color * normal(gaussians.color),
    )


def degrade_splatted(
    splatted: Tensor, clean: Tensor, recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """Apply the steps of a recipe after splatting to the k frames of one sequence (k, 3, h, w).

    Floaters and patches keep their places; noise is new in every frame.
    """
    steady = int(torch.randint(2**62, (), generator=generator))

    def same(step: Callable[[Tensor, torch.Generator], Tensor], frames: Tensor) -> Tensor:
        drawn = [step(frame[None], torch.Generator().manual_seed(steady)) for frame in frames]
        return torch.cat(drawn)

    degraded = splatted
    if recipe.blur_sigma:
        degraded = blur(degraded, recipe.blur_sigma)
    if recipe.floater_count:
        degraded = same(lambda x, g: floaters(x, recipe.floater_count, g), degraded)
    if recipe.patchiness:
        mask = same(lambda x, g: patchy(x, recipe.patchiness, g), clean)
        degraded = clean + mask * (degraded - clean)
    degraded = clean + recipe.amount * (degraded - clean)
    if recipe.noise:
        degraded = add_noise(degraded, recipe.noise, generator)
    if recipe.jpeg_quality:
        degraded = compress(degraded, recipe.jpeg_quality)
    return degraded.clamp(0, 1)


def _moving_portrait(
    portrait: Portrait, rng: np.random.Generator, *, frames: int, crop: int
) -> SequencePair:
    """Move a still along a camera path, over a fixed background."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    least = _ROOM * crop / min(portrait.pixels.shape[:2])
    zoom = rng.uniform(max(0.5, least), max(_LARGEST, least))
    still = _draw_still(portrait, rng, generator, zoom=zoom, crop=crop)
    views = _path(rng, (still.picture.shape[-1] - 1) / 2, zoom, frames)
    covers, colors = (
        torch.cat([_look_smoothly(plane, view, crop) for view in views])
        for plane in (still.alpha, still.picture)
    )
    clean = colors * covers + still.ground * (1 - covers)
    flow = torch.cat([view_flow(b, a, crop) for a, b in pairwise(views)])
    flow = torch.where(covers[1:] > 0.5, flow, 0.0)
    moved, inside = warp(covers[:-1], flow)
    valid = inside & ((covers[1:] - moved).abs() < _UNCOVERED)
    recipe = draw_recipe(generator)
    splatted = clean
    if recipe.splat is not None:
        options = replace(recipe.splat, spacing=recipe.splat.spacing / zoom)
        splatted = _splat(still, options, views, clean, generator)
    degraded = degrade_splatted(splatted, clean, recipe, generator)
    return SequencePair(degraded, clean, flow, valid)


def _look_smoothly(picture: Tensor, view: View, side: int) -> Tensor:
    """Average `look` over four points a pixel, because aliasing would flicker in the truth."""
    return F.avg_pool2d(look(picture, replace(view, zoom=2 * view.zoom), 2 * side), 2)


@dataclass(frozen=True)
class _Still:
    picture: Tensor  # (1, 3, side, side)
    alpha: Tensor  # (1, 1, side, side)
    ground: Tensor  # (1, 3, crop, crop)
    cut_out: bool
    """If true, the Gaussians stand inside alpha only."""


def _draw_still(
    portrait: Portrait,
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    zoom: float,
    crop: int,
) -> _Still:
    """Draw a window of a portrait with room to move in, like the crops of `draw_batch`."""
    cut_out = portrait.foreground is not None and rng.random() < 0.45
    side = math.ceil(_ROOM * crop / zoom)
    pixels, mask = draw_window(portrait, rng, side, small=cut_out)
    picture = draw_relit(to_tensor([pixels]), rng)
    alpha = to_tensor([mask]) if cut_out else torch.ones_like(picture[:, :1])
    ground = draw_ground(rng, crop)
    if rng.random() < 0.35:  # the best frame of a real renderer is itself a fine splat
        fine = SplatOptions(spacing=rng.uniform(1.3, 2.2) / zoom, detail=rng.uniform(0.2, 0.8))
        picture, alpha = resplat(picture, fine, generator, alpha=alpha if cut_out else None)
    return _Still(picture, alpha, ground, cut_out)


def _path(rng: np.random.Generator, middle: float, zoom: float, frames: int) -> list[View]:
    """Draw steady motion with jitter; one sequence in five stands still."""
    moves = rng.random() < 0.8
    speed, tremble = moves * rng.uniform(0.1, 2.5), moves * rng.choice((0.0, 0.15))
    direction = rng.uniform(0, 2 * math.pi)
    spin, growth = moves * rng.normal(0, 0.008), moves * rng.normal(0, 0.004)
    roll = rng.normal(0, 0.1)
    views = []
    for t in range(frames):
        x, y = (
            middle + (speed * t * f(direction) + tremble * rng.normal()) / zoom
            for f in (math.cos, math.sin)
        )
        views.append(View((x, y), zoom * math.exp(growth * t), roll + spin * t))
    return views


def _splat(
    still: _Still,
    options: SplatOptions,
    views: Sequence[View],
    clean: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Render the still's flickering Gaussians through every view -> (k, 3, crop, crop)."""
    drawn = draw_flicker(generator)

    def placed() -> Gaussians:
        alpha = still.alpha if still.cut_out else None
        gaussians = place(still.picture, options, generator, alpha=alpha)
        return thin(gaussians, options.keep, generator) if options.keep < 1 else gaussians

    side = clean.shape[-1]
    gaussians, frames = placed(), []
    for index, view in enumerate(views):
        if drawn.redraw and index:
            gaussians = placed()
        shown = move(flicker(gaussians, drawn, generator), view, side)
        color, total, depth = rasterize(shown, (side, side))
        frame = normalize(color, total, clean[index : index + 1])
        if still.cut_out:
            coverage = 1 - torch.exp(-options.opacity * depth)
            frame = frame * coverage + still.ground * (1 - coverage)
        frames.append(frame)
    return torch.cat(frames)
