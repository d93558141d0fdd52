"""Measures of a clip over time, computed frame by frame.

Warping error alone rewards blur. So it is reported with LPIPS, and relative to that of a guide.
The guide is the reference if there is one, else the degraded input. All clips of one run share
the guide's motion. The longest stride bounds the memory for clips of any length.

tLPIPS and tOF are those of Chu et al. 2020, "Learning Temporal Coherence via Self-Supervision
for GAN-based Video Generation" (TecoGAN), with DIS flow by default in place of Farneback's.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.core import InputError, from_tensor
from splatmend.core.perceptual.lpips import Perceptual
from splatmend.temporal.measures.accumulators import DriftMeter, LagMeter, seam_step
from splatmend.temporal.measures.face_jitter import FaceReader, JitterMeter
from splatmend.temporal.motion.flow import FlowEstimator
from splatmend.temporal.motion.validity import flows_agree
from splatmend.temporal.motion.warping import warp

__all__ = ["ClipMeasures", "MeasureOptions", "TemporalMeasures"]

_STILL = 2 / 255  # mean change of a neighbourhood below which nothing moved there
_UNCOVERED = 0.1  # mean change of a channel along exact motion at an occlusion
_LEAST_SHARE = 0.01  # least share of valid pixels in a frame


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options of the measures.

    Raises:
        InputError: a stride or a reach below 1.
    """

    strides: tuple[int, ...] = (1, 2, 5, 10)
    """Frames between the pictures that tLPIPS and tOF compare."""
    lag_reach: int = 5
    """Frames by which a clip may be early or late."""
    seams: tuple[int, ...] = ()
    """First frames, counted from 0, of new segments after a run was resumed."""

    def __post_init__(self) -> None:
        if min((*self.strides, self.lag_reach)) < 1:
            raise InputError(
                f"strides and lag_reach must be at least 1, got {self.strides} and {self.lag_reach}"
            )


@dataclass(frozen=True)
class ClipMeasures:
    """All measures of one clip.

    Pixel values are in [0, 1], flow and landmarks in pixels, and flicker, drift and offset of
    colour in levels of 255. A measure without its input is missing.
    """

    figures: Mapping[str, float]
    """One number a clip: means of the series, and measures of the whole clip."""
    series: Mapping[str, Sequence[float | None]]
    """One value a frame; None where a frame has none."""


@dataclass(frozen=True)
class _Seen:
    """One frame of one clip."""

    picture: Tensor  # (1, 3, h, w)
    features: list[Tensor]


@dataclass(frozen=True)
class _Step:
    """The guide's step from the last frame to this one."""

    flow: Tensor  # (1, 2, h, w)
    estimated: bool
    valid: Tensor  # (1, 1, h, w) bool
    difference: Tensor  # (1, 3, h, w) its own y_t - warp(y_{t-1})
    still: Tensor  # (1, 1, h, w) bool: where nothing moved


@dataclass
class _Clip:
    """The memory of one clip."""

    past: deque[_Seen]
    lag: LagMeter
    drift: DriftMeter = field(default_factory=DriftMeter)
    flicker: tuple[float, int] = (0.0, 0)
    series: dict[str, list[float | None]] = field(default_factory=dict)


