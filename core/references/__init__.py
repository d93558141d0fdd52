"""References: pictures of the same person, and what they say about a frame.

`reading` and `collection` load them. `choice` picks the nearest, `placement` lays them on a frame,
and `alignment` aligns them densely. `guide` runs all of that and returns guidance.
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
