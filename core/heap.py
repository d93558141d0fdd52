"""Freed memory kept for the next frame, on glibc."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_TRIM_BYTES = 1 << 30
_MMAP_BYTES = 32 << 20  # the most that glibc takes


def keep_freed_memory() -> bool:
    """Keep up to 1 GiB of freed memory in this process instead of returning it to the kernel.

    Every frame takes and frees the same tens of megabytes. By default glibc returns them,
    and the kernel clears each page before it hands the page out again. That costs thousands
    of page faults a frame (benchmarks/heap.py). The commands call this function. A program
    that restores frames on a CPU should call it once, before the first frame.

    Returns:
        True on glibc; False with another C library, where nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    # a threshold that is set stops adapting: both are needed
    return bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES) and mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES))
