"""Temporal anti-aliasing of the input: popping splats, changes of their order, noise.

Let x be the input picture, w its anti-aliased predecessor, moved to the current frame, and h a gain
for each pixel. The gain is small where the pictures differ. Then

    p <- (1 - h) x + h clip(w + broad(x - w), darkest and brightest of x around the pixel)

This is temporal anti-aliasing as games do it: Karis 2014, "High-Quality Temporal Supersampling",
and Yang, Liu and Salvi 2020, "A Survey of Temporal Antialiasing Techniques". The clip removes
everything that the current picture does not show, so there is no ghosting. Two steps reduce the
blur of motion by fractions of a pixel. The memory is sampled bicubically, and the finest band
of p gets the local energy that it has in x.
"""

import numpy as np

from splatmend.temporal.planes.operations import Plane, around, clip_mix, raise_fine, split, whole
from splatmend.temporal.stabilizer.flicker import broad

__all__ = ["antialias", "refine", "stretch"]

_MOST = np.float32(2.0)  # largest factor on detail in one frame; it may fall to 0
_QUIET = np.float32(1e-7)  # energy far below one step of 8 bits: keeps 0 / 0 at 1


def antialias(picture: Plane, moved: Plane, drift: Plane, gain: Plane) -> Plane:
    """Compute p from x, w, x - w and h without the energy step; the last two are half planes."""
    return clip_mix(picture, moved, broad(drift, gain), gain)


def refine(antialiased: Plane, wanted: Plane, between: Plane) -> None:
    """Give the finest band of p, in place, the energy `wanted` that it has in x.

    The step is weighted by `between`, a half plane in [0, 1]. It is 0 for motion by whole pixels,
    which loses no detail; there the extra energy of x is noise. `wanted` is a quarter plane of
    `split`.
    """
    low, energies = split(antialiased)
    raise_fine(antialiased, low, stretch(wanted, energies[0], between) * between)


def stretch(wanted: Plane, given: Plane, like: Plane) -> Plane:
    """Compute the factor, less 1, that gives a band the local energy `wanted`: a half plane.

    Both energies are quarter planes of `split`; `like` is any half plane.
    """
    wanted_energy, energy = (around(energy + _QUIET) for energy in (wanted, given))
    return whole(np.minimum(np.sqrt(wanted_energy / energy), _MOST) - 1, like)
