"""Conversion of planes on the wire to `Frame` and back.

A result has the format, orientation, colour space and alpha of its request. Pixels that the
restorer did not change keep their bytes.
"""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.errors import InputError
from splatmend.core.frame import AlphaKind, Frame
from splatmend.plugin.protocol.framing import Buffer
from splatmend.plugin.protocol.messages import FrameRequest, Result, Want
from splatmend.plugin.protocol.plane_formats import FORMATS, Plane, samples

__all__ = ["from_result", "to_frame", "to_planes", "to_result"]

_SWAPS = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
_ALPHA_KINDS: dict[str, AlphaKind] = {"premul": "premultiplied", "straight": "straight"}


def to_frame(
    request: FrameRequest, *, stream_id: str = "", depth: bool = True, motion: bool = True
) -> Frame:
    """Return the frame of a request: sRGB, straight or premultiplied, top row first.

    Plain RGB is a view of the request's bytes; everything else is converted. Floats are clipped
    to [0, 1], and NaN becomes 0.

    Args:
        request: a result of `parse`.
        stream_id: of the frame.
        depth: False leaves depth out.
        motion: False leaves motion out, for a frame whose predecessor was never seen.
    """
    planes = {p.name: (p, d) for p, d in zip(request.planes, request.data, strict=True)}
    plane, data = planes["color"]
    array = _upright(plane, request, data)
    color, alpha = array[..., :3], None
    if array.shape[2] == 4:
        color, alpha = cv2.cvtColor(array, cv2.COLOR_RGBA2RGB), array[..., 3].copy()
    if "alpha" in planes:
        alpha = _rescale(_upright(*_with(planes["alpha"], request))[..., 0], color.dtype)
    kind = _ALPHA_KINDS.get(plane.alpha)
    if kind is None:
        alpha = None
    if plane.cs == "linear":
        color = _from_linear(color, alpha if kind == "premultiplied" else None)
        kind = kind and "straight"
    return Frame(
        color=color,
        alpha=alpha,
        alpha_kind=kind or "straight",
        depth=_depth(*planes["depth"], request, alpha) if depth and "depth" in planes else None,
        motion=_motion(*planes["motion"], request) if motion and "motion" in planes else None,
        pts=request.pts,
        stream_id=stream_id,
    )


def to_result(
    request: FrameRequest, given: Frame, restored: Frame, want: Want
) -> tuple[tuple[Plane, ...], tuple[Buffer, ...]]:
    """Return the planes that answer a request, rows unpadded.

    Args:
        request: the request.
        given: its frame, from `to_frame`.
        restored: the restoration of `given`.
        want: the format that the client wants, if it differs from the request's.
    """
    planes = {p.name: (p, d) for p, d in zip(request.planes, request.data, strict=True)}
    plane, data = planes["color"]
    color = restored.color
    if "mask" in planes:
        color = _masked(given.color, color, _upright(*_with(planes["mask"], request)))
    fmt = want.fmt or plane.fmt
    layout, origin = want.layout or plane.layout, want.origin or plane.origin
    pixel, came = FORMATS[fmt], plane.pixel
    out: Any
    plain = plane.cs == "srgb" and plane.fmt in ("rgb8", "rgb16")
    if plain and (fmt, layout, origin) == (plane.fmt, "hwc", "tl"):
        out = np.ascontiguousarray(color)
    else:
        original = _upright(plane, request, data, exact=True)
        lossless = came.dtype.kind == "u" and plane.cs == "srgb"
        rgb = _to_wire_color(color, given, plane, came.dtype)
        if not lossless:
            same = (color == given.color).all(axis=2, keepdims=True)
            rgb = np.where(same, original[..., :3], rgb)
        out = _pack(rgb, _fourth(original, given), fmt, layout, origin)
    stride = request.width * (
        pixel.dtype.itemsize if layout == "chw" else pixel.bytes_per_pixel
    )  # fmt: skip
    if (plane.fmt, plane.layout, plane.origin, plane.stride) != (fmt, layout, origin, stride):
        plane = replace(plane, fmt=fmt, layout=layout, origin=origin, stride=stride)
    return (plane,), (memoryview(out).cast("B"),)


