"""The report of an evaluation: tables, intervals, and a picture of all results side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.errors import InputError
from splatmend.training.evaluate.metrics import METRICS

__all__ = [
    "HOW_TO_READ",
    "INPUT",
    "Change",
    "Interval",
    "Values",
    "comparison_grid",
    "interval_table",
    "markdown_table",
    "paired_bootstrap",
    "summary",
    "write_json",
    "write_picture",
    "write_text",
]

Values = dict[str, list[float]]
"""One value per picture for each measure; NaN where there is none."""

INPUT = "input"
"""Name of the row that all others are compared with."""

_RESAMPLES = 2000
_CELL = 384  # side of one picture in the grid
_TITLE = 36  # height of the line above it
HOW_TO_READ = (
    "Against the input, paired by picture: the ratio of the means where lower is better, else the "
    f"difference. In brackets 95 % of {_RESAMPLES:,} bootstrap resamples of the pictures; too "
    "narrow below some ten pictures, and for poses of one avatar, which are not independent."
)
"""The sentence below the tables."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the middle 95 % of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """The difference between a row and the input, over the `n` pictures with values for both."""

    n: int
    difference: Interval
    """Mean of ours minus the input's mean."""
    ratio: Interval | None
    """Mean of ours over the input's mean; None if the latter is not positive."""


def paired_bootstrap(
    ours: Sequence[float], reference: Sequence[float], *, seed: int = 0
) -> Change | None:
    """Bootstrap the change of the mean, with pairs drawn together.

    Pairs with a NaN are left out. The result is None if fewer than two are left. Equal seeds and
    counts draw equal pictures, so rows of one set are resampled alike.

    Source: Efron 1979 (the percentile bootstrap).
    """
    pairs = np.array([ours, reference], np.float64)
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    count = pairs.shape[1]
    if count < 2:
        return None
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    means, resampled = pairs.mean(1), pairs[:, drawn].mean(2)
    difference = _interval(means[0] - means[1], resampled[0] - resampled[1])
    if means[1] <= 0 or resampled[1].min() <= 0:
        return Change(count, difference, None)
    return Change(count, difference, _interval(means[0] / means[1], resampled[0] / resampled[1]))


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(float(value), float(low), float(high))


def summary(rows: Mapping[str, Values], *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Summarise for JSON: {row: {measure: n, mean, median, and the change against the input}}."""
    result: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        result[name] = {}
        for metric, values in row.items():
            finite = _finite(values)
            figures: dict[str, Any] = {
                "n": len(finite),
                "mean": float(finite.mean()) if len(finite) else None,
                "median": float(np.median(finite)) if len(finite) else None,
            }
            if name != INPUT:
                change = paired_bootstrap(values, rows[INPUT][metric], seed=seed)
                figures["against_input"] = None if change is None else asdict(change)
            result[name][metric] = figures
    return result


def markdown_table(rows: Mapping[str, Values]) -> str:
    """Write means (and medians) by row, with the ratio to the input's mean if lower is better.

    n is the number of pictures. A cell has its own n if some pictures have no value.
    """
    metrics = list(rows[INPUT])
    header = "| | n | " + " | ".join(f"{m} mean (median)" for m in metrics) + " |"
    lines = [header, "|---|---|" + "---|" * len(metrics)]
    for name, row in rows.items():
        cells = [_cell(name, metric, row[metric], rows[INPUT][metric]) for metric in metrics]
        pictures = max(len(values) for values in row.values())
        lines.append(f"| {name} | {pictures} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, metric: str, values: list[float], reference: list[float]) -> str:
    finite = _finite(values)
    if not len(finite):
        return "none (n 0)"
    text = f"{finite.mean():.4f} ({np.median(finite):.4f})"
    both = np.array([values, reference])
    both = both[:, np.isfinite(both).all(0)]
    if _lower_is_better(metric) and name != INPUT and both.size and both[1].mean() > 0:
        text += f" x{both[0].mean() / both[1].mean():.2f}"
    return text if len(finite) == len(values) else f"{text} (n {len(finite)})"


def interval_table(rows: Mapping[str, Values], *, seed: int = 0) -> str:
    """Write the change of every row against the input with its interval; see `HOW_TO_READ`."""
    metrics = list(rows[INPUT])
    others = {name: row for name, row in rows.items() if name != INPUT}
    if not others:
        return ""
    lines = [f"| against {INPUT} | {' | '.join(metrics)} |", "|---|" + "---|" * len(metrics)]
    for name, row in others.items():
        cells = []
        for metric in metrics:
            change = paired_bootstrap(row[metric], rows[INPUT][metric], seed=seed)
            cells.append(_change_cell(metric, change))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _change_cell(metric: str, change: Change | None) -> str:
    if change is None:
        return "too few"
    if _lower_is_better(metric) and change.ratio is not None:
        ratio = change.ratio
        return f"x{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
    difference = change.difference
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def _lower_is_better(metric: str) -> bool:
    return any(name == metric and how.lower_is_better for name, how in METRICS.items())


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.array(values, np.float64)
    return array[np.isfinite(array)]


def comparison_grid(
    titles: Sequence[str], lines: Sequence[Sequence[NDArray[np.uint8]]]
) -> NDArray[np.uint8]:
    """Draw a line of titles, then one line of pictures (h, w, 3) for each of `lines`, as RGB."""
    head = np.hstack([_title(text) for text in titles])
    return np.vstack([head, *(np.hstack([_thumbnail(p) for p in line]) for line in lines)])


def _title(text: str) -> NDArray[np.uint8]:
    """Draw a title in black on white; a long one loses its front, because paths end in the name."""
    face, size, room = cv2.FONT_HERSHEY_SIMPLEX, 0.65, _CELL - 16
    shown = text
    while cv2.getTextSize(shown, face, size, 1)[0][0] > room:
        text = text[1:]
        shown = f"...{text}"
    strip = np.full((_TITLE, _CELL, 3), 255, np.uint8)
    return np.asarray(cv2.putText(strip, shown, (8, 25), face, size, (0, 0, 0), 1, cv2.LINE_AA))


def _thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale a picture to fit its cell; the rest is white."""
    height, width = picture.shape[:2]
    scale = _CELL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    cell = np.full((_CELL, _CELL, 3), 255, np.uint8)
    top, left = (_CELL - size[1]) // 2, (_CELL - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=how)
    return cell


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write RGB (h, w, 3) as PNG."""
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    _write(path, encoded.tobytes())


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    _write(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON: numbers that are not finite become null, paths become text."""
    write_text(path, json.dumps(_strict(content), indent=1, allow_nan=False))


def _strict(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    if isinstance(content, Path):
        return str(content)
    return None if isinstance(content, float) and not np.isfinite(content) else content


def _write(path: Path, content: bytes) -> None:
    """Write a file; its final name appears only when it is complete."""
    unfinished = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): choose another --out"
        ) from error
