"""Figures of the server, counted as frames are answered.

The stats message carries `Figures`, the Prometheus endpoint prints them, and
`splatmend serve --watch` shows them.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
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
    "resident_bytes",
]

STAGES = ("queue", "prepare", "restore", "answer", "total")
"""Stages of a frame: waiting, planes to frame, the restorer, frame to planes, all together."""
OUTCOMES = ("result", "bypass", "superseded", "stale", "busy", "shutdown", "error")
_KEPT = 256  # frames that the quantiles cover
_FPS_WINDOW = 2.0  # seconds


@dataclass(frozen=True)
class StreamFigures:
    """Figures of one session."""

    session: str
    stream: str
    client: str
    mode: str
    size: tuple[int, int] | None
    """Width and height of the last frame."""
    fps: float
    """Frames restored a second, lately."""
    frames: dict[str, int]
    """Frames by outcome."""
    age_ms: dict[str, tuple[float, float]]
    """Milliseconds by stage: median and 95th percentile of the last 256 restored frames."""
    guided: int = 0
    """Frames that its present references have guided."""
    unfit: int = 0
    """Guided frames that no reference fitted."""


@dataclass(frozen=True)
class Figures:
    """Figures of the whole server."""

    model: str
    uptime_s: float
    resident_bytes: int
    frames: dict[str, int]
    """Frames by outcome, of all present and past sessions."""
    streams: tuple[StreamFigures, ...]

    def values(self) -> dict[str, Any]:
        """Return the figures for the stats message."""
        return asdict(self)


class Meter:
    """Counts the frames of one session; the scheduler's lock guards it."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.size: tuple[int, int] | None = None
        self.times: deque[tuple[float, ...]] = deque(maxlen=_KEPT)
        """Times at which frames were received, taken, prepared, restored and answered."""

    def ages(self) -> dict[str, tuple[float, float]]:
        """Return median and 95th percentile in milliseconds, by stage."""
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
        """Return the frames restored a second, over the last two seconds."""
        since = time.monotonic() - _FPS_WINDOW
        recent = [times[-1] for times in self.times if times[-1] >= since]
        # a full memory covers less than the window
        span = recent[-1] - recent[0] if len(recent) == _KEPT else _FPS_WINDOW
        return round(len(recent) / max(span, 1e-9), 1)


def resident_bytes() -> int:
    """Return the bytes of this process in RAM; 0 if the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _metrics(figures: Figures) -> Iterator[Any]:
    """Convert the figures to Prometheus metrics."""
    from prometheus_client import Metric

    def metric(kind: str, name: str, text: str, rows: Iterable[tuple[Any, float]]) -> Metric:
        made = Metric(f"splatmend_{name.removesuffix('_total')}", text, kind)
        for labels, value in rows:
            made.add_sample(f"splatmend_{name}", labels, value)
        return made

    streams = [
        ({"session": each.session, "stream": each.stream, "mode": each.mode}, each)
        for each in figures.streams
    ]
    frames = [({"outcome": name}, figures.frames.get(name, 0)) for name in OUTCOMES]
    by_stream = [
        ({**labels, "outcome": name}, count)
        for labels, each in streams
        for name, count in sorted(each.frames.items())
    ]
    ages = [
        ({**labels, "stage": stage, "quantile": quantile}, round(milliseconds / 1e3, 6))
        for labels, each in streams
        for stage, pair in each.age_ms.items()
        for quantile, milliseconds in zip(("0.5", "0.95"), pair, strict=True)
    ]
    guided = [
        ({**labels, "fits": fits}, count)
        for labels, each in streams
        for fits, count in (("yes", each.guided - each.unfit), ("no", each.unfit))
        if each.guided
    ]
    fps = [(labels, each.fps) for labels, each in streams]
    yield metric("gauge", "uptime_seconds", "Since the server started.", [({}, figures.uptime_s)])
    memory = figures.resident_bytes
    yield metric("gauge", "resident_bytes", "Memory of the server process.", [({}, memory)])
    yield metric("gauge", "sessions", "Clients that have said hello.", [({}, len(streams))])
    yield metric("counter", "frames_total", "Frames answered, by outcome.", frames)
    yield metric("gauge", "stream_fps", "Frames restored in a second, by stream.", fps)
    text = "Frames answered, by stream and outcome."
    yield metric("counter", "stream_frames_total", text, by_stream)
    text = "Frames of the present references, by stream and whether any reference fits."
    yield metric("gauge", "stream_guided_frames", text, guided)
    yield metric("gauge", "age_seconds", "Time spent at the server, by stream and stage.", ages)


def _handler(figures: Callable[[], Figures]) -> type[BaseHTTPRequestHandler]:
    try:
        from prometheus_client import CollectorRegistry, MetricsHandler
        from prometheus_client.registry import Collector
    except ModuleNotFoundError as error:
        raise InputError(
            "the metrics endpoint needs prometheus_client, which is not installed: "
            "pip install 'splatmend[gateway]'"
        ) from error

    class Collected(Collector):
        def collect(self) -> Iterator[Any]:
            return _metrics(figures())

    class Handler(MetricsHandler):
        registry = CollectorRegistry()
        timeout = 5  # seconds for a request to arrive

        def do_GET(self) -> None:  # noqa: N802
            if self.path.split("?")[0] == "/metrics":
                super().do_GET()
            else:
                self.send_error(404, "only /metrics is here")

    Handler.registry.register(Collected())
    return Handler


class MetricsEndpoint:
    """Serves `/metrics` over HTTP on its own thread, as text or OpenMetrics.

    Raises:
        InputError: the address is taken or not ours, or prometheus_client is not installed.
    """

    def __init__(self, host: str, port: int, figures: Callable[[], Figures]) -> None:
        handler = _handler(figures)
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
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
        """Return the bound address, host:port."""
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
