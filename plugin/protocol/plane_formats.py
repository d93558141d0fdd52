"""Planes of a frame on the wire: format, rows, orientation, meaning.

Renderers have the layout of their graphics interface: BGRA, padded rows, bottom row first,
premultiplied, linear or channels first. The client states the layout and does not convert it.
`splatmend.plugin.protocol.frames` converts.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatmend.plugin.protocol.fields import Fields
from splatmend.plugin.protocol.framing import Buffer, ProtocolError

__all__ = [
    "COLOR_FORMATS",
    "FORMATS",
    "PLANE_NAMES",
    "PixelFormat",
    "Plane",
    "PlaneMemo",
    "read_planes",
    "samples",
]


@dataclass(frozen=True)
class PixelFormat:
    """Layout of one pixel; samples of several bytes are little-endian."""

    order: str
    """Letters of the channels in memory: rgb, bgra, r, rg, ..."""
    dtype: np.dtype[Any]
    channels: int
    bytes_per_pixel: int


def _pixels(dtype: str, **orders: str) -> dict[str, PixelFormat]:
    kind = np.dtype(dtype)
    return {
        name: PixelFormat(order, kind, len(order), len(order) * kind.itemsize)
        for name, order in orders.items()
    }


FORMATS = {
    **_pixels("<u1", rgb8="rgb", bgr8="bgr", rgba8="rgba", bgra8="bgra", r8="r"),
    **_pixels("<u2", rgb16="rgb", rgba16="rgba", r16="r"),
    **_pixels("<f2", rgb16f="rgb", rgba16f="rgba", r16f="r", rg16f="rg"),
    **_pixels("<f4", rgb32f="rgb", rgba32f="rgba", r32f="r", rg32f="rg"),
}
"""Formats by name. Integers are normalised: their greatest value stands for 1."""

COLOR_FORMATS = tuple(name for name, pixel in FORMATS.items() if pixel.channels >= 3)
_SINGLE = ("r8", "r16", "r16f", "r32f")
_ALLOWED = {
    "color": COLOR_FORMATS,
    "alpha": _SINGLE,
    "depth": ("r16f", "r32f"),
    "motion": ("rg16f", "rg32f"),
    "mask": ("r8",),
}
PLANE_NAMES = tuple(_ALLOWED)

LAYOUTS = ("hwc", "chw")
ORIGINS = ("tl", "bl")
_COLOR_SPACES = ("srgb", "linear")
_ALPHA_KINDS = ("opaque", "premul", "straight")
_DEPTH_KINDS = ("expected", "accumulated", "ray", "inverse")
_DIRECTIONS = ("cur_to_prev", "prev_to_cur")
_UNITS = ("px", "uv", "ndc")
_REMEMBERED = 64
_FAR = 1e30  # anything a renderer may call infinity


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Description of one plane; the fields after `origin` belong to the plane they name."""

    name: str
    """One of `PLANE_NAMES`."""
    fmt: str
    """A key of `FORMATS`."""
    stride: int
    """Bytes from the start of one row to the next; rows may be padded."""
    layout: str = "hwc"
    """"hwc", or "chw": one picture of rows per channel."""
    origin: str = "tl"
    """First row: "tl" for the top one, "bl" for the bottom one."""
    cs: str = "srgb"
    """Colour: "srgb" as displayed, or "linear"."""
    alpha: str = "opaque"
    """Colour: "opaque", "premul" or "straight"; "opaque" ignores a fourth channel."""
    bg: tuple[float, ...] | None = None
    """Colour: the background that the renderer has already used, RGB in [0, 1]."""
    kind: str = "expected"
    """Depth: "expected" z, "accumulated" (alpha-weighted) z, "ray" length, "inverse" z."""
    near: float | None = None
    """Depth: the renderer's clipping planes, in its units."""
    far: float | None = None
    dir: str = "cur_to_prev"
    """Motion: "cur_to_prev" is a pixel's last position minus its position, "prev_to_cur" the
    reverse."""
    unit: str = "px"
    """Motion: "px", "uv" (1 is a whole side) or "ndc" (2 is a whole side); y as `origin` runs."""

    @property
    def pixel(self) -> PixelFormat:
        """Return the pixel layout that `fmt` names."""
        return FORMATS[self.fmt]

    def check(self, width: int, height: int, length: int) -> None:
        """Check that a part of `length` bytes can hold the plane.

        Raises:
            ProtocolError: the rows overlap, or the bytes are too few or too many.
        """
        planar = self.layout == "chw"
        row = width * (self.pixel.dtype.itemsize if planar else self.pixel.bytes_per_pixel)
        rows = height * (self.pixel.channels if planar else 1)
        if self.stride < row:
            raise ProtocolError(
                "size_mismatch",
                f"{self.name}: {width} pixels of {self.fmt} take {row} bytes a row, "
                f"stride is {self.stride}",
            )
        needed = self.stride * (rows - 1) + row
        if not needed <= length <= self.stride * rows:
            raise ProtocolError(
                "size_mismatch",
                f"{self.name}: {width}x{height} {self.fmt} with stride {self.stride} takes "
                f"{needed} to {self.stride * rows} bytes, got {length}",
            )

    def header(self) -> dict[str, Any]:
        """Return the description for JSON, without fields that have their default value."""
        values: dict[str, Any] = {"n": self.name, "fmt": self.fmt, "stride": self.stride}
        for name, default in _DEFAULTS:
            value = getattr(self, name)
            if value != default:
                values[name] = value
        return values


