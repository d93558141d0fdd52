"""Behaviour of the frame server when it is too slow, and when it is killed, on this machine.

python benchmarks/policy.py slow        the frame source is faster than the restorer
python benchmarks/policy.py restart     the server is killed under load and restarted
"""

import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
import psutil
import tyro
from transport import PORT, process, report, smp_server

from splatmend.core import Frame
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.client.client import Shown
from splatmend.plugin.server import Engine


@dataclass(frozen=True)
class Config:
    case: tyro.conf.Positional[Literal["slow", "restart"]]
    size: int = 512
    seconds: float = 1.5
    """Time before the kill in `restart`; `slow` runs four times as long."""
    service_ms: float = 50.0
    """Time of the restorer."""
    fps: float = 30.0
    """Frame rate of the source."""
    clients: int = 3
    """Number of clients in `restart`, one of them ordered."""
    out: Path | None = None
    """File for the figures as JSON."""


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    report({"slow": slow, "restart": restart}[config.case](config), config.out)


def slow_engine(milliseconds: float) -> Engine:
    def restore(frames: Any) -> list[Frame]:
        time.sleep(milliseconds / 1e3)
        return [f.with_color(255 - f.color) for f in frames]

    return Engine("slow", restore)


def slow(config: Config) -> list[dict[str, Any]]:
    """Measure age and drops of each mode, with a source that is faster than the restorer."""
    rows = []
    for offset, mode in enumerate(("latest", "sync", "ordered")):
        port = PORT + 100 + offset
        with process(smp_server, port, slow_engine, config.service_ms) as server:
            rows.append({"": mode, **run_source(config, port, mode)})
            memory = psutil.Process(server.pid).memory_info().rss / 1e6
            rows[-1]["server MB"] = memory
    return rows


def run_source(config: Config, port: int, mode: Any) -> dict[str, Any]:
    count = int(4 * config.seconds * config.fps)
    options = ClientOptions(mode=mode, deadline_ms=1000, max_age_ms=1000)
    ages: list[float] = []
    whys: Counter[str] = Counter()
    with Client(f"tcp://127.0.0.1:{port}", options) as client:
        assert client.wait(20)
        began = time.perf_counter()

        def source() -> Iterator[Frame]:
            for index in range(count):
                time.sleep(max(0.0, began + index / config.fps - time.perf_counter()))
                yield Frame(color=np.full((config.size, config.size, 3), index % 256, np.uint8))

        if mode == "ordered":
            shown = list(client.stream(source()))
        else:
            shown = [client.restore(frame) for frame in source()]
        seconds = time.perf_counter() - began
        back_ms = client.age_ms
        assert back_ms is not None
        for each in shown:
            whys[each.why or "restored"] += 1
            if each.restored:
                ages.append(each.age_ms)
        distinct = len({each.id for each in shown if each.restored})
        foreign = sum(each.restored and (each.frame.color[0, 0, 0] != 255 - each.id % 256)
                      for each in shown)  # fmt: skip
    return {
        "given": count,
        "restored, distinct": distinct,
        "fps": distinct / seconds,
        "median age back ms": back_ms[0],
        "in service times": back_ms[0] / config.service_ms,
        "median age shown ms": statistics.median(ages),
        "raw": dict(whys - Counter(restored=whys["restored"])),
        "wrong": int(foreign),
    }


class Viewer:
    """A client on a thread of its own that logs the frames and times of its answers."""

    def __init__(self, index: int, mode: Any, port: int, config: Config) -> None:
        self.index, self.mode, self.port, self.config = index, mode, port, config
        self.log: list[tuple[float, Shown, bool]] = []
        self.running = True
        self.thread = Thread(target=self.run)
        self.thread.start()

    def value(self, number: int) -> int:
        """Choose a colour; each client has its own ones, which reveals frames of another client."""
        return (number * self.config.clients + self.index) % 251

    def frames(self) -> Iterator[Frame]:
        number = 0
        while self.running:
            yield Frame(color=np.full((64, 64, 3), self.value(number), np.uint8))
            number += 1
            time.sleep(1 / self.config.fps)

    def run(self) -> None:
        options = ClientOptions(mode=self.mode, deadline_ms=1000, max_age_ms=1000)
        with Client(f"tcp://127.0.0.1:{self.port}", options) as client:
            if self.mode == "ordered":
                self.note(client.stream(self.frames()))
            else:
                self.note(client.restore(frame) for frame in self.frames())

    def note(self, all_shown: Iterator[Shown]) -> None:
        for shown in all_shown:
            value = self.value(shown.id)
            expected = 255 - value if shown.restored else value
            right = bool(shown.frame.color[0, 0, 0] == expected)
            self.log.append((time.perf_counter(), shown, right))


def restart(config: Config) -> list[dict[str, Any]]:
    """Kill the server under load and restart it after a second; all clients must go on."""
    port = PORT + 200
    service = slow_engine, config.service_ms / config.clients
    modes = [("sync", "latest")[i % 2] for i in range(config.clients - 1)] + ["ordered"]
    viewers = [Viewer(i, mode, port, config) for i, mode in enumerate(modes)]
    with process(smp_server, port, *service):
        while not all(any(shown.restored for _, shown, _ in v.log) for v in viewers):
            time.sleep(0.01)
        time.sleep(config.seconds)
        killed = time.perf_counter()
    time.sleep(1)
    with process(smp_server, port, *service):
        began = wait_for_port(port)
        time.sleep(2 * config.seconds)
        for viewer in viewers:
            viewer.running = False
        for viewer in viewers:
            viewer.thread.join()
    return [
        {
            "": viewer.mode,
            "shown": len(viewer.log),
            "restored": sum(shown.restored for _, shown, _ in viewer.log),
            "raw while away": sum(
                not shown.restored for at, shown, _ in viewer.log if killed < at < began
            ),
            "server away s": began - killed,
            "back after s": min(a for a, s, _ in viewer.log if s.restored and a > began) - began,
            "oldest shown ms": max(s.age_ms for _, s, _ in viewer.log) if viewer.mode != "ordered"
            else 0.0,
            "wrong": sum(not right for _, _, right in viewer.log),
        }
        for viewer in viewers
    ]  # fmt: skip


def wait_for_port(port: int) -> float:
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
            return time.perf_counter()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
