"""Pictures of the same person, and what they say about a frame.

collection  References: clean pictures, or key pairs of a render and its truth
reading     references from files; picture_file has what the header of a picture says
placement   where a reference lies on a frame: scale, tilt and shift
alignment   dense alignment with confidence
choice      the nearest references, without pops from frame to frame
guide       from references and a frame to guidance
guidance    the proposed change and its confidence
fit         whether references fit what they guide
"""

from splatmend.core.references.choice import Choice
from splatmend.core.references.collection import Reference, References
from splatmend.core.references.fit import ReferenceFit
from splatmend.core.references.guidance import Guidance
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
