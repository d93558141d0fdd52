"""Options of a stream's memory."""

from dataclasses import dataclass

from splatmend.core import InputError

__all__ = ["TemporalOptions"]


@dataclass(frozen=True, kw_only=True)
class TemporalOptions:
    """Options of the stabiliser: the share of the past, the motion, and resets.

    The defaults were measured on moving splat portraits and avatars by benchmarks/steadiness.py.

    Raises:
        InputError: a value out of its range.
    """

    gain: float = 0.9
    """Share of the past in the residual where it is fully trusted, in [0, 1)."""
    input_gain: float = 0.8
    """Share of the past in the input, likewise; 0 keeps the input's flicker."""
    tolerance: float = 0.05
    """Difference of the inputs beyond their usual flicker, in [0, 1], at which the confidence
    has fallen to 1/e."""
    flow: str = "dis-fast"
    """Motion estimator for frames without motion; see `load_flow`."""
    refresh: int = 30
    """Interval at which unchanged frames are restored anew, the rest repeat; 1: restore all."""
    max_gap: int | None = None
    """Longest step of `Frame.pts` within a stream; None ignores times."""

    def __post_init__(self) -> None:
        for name, gain in (("gain", self.gain), ("input_gain", self.input_gain)):
            if not 0 <= gain < 1:
                raise InputError(f"{name} must lie in [0, 1), got {gain}")
        if not self.tolerance > 0:
            raise InputError(f"tolerance must be more than 0, got {self.tolerance}")
        for name, value in (("refresh", self.refresh), ("max_gap", self.max_gap)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
