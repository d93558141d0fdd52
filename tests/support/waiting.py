"""Waits for another thread, process or server. No test looks at a clock by itself."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    """Return as soon as `true()` is; a wait that takes longer than `seconds` fails the test."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"still waiting after {seconds} s")
        time.sleep(0.005)


def is_waiting(thread: threading.Thread) -> bool:
    """Return whether a thread waits for an event, a condition, a semaphore or another's end."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or frame.f_code.co_filename != threading.__file__:
        return False
    return frame.f_code.co_name in ("wait", "join", "_wait_for_tstate_lock")
