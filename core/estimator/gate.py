"""A gate for clean frames: it weakens a restorer on frames that look undamaged."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.estimator.network import artifact_score
from splatmend.core.guidance import Guidance
from splatmend.core.restorer import Restorer, RestorerTraits, checked, restore_guided

__all__ = ["Gated"]


@dataclass(frozen=True)
class Gated:
    """A restorer whose residual is scaled by the frame's artifact score.

    The share rises smoothly from 0 at a score of `low` to 1 at a score of `high`. A batch of
    clean frames costs only the estimator.

    Raises:
        InputError: thresholds out of order or outside [0, 1].
    """

    restorer: Restorer
    estimator: Callable[[Tensor], Tensor]
    """(n, 3, h, w) in [0, 1] -> degradation scores (n, 2); see core/estimator/network.py."""
    low: float = 0.1
    high: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise InputError(
                f"a gate needs 0 <= low < high <= 1, got low {self.low} and high {self.high}"
            )

    @property
    def traits(self) -> RestorerTraits:
        """Return the inner restorer's; scaling a residual keeps its frequencies and its reach."""
        traits = self.restorer.traits
        return replace(traits, name=f"{traits.name}, gated")

    @property
    def device(self) -> torch.device:
        """Return the inner restorer's device."""
        return self.restorer.device

    def share(self, rgb: Tensor) -> Tensor:
        """Return the share of the residual that each of (n, 3, h, w) gets, (n,) in [0, 1]."""
        score = artifact_score(self.estimator(rgb.to(self.device, torch.float32)))
        ramp = ((score - self.low) / (self.high - self.low)).clamp(0, 1)
        return ramp * ramp * (3 - 2 * ramp)

    @checked
    def __call__(self, rgb: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Restore (n, 3, h, w), each frame by its share."""
        share = self.share(rgb)
        if not share.any():
            return rgb.clone()
        residual = restore_guided(self.restorer, rgb, guidance).float() - rgb.float()
        return (rgb.float() + share.to(rgb.device).view(-1, 1, 1, 1) * residual).to(rgb.dtype)