class TemporalMeasures:
    """Measures several clips at once, one frame of each at a time.

    Args:
        names: The clips.
        guide: The clip whose motion is used for all, and with which the others are compared.
            With None each clip uses its own motion.
        truth: Whether the guide is the ground truth of the others.
        options: Options of the measures.
        flow: Estimator of motion.
        perceptual: Distance for LPIPS and tLPIPS; without it they are left out.
        faces: Reader of identity and landmarks; without it they are left out.

    Raises:
        InputError: a guide that is not one of the clips.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        flow: FlowEstimator,
        guide: str | None = None,
        truth: bool = False,
        options: MeasureOptions | None = None,
        perceptual: Perceptual | None = None,
        faces: FaceReader | None = None,
    ) -> None:
        if not names or (guide is not None and guide not in names):
            raise InputError(f"the guide must be one of {', '.join(names)}, got {guide!r}")
        self._options = options or MeasureOptions()
        self._flow, self._perceptual = flow, perceptual
        self._guide, self._truth = guide, truth and guide is not None
        self._jitter = JitterMeter(faces) if faces else None
        length = max(self._options.strides) + 1
        self._clips = {
            name: _Clip(deque(maxlen=length), LagMeter(self._options.lag_reach)) for name in names
        }
        self._frames = 0

    def add(self, pictures: Mapping[str, Tensor], *, flow: Tensor | None = None) -> None:
        """Measure the next frame of every clip, each (3, h, w) in [0, 1].

        `flow` (2, h, w) is the guide's exact backward motion in pixels, not finite where it is
        unknown. Without it the motion is estimated.

        Raises:
            InputError: other clips than named, or of several sizes.
        """
        sizes = {tuple(p.shape) for p in pictures.values()}
        if pictures.keys() != self._clips.keys() or len(sizes) != 1:
            raise InputError(
                f"frame {self._frames} must have {', '.join(self._clips)}, all (3, h, w) of one "
                f"size, got " + ", ".join(f"{n} {tuple(p.shape)}" for n, p in pictures.items())
            )
        with torch.inference_mode():
            for name, picture in pictures.items():
                seen = picture.detach().float()[None]
                # half precision: features of as many frames as the longest stride fill the memory
                features = self._perceptual.features(seen) if self._perceptual else []
                self._clips[name].past.append(_Seen(seen, [level.half() for level in features]))
            rows = self._measure(flow)
        for name, row in rows.items():
            series = self._clips[name].series
            for measure in row.keys() - series.keys():
                series[measure] = [None] * self._frames
            for measure, values in series.items():
                values.append(row.get(measure))
        self._frames += 1

    def result(self) -> dict[str, ClipMeasures]:
        """Return the measures of every clip so far."""
        whole = {name: self._figures(clip) for name, clip in self._clips.items()}
        if self._guide is not None:
            own = whole[self._guide].get("warping_error")
            for name, figures in whole.items():
                if own and name != self._guide and "warping_error" in figures:
                    figures["warping_error_ratio"] = figures["warping_error"] / own
        return {n: ClipMeasures(whole[n], dict(clip.series)) for n, clip in self._clips.items()}

    def _measure(self, flow: Tensor | None) -> dict[str, dict[str, float]]:
        guide = self._clips[self._guide].past if self._guide is not None else None
        step = self._step(guide, flow) if guide else None
        true_changes = self._changes(guide, step) if guide else {}
        rows = {}
        for name, clip in self._clips.items():
            row: dict[str, float] = {}
            own = step if guide else self._step(clip.past, None)
            judged = guide is not None and name != self._guide
            if own is not None:
                row |= _warping(clip, own, relative=judged)
                row |= _flicker(clip, own) if guide else {}
            if guide is not None and judged:
                row |= self._compare(clip, guide)
                changes = self._changes(clip.past, None)
                row |= {key: _distance(mine, true_changes[key]) for key, mine in changes.items()}
            rows[name] = row
        if self._jitter is not None:
            self._add_faces(rows)
        return rows

    def _step(self, past: deque[_Seen], known: Tensor | None) -> _Step | None:
        if len(past) < 2:
            return None
        before, now = past[-2].picture, past[-1].picture
        if known is None:
            flow = self._flow(before, now)
            moved, inside = warp(before, flow)
            valid = inside & flows_agree(flow, self._flow(now, before))
        else:
            flow = known.to(before)[None]
            moved, inside = warp(before, flow)
            # exact motion does not mark occlusions
            valid = inside & ((now - moved).abs().mean(1, keepdim=True) < _UNCOVERED)
        change = F.avg_pool2d((now - before).abs(), 7, 1, 3, count_include_pad=False)
        still = change.amax(1, keepdim=True) < _STILL
        return _Step(flow, known is None, valid, now - moved, still)

    def _changes(self, past: deque[_Seen], step: _Step | None) -> dict[str, Tensor]:
        """Compute LPIPS and flow between this frame and that of each stride before."""
        changes = {}
        for stride in self._options.strides:
            if len(past) > stride:
                before, now = past[-1 - stride], past[-1]
                # tOF compares two estimates, so that their common errors cancel
                reuse = step is not None and step.estimated and stride == 1
                flow = step.flow if step and reuse else self._flow(before.picture, now.picture)
                changes[f"tof_{stride}"] = flow
                if self._perceptual is not None:
                    changes[f"tlpips_{stride}"] = self._lpips(before, now)
        return changes

    def _lpips(self, a: _Seen, b: _Seen) -> Tensor:
        assert self._perceptual is not None
        pair = ([level.float() for level in seen.features] for seen in (a, b))
        return self._perceptual.distance(*pair)

    def _compare(self, clip: _Clip, guide: deque[_Seen]) -> dict[str, float]:
        """Compare this frame with the guide's."""
        ours, other = clip.past[-1].picture[0], guide[-1].picture[0]
        clip.lag.add(ours, other)
        values = {"color_offset": clip.drift.add(ours, other)}
        if self._truth:
            error = (ours - other).square().mean().clamp(min=1e-6)
            values["psnr"] = -10 * error.log10().item()
            if self._perceptual is not None:
                values["lpips"] = self._lpips(clip.past[-1], guide[-1]).item()
        return values

    def _add_faces(self, rows: dict[str, dict[str, float]]) -> None:
        assert self._jitter is not None
        names = list(self._clips)
        shown = torch.cat([self._clips[name].past[-1].picture for name in names])
        pictures = dict(zip(names, from_tensor(shown, "uint8"), strict=True))
        found = self._jitter.add(pictures, self._guide or names[0], judge=self._truth)
        for name, values in found.items():
            if name == self._guide:
                values = {k: v for k, v in values.items() if k.endswith("jitter")}
            rows[name] |= values

    def _figures(self, clip: _Clip) -> dict[str, float]:
        figures = {}
        for measure, values in clip.series.items():
            given = [v for v in values if v is not None]
            if given and measure not in ("color_offset", "flicker"):
                figures[measure] = fmean(given)
        total, count = clip.flicker
        if count:
            figures["flicker"] = 255 * (total / (2 * count)) ** 0.5
        key = "warping_error" if self._guide is None else "warping_error_relative"
        errors = clip.series.get(key, [])
        given = [v for v in errors if v is not None]
        if given:
            figures["worst"] = max(given)
            figures["worst_frame"] = errors.index(max(given))
        if self._options.seams and given:
            figures["seam"] = seam_step(errors, self._options.seams)
        slow = {
            "color_drift": clip.drift.over_clip,
            "lag": clip.lag.offset,
            "delay": clip.lag.delay,
        }
        return figures | {k: v for k, v in slow.items() if v is not None}


