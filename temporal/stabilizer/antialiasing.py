"""Steadies the input itself: splats that pop, an order of splats that changes, noise.

With x the picture as it came, w its steadied predecessor moved to where this frame sees the same
things, and h a gain for each pixel (little where the pictures differ),

    p <- (1 - h) x + h clip(w + broad(x - w), darkest and brightest of x around the pixel)

which is temporal anti-aliasing as games do it: Karis 2014, "High-Quality Temporal Supersampling",
and Yang, Liu and Salvi 2020, "A Survey of Temporal Antialiasing Techniques". What is not in
the current picture cannot come from the last one, so nothing ghosts. The blur that moving by
fractions of a pixel brings is met twice: the memory is sampled bicubically, and the finest band
of p is given the local energy that it has in x.
"""

import numpy as np

from splatmend.temporal.planes.operations import Plane, around, clip_mix, raise_fine, split, whole
from splatmend.temporal.stabilizer.flicker import broad

__all__ = ["refine", "steady", "stretch"]

_MOST = np.float32(2.0)  # most that detail is raised in one frame; it may be lowered to nothing
_QUIET = np.float32(1e-7)  # energy far below what 8 bits show: keeps 0 / 0 at 1


def steady(picture: Plane, moved: Plane, drift: Plane, gain: Plane) -> Plane:
    """The module's formula but for energy: x, w, x - w and h give p; the last two half planes."""
    return clip_mix(picture, moved, broad(drift, gain), gain)


def refine(steadied: Plane, wanted: Plane, between: Plane) -> None:
    """Give the finest band of p, in place, the energy that it has in x, where it is `wanted`.

    Only as far as the memory came from `between` pixels, a half plane of [0, 1]: from whole ones
    it comes without loss, and what x has more is noise. `wanted` is a quarter plane of `split`.
    """
    low, energies = split(steadied)
    raise_fine(steadied, low, stretch(wanted, energies[0], between) * between)


def stretch(wanted: Plane, given: Plane, like: Plane) -> Plane:
    """What to multiply a band by, less 1, to give it the local energy of another; as a half plane.

    Both energies are quarter planes of `split`; `like` is any half plane.
    """
    wanted_energy, energy = (around(energy + _QUIET) for energy in (wanted, given))
    return whole(np.minimum(np.sqrt(wanted_energy / energy), _MOST) - 1, like)
