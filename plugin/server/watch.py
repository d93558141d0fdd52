"""The screen of `splatmend serve --watch`: figures of the server and its streams."""

from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from splatmend.plugin.server.stats import Figures, StreamFigures

__all__ = ["screen", "watch"]

_DROPS = ("superseded", "stale", "busy", "shutdown")
_COLUMNS = ("mode", "size", "fps", "queue", "restore", "total", "done", "drop", "err")
_NOTE = "milliseconds at the server: median/95th percentile of the last 256 frames"


def watch(figures: Callable[[], Figures], console: Console | None = None) -> Live:
    """Repaint the screen twice a second during the context, and then restore it."""
    shown = console or Console()
    return Live(
        get_renderable=lambda: screen(figures(), rows=shown.height),
        console=shown,
        screen=True,
        refresh_per_second=2,
    )


def screen(figures: Figures, *, rows: int) -> RenderableType:
    """Lay the figures out for a terminal of `rows` rows; 80 columns show everything."""
    minutes, seconds = divmod(int(figures.uptime_s), 60)
    totals = (
        f"{figures.model}  up {minutes // 60}:{minutes % 60:02d}:{seconds:02d}  "
        f"{figures.resident_bytes / 1e6:.0f} MB  {len(figures.streams)} streams  "
        f"{figures.frames.get('result', 0)} restored  {_dropped(figures.frames)} dropped  "
        f"{figures.frames.get('error', 0)} errors"
    )
    # only names shrink to fit; the terminal cuts off the rest
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, width=80)
    table.add_column("stream", max_width=12)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "mode" else "right", no_wrap=True)
    streams = sorted(figures.streams, key=lambda s: (s.stream, s.session))
    room = max(rows - 6, 1)  # beside totals, head and note
    fits = len(streams) <= room
    for stream in streams if fits else streams[: room - 1]:
        table.add_row(*map(_line, _cells(stream)))
    parts: list[RenderableType] = [_line(totals), "", table]
    if not fits:
        parts.append(_line(f"... and {len(streams) - room + 1} more"))
    return Group(*parts, "", _line(_NOTE))


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")  # plain: no markup, no links


def _cells(stream: StreamFigures) -> list[str]:
    ages = [stream.age_ms.get(stage) for stage in ("queue", "restore", "total")]
    return [
        stream.stream or stream.client or stream.session,
        stream.mode,
        f"{stream.size[0]}x{stream.size[1]}" if stream.size else "-",
        f"{stream.fps:.1f}",
        *(f"{_short(pair[0])}/{_short(pair[1])}" if pair else "-" for pair in ages),
        str(stream.frames.get("result", 0)),
        str(_dropped(stream.frames)),
        str(stream.frames.get("error", 0)),
    ]


def _dropped(frames: dict[str, int]) -> int:
    return sum(frames.get(reason, 0) for reason in _DROPS)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:.0f}"
