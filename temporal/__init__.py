"""Memory along a stream: motion, warping, the stabiliser, its loss and its measures.

Imports core.

warp        move a picture along backward flow; the package's one definition of motion
validity    where motion may be trusted
flow        FlowEstimator: OpenCV's DIS, torchvision's RAFT
anchor      the network's grid goes along with what it restores
memory      what one frame leaves to the next
stabilizer  one step: a residual fused with the last one
planes      steps on float planes: half the size, bands, differences, mixes
sweeps      their loops over rows
compiled    how these become machine code, and run in bands of rows
steady      the picture itself without its flicker
unrest      what of a change is flicker, what is new, and what moving alone makes
cuts        where one scene ends
stream      Stream: a restorer with memory, for files and for live frames
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
from splatmend.temporal.stabilizer import TemporalOptions
from splatmend.temporal.stream import Stream, warm_up
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
