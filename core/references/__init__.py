"""References: pictures of the same person, turned into guidance for a frame.

`reading` and `collection` load them. `choice` picks the nearest, `placement` places them on a
frame, and `alignment` aligns them densely. `guide` runs these steps and returns guidance.

>>> import numpy as np
>>> picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
>>> guide = Guide(References([Reference(picture=picture)]))
>>> guided = guide.guide(picture)
>>> guided.fits, tuple(guided.guidance.change.shape)
(True, (1, 3, 64, 64))
"""

from splatmend.core.guidance import Guidance
from splatmend.core.references.choice import Choice
from splatmend.core.references.collection import Reference, References
from splatmend.core.references.fit import ReferenceFit
from splatmend.core.references.guide import Guide, Guided
from splatmend.core.references.reading import read_pairs, read_picture_rgba, read_references

__all__ = [
    "Choice",
    "Guidance",
    "Guide",
    "Guided",
    "Reference",
    "ReferenceFit",
    "References",
    "read_pairs",
    "read_picture_rgba",
    "read_references",
]
