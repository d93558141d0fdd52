"""An estimator of degradation, and a gate that leaves clean frames unchanged.

`network` estimates the blur and the noise of one frame. `gate` wraps a restorer and
weakens it on clean frames. README.md is the model card of weights.safetensors.
"""

from splatmend.core.estimator.gate import Gated
from splatmend.core.estimator.network import DegradationEstimator, artifact_score, load_estimator

__all__ = ["DegradationEstimator", "Gated", "artifact_score", "load_estimator"]
