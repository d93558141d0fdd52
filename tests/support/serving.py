"""What every test of a server needs: an engine whose work shows, and patience."""

import time
from collections.abc import Callable
from typing import Any

from splatmend.core import Frame

LOCAL = "tcp://127.0.0.1:0"


def negative(frames: Any) -> list[Frame]:
    return [frame.with_color(255 - frame.color) for frame in frames]


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
