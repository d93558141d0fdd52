"""Lines over time as a picture, drawn with OpenCV: one panel a measure, one colour a clip."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Panel", "plot_series"]

_Color = tuple[int, int, int]
# Okabe & Ito 2008: told apart by the colour-blind too (RGB)
_COLORS: tuple[_Color, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233),
)  # fmt: skip
_FAINT: tuple[_Color, ...] = ((160, 160, 160), (70, 70, 70))
_INK, _GRID, _PAPER = (60, 60, 60), (228, 228, 228), (255, 255, 255)
_FINE = 3  # everything is drawn this much larger and then averaged: OpenCV's text is coarse
_WIDTH, _PANEL, _HEAD, _FOOT = 960, 150, 44, 26
_LEFT, _RIGHT, _ABOVE, _BELOW = 64, 16, 26, 10
_Canvas = NDArray[np.uint8]


@dataclass(frozen=True)
class Panel:
    """One measure of several clips."""

    title: str
    """Plain ASCII, with the unit: OpenCV's fonts know nothing else."""
    lines: Mapping[str, Sequence[float | None]]
    """One value a frame by clip; None leaves a gap."""


def plot_series(
    panels: Sequence[Panel], *, faint: Sequence[str] = (), marks: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """Draw panels below each other over the same frames -> (h, 960, 3) RGB.

    Clips named in `faint` are drawn in greys, behind; `marks` are frames at which an upright
    line stands in every panel. The scale of a panel ends at its 99th percentile, so that one
    wrong frame does not flatten the rest: what is above is cut off at the top.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    behind, bold = ([n for n in names if (n in faint) is grey] for grey in (True, False))
    colors = {name: _FAINT[i % len(_FAINT)] for i, name in enumerate(behind)}
    colors |= {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(bold)}
    height = _HEAD + _PANEL * len(panels) + _FOOT
    canvas = np.full((height * _FINE, _WIDTH * _FINE, 3), _PAPER, np.uint8)
    _legend(canvas, colors)
    frames = max((len(v) for p in panels for v in p.lines.values()), default=1)
    for index, panel in enumerate(panels):
        _draw_panel(canvas, panel, _HEAD + index * _PANEL, frames, colors, marks)
    for frame in _ticks(0, max(frames - 1, 1), 10):
        if frame < frames:
            _text(canvas, f"{frame:g}", (_x(frame, frames), height - 8), 0.4, align=0.5)
    _text(canvas, "frame", (6, height - 8), 0.4)
    return np.asarray(cv2.resize(canvas, (_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)


def _draw_panel(
    canvas: _Canvas,
    panel: Panel,
    top: int,
    frames: int,
    colors: Mapping[str, _Color],
    marks: Sequence[int],
) -> None:
    given = [v for values in panel.lines.values() for v in values if v is not None]
    if not given:
        return
    low, high = (float(v) for v in np.percentile([*given, 0.0], (1, 99)))
    low, high = min(low, 0.0), max(high, 0.0)
    ticks = _ticks(low, high if high > low else low + 1, 4)
    low, high = ticks[0], ticks[-1]

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return top + _PANEL - _BELOW - share * (_PANEL - _ABOVE - _BELOW)

    _text(canvas, panel.title, (_LEFT, top + 16), 0.45)
    for tick in ticks:
        _line(canvas, [(_LEFT, y(tick)), (_WIDTH - _RIGHT, y(tick))], _GRID, 1)
        _text(canvas, f"{tick:.4g}", (_LEFT - 8, y(tick) + 4), 0.4, align=1)
    for mark in marks:
        _line(canvas, [(_x(mark, frames), y(low)), (_x(mark, frames), y(high))], _INK, 0.7)
    for name, color in colors.items():
        run: list[tuple[float, float]] = []
        for frame, value in enumerate([*panel.lines.get(name, ()), None]):
            if value is not None:
                run.append((_x(frame, frames), y(value)))
            else:
                _line(canvas, run, color, 1.3)
                run = []


def _legend(canvas: _Canvas, colors: Mapping[str, _Color]) -> None:
    x = float(_LEFT)
    for name, color in colors.items():
        shown = name.encode("ascii", "replace").decode()
        _line(canvas, [(x, 22), (x + 22, 22)], color, 3)
        x += 28 + _text(canvas, shown, (x + 28, 26), 0.45) + 24


def _x(frame: float, frames: int) -> float:
    return _LEFT + frame / max(frames - 1, 1) * (_WIDTH - _LEFT - _RIGHT)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers around [low, high], about `count` steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _line(
    canvas: _Canvas, points: Sequence[tuple[float, float]], color: _Color, width: float
) -> None:
    scaled = np.rint(np.array(points).reshape(-1, 1, 2) * _FINE).astype(np.int32)
    thick = max(1, round(width * _FINE))
    if len(points) == 1:
        cv2.circle(canvas, scaled[0, 0].tolist(), thick, color, -1, cv2.LINE_AA)
    elif points:
        cv2.polylines(canvas, [scaled], False, color, thick, cv2.LINE_AA)


def _text(
    canvas: _Canvas, text: str, at: tuple[float, float], scale: float, *, align: float = 0
) -> float:
    """Write, `align` of its width left of `at`; returns the width."""
    font, size, weight = cv2.FONT_HERSHEY_SIMPLEX, scale * _FINE, 2
    (width, _), _ = cv2.getTextSize(text, font, size, weight)
    place = (round(at[0] * _FINE - align * width), round(at[1] * _FINE))
    cv2.putText(canvas, text, place, font, size, _INK, weight, cv2.LINE_AA)
    return float(width / _FINE)