def to_planes(
    frame: Frame, *, mask: NDArray[np.uint8] | None = None
) -> tuple[tuple[Plane, ...], tuple[Buffer, ...]]:
    """Return the planes that carry a frame to a server: views of its contiguous arrays.

    Args:
        frame: the frame to send.
        mask: (h, w), share of the restoration to keep; 255 keeps all of it.
    """
    depth_of = {1: "8", 2: "16", 4: "32f"}[frame.color.dtype.itemsize]
    planes, data = [], []

    def add(name: str, fmt: str, array: NDArray[Any], **more: Any) -> None:
        whole: Any = np.ascontiguousarray(array)
        stride = frame.size[1] * FORMATS[fmt].bytes_per_pixel
        planes.append(Plane(name=name, fmt=fmt, stride=stride, **more))
        data.append(memoryview(whole).cast("B"))

    kind = "opaque"
    if frame.alpha is not None:
        kind = "premul" if frame.alpha_kind == "premultiplied" else "straight"
    add("color", f"rgb{depth_of}", frame.color, alpha=kind)
    if frame.alpha is not None:
        add("alpha", f"r{depth_of}", frame.alpha)
    if frame.depth is not None:
        add("depth", "r32f", frame.depth.astype(np.float32, copy=False))
    if frame.motion is not None:
        half = frame.motion.dtype == np.float16
        dtype, fmt = (np.float16, "rg16f") if half else (np.float32, "rg32f")
        add("motion", fmt, frame.motion.astype(dtype, copy=False))
    if mask is not None:
        add("mask", "r8", mask)
    return tuple(planes), tuple(data)


def from_result(frame: Frame, result: Result) -> Frame:
    """Return the sent frame with the colour of the result; read-only.

    Raises:
        InputError: the result has another size or type than the frame.
    """
    index = [plane.name for plane in result.planes].index("color")
    plane, data = result.planes[index], result.data[index]
    color = samples(plane, result.width, result.height, data)
    if (color.shape, color.dtype) != (frame.color.shape, frame.color.dtype):
        raise InputError(
            f"{frame.color.shape} {frame.color.dtype} was sent, {color.shape} {color.dtype} is back"
        )
    return frame.with_color(color)


def _with(item: tuple[Plane, Buffer], request: FrameRequest) -> tuple[Plane, FrameRequest, Buffer]:
    return item[0], request, item[1]


