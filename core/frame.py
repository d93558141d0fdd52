"""One picture with its planes, passed between files, sockets and restorers."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from splatmend.core.errors import InputError

__all__ = ["AlphaKind", "Frame"]

AlphaKind = Literal["straight", "premultiplied"]

_COLOR_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """A picture and the planes that its renderer sent with it.

    Colour is display-referred RGB: integers span their type's range, floats
    span [0, 1]. Planes are views, not copies; nothing in this package writes
    into them.

    >>> import numpy as np
    >>> color = np.zeros((64, 64, 3), np.uint8)
    >>> Frame(color=color, alpha=np.full((64, 64), 255, np.uint8), pts=40)
    Frame(color (64, 64, 3) uint8, alpha, pts=40, stream_id='')

    Raises:
        InputError: a plane has the wrong shape or dtype.
    """

    color: NDArray[Any]
    """(h, w, 3), uint8, uint16 or float32."""
    alpha: NDArray[Any] | None = None
    """(h, w), the dtype of `color`; None where the picture is opaque."""
    alpha_kind: AlphaKind = "straight"
    """Whether `color` was already multiplied by `alpha`."""
    depth: NDArray[np.float32] | None = None
    """(h, w), camera space, in the renderer's units."""
    motion: NDArray[np.floating[Any]] | None = None
    """(h, w, 2), backward motion in pixels: the pixel's place in the last frame minus its place
    here."""
    pts: int | None = None
    """Presentation time in ticks of the stream's time base."""
    stream_id: str = ""
    """Consecutive frames with the same id form one stream."""

    def __post_init__(self) -> None:
        if self.color.ndim != 3 or self.color.shape[2] != 3:
            raise InputError(f"Frame.color must be (h, w, 3), got {self.color.shape}")
        if min(self.size) < 1:
            raise InputError(f"Frame.color has no pixels: {self.color.shape}")
        if self.color.dtype not in _COLOR_DTYPES:
            allowed = ", ".join(str(d) for d in _COLOR_DTYPES)
            raise InputError(f"Frame.color must be one of {allowed}, got {self.color.dtype}")
        if self.alpha is not None and self.alpha.dtype != self.color.dtype:
            raise InputError(
                f"Frame.alpha must have the dtype of color, {self.color.dtype}, "
                f"got {self.alpha.dtype}"
            )
        if self.alpha_kind not in ("straight", "premultiplied"):
            raise InputError(
                f"Frame.alpha_kind must be 'straight' or 'premultiplied', got {self.alpha_kind!r}"
            )
        for name, plane, channels in (
            ("alpha", self.alpha, ()),
            ("depth", self.depth, ()),
            ("motion", self.motion, (2,)),
        ):
            if plane is not None and plane.shape != self.size + channels:
                raise InputError(
                    f"Frame.{name} must be {self.size + channels} like color, got {plane.shape}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.color.shape[0], self.color.shape[1]

    def with_color(self, color: NDArray[Any]) -> Self:
        """Return the same frame with another colour plane."""
        return replace(self, color=color)

    def __repr__(self) -> str:
        planes = [f"color {self.color.shape} {self.color.dtype}"]
        planes += [n for n in ("alpha", "depth", "motion") if getattr(self, n) is not None]
        return f"Frame({', '.join(planes)}, pts={self.pts}, stream_id={self.stream_id!r})"
