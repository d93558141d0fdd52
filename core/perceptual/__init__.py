"""Perceptual distances with frozen networks, for losses and measures.

`lpips` computes LPIPS. `feature_math` holds its arithmetic, written for speed on a CPU.
`dlib_models` finds dlib and its model files; it is imported late, because dlib is optional.
"""

from splatmend.core.perceptual.feature_math import gram
from splatmend.core.perceptual.lpips import Backbone, Lpips, Perceptual, load_lpips

__all__ = ["Backbone", "Lpips", "Perceptual", "gram", "load_lpips"]
