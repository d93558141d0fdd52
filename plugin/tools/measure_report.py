"""The measures of several clips as a table and as a plot over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splatmend.temporal.measures.clip_measures import ClipMeasures

__all__ = ["draw_plot", "markdown_table"]


@dataclass(frozen=True)
class _Row:
    """One line of the table; {guide} and {strides} are filled in."""

    title: str
    keys: tuple[str, ...]
    form: str
    """Format of each value, or of all of them where it names places."""
    factor: float = 1.0


def _rows(strides: Sequence[int]) -> tuple[_Row, ...]:
    at = "/".join(str(s) for s in strides)
    return (
        _Row("LPIPS (Alex) to the {guide}", ("lpips",), ".4f"),
        _Row("PSNR to the {guide}, dB", ("psnr",), ".2f"),
        _Row("warping error, 1e-3", ("warping_error",), ".2f", 1e3),
        _Row("... over the {guide}'s own", ("warping_error_ratio",), ".3f"),
        _Row("... less the {guide}'s, by pixel, 1e-3", ("warping_error_relative",), ".2f", 1e3),
        _Row("... its worst frame, 1e-3 (which)", ("worst", "worst_frame"), ""),
        _Row(f"tLPIPS at {at}, 1e-3", tuple(f"tlpips_{s}" for s in strides), ".2f", 1e3),
        _Row(f"tOF at {at}, px", tuple(f"tof_{s}" for s in strides), ".3f"),
        _Row("flicker where nothing moves, levels", ("flicker",), ".3f"),
        _Row("colour drift over the clip, levels", ("color_drift",), ".2f"),
        _Row("identity, distance to the {guide}", ("identity_error",), ".4f"),
        _Row("identity jitter", ("identity_jitter",), ".4f"),
        _Row("landmark jitter, px", ("landmark_jitter",), ".3f"),
        _Row("landmark motion error, px", ("landmark_error",), ".3f"),
        _Row("lag, frames (least squares)", ("lag", "delay"), ""),
        _Row("step at seams, 1 is none", ("seam",), ".2f"),
    )


def markdown_table(
    measures: Mapping[str, ClipMeasures], *, strides: Sequence[int], guide: str | None
) -> str:
    """One line a measure, one column a clip; lines that no clip has a value for are left out.

    Lower is better but for PSNR; the ratio of warping errors is best at 1: below it, blur.
    """
    lines = [f"| | {' | '.join(measures)} |", "|---|" + "---:|" * len(measures)]
    for row in _rows(strides):
        cells = [_cell(row, m.figures) for m in measures.values()]
        if any(cells):
            lines.append(f"| {row.title.format(guide=guide)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: _Row, figures: Mapping[str, float]) -> str:
    values = [figures.get(key) for key in row.keys]
    if all(v is None for v in values):
        return ""
    if row.keys[0] == "worst":
        return f"{1e3 * figures['worst']:.2f} ({figures['worst_frame']:.0f})"
    if row.keys[0] == "lag":
        return f"{figures['lag']:.0f} ({figures['delay']:+.2f})"
    return "/".join("-" if v is None else format(row.factor * v, row.form) for v in values)


def draw_plot(
    measures: Mapping[str, ClipMeasures], *, guide: str | None, seams: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """Draw the series worth looking at, over time -> (h, w, 3) RGB; input and reference in grey.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from splatmend.plugin.tools.plot import Panel, plot_series

    against = f" less the {guide}'s" if guide else ""
    panels = [
        (f"warping error{against}, 1e-3", ("warping_error_relative", "warping_error"), 1e3),
        ("tLPIPS from frame to frame, 1e-3", ("tlpips_1",), 1e3),
        ("tOF from frame to frame, px", ("tof_1",), 1.0),
        ("flicker where nothing moves, levels of 255", ("flicker",), 1.0),
        (f"colour offset to the {guide}, levels of 255", ("color_offset",), 1.0),
        ("identity jitter", ("identity_jitter",), 1.0),
        ("landmark jitter, px", ("landmark_error", "landmark_jitter"), 1.0),
    ]
    drawn = []
    for title, keys, factor in panels:
        key = next((k for k in keys if any(k in m.series for m in measures.values())), None)
        if key is not None:
            series = {name: m.series[key] for name, m in measures.items() if key in m.series}
            drawn.append(Panel(title, {n: _scaled(v, factor) for n, v in series.items()}))
    return plot_series(drawn, faint=("input", "reference"), marks=seams)


def _scaled(values: Sequence[float | None], factor: float) -> list[float | None]:
    return [None if v is None else factor * v for v in values]
