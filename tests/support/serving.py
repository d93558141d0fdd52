"""Helpers for tests of servers: an address, and an engine with a visible effect."""

import threading
from collections.abc import Callable
from typing import Any

from splatmend.core import Frame

LOCAL = "tcp://127.0.0.1:0"


def negative(frames: Any) -> list[Frame]:
    return [frame.with_color(255 - frame.color) for frame in frames]


class Held:
    """A restorer that waits, for each batch, until the test lets it go on."""

    def __init__(self, restore: Callable[[Any], list[Frame]] = negative) -> None:
        self._restore = restore
        self._permits = threading.Semaphore(0)

    def __call__(self, frames: Any) -> list[Frame]:
        assert self._permits.acquire(timeout=60)
        return self._restore(frames)

    def let_go(self, batches: int = 1) -> None:
        self._permits.release(batches)
