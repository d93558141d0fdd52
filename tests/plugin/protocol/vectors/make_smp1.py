"""Writes smp1.json, the conformance vectors of SMP/1.

    python tests/plugin/protocol/vectors/make_smp1.py

`messages` are valid: `hex` is the framing of TCP and WebSocket, `header` and `planes` what it
holds. `invalid` must be refused with `code`. A client for another language parses the first,
refuses the second, and writes headers that mean the same.
"""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatmend.plugin.protocol.codec import encode
from splatmend.plugin.protocol.framing import MAGIC, join
from splatmend.plugin.protocol.messages import (
    Bye,
    Camera,
    Drop,
    ErrorReply,
    FrameRequest,
    Hello,
    Message,
    Ping,
    Pong,
    ReferencePicture,
    Result,
    Stats,
    UseReferences,
    Want,
    Welcome,
)
from splatmend.plugin.protocol.plane_formats import Plane

TARGET = Path(__file__).with_name("smp1.json")


def ramp(count: int) -> bytes:
    return bytes(range(count))


PNG = bytes.fromhex(  # one pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c636898b0"
    "0000034401b17ad736140000000049454e44ae426082"
)
WELCOME = Welcome(
    session="a1b2c3",
    credit=2,
    max_part_bytes=67108864,
    max_wh=(4096, 4096),
    in_fmts=("rgb8", "rgba8"),
    planes=("color", "alpha", "depth", "motion", "mask"),
    uses=("color", "alpha", "mask"),
    stateful=False,
    model="compact",
    hb_ms=2000,
)
SMALL = FrameRequest(
    session="a1b2c3",
    id=1,
    width=2,
    height=2,
    planes=(Plane(name="color", fmt="rgb8", stride=6),),
    data=(ramp(12),),
)
EVERY_PLANE = FrameRequest(
    session="a1b2c3",
    id=9007199254740991,
    pts=-81234567890,
    width=2,
    height=1,
    cut=True,
    max_age_ms=150,
    camera=Camera(intrinsics=(500.0, 500.0, 1.0, 0.5), view=(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3.5,
                                                             0, 0, 0, 1)),
    planes=(
        Plane(name="color", fmt="rgb8", stride=8, alpha="premul", bg=(1.0, 1.0, 1.0)),
        Plane(name="alpha", fmt="r8", stride=4),
        Plane(name="depth", fmt="r32f", stride=8, kind="inverse", near=0.01, far=10.0),
        Plane(name="motion", fmt="rg16f", stride=8, dir="prev_to_cur", unit="uv"),
        Plane(name="mask", fmt="r8", stride=2),
    ),
    data=(ramp(6), ramp(2), struct.pack("<2f", 0.5, 2.0), struct.pack("<4e", 0, 1, -1, 2),
          b"\xff\x00"),
)  # fmt: skip
BOTTOM_UP = FrameRequest(
    session="a1b2c3",
    id=3,
    width=1,
    height=2,
    planes=(
        Plane(name="color", fmt="bgra8", stride=4, origin="bl", cs="linear", alpha="straight"),
    ),
    data=(ramp(8),),
)
PLANAR = FrameRequest(
    session="a1b2c3",
    id=4,
    width=2,
    height=1,
    planes=(Plane(name="color", fmt="rgb32f", stride=8, layout="chw"),),
    data=(struct.pack("<6f", 0, 0.25, 0.5, 0.75, 1, 0),),
)
MESSAGES: dict[str, Message] = {
    "hello, least": Hello(),
    "hello, all": Hello(
        versions=(1, 2),
        client="gsplat-viewer/0.3",
        stream="cam0",
        mode="sync",
        max_age_ms=150,
        temporal=False,
        want=Want(fmt="rgba8", layout="hwc", origin="tl"),
        token="secret",
    ),
    "hello, ordered": Hello(client="Übertragung", mode="ordered"),
    "hello, references": Hello(mode="sync", references="anna"),
    "welcome": WELCOME,
    "welcome, references": replace(WELCOME, references="anna", max_references=16),
    "frame, rgb8": SMALL,
    "frame, every plane and padded rows": EVERY_PLANE,
    "frame, bgra8 from the bottom": BOTTOM_UP,
    "frame, floats, channels first": PLANAR,
    "result": Result(
        session="a1b2c3", id=1, pts=0, width=2, height=2, queue_ms=0.4, proc_ms=9.8, credit=1,
        model="compact", planes=SMALL.planes, data=(ramp(12)[::-1],),
    ),
    "result, not applied": Result(
        session="a1b2c3", id=2, width=2, height=2, applied=False, credit=1, model="compact"
    ),
    "drop": Drop(session="a1b2c3", id=120, why="superseded", credit=1),
    "drop, stale": Drop(session="a1b2c3", id=121, why="stale", credit=1),
    "drop, busy": Drop(session="a1b2c3", id=122, why="busy", credit=1),
    "drop, shutdown": Drop(session="a1b2c3", id=123, why="shutdown", credit=1),
    "error of a frame": ErrorReply(
        code="size_mismatch", text="color: 2x2 rgb8 takes 12 bytes, got 11", session="a1b2c3",
        id=5, credit=1,
    ),
    "error of the session": ErrorReply(
        code="no_session", text="send hello first", fatal=True, retry_ms=1000
    ),
    "ping": Ping(n=7),
    "pong": Pong(n=7),
    "stats, asked": Stats(),
    "stats, answered": Stats(values={"sessions": 1, "frames": {"result": 10}}),
    "references, files": UseReferences(
        session="a1b2c3",
        pictures=(ReferencePicture(fmt="png", bytes=len(PNG)),
                  ReferencePicture(fmt="jpeg", bytes=4)),
        data=(PNG + b"\xff\xd8\xff\xd9",),
    ),
    "references, a pair of pixels": UseReferences(
        session="a1b2c3",
        kind="pairs",
        pictures=(ReferencePicture(fmt="rgb8", bytes=6, width=2, height=1),
                  ReferencePicture(fmt="rgba8", bytes=8, width=2, height=1)),
        data=(ramp(14),),
    ),
    "references, none": UseReferences(session="a1b2c3"),
    "references, answered": UseReferences(session="a1b2c3", count=2),
    "bye": Bye(),
    "bye, with reason": Bye(session="a1b2c3", why="shutdown"),
}  # fmt: skip


