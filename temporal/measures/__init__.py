"""Measures of a clip over time: flicker, warping error, lag, drift, seams.

`clip_measures` computes them frame by frame. `accumulators` holds measures that build up over a
clip. `face_jitter` measures the jitter of identity and landmarks.
"""

from splatmend.temporal.measures.clip_measures import (
    ClipMeasures,
    MeasureOptions,
    TemporalMeasures,
)
from splatmend.temporal.measures.face_jitter import DlibFaces, FaceReader

__all__ = ["ClipMeasures", "DlibFaces", "FaceReader", "MeasureOptions", "TemporalMeasures"]
