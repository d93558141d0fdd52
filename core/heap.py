"""Freed memory kept for the next frame, where the C library is glibc."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_TRIM_BYTES = 1 << 30
_MMAP_BYTES = 32 << 20  # the most that glibc takes


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB that it has freed instead of giving it back at once.

    Every frame takes and frees the same tens of megabytes. By its defaults glibc gives them
    back, and the kernel hands them out again page by page, each cleared first: thousands of
    page faults a frame (benchmarks/heap.py). The commands call this; a program that
    restores frames through the library on a CPU does well to call it once, before the first.

    Returns:
        False where the C library is another one; then nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    # a threshold that is set stops adapting: both are needed
    return bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES) and mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES))
