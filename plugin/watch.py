"""One screen that shows how the server is doing: `splatmend serve --watch`."""

import shutil
import sys
import threading
from collections.abc import Callable
from typing import Self, TextIO

from splatmend.plugin.stats import Figures, StreamFigures

__all__ = ["Watch", "screen"]

_PERIOD_S = 0.5
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the terminal's other page
_DROPS = ("superseded", "stale", "busy", "shutdown")
_HEAD = (
    f"{'stream':<13}{'mode':<8}{'size':>9}{'fps':>6}{'queue':>9}{'restore':>9}{'total':>9}"
    f"{'done':>8}{'drop':>5}{'err':>4}"
)
_NOTE = "milliseconds at the server: median/95th percentile of the last 256 frames"


def screen(figures: Figures, *, columns: int, rows: int) -> str:
    """The figures as lines that fit a terminal of that size; 80 columns show everything."""
    minutes, seconds = divmod(int(figures.uptime_s), 60)
    dropped = sum(figures.frames.get(reason, 0) for reason in _DROPS)
    totals = (
        f"{figures.model}  up {minutes // 60}:{minutes % 60:02d}:{seconds:02d}  "
        f"{figures.resident_bytes / 1e6:.0f} MB  {len(figures.streams)} streams  "
        f"{figures.frames.get('result', 0)} restored  {dropped} dropped  "
        f"{figures.frames.get('error', 0)} errors"
    )
    lines = [
        totals,
        "",
        _HEAD,
        *(_row(stream) for stream in sorted(figures.streams, key=lambda s: (s.stream, s.session))),
    ]
    room = max(rows - 3, 4)
    if len(lines) > room:
        lines[room - 1 :] = [f"... and {len(lines) - room + 1} more"]
    lines += ["", _NOTE]
    return "\n".join(line[:columns] for line in lines)


def _row(stream: StreamFigures) -> str:
    size = f"{stream.size[0]}x{stream.size[1]}" if stream.size else "-"
    ages = [stream.age_ms.get(stage) for stage in ("queue", "restore", "total")]
    cells = "".join(f"{f'{_short(a[0])}/{_short(a[1])}' if a else '-':>9}" for a in ages)
    dropped = sum(stream.frames.get(reason, 0) for reason in _DROPS)
    name = stream.stream or stream.client or stream.session
    return (
        f"{name[:12]:<13}{stream.mode:<8}{size:>9}{stream.fps:>6.1f}{cells}"
        f"{stream.frames.get('result', 0):>8}{dropped:>5}{stream.frames.get('error', 0):>4}"
    )


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:.0f}"


class Watch:
    """Repaints the screen twice a second, from a thread, until `stop`."""

    def __init__(self, figures: Callable[[], Figures], out: TextIO = sys.stdout) -> None:
        self._figures = figures
        self._out = out
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="smp-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give the terminal back."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        self._out.write(_ENTER)
        while True:
            size = shutil.get_terminal_size()
            text = screen(self._figures(), columns=size.columns, rows=size.lines)
            # line by line over the old picture: clearing it all at once would flicker
            self._out.write(_HOME + text.replace("\n", f"{_CLEAR_LINE}\n") + _CLEAR_BELOW)
            self._out.flush()
            if self._stopping.wait(_PERIOD_S):
                break
        self._out.write(_LEAVE)
        self._out.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
