"""Motion along a stream: flow, warping, the temporal loss and the measures of steadiness.

Imports core.

warp        move a picture along backward flow; the package's one definition of motion
validity    where motion may be trusted
flow        FlowEstimator: OpenCV's DIS, torchvision's RAFT
loss        the temporal loss of training
measures    warping error, tLPIPS, tOF, flicker, drift, jitter, lag, seams
"""

from splatmend.temporal.flow import DisFlow, FlowEstimator, RaftFlow, load_flow
from splatmend.temporal.loss import (
    chain_motion,
    self_condition,
    temporal_difference,
    temporal_loss,
)
from splatmend.temporal.measures import ClipMeasures, MeasureOptions, TemporalMeasures
from splatmend.temporal.validity import (
    alphas_agree,
    depths_agree,
    flows_agree,
    photometric_weight,
)
from splatmend.temporal.warp import warp

__all__ = [
    "ClipMeasures",
    "DisFlow",
    "FlowEstimator",
    "MeasureOptions",
    "RaftFlow",
    "TemporalMeasures",
    "alphas_agree",
    "chain_motion",
    "depths_agree",
    "flows_agree",
    "load_flow",
    "photometric_weight",
    "self_condition",
    "temporal_difference",
    "temporal_loss",
    "warp",
]
