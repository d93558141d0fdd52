"""Bytes on the wire: requests, cameras, lengths, code."""

import json
import math
import struct
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from splatmend.core import InputError
from splatmend.plugin.attach.sibr_wire import Reply, packed, parse_request, reading, reading_reply

from sibr_ends import DIALECTS, SIZE, look, parsed, request


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_are_told_apart_and_forwarded(dialect: str) -> None:
    message = request(dialect)
    asked = parsed(message)
    assert (asked.dialect, asked.answer) == (dialect, "picture")
    assert (asked.height, asked.width) == SIZE
    assert json.loads(asked.body) == message
    assert asked.timestep == message.get("timestep")


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"resolution_x": 0}, "tail or nothing"),
        ({"resolution_y": 0}, "tail or nothing"),
        ({"show_splatting": False}, "tail"),
        ({"show_splatting": False, "show_mesh": True}, "picture or tail"),
        ({"show_mesh": True}, "picture"),
    ],
)
def test_what_is_asked_for_decides_what_comes(changes: dict[str, Any], answer: str) -> None:
    asked = parsed(request("gaussian-avatars", **changes))
    assert asked.answer == answer
    assert asked.shows_splats == changes.get("show_splatting", True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b'{"resolution_x": 5}']
    + [json.dumps(request(resolution_x=side)).encode()
       for side in (-1, 4097, 2**40, 1.5, True, None, "9", [9])],
)  # fmt: skip
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_request(body, max_side=4096)


def test_splatviz_answers_size_0_with_an_unknown_picture() -> None:
    with pytest.raises(InputError, match="unknown size"):
        parsed(request("splatviz", resolution_x=0, resolution_y=0))


def test_code_is_removed_unless_it_is_allowed() -> None:
    message = request("splatviz", edit_text="gs.boom()")
    asked = parsed(message)
    assert asked.code_removed
    assert json.loads(asked.body) == {**message, "edit_text": ""}
    allowed = parsed(message, allow_code=True)
    assert json.loads(allowed.body)["edit_text"] == "gs.boom()"
    twice = json.dumps(message)[:-1] + ', "edit\\u005ftext": ""}'
    hidden = parse_request(twice.encode(), max_side=4096)
    assert b"boom" not in hidden.body


@pytest.mark.parametrize("angle", [0.0, 0.8, -2.0])
def test_the_camera_sees_points_where_the_renderer_does(angle: float) -> None:
    # as the viewers do it: OpenGL, clip space with y up; the renderers then change the sign of
    # the projected y, and put -1 at the left and top edges
    view = look((0.4, -0.2, 2.5), angle)
    size, fov = (300, 400), (0.9, 0.7)
    projection = np.diag((1 / math.tan(fov[0] / 2), 1 / math.tan(fov[1] / 2), -1.0, 0.0))
    projection[3, 2] = -1.0
    asked = parsed(
        request(size=size, fov_x=fov[0], fov_y=fov[1], view_matrix=view.T.ravel().tolist())
    )
    assert asked.camera is not None
    ahead = np.linalg.inv(view) @ np.array((0.3, 0.2, -2.0, 1.0))
    clip = projection @ view @ ahead
    pixel = ((clip[0] / clip[3] + 1) / 2 * size[1], (-clip[1] / clip[3] + 1) / 2 * size[0])
    x, y, z, _ = np.reshape(asked.camera.view, (4, 4)) @ ahead
    fx, fy, cx, cy = asked.camera.intrinsics
    assert z == pytest.approx(2.0)
    assert (fx * x / z + cx, fy * y / z + cy) == pytest.approx(pixel)
    assert pixel[1] < size[0] / 2  # above the middle, as it is above the axis


@pytest.mark.parametrize(
    "changes",
    [{"view_matrix": [1.0] * 15}, {"view_matrix": [math.inf] * 16}, {"fov_x": 0}, {"fov_y": 4.0},
     {"view_matrix": None}, {"fov_x": "wide"}, {"view_matrix": [10**400] * 16}],
)  # fmt: skip
def test_a_camera_that_makes_no_sense_is_left_out(changes: dict[str, Any]) -> None:
    assert parsed(request(**changes)).camera is None


def fed(steps: Generator[int, Any, Any], stream: bytes) -> tuple[Any, bytes]:
    """Return a reader's result and the bytes that it left."""
    wanted = next(steps)
    while True:
        assert 0 < wanted <= len(stream)
        piece, stream = stream[:wanted], stream[wanted:]
        try:
            wanted = steps.send(piece)
        except StopIteration as end:
            return end.value, stream


def test_a_lone_tail_is_told_from_a_picture() -> None:
    asked = parsed(request("gaussian-avatars", show_splatting=False, show_mesh=True))
    tail = b'{"num_timesteps": 9, "num_points": 5}'
    assert fed(reading_reply(asked), packed(tail) + b"next") == (Reply(None, tail), b"next")
    for start in (b"", packed(tail[:-1] + b"!"), packed(tail)[:5], struct.pack("<I", 60000) + b"{"):
        pixels = start + bytes(asked.picture_bytes - len(start))
        stream = pixels + packed(tail) + b"next"
        assert fed(reading_reply(asked), stream) == (Reply(pixels, tail), b"next")
    tiny = parsed(request("gaussian-avatars", (1, 1), show_splatting=False, show_mesh=True))
    assert fed(reading_reply(tiny), b"abc" + packed(tail)) == (Reply(b"abc", tail), b"")


def test_lengths_are_checked_before_memory_is_taken() -> None:
    for length in (1 << 20, (1 << 20) + 1):
        steps = reading()
        next(steps)
        if length > 1 << 20:
            with pytest.raises(InputError, match="announced"):
                steps.send(struct.pack("<I", length))
        else:
            assert steps.send(struct.pack("<I", length)) == length
    assert fed(reading(), packed(b"")) == (b"", b"")
