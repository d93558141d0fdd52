"""Faces in pictures: their positions, and the part of the face that each pixel shows.

`align` finds a face and cuts the square around it. `foreground` separates heads from the
background. `regions` maps skin, eyes, mouth and hair.
"""

from splatmend.training.faces.align import DlibLandmarker, Landmarker
from splatmend.training.faces.foreground import cut_out, without_ground
from splatmend.training.faces.regions import REGIONS, RegionParser, RegionStrengths, load_parser

__all__ = [
    "REGIONS",
    "DlibLandmarker",
    "Landmarker",
    "RegionParser",
    "RegionStrengths",
    "cut_out",
    "load_parser",
    "without_ground",
]
