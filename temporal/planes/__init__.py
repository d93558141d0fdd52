"""Arithmetic on float32 planes (h, w), compiled for the CPU.

`operations` holds the steps that other modules call. `kernels` holds their loops over rows.
`numba_support` compiles these loops and runs them in bands of rows.
"""

from splatmend.temporal.planes.operations import (
    Picture,
    Plane,
    Planes,
    aim,
    aim_cells,
    around,
    box_mean,
    brighten,
    clip_mix,
    difference,
    finest,
    flicker,
    half,
    mix,
    raise_bands,
    raise_fine,
    rest,
    revised,
    split,
    whole,
)

__all__ = [
    "Picture",
    "Plane",
    "Planes",
    "aim",
    "aim_cells",
    "around",
    "box_mean",
    "brighten",
    "clip_mix",
    "difference",
    "finest",
    "flicker",
    "half",
    "mix",
    "raise_bands",
    "raise_fine",
    "rest",
    "revised",
    "split",
    "whole",
]
