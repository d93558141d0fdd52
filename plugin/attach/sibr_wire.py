"""The protocol between a SIBR viewer and its renderer, as the public programs speak it.

    viewer    -> u32 length, JSON
    renderer  -> picture (width * height * 3 bytes, RGB, top row first), u32 length, tail

Integers are little-endian. There is no magic and no version. Only the request states the
picture's size. Each of three dialects has a key that the other two lack:

    inria             Kerbl et al. 2023, SIBR's remoteGaussianUI, SplattingAvatar
    gaussian-avatars  Qian et al. 2024: `do_training`; leaves out an empty picture, and the whole
                      reply to a request of size 0
    splatviz          Barthel et al. 2024: `edit_text`, Python that the renderer executes

Nothing here touches a socket. Readers are generators: they yield the number of bytes they want.
"""

import json
import math
import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from splatmend.core.errors import InputError
from splatmend.plugin.protocol.framing import Buffer
from splatmend.plugin.protocol.messages import Camera

__all__ = ["Dialect", "Reply", "Request", "packed", "parse_request", "reading", "reading_reply"]

Dialect = Literal["inria", "gaussian-avatars", "splatviz"]

MOST_TEXT = 1 << 20
"""Bytes of a request or a tail; real ones have one or two thousand bytes."""

_MOST_GUESSED = 1 << 16  # bytes of a tail where a picture might be
_FLIP = np.diag((1.0, -1.0, -1.0, 1.0))  # OpenGL's camera axes to OpenCV's


@dataclass(frozen=True, kw_only=True)
class Request:
    """A viewer's request, and the kind of reply that the renderer will send."""

    body: bytes
    """JSON for the renderer."""
    dialect: Dialect
    width: int
    height: int
    """Pixels; a side of 0 means that the viewer wants no picture."""
    answer: Literal["picture", "tail", "picture or tail", "tail or nothing"]
    shows_splats: bool = True
    """False: the renderer draws a mesh at most."""
    timestep: int | None = None
    """Step of the avatar's animation."""
    camera: Camera | None = None
    code_removed: bool = False
    """Whether `edit_text` had contents, which were removed."""

    @property
    def picture_bytes(self) -> int:
        """Return the size of the reply's picture in bytes."""
        return self.width * self.height * 3


@dataclass(frozen=True)
class Reply:
    """A renderer's answer."""

    picture: Buffer | None
    """RGB, top row first; None if the reply has no picture."""
    tail: Buffer
    """A path or JSON, for the viewer."""


def packed(text: Buffer) -> bytes:
    """Return a request or a tail with its length before it.

    Send it in one piece, because the renderers read a request with a single `recv(length)`.
    """
    return struct.pack("<I", len(text)) + text


def reading(most: int = MOST_TEXT, *, what: str = "request") -> Generator[int, Buffer, Buffer]:
    """Read one request or tail from any source of bytes.

    Yields the number of bytes that it wants, and is sent exactly those. Returns the text.

    Raises:
        InputError: it announces more than `most` bytes.
    """
    (length,) = struct.unpack("<I", (yield 4))
    if length > most:
        raise InputError(
            f"a {what} of {length} bytes was announced, at most {most} are taken: "
            f"is the other side a SIBR viewer or renderer?"
        )
    return (yield length) if length else b""


