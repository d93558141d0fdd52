"""Memory along a stream: restoration of a video without flicker. Imports core.

`stream` restores frames with memory, for files and for live frames. `loss` is the temporal loss of
training.

motion/      optical flow, warping, occlusion
stabilizer/  two memories: of the input, and of the residual
measures/    warping error, flicker, lag, drift, jitter, seams
"""

from splatmend.temporal.loss import chain_motion, self_condition, temporal_difference, temporal_loss
from splatmend.temporal.measures.clip_measures import ClipMeasures, MeasureOptions, TemporalMeasures
from splatmend.temporal.motion.flow import DisFlow, FlowEstimator, RaftFlow, load_flow
from splatmend.temporal.motion.validity import (
    alphas_agree,
    depths_agree,
    flows_agree,
)
from splatmend.temporal.motion.warping import warp
from splatmend.temporal.options import TemporalOptions
from splatmend.temporal.stream import Stream

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
    "self_condition",
    "temporal_difference",
    "temporal_loss",
    "warp",
]
