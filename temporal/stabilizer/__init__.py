"""The temporal stabiliser, which removes flicker from restored frames.

`fusion` mixes a residual with the last one, kept in `state`. `flicker` tells flicker from change.
`antialiasing` filters the input over time, and `grid_offset` moves the network's grid along.
"""

from splatmend.temporal.stabilizer.fusion import TemporalOptions
from splatmend.temporal.stabilizer.grid_offset import GridOffset, restore_with_offset
from splatmend.temporal.stabilizer.state import Memory

__all__ = ["GridOffset", "Memory", "TemporalOptions", "restore_with_offset"]
