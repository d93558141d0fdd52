"""Faces in pictures: where they are and which part each pixel shows.

`align` finds a face and cuts the square around it. `foreground` cuts heads out of their ground.
`regions` maps skin, eyes, teeth and hair.
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
