"""Pixels on the wire: the frame that reaches the server, and the planes that go back."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from splatmend.core import Frame
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.frames import from_result, to_frame, to_planes, to_result
from splatmend.plugin.protocol.framing import Limits
from splatmend.plugin.protocol.messages import Camera, FrameRequest, Result, Want
from splatmend.plugin.protocol.plane_formats import FORMATS, Plane

# Pixels

LIMITS = Limits()


def request(
    *planes: tuple[Plane, bytes], size: tuple[int, int], camera: Camera | None = None
) -> FrameRequest:
    return FrameRequest(
        session="s",
        id=1,
        height=size[0],
        width=size[1],
        camera=camera,
        planes=tuple(plane for plane, _ in planes),
        data=tuple(data for _, data in planes),
    )


def noise(*shape: int, dtype: Any = np.uint8) -> Any:
    dice = np.random.default_rng(3)
    if np.dtype(dtype).kind == "f":
        return dice.random(shape).astype(dtype)
    return dice.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("cs", ["srgb", "linear"])
@pytest.mark.parametrize("alpha", ["opaque", "premul", "straight"])
@pytest.mark.parametrize("origin", ["tl", "bl"])
@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("fmt", ["rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "rgba16f", "rgb32f"])
def test_what_is_not_restored_comes_back_bit_for_bit(
    fmt: str, layout: str, origin: str, alpha: str, cs: str
) -> None:
    pixel = FORMATS[fmt]
    if (alpha != "opaque") != (pixel.channels == 4):
        alpha = "straight" if pixel.channels == 4 else "opaque"
    height, width, pad = 5, 4, 3
    array = noise(height, width, pixel.channels, dtype=pixel.dtype)
    if pixel.dtype.kind == "f":
        array[0, 0] = 1.5  # renderers do not clamp
    rows = array.transpose(2, 0, 1) if layout == "chw" else array
    rows = np.ascontiguousarray(rows)
    row_bytes = width * rows.itemsize if layout == "chw" else width * pixel.bytes_per_pixel
    padded = b"".join(
        rows.tobytes()[i : i + row_bytes] + b"\xee" * pad for i in range(0, rows.nbytes, row_bytes)
    )
    plane = Plane(
        name="color", fmt=fmt, stride=row_bytes + pad, layout=layout, origin=origin,
        alpha=alpha, cs=cs,
    )  # fmt: skip
    came = request((plane, padded), size=(height, width))
    assert parse(encode(came), LIMITS) == came
    frame = to_frame(came)
    (answer,), (data,) = to_result(came, frame, frame.with_color(frame.color.copy()), Want())
    assert bytes(data) == rows.tobytes()
    assert replace(answer, stride=plane.stride) == plane
    assert answer.stride == row_bytes
    if cs == "srgb" and pixel.dtype.kind == "u":
        upright = array[::-1] if origin == "bl" else array
        order = [pixel.order.index(c) for c in "rgb"]
        assert (frame.color == upright[..., order]).all()
        if alpha != "opaque":
            assert frame.alpha is not None
            assert (frame.alpha == upright[..., 3]).all()
            assert frame.alpha_kind.startswith(alpha)


def test_plain_rgb_is_not_copied() -> None:
    array = noise(4, 6, 3)
    data = array.tobytes()
    frame = to_frame(request((Plane(name="color", fmt="rgb8", stride=18), data), size=(4, 6)))
    assert np.shares_memory(frame.color, np.frombuffer(data, np.uint8))


def test_floats_are_tamed() -> None:
    array = np.array([[[np.nan, np.inf, -np.inf], [2.0, -1.0, 0.5]]], np.float32)
    came = request((Plane(name="color", fmt="rgb32f", stride=24), array.tobytes()), size=(1, 2))
    assert to_frame(came).color.tolist() == [[[0, 1, 0], [1, 0, 0.5]]]


def test_linear_light_is_converted_and_back() -> None:
    light = np.linspace(0, 1, 64, dtype=np.float32).repeat(3)
    plane = Plane(name="color", fmt="rgb32f", stride=64 * 12, cs="linear")
    came = request((plane, light.tobytes()), size=(1, 64))
    frame = to_frame(came)
    assert frame.color[0, 0, 0] == 0
    assert frame.color[0, -1, 0] == pytest.approx(1, abs=1e-6)
    # IEC 61966-2-1: half of the light is shown at 0.7354
    assert np.interp(0.5, light[::3], frame.color[0, :, 0]) == pytest.approx(0.7354, abs=1e-3)
    brighter = frame.with_color(frame.color * np.float32(0.5))
    _, (data,) = to_result(came, frame, brighter, Want())
    halved = np.frombuffer(data, np.float32).reshape(1, 64, 3)
    # 0.5 as shown is 0.2140 as light
    assert halved[0, -1, 0] == pytest.approx(0.2140, abs=1e-3)


def test_premultiplied_light_is_divided_first() -> None:
    pixel = np.array([[[0.25, 0.25, 0.25, 0.5], [0.0, 0.0, 0.0, 0.0]]], np.float32)
    plane = Plane(name="color", fmt="rgba32f", stride=32, cs="linear", alpha="premul")
    frame = to_frame(request((plane, pixel.tobytes()), size=(1, 2)))
    assert frame.alpha_kind == "straight"
    assert frame.color[0, 0, 0] == pytest.approx(0.7354, abs=1e-3)
    assert not frame.color[0, 1].any()


def test_alpha_may_come_as_a_plane_of_its_own() -> None:
    color, alpha = noise(3, 2, 3), noise(3, 2)
    came = request(
        (Plane(name="color", fmt="rgb8", stride=6, alpha="premul"), color.tobytes()),
        (Plane(name="alpha", fmt="r8", stride=2, origin="bl"), alpha.tobytes()),
        size=(3, 2),
    )
    frame = to_frame(came)
    assert frame.alpha is not None
    assert (frame.alpha == alpha[::-1]).all()
    assert frame.alpha_kind == "premultiplied"
    (answer,), (data,) = to_result(came, frame, frame, Want(fmt="rgba8", origin="bl"))
    packed = np.frombuffer(data, np.uint8).reshape(3, 2, 4)
    assert (packed[..., 3] == alpha).all()
    assert (packed[..., :3] == color[::-1]).all()
    assert (answer.fmt, answer.origin, answer.alpha) == ("rgba8", "bl", "premul")


@pytest.mark.parametrize("fmt", ["rgb8", "rgba8", "bgra8", "rgb32f", "rgba16"])
def test_results_come_as_wanted(fmt: str) -> None:
    color = noise(3, 2, 4)
    plane = Plane(name="color", fmt="rgba8", stride=8, origin="bl", alpha="straight")
    came = request((plane, color.tobytes()), size=(3, 2))
    frame = to_frame(came)
    darker = frame.with_color(frame.color // 2)
    (answer,), (data,) = to_result(came, frame, darker, Want(fmt=fmt, origin="tl"))
    result = Result(
        session="s", id=1, width=2, height=3, credit=1, planes=(answer,), data=(data,)
    )  # fmt: skip
    assert parse(encode(result), LIMITS) == result
    asked = FrameRequest(session="s", id=1, width=2, height=3, planes=(answer,), data=(data,))
    again = to_frame(asked)
    scale = {1: 1.0, 2: 257.0, 4: 1 / 255}[again.color.dtype.itemsize]
    assert np.allclose(again.color, darker.color * scale, atol=1e-6)
    if again.alpha is not None:
        assert np.allclose(again.alpha, frame.alpha * scale)


def test_a_mask_limits_what_is_kept() -> None:
    color, mask = noise(1, 3, 3) // 2, np.array([[0, 255, 51]], np.uint8)
    came = request(
        (Plane(name="color", fmt="rgb8", stride=9), color.tobytes()),
        (Plane(name="mask", fmt="r8", stride=3), mask.tobytes()),
        size=(1, 3),
    )
    frame = to_frame(came)
    _, (data,) = to_result(came, frame, frame.with_color(frame.color + 100), Want())
    got = np.frombuffer(data, np.uint8).reshape(1, 3, 3)
    assert (got[0] == color[0] + np.array([[0], [100], [20]])).all()


@pytest.mark.parametrize(
    ("kind", "sent", "expected"),
    [
        ("expected", [2.0, np.nan], [2, 0]),
        ("inverse", [0.5, 0.0], [2, 0]),
        ("accumulated", [1.0, 1.0], [2, 0]),
        ("ray", [2 * 2**0.5, 2.0], [2, 2]),
    ],
)
def test_depth_becomes_z(kind: str, sent: list[float], expected: list[float]) -> None:
    rgba = np.array([[[1, 1, 1, 0.5], [0, 0, 0, 0]]], np.float32)
    came = request(
        (Plane(name="color", fmt="rgba32f", stride=32, alpha="premul"), rgba.tobytes()),
        (
            Plane(name="depth", fmt="r32f", stride=8, kind=kind),
            np.array(sent, np.float32).tobytes(),
        ),
        size=(1, 2),
        camera=Camera(intrinsics=(1.0, 1.0, 1.5, 0.5)),
    )
    depth = to_frame(came).depth
    assert depth is not None
    assert depth[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, (0.5, -0.25)),
        ({"dir": "prev_to_cur"}, (-0.5, 0.25)),
        ({"unit": "uv"}, (2.0, -0.5)),
        ({"unit": "ndc"}, (1.0, -0.25)),
        ({"origin": "bl"}, (0.5, 0.25)),
    ],
)
def test_motion_becomes_backward_pixels(more: dict, expected: tuple[float, float]) -> None:
    motion = np.full((2, 4, 2), (0.5, -0.25), np.float16)
    came = request(
        (Plane(name="color", fmt="rgb8", stride=12), bytes(24)),
        (Plane(name="motion", fmt="rg16f", stride=16, **more), motion.tobytes()),
        size=(2, 4),
    )
    got = to_frame(came).motion
    assert got is not None
    assert got[0, 0].tolist() == list(expected)
    assert to_frame(came, motion=False).motion is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("alpha", [None, "straight", "premultiplied"])
def test_a_frame_survives_the_way_to_the_server(dtype: Any, alpha: Any) -> None:
    frame = Frame(
        color=noise(3, 4, 3, dtype=dtype)[:, ::-1],  # no contiguous array
        alpha=None if alpha is None else noise(3, 4, dtype=dtype),
        alpha_kind=alpha or "straight",
        depth=noise(3, 4, dtype=np.float32),
        motion=noise(3, 4, 2, dtype=np.float16),
        pts=5,
    )
    planes, data = to_planes(frame, mask=noise(3, 4))
    came = FrameRequest(session="s", id=1, pts=5, width=4, height=3, planes=planes, data=data)
    got = to_frame(parse(encode(came), LIMITS), stream_id="x")  # type: ignore[arg-type]
    for name in ("color", "alpha", "depth", "motion"):
        assert np.array_equal(getattr(got, name), getattr(frame, name)), name
    assert (got.alpha_kind, got.pts, got.stream_id) == (frame.alpha_kind, 5, "x")
    planes, data = to_result(came, got, got.with_color(got.color // 2 if dtype != np.float32
                                                        else got.color / 2), Want())  # fmt: skip
    result = Result(session="s", id=1, width=4, height=3, credit=1, planes=planes, data=data)
    back = from_result(frame, result)
    assert back.alpha is frame.alpha
    assert back.color.dtype == dtype
