"""Motion between two frames: where it comes from and how far it can be trusted.

`flow` estimates motion and `warping` moves pictures along it. `validity` finds occlusions and wrong
motion. `cuts` finds where a scene ends.
"""

from splatmend.temporal.motion.cuts import is_cut
from splatmend.temporal.motion.flow import DisFlow, FlowEstimator, RaftFlow, load_flow
from splatmend.temporal.motion.validity import (
    alphas_agree,
    depths_agree,
    flows_agree,
    photometric_weight,
)
from splatmend.temporal.motion.warping import sample_array, warp

__all__ = [
    "DisFlow",
    "FlowEstimator",
    "RaftFlow",
    "alphas_agree",
    "depths_agree",
    "flows_agree",
    "is_cut",
    "load_flow",
    "photometric_weight",
    "sample_array",
    "warp",
]
