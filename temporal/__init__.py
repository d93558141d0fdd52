"""Memory along a stream: restoration of a video without flicker. Imports core.

`stream` restores frames with memory, for files and for live frames. `loss` is the temporal loss of
training.

motion/      optical flow, warping, occlusion, cuts
stabilizer/  one step: a residual fused with the last one
planes/      compiled arithmetic on float planes
measures/    warping error, flicker, lag, drift, jitter, seams
"""

from splatmend.temporal.loss import chain_motion, self_condition, temporal_difference, temporal_loss
from splatmend.temporal.measures.clip_measures import ClipMeasures, MeasureOptions, TemporalMeasures
from splatmend.temporal.motion.flow import DisFlow, FlowEstimator, RaftFlow, load_flow
from splatmend.temporal.motion.validity import (
    alphas_agree,
    depths_agree,
    flows_agree,
    photometric_weight,
)
from splatmend.temporal.motion.warping import warp
from splatmend.temporal.stabilizer.fusion import TemporalOptions
from splatmend.temporal.stream import Stream, warm_up

__all__ = [
    "ClipMeasures",
    "DisFlow",
    "FlowEstimator",
    "MeasureOptions",
    "RaftFlow",
    "Stream",
    "TemporalMeasures",
    "TemporalOptions",
    "alphas_agree",
    "chain_motion",
    "depths_agree",
    "flows_agree",
    "load_flow",
    "photometric_weight",
    "self_condition",
    "temporal_difference",
    "temporal_loss",
    "warm_up",
    "warp",
]
