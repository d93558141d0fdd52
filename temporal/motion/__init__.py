"""Motion between two frames: its estimate and its validity.

`flow` estimates motion and `warping` moves pictures along it. `validity` finds occlusions and wrong
motion. `cuts` finds the ends of scenes.
"""

from splatmend.temporal.motion.flow import DisFlow, FlowEstimator, RaftFlow, load_flow
from splatmend.temporal.motion.validity import (
    alphas_agree,
    depths_agree,
    flows_agree,
)
from splatmend.temporal.motion.warping import warp

__all__ = [
    "DisFlow",
    "FlowEstimator",
    "RaftFlow",
    "alphas_agree",
    "depths_agree",
    "flows_agree",
    "load_flow",
    "warp",
]
