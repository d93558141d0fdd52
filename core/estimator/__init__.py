"""An estimator of degradation, and a gate that leaves clean frames alone.

`network` guesses from one frame how blurred and how noisy it is. `gate` wraps a restorer and
weakens it on clean frames. README.md is the model card of weights.safetensors.
"""

from splatmend.core.estimator.gate import Gated
from splatmend.core.estimator.network import DegradationEstimator, artifact_score, load_estimator

__all__ = ["DegradationEstimator", "Gated", "artifact_score", "load_estimator"]
