"""The temporal stabiliser, which removes flicker from restored frames.

It has two memories along the motion, under one confidence. `antialiasing` averages the input before
the restorer sees it, and `accumulation` averages the residual that the restorer adds. `confidence`
tells flicker and light from new content. `memory` is the state, and `planes` the arithmetic, on
the CPU or where the restorer is.
"""

from splatmend.temporal.stabilizer.accumulation import accumulate, begin
from splatmend.temporal.stabilizer.antialiasing import Past, antialias
from splatmend.temporal.stabilizer.memory import Look, Memory, place, split_colors

__all__ = ["Look", "Memory", "Past", "accumulate", "antialias", "begin", "place", "split_colors"]