def _upright(
    plane: Plane, request: FrameRequest, data: Buffer, *, exact: bool = False
) -> NDArray[Any]:
    """Return (h, w, c), top row first, RGB order, contiguous; `exact` keeps raw samples."""
    array = samples(plane, request.width, request.height, data)
    if plane.origin == "bl":
        array = array[::-1]
    if plane.pixel.order.startswith("bgr"):
        array = cv2.cvtColor(np.ascontiguousarray(array), _SWAPS[plane.pixel.channels])
    if array.dtype.kind == "f" and not exact:
        array = array.astype(np.float32)
        if plane.name in ("color", "alpha"):
            np.nan_to_num(array, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
            np.clip(array, 0, 1, out=array)
    return np.ascontiguousarray(array)


def _rescale(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert normalised samples to another type."""
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "u":
        array = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    if dtype.kind == "u":
        array = np.rint(array.astype(np.float32).clip(0, 1) * np.iinfo(dtype).max)
    return array.astype(dtype)


def _from_linear(color: NDArray[Any], alpha: NDArray[Any] | None) -> NDArray[Any]:
    """Convert linear light to sRGB (IEC 61966-2-1), divided by alpha before the curve."""
    light = _rescale(color, np.dtype(np.float32))
    if alpha is not None:
        share = _rescale(alpha, np.dtype(np.float32))[..., None]
        light = np.divide(light, share, out=np.zeros_like(light), where=share > 0).clip(0, 1)
    curve = 1.055 * np.power(np.maximum(light, 0.0031308), 1 / 2.4) - 0.055
    return _rescale(np.where(light <= 0.0031308, 12.92 * light, curve), color.dtype)


def _to_linear(color: NDArray[Any]) -> NDArray[Any]:
    shown = _rescale(color, np.dtype(np.float32))
    curve = np.power((shown + 0.055) / 1.055, 2.4)
    return np.where(shown <= 0.04045, shown / 12.92, curve).astype(np.float32)


def _to_wire_color(
    color: NDArray[Any], given: Frame, plane: Plane, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Undo the colour conversion of `to_frame`; (h, w, 3) of the request's type."""
    if plane.cs == "linear":
        color = _to_linear(color)
        if plane.alpha == "premul" and given.alpha is not None:
            color = color * _rescale(given.alpha, np.dtype(np.float32))[..., None]
    return _rescale(color, dtype)


def _fourth(original: NDArray[Any], given: Frame) -> NDArray[Any] | None:
    if original.shape[2] == 4:
        return original[..., 3]
    return given.alpha


def _pack(
    rgb: NDArray[Any], fourth: NDArray[Any] | None, fmt: str, layout: str, origin: str
) -> NDArray[Any]:
    pixel = FORMATS[fmt]
    out = _rescale(rgb, pixel.dtype)
    if pixel.channels == 4:
        last = np.ones(rgb.shape[:2], np.float32) if fourth is None else fourth
        out = np.concatenate((out, _rescale(last, pixel.dtype)[..., None]), axis=2)
    if pixel.order.startswith("bgr"):
        out = cv2.cvtColor(np.ascontiguousarray(out), _SWAPS[pixel.channels])
    if origin == "bl":
        out = out[::-1]
    return np.ascontiguousarray(out.transpose(2, 0, 1) if layout == "chw" else out)


def _masked(given: NDArray[Any], restored: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    share = mask.astype(np.float32) / 255
    before = given.astype(np.float32)
    mixed = before + share * (restored.astype(np.float32) - before)
    mixed = np.rint(mixed) if given.dtype.kind == "u" else mixed
    return np.where(mask == 0, given, mixed.astype(given.dtype))


def _depth(
    plane: Plane, data: Buffer, request: FrameRequest, alpha: NDArray[Any] | None
) -> NDArray[np.float32]:
    """Convert depth to camera-space z (h, w), 0 where nothing was rendered."""
    depth: NDArray[np.float32] = _upright(plane, request, data)[..., 0]
    depth = np.nan_to_num(depth, nan=0.0, posinf=0.0, neginf=0.0)
    if plane.kind == "inverse":
        return np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)
    if plane.kind == "accumulated" and alpha is not None:
        share = _rescale(alpha, np.dtype(np.float32))
        depth = np.divide(depth, share, out=np.zeros_like(depth), where=share > 0)
    if plane.kind == "ray" and request.camera is not None:
        fx, fy, cx, cy = request.camera.intrinsics
        x = (np.arange(request.width, dtype=np.float32) + 0.5 - cx) / fx
        y = (np.arange(request.height, dtype=np.float32) + 0.5 - cy) / fy
        depth = (depth / np.sqrt(1 + x[None] ** 2 + y[:, None] ** 2)).astype(np.float32)
    return depth


def _motion(plane: Plane, data: Buffer, request: FrameRequest) -> NDArray[np.float32]:
    """Convert motion to each pixel's last position minus its position; pixels, y down."""
    width, height = request.width, request.height
    x, y = {"px": (1, 1), "uv": (width, height), "ndc": (width / 2, height / 2)}[plane.unit]
    sign = 1 if plane.dir == "cur_to_prev" else -1
    scale = np.array((sign * x, sign * y * (-1 if plane.origin == "bl" else 1)), np.float32)
    motion: NDArray[np.float32] = _upright(plane, request, data) * scale
    np.nan_to_num(motion, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return motion
