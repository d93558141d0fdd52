"""The temporal stabiliser, which removes flicker from restored frames.

`fusion` mixes a residual with the last one, kept in `state`. `flicker` tells flicker from change.
`antialiasing` steadies the input, and `grid_offset` moves the network's grid along.
"""

from splatmend.temporal.stabilizer.fusion import TemporalOptions
from splatmend.temporal.stabilizer.grid_offset import Anchor, restore_anchored
from splatmend.temporal.stabilizer.state import Memory

__all__ = ["Anchor", "Memory", "TemporalOptions", "restore_anchored"]
