"""Lines over time as a picture, one panel a measure and one colour a clip.

matplotlib draws them and is optional: pip install 'splatmend[plot]'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

__all__ = ["Panel", "plot_series"]

# Okabe & Ito 2008: told apart by the colour-blind too
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_FAINT = ("#a0a0a0", "#464646")
_INK, _GRID = "#3c3c3c", "#e4e4e4"
_DPI, _WIDTH, _PANEL = 100, 960, 150  # pixels
_HEAD, _FOOT, _LEFT, _RIGHT, _TITLE = 70, 48, 64, 16, 36


@dataclass(frozen=True)
class Panel:
    """One measure of several clips."""

    title: str
    """With the unit."""
    lines: Mapping[str, Sequence[float | None]]
    """One value a frame by clip; None leaves a gap."""


def plot_series(
    panels: Sequence[Panel], *, faint: Sequence[str] = (), marks: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """Draw panels below each other over the same frames -> (h, 960, 3) RGB.

    Clips named in `faint` are drawn in greys, behind; `marks` are frames at which an upright
    line stands in every panel. The scale of a panel ends at its 99th percentile, so that one
    wrong frame does not flatten the rest: values above it are drawn at the top.
    """
    panels = panels or [Panel("", {})]
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    behind, bold = ([n for n in names if (n in faint) is grey] for grey in (True, False))
    colors = dict(zip(behind, cycle(_FAINT), strict=False))
    colors |= dict(zip(bold, cycle(_COLORS), strict=False))
    height = _HEAD + _PANEL * len(panels) - _TITLE + _FOOT
    figure = Figure((_WIDTH / _DPI, height / _DPI), dpi=_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(
        _LEFT / _WIDTH, _FOOT / height, 1 - _RIGHT / _WIDTH, 1 - _HEAD / height,
        hspace=_TITLE / (_PANEL - _TITLE),
    )  # fmt: skip
    for panel, panel_axes in zip(panels, axes, strict=True):
        _draw_panel(panel_axes, panel, colors, marks)
    frames = max((len(v) for p in panels for v in p.lines.values()), default=1)
    axes[-1].set_xlim(0, max(frames - 1, 1))
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("frame", loc="left", color=_INK)
    lines = [figure.axes[0].plot([], color=color, lw=3)[0] for color in colors.values()]
    figure.legend(
        lines, colors, loc="upper left", bbox_to_anchor=(_LEFT / _WIDTH, 1), ncols=6,
        frameon=False, borderaxespad=0.5, labelcolor=_INK,
    )  # fmt: skip
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_panel(axes: Axes, panel: Panel, colors: Mapping[str, str], marks: Sequence[int]) -> None:
    given = [v for values in panel.lines.values() for v in values if v is not None]
    low, high = (float(v) for v in np.percentile([*given, 0.0], (1, 99)))
    low, high = min(low, 0.0), max(high, 0.0)
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high if high > low else low + 1)
    axes.set_yticks(ticks)
    axes.set_ylim(ticks[0], ticks[-1])
    axes.set_title(panel.title, loc="left", size=10, color=_INK)
    axes.grid(axis="y", color=_GRID, clip_on=False)
    axes.tick_params(length=0, pad=8, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    for mark in marks:
        axes.axvline(mark, color=_INK, lw=0.8)
    for name, color in colors.items():
        values = np.array(panel.lines.get(name, ()), float).clip(ticks[0], ticks[-1])
        rim = np.pad(np.isnan(values), 1, constant_values=True)
        alone = np.flatnonzero(~rim[1:-1] & rim[:-2] & rim[2:])  # a line of one point shows nothing
        axes.plot(values, color=color, lw=1.5, marker=".", markevery=alone.tolist(), clip_on=False)
