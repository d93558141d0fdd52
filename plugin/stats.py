"""Figures of the server: counted as frames are answered, read by all who ask.

`Figures` is what the stats message carries, what the Prometheus endpoint prints and what
`splatmend serve --watch` shows.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any, Self

from splatmend.core.errors import InputError

__all__ = [
    "OUTCOMES",
    "STAGES",
    "Figures",
    "Meter",
    "MetricsEndpoint",
    "StreamFigures",
    "prometheus_text",
    "resident_bytes",
]

STAGES = ("queue", "prepare", "restore", "answer", "total")
"""Waiting, planes to frame, the restorer, frame to planes, and all together."""
OUTCOMES = ("result", "bypass", "superseded", "stale", "busy", "shutdown", "error")
_KEPT = 256  # frames that the quantiles are taken over
_FPS_WINDOW = 2.0  # seconds


@dataclass(frozen=True)
class StreamFigures:
    """Of one session."""

    session: str
    stream: str
    client: str
    mode: str
    size: tuple[int, int] | None
    """Width and height of the last frame."""
    fps: float
    """Frames restored in a second, lately."""
    frames: dict[str, int]
    """By outcome."""
    age_ms: dict[str, tuple[float, float]]
    """By stage: median and 95th percentile, of the last 256 restored frames."""


@dataclass(frozen=True)
class Figures:
    """Of the whole server."""

    model: str
    uptime_s: float
    resident_bytes: int
    frames: dict[str, int]
    """By outcome, of all sessions that ever were."""
    streams: tuple[StreamFigures, ...]

    def values(self) -> dict[str, Any]:
        """As the stats message carries them."""
        return asdict(self)


class Meter:
    """Counts the frames of one session; not thread-safe, the scheduler's lock guards it."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.size: tuple[int, int] | None = None
        self.times: deque[tuple[float, ...]] = deque(maxlen=_KEPT)
        """When frames were received, taken, prepared, restored and answered."""

    def ages(self) -> dict[str, tuple[float, float]]:
        """Median and 95th percentile in milliseconds, by stage."""
        if not self.times:
            return {}
        rows = [
            (*(after - before for before, after in pairwise(times)), times[-1] - times[0])
            for times in self.times
        ]
        columns = (sorted(column) for column in zip(*rows, strict=True))
        return {
            stage: (round(column[len(column) // 2] * 1e3, 3),
                    round(column[len(column) * 95 // 100] * 1e3, 3))
            for stage, column in zip(STAGES, columns, strict=True)
        }  # fmt: skip

    def fps(self) -> float:
        """Frames restored in a second, over the last two."""
        since = time.monotonic() - _FPS_WINDOW
        recent = [times[-1] for times in self.times if times[-1] >= since]
        # a full memory covers less than the window
        span = recent[-1] - recent[0] if len(recent) == _KEPT else _FPS_WINDOW
        return round(len(recent) / max(span, 1e-9), 1)


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def prometheus_text(figures: Figures) -> str:
    """Prometheus' text format, version 0.0.4."""
    return "\n".join(_prometheus_lines(figures)) + "\n"


def _prometheus_lines(figures: Figures) -> Iterator[str]:
    def head(name: str, kind: str, text: str) -> Iterator[str]:
        yield f"# HELP splatmend_{name} {text}"
        yield f"# TYPE splatmend_{name} {kind}"

    yield from head("uptime_seconds", "gauge", "Since the server started.")
    yield f"splatmend_uptime_seconds {figures.uptime_s:.3f}"
    yield from head("resident_bytes", "gauge", "Memory of the server process.")
    yield f"splatmend_resident_bytes {figures.resident_bytes}"
    yield from head("sessions", "gauge", "Clients that have said hello.")
    yield f"splatmend_sessions {len(figures.streams)}"
    yield from head("frames_total", "counter", "Frames answered, by outcome.")
    for outcome in OUTCOMES:
        count = figures.frames.get(outcome, 0)
        yield f'splatmend_frames_total{{outcome="{outcome}"}} {count}'
    yield from head("stream_fps", "gauge", "Frames restored in a second, by stream.")
    for each in figures.streams:
        yield f"splatmend_stream_fps{{{_labels(each)}}} {each.fps}"
    yield from head("stream_frames_total", "counter", "Frames answered, by stream and outcome.")
    for each in figures.streams:
        for outcome, count in sorted(each.frames.items()):
            labels = f'{_labels(each)},outcome="{outcome}"'
            yield f"splatmend_stream_frames_total{{{labels}}} {count}"
    yield from head("age_seconds", "gauge", "Time spent at the server, by stream and stage.")
    for each in figures.streams:
        for stage, (middle, high) in each.age_ms.items():
            for quantile, value in (("0.5", middle), ("0.95", high)):
                labels = f'{_labels(each)},stage="{stage}",quantile="{quantile}"'
                yield f"splatmend_age_seconds{{{labels}}} {value / 1e3:.6f}"


def _labels(each: StreamFigures) -> str:
    escaped = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for text in (each.session, each.stream, each.mode)
    )
    return 'session="{}",stream="{}",mode="{}"'.format(*escaped)


class MetricsEndpoint:
    """Serves `/metrics` over HTTP on a thread of its own.

    Raises:
        InputError: the address is taken or not ours.
    """

    def __init__(self, host: str, port: int, figures: Callable[[], Figures]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # seconds for a request to arrive

            def do_GET(self) -> None:
                if self.path.split("?")[0] != "/metrics":
                    self.send_error(404, "only /metrics is here")
                    return
                body = prometheus_text(figures()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """A scrape every few seconds is no news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise InputError(
                f"cannot serve metrics on {host}:{port}: {error.strerror}; choose another port"
            ) from error
        self._server.daemon_threads = True
        self._thread = Thread(
            target=self._server.serve_forever, args=(0.1,), name="smp-metrics", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it is, as host:port."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def stop(self) -> None:
        """Close the port and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