def framed(header: Any, *planes: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b"".join(join([text, *planes]))


def color(**more: Any) -> dict[str, Any]:
    return {"n": "color", "fmt": "rgb8", "stride": 6, **more}


def frame(**more: Any) -> dict[str, Any]:
    head = {"t": "frame", "session": "s", "id": 1, "w": 2, "h": 2, "planes": [color()]}
    return {**head, **more}


def references(*pictures: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"t": "references", "session": "s", "pictures": list(pictures), **more}


RGB = {"fmt": "rgb8", "bytes": 12, "w": 2, "h": 2}
DEEP = b"[" * 2000
INVALID: dict[str, tuple[str, bytes]] = {
    "another protocol": ("bad_header", b"GET / HTTP/1.1\r\n\r\n"),
    "another version of the framing": ("bad_header", b"SMP2" + framed({"t": "ping"})[4:]),
    "no parts": ("bad_header", MAGIC + struct.pack("<I", 0)),
    "too many parts": ("bad_header", MAGIC + struct.pack("<I", 1 << 31) + bytes(64)),
    "a part of 4 GB": ("too_large", MAGIC + struct.pack("<3I", 2, 2, (1 << 32) - 1) + b"{}"),
    "a header of 4 GB": ("too_large", MAGIC + struct.pack("<2I", 1, (1 << 32) - 1)),
    "cut in the lengths": ("size_mismatch", MAGIC + struct.pack("<2I", 3, 2)),
    "cut in a plane": ("size_mismatch", framed(frame(), ramp(12))[:-1]),
    "bytes left over": ("size_mismatch", framed({"t": "ping"}) + b"\0"),
    "header is no JSON": ("bad_header", framed(b"\xff\xfe{}")),
    "header is a list": ("bad_header", framed([1, 2])),
    "header nests too deeply": ("bad_header", framed(DEEP)),
    "header is NaN": ("bad_header", framed(b'{"t":"ping","n":NaN}')),
    "no type": ("bad_header", framed({})),
    "unknown type": ("bad_header", framed({"t": "gossip"})),
    "planes after a ping": ("bad_header", framed({"t": "ping"}, b"x")),
    "a mode that is none": ("bad_header", framed({"t": "hello", "v": [1], "mode": "fast"})),
    "a hello without versions": ("bad_header", framed({"t": "hello"})),
    "a stream name with an escape": (
        "bad_header", framed({"t": "hello", "v": [1], "stream": "\x1b[2J"}),
    ),
    "no width": ("bad_header", framed(frame(w=None), ramp(12))),
    "width true": ("bad_header", framed(frame(w=True), ramp(12))),
    "width 0": ("bad_header", framed(frame(w=0), ramp(12))),
    "width 2.0": ("bad_header", framed(frame(w=2.0), ramp(12))),
    "wider than the server takes": ("too_large", framed(frame(w=100000), ramp(12))),
    "id below 0": ("bad_header", framed(frame(id=-1), ramp(12))),
    "id above 2^53": ("bad_header", framed(frame(id=1 << 53), ramp(12))),
    "fewer bytes than pixels": ("size_mismatch", framed(frame(), ramp(11))),
    "more bytes than pixels": ("size_mismatch", framed(frame(), ramp(13))),
    "rows overlap": ("size_mismatch", framed(frame(planes=[color(stride=5)]), ramp(11))),
    "a plane without bytes": ("size_mismatch", framed(frame())),
    "bytes without a plane": ("size_mismatch", framed(frame(), ramp(12), b"x")),
    "a plane twice": ("bad_header", framed(frame(planes=[color()] * 2), ramp(12), ramp(12))),
    "no colour": (
        "bad_header",
        framed(frame(planes=[{"n": "mask", "fmt": "r8", "stride": 2}]), ramp(4)),
    ),
    "an unknown format": ("bad_header", framed(frame(planes=[color(fmt="yuv")]), ramp(12))),
    "a mask of floats": (
        "bad_header",
        framed(frame(planes=[color(), {"n": "mask", "fmt": "r32f", "stride": 8}]), ramp(12),
               ramp(16)),
    ),
    "alpha is promised and does not come": (
        "bad_header", framed(frame(planes=[color(alpha="premul")]), ramp(12)),
    ),
    "alpha comes and is not explained": (
        "bad_header",
        framed(frame(planes=[color(), {"n": "alpha", "fmt": "r8", "stride": 2}]), ramp(12),
               ramp(4)),
    ),
    "a camera of 3 numbers": ("bad_header", framed(frame(cam={"K": [1, 1, 1]}), ramp(12))),
    "a camera without length": ("bad_header", framed(frame(cam={"K": [0, 1, 1, 1]}), ramp(12))),
    "a background beyond all numbers": (
        "bad_header",
        framed(json.dumps(frame(planes=[color(bg="@")])).replace('"@"', "[1e999,0,0]").encode(),
               ramp(12)),
    ),
    "an unknown reason": (
        "bad_header", framed({"t": "drop", "id": 1, "why": "mood", "credit": 1}),
    ),
    "no credit": ("bad_header", framed({"t": "drop", "id": 1, "why": "stale"})),
    "references of an unknown format": (
        "bad_header", framed(references({"fmt": "gif", "bytes": 12}), ramp(12)),
    ),
    "references of no bytes": ("bad_header", framed(references({"fmt": "png", "bytes": 0}))),
    "references of pixels without a size": (
        "bad_header", framed(references({"fmt": "rgb8", "bytes": 12}), ramp(12)),
    ),
    "fewer bytes than a reference's pixels": (
        "size_mismatch", framed(references({**RGB, "h": 3}), ramp(12)),
    ),
    "fewer bytes than references": ("size_mismatch", framed(references(RGB, RGB), ramp(12))),
    "references in two planes": ("size_mismatch", framed(references(RGB, RGB), ramp(12), ramp(12))),
    "bytes without references": ("size_mismatch", framed(references(), ramp(12))),
    "half a pair of references": ("bad_header", framed(references(RGB, kind="pairs"), ramp(12))),
    "more references than can be described": (
        "bad_header", framed(references(*[RGB] * 65), bytes(12 * 65)),
    ),
    "a result without colour": (
        "bad_header", framed({"t": "result", "id": 1, "w": 1, "h": 1, "credit": 1}),
    ),
}  # fmt: skip


def vectors() -> dict[str, Any]:
    messages = []
    for name, message in MESSAGES.items():
        header, *planes = (bytes(part) for part in encode(message))
        messages.append(
            {
                "name": name,
                "header": json.loads(header),
                "planes": [plane.hex() for plane in planes],
                "hex": b"".join(join([header, *planes])).hex(),
            }
        )
    invalid = [
        {"name": name, "code": code, "hex": data.hex()} for name, (code, data) in INVALID.items()
    ]
    return {"protocol": "SMP/1", "version": 1, "messages": messages, "invalid": invalid}


def text() -> str:
    return json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