def _warping(clip: _Clip, step: _Step, *, relative: bool) -> dict[str, float]:
    """Compute the warping error where the motion is valid."""
    if step.valid.float().mean() < _LEAST_SHARE:
        return {}
    now = clip.past[-1].picture
    moved, _ = warp(clip.past[-2].picture, step.flow)
    difference = now - moved
    at = step.valid.expand_as(difference)
    values = {"warping_error": difference.abs()[at].mean().item()}
    if relative:
        error = (difference - step.difference).abs()
        values["warping_error_relative"] = error[at].mean().item()
    return values


def _flicker(clip: _Clip, step: _Step) -> dict[str, float]:
    """Compute the standard deviation over time where nothing moves.

    It uses neighbouring frames only, so that slow changes do not count (Allan's deviation).
    """
    if step.still.float().mean() < _LEAST_SHARE:
        return {}
    square = (clip.past[-1].picture - clip.past[-2].picture).square()
    change = square[step.still.expand_as(square)].double()
    total, count = clip.flicker
    clip.flicker = (total + change.sum().item(), count + change.numel())
    return {"flicker": 255 * (change.mean().item() / 2) ** 0.5}


def _distance(ours: Tensor, other: Tensor) -> float:
    """Return the mean length of a difference of flows, or the absolute one of distances."""
    difference = (ours - other).float()
    return (difference.norm(dim=1) if difference.ndim == 4 else difference.abs()).mean().item()