def parse_request(body: Buffer, *, max_side: int, allow_code: bool = False) -> Request:
    """Parse a viewer's request.

    Args:
        body: the JSON.
        max_side: largest side of a picture, in pixels.
        allow_code: leave `edit_text` as it is. splatviz's renderers pass it to `exec`.

    Raises:
        InputError: the body is not a request, or its size is impossible.
    """
    forwarded, code_removed = bytes(body), False
    try:
        message = json.loads(forwarded)
        if isinstance(message, dict) and "edit_text" in message and not allow_code:
            code_removed = bool(message["edit_text"])
            # written anew even if empty: of two equal keys the renderer might read the other
            forwarded = json.dumps({**message, "edit_text": ""}).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"a request is JSON, got {forwarded[:40]!r}: {error}") from error
    if not isinstance(message, dict):
        raise InputError(f"a request is a JSON object, got {type(message).__name__}")
    width, height = (_side(message, f"resolution_{axis}", max_side) for axis in "xy")
    dialect: Dialect = "inria"
    if "edit_text" in message:
        dialect = "splatviz"
    elif "do_training" in message:
        dialect = "gaussian-avatars"
    answer = _answer(message, dialect, has_size=bool(width and height))
    timestep = message.get("timestep")
    return Request(
        body=forwarded,
        dialect=dialect,
        width=width,
        height=height,
        answer=answer,
        shows_splats=bool(message.get("show_splatting", True)),
        timestep=timestep if isinstance(timestep, int) else None,
        camera=_camera(message, width, height) if answer == "picture" else None,
        code_removed=code_removed,
    )


def reading_reply(request: Request) -> Generator[int, Buffer, Reply]:
    """Read a renderer's answer to a request, like `reading`.

    Returns the picture in the buffer that was sent in, except for `picture or tail`.

    Raises:
        InputError: the tail announces too many bytes. The reply then belongs to another request,
            and the stream is out of step: close it.
    """
    picture: Buffer | None = None
    if request.answer == "picture":
        picture = yield request.picture_bytes
    elif request.answer == "picture or tail":
        start = yield from _reading_guess(request.picture_bytes)
        if isinstance(start, Reply):
            return start
        rest = request.picture_bytes - len(start)
        picture = start + bytes((yield rest)) if rest else start
    tail = yield from reading(what="tail")
    return Reply(picture, tail)


def _reading_guess(picture_bytes: int) -> Generator[int, Buffer, Reply | bytes]:
    """Read the whole reply if it is only a tail of JSON, else a picture's first bytes."""
    head = bytes((yield min(5, picture_bytes)))
    length = struct.unpack("<I", head[:4])[0] if len(head) == 5 else 0
    if not (2 <= length <= _MOST_GUESSED and 4 + length <= picture_bytes and head[4:] == b"{"):
        return head
    head += bytes((yield length - 1))
    try:
        json.loads(head[4:])
    except (ValueError, RecursionError):
        return head
    return Reply(None, head[4:])


def _side(message: Mapping[str, Any], key: str, most: int) -> int:
    side = message.get(key)
    if isinstance(side, bool) or not isinstance(side, int) or not 0 <= side <= most:
        got = f"{side!r:.20}" if isinstance(side, int | float) else type(side).__name__
        raise InputError(f"{key} must be a whole number from 0 to {most}, got {got}")
    return side


def _answer(
    message: Mapping[str, Any], dialect: Dialect, *, has_size: bool
) -> Literal["picture", "tail", "picture or tail", "tail or nothing"]:
    if not has_size:
        if dialect == "splatviz":
            raise InputError("splatviz answers size 0 with a picture of an unknown size")
        return "tail or nothing"
    if message.get("show_splatting", True):
        return "picture"
    # a model without a mesh draws none
    return "picture or tail" if message.get("show_mesh") else "tail"


def _camera(message: Mapping[str, Any], width: int, height: int) -> Camera | None:
    """Return the camera in OpenCV axes; None if the viewer sent no usable one.

    `view_matrix` is OpenGL's world-to-camera matrix, column by column. The renderers reshape it to
    rows and change the signs of columns 1 and 2. The result is the transpose of OpenCV's matrix.
    Their principal point is the centre of the picture.
    """
    try:
        view = np.array(message["view_matrix"], np.float64)
        fov = float(message["fov_x"]), float(message["fov_y"])
        if view.shape != (16,) or not np.isfinite(view).all():
            return None
        if not all(1e-6 < angle < math.pi for angle in fov):
            return None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    half = width / 2, height / 2
    focal = tuple(side / math.tan(angle / 2) for side, angle in zip(half, fov, strict=True))
    world_to_camera = _FLIP @ view.reshape(4, 4).T
    return Camera(
        intrinsics=focal + half,
        view=tuple(world_to_camera.ravel().tolist()),
    )
