"""Guidance: a change that references propose, with a confidence for each pixel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splatmend.core.errors import InputError

__all__ = ["Guidance"]


@dataclass(frozen=True, eq=False)
class Guidance:
    """A proposed change of pictures (n, 3, h, w) in [0, 1].

    Raises:
        InputError: planes that do not fit.
    """

    change: Tensor
    """(n, 3, h, w): the proposed change of the pictures."""
    confidence: Tensor
    """(n, 1, h, w) in [0, 1]; 0 where the references show nothing."""
    exact: bool = False
    """Whether the change comes from a key pair and may shift broad colours and outlines too."""
    view: Tensor | None = None
    """(n, 3, h, w) in [0, 1]: the nearest reference, placed on the pictures but not aligned
    densely. Of a key pair it is the truth. None where no reference could be placed."""

    def __post_init__(self) -> None:
        n, channels, height, width = self.change.shape
        if channels != 3 or self.confidence.shape != (n, 1, height, width):
            raise InputError(
                f"guidance needs a change (n, 3, h, w) and a confidence (n, 1, h, w), got "
                f"{tuple(self.change.shape)} and {tuple(self.confidence.shape)}"
            )
        if self.view is not None and self.view.shape != self.change.shape:
            raise InputError(
                f"a view must have the shape of the change {tuple(self.change.shape)}, got "
                f"{tuple(self.view.shape)}"
            )

    @classmethod
    def joined(cls, parts: "Sequence[Guidance]") -> "Guidance":
        """Join the guidance of several pictures of one size into that of a batch.

        Raises:
            InputError: no parts, or parts that differ in `exact` or in whether they have a view.
        """
        views = [part.view for part in parts if part.view is not None]
        kinds = {(part.exact, part.view is None) for part in parts}
        if len(kinds) != 1:
            raise InputError(
                f"guidance is joined where all of it is exact or none, and has a view or not; got "
                f"{len(kinds)} kinds"
            )
        change, confidence = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("change", "confidence")
        )
        return cls(change, confidence, parts[0].exact, torch.cat(views) if views else None)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Guidance":
        """Apply a function, such as a crop, a pad or a resize, to every plane."""
        view = None if self.view is None else function(self.view)
        return Guidance(function(self.change), function(self.confidence), self.exact, view)

    @property
    def planes(self) -> Tensor:
        """Return a network's input (n, 4, h, w): change times confidence, and confidence."""
        return torch.cat((self.change * self.confidence, self.confidence), 1)