_DEFAULTS = [(f.name, f.default) for f in fields(Plane) if f.name not in ("name", "fmt", "stride")]


def read_planes(
    header: Fields, width: int, height: int, data: tuple[Buffer, ...]
) -> tuple[Plane, ...]:
    """Read and check the descriptions of the planes that follow a header.

    Raises:
        ProtocolError: a value is unknown, a plane comes twice, or the bytes do not fit.
    """
    planes = tuple(_read_plane(each) for each in header.objects("planes", len(PLANE_NAMES)))
    names = [plane.name for plane in planes]
    if len(planes) != len(data):
        raise ProtocolError(
            "size_mismatch", f"{len(planes)} planes are described and {len(data)} follow"
        )
    if len(set(names)) != len(names):
        raise ProtocolError("bad_header", f"a plane may come once, got {', '.join(names)}")
    for plane, part in zip(planes, data, strict=True):
        plane.check(width, height, len(part))
    return planes


class PlaneMemo:
    """Memory of checked plane descriptions, which hardly change along a stream."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Plane, ...]] = {}

    def read(
        self, header: Fields, width: int, height: int, data: tuple[Buffer, ...]
    ) -> tuple[Plane, ...]:
        """Read and check descriptions like `read_planes`, or return those read before.

        Raises:
            ProtocolError: as `read_planes`.
        """
        # as text, because 6, 6.0 and true are equal to a dictionary
        key = header.source("planes"), width, height, *map(len, data)
        planes = self._known.get(key)
        if planes is None:
            planes = read_planes(header, width, height, data)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = planes
        return planes


def _read_plane(header: Fields) -> Plane:
    name = header.choice("n", PLANE_NAMES)
    common: dict[str, Any] = {
        "name": name,
        "fmt": header.choice("fmt", _ALLOWED[name]),
        "stride": header.integer("stride", 1, 1 << 31),
        "layout": header.choice("layout", LAYOUTS, "hwc"),
        "origin": header.choice("origin", ORIGINS, "tl"),
    }
    if name == "color":
        return Plane(
            **common,
            cs=header.choice("cs", _COLOR_SPACES, "srgb"),
            alpha=header.choice("alpha", _ALPHA_KINDS, "opaque"),
            bg=header.numbers("bg", 3) if "bg" in header else None,
        )
    if name == "depth":
        return Plane(
            **common,
            kind=header.choice("kind", _DEPTH_KINDS, "expected"),
            near=header.number("near", 0, _FAR) if "near" in header else None,
            far=header.number("far", 0, _FAR) if "far" in header else None,
        )
    if name == "motion":
        return Plane(
            **common,
            dir=header.choice("dir", _DIRECTIONS, "cur_to_prev"),
            unit=header.choice("unit", _UNITS, "px"),
        )
    return Plane(**common)


def samples(plane: Plane, width: int, height: int, data: Buffer) -> NDArray[Any]:
    """Return the plane's samples (h, w, c), rows in the order of the wire, as a view of `data`."""
    pixel, size = plane.pixel, plane.pixel.dtype.itemsize
    if plane.layout == "chw":
        strides = (plane.stride, size, plane.stride * height)
    else:
        strides = (plane.stride, pixel.bytes_per_pixel, size)
    return np.ndarray((height, width, pixel.channels), pixel.dtype, data, strides=strides)
