"""Loops over planes, compiled to machine code by Numba and run in bands of rows.

A frame's planes are a megabyte each, more than the nearest caches hold, and the stabiliser has
about sixty steps. As calls of numpy and OpenCV, each step reads and writes whole planes. Compiled,
adjacent steps are one loop and pass values in registers. Numba compiles a function on its first
call and keeps the result beside the module (or in the user's cache). Only the first run waits.

Rules for compiled code:

- Constants are numpy's float32. Python's floats, and integers times float32, become float64.
- A row is written from views of rows, with indices from 0. The compiler can then prove that they
  are in bounds and vectorise the loop.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import pairwise
from typing import Any, ParamSpec, TypeVar, cast

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Picture", "Plane", "Planes", "compiled", "elementwise", "in_bands"]

Picture = NDArray[np.float32]
"""(h, w, 3): RGB in [0, 1]."""
Plane = NDArray[np.float32]
"""(h, w), or positions (h, w, 2)."""
Planes = NDArray[np.float32]
"""Several of one size: (n, h, w)."""

P = ParamSpec("P")
R = TypeVar("R")

# no option here assumes that all values are finite
_MATHS = {"afn", "arcp", "contract", "nsz"}
_CELL = 4  # rows of a band: cells of 4 x 4 pixels are the largest that a loop sums up
_WORTH = 2**18  # least pixels for a thread: 512 x 512, which most loops do in 0.2 ms


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of arrays and numbers that releases the interpreter lock."""
    options = {"nogil": True, "fastmath": _MATHS, "error_model": "numpy"}
    return cast(Callable[P, R], _cached(numba.njit, function, options))


def elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a formula for numbers, which applies to arrays element by element."""
    return cast(Callable[..., Any], _cached(numba.vectorize, function, {"fastmath": _MATHS}))


def in_bands(kernel: Callable[..., None], shape: tuple[int, int], *arguments: Any) -> None:
    """Call `kernel(first, last, *arguments)` for all rows of planes (h, w), in parallel bands.

    No row depends on the bands, so the result is the same bit for bit for any number of them.
    """
    height, width = shape
    count = max(1, min(cv2.getNumThreads(), height * width // _WORTH))
    edges = [height * i // count // _CELL * _CELL for i in range(count)] + [height]
    others = [
        _threads(os.getpid()).submit(kernel, first, last, *arguments)
        for first, last in pairwise(edges[1:])
    ]
    try:
        kernel(edges[0], edges[1], *arguments)
    finally:  # never leave a thread behind that still writes
        wait(others)
    for other in others:
        other.result()


def _cached(compiler: Any, function: Callable[..., Any], options: dict[str, Any]) -> Any:
    try:
        return compiler(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache: compile in each run
        return compiler(**options)(function)


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 a fork does not inherit threads
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "splatmend-bands")
