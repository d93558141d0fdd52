"""SMP/1's header: `encode` and `parse` are the same for ZeroMQ, TCP and WebSocket.

`parse` checks every field of a header against the bytes that came with it. So its result needs no
further checks.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from splatmend.plugin.protocol.fields import LONGEST_TEXT, Fields, parse_header
from splatmend.plugin.protocol.framing import Buffer, Limits, ProtocolError
from splatmend.plugin.protocol.messages import (
    DROP_REASONS,
    ERROR_CODES,
    MODES,
    PICTURE_FORMATS,
    REFERENCE_KINDS,
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
from splatmend.plugin.protocol.plane_formats import (
    COLOR_FORMATS,
    LAYOUTS,
    ORIGINS,
    Plane,
    PlaneMemo,
)

__all__ = ["encode", "parse"]

_U53 = (1 << 53) - 1  # the whole numbers that JavaScript has
_I64 = (1 << 63) - 1
_DAY_MS = 86_400_000.0
_ANY_SIDE = 1 << 20  # of an announced side; the accepted ones are smaller
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_MOST_CREDIT = 1 << 16
_MOST_REFERENCES = 64  # in a message; a server may accept fewer
_WITH_PLANES = ("frame", "result", "references")


def encode(message: Message) -> list[Buffer]:
    """Return header and planes, without the carrier's framing; planes are not copied."""
    header = _HEADERS[type(message)](message)
    return [_ENCODER.encode(header).encode(), *getattr(message, "data", ())]


def parse(parts: Sequence[Buffer], limits: Limits, memo: PlaneMemo | None = None) -> Message:
    """Check and read a message; its planes stay views of `parts`.

    Args:
        parts: header and planes.
        limits: largest accepted sizes.
        memo: speeds up the reading of many messages.

    Raises:
        ProtocolError: the parts are not a message of SMP/1 within `limits`. Its `id` is the
            frame's, if it could be read.
    """
    limits.check_lengths([len(part) for part in parts])
    header = parse_header(parts[0])
    kind = header.choice("t", _TYPES)
    if len(parts) > 1 and kind not in _WITH_PLANES:
        raise ProtocolError("bad_header", f"a {kind} message has no planes")
    try:
        return _READERS[kind](header, tuple(parts[1:]), limits, memo or PlaneMemo())
    except ProtocolError as error:
        if kind == "frame" and error.id is None:
            error.id = _frame_id(header)
        raise


def _frame_id(header: Fields) -> int | None:
    try:
        return header.integer("id", 0, _U53)
    except ProtocolError:
        return None


def _hello_header(m: Hello) -> dict[str, Any]:
    want = {k: v for k, v in vars(m.want).items() if v is not None}
    return _present(
        t="hello", v=m.versions, client=m.client, stream=m.stream, mode=m.mode,
        max_age_ms=m.max_age_ms, temporal=m.temporal, want=want or None, token=m.token or None,
        references=m.references or None,
    )  # fmt: skip


def _read_hello(h: Fields, *_: Any) -> Hello:
    want = Want()
    if "want" in h:
        w = h.object("want")
        want = Want(
            fmt=w.choice("fmt", COLOR_FORMATS) if "fmt" in w else None,
            layout=w.choice("layout", LAYOUTS) if "layout" in w else None,
            origin=w.choice("origin", ORIGINS) if "origin" in w else None,
        )
    return Hello(
        versions=h.integers("v", 0, _U53), client=h.text("client", ""),
        stream=h.text("stream", ""), mode=h.choice("mode", MODES, "latest"),
        max_age_ms=_age(h), temporal=h.flag("temporal", True), want=want,
        token=h.text("token", ""), references=h.text("references", ""),
    )  # fmt: skip


def _welcome_header(m: Welcome) -> dict[str, Any]:
    return _present(
        t="welcome", v=m.version, session=m.session, credit=m.credit,
        max_part_bytes=m.max_part_bytes, max_wh=m.max_wh, in_fmts=m.in_fmts, planes=m.planes,
        uses=m.uses, stateful=m.stateful, model=m.model, hb_ms=m.hb_ms,
        references=m.references or None, max_references=m.max_references or None,
    )  # fmt: skip


def _read_welcome(h: Fields, *_: Any) -> Welcome:
    sides = h.integers("max_wh", 1, _ANY_SIDE)
    if len(sides) != 2:
        raise ProtocolError("bad_header", f"max_wh must be width and height, got {sides}")
    return Welcome(
        version=h.integer("v", 0, _U53), session=h.text("session"),
        credit=h.integer("credit", 1, _MOST_CREDIT),
        max_part_bytes=h.integer("max_part_bytes", 1, _I64),
        max_wh=(sides[0], sides[1]), in_fmts=h.texts("in_fmts"), planes=h.texts("planes"),
        uses=h.texts("uses"), stateful=h.flag("stateful", False), model=h.text("model", ""),
        hb_ms=h.number("hb_ms", 1, _DAY_MS, 2000), references=h.text("references", ""),
        max_references=h.integer("max_references", 0, _MOST_REFERENCES, 0),
    )  # fmt: skip


def _frame_header(m: FrameRequest) -> dict[str, Any]:
    cam = m.camera
    return _present(
        t="frame", session=m.session, id=m.id, pts=m.pts, w=m.width, h=m.height,
        cut=m.cut or None, max_age_ms=m.max_age_ms,
        cam=_present(K=cam.intrinsics, view=cam.view) if cam else None,
        planes=[plane.header() for plane in m.planes],
    )  # fmt: skip


def _read_frame(
    h: Fields, data: tuple[Buffer, ...], limits: Limits, memo: PlaneMemo
) -> FrameRequest:
    width, height = _sides(h, limits)
    planes = memo.read(h, width, height, data)
    _check_color(planes)
    return FrameRequest(
        session=h.text("session", ""), id=h.integer("id", 0, _U53), pts=_pts(h), width=width,
        height=height, cut=h.flag("cut", False), max_age_ms=_age(h), camera=_read_camera(h),
        planes=planes, data=data,
    )  # fmt: skip


def _read_camera(h: Fields) -> Camera | None:
    if "cam" not in h:
        return None
    cam = h.object("cam")
    view = cam.numbers("view", 16) if "view" in cam else None
    intrinsics = cam.numbers("K", 4)
    if min(intrinsics[:2]) <= 0:
        raise ProtocolError("bad_header", f"cam.K needs positive focal lengths, got {intrinsics}")
    return Camera(intrinsics=intrinsics, view=view)


def _check_color(planes: Sequence[Plane]) -> None:
    by_name = {plane.name: plane for plane in planes}
    color = by_name.get("color")
    if color is None:
        raise ProtocolError("bad_header", "a frame needs a plane called color")
    separate, fourth = "alpha" in by_name, color.pixel.channels == 4
    if color.alpha == "opaque" and separate:
        raise ProtocolError(
            "bad_header", "with a plane called alpha, color must say alpha premul or straight"
        )
    if color.alpha != "opaque" and separate == fourth:
        raise ProtocolError(
            "bad_header",
            f"color says alpha {color.alpha}: send it as a fourth channel or as a plane called "
            f"alpha, not {'both' if fourth else 'neither'}",
        )


def _result_header(m: Result) -> dict[str, Any]:
    return {
        "t": "result", "session": m.session, "id": m.id, "pts": m.pts, "w": m.width,
        "h": m.height, "applied": m.applied,
        "srv_ms": {"queue": round(m.queue_ms, 3), "proc": round(m.proc_ms, 3)},
        "credit": m.credit, "model": m.model, "planes": [plane.header() for plane in m.planes],
    }  # fmt: skip


def _read_result(h: Fields, data: tuple[Buffer, ...], limits: Limits, memo: PlaneMemo) -> Result:
    width, height = _sides(h, limits)
    times = h.object("srv_ms") if "srv_ms" in h else Fields({})
    applied = h.flag("applied", True)
    planes = memo.read(h, width, height, data)
    if applied and "color" not in [plane.name for plane in planes]:
        raise ProtocolError("bad_header", "a result that was applied has a plane called color")
    return Result(
        session=h.text("session", ""), id=h.integer("id", 0, _U53), pts=_pts(h), width=width,
        height=height, applied=applied, queue_ms=times.number("queue", 0, _DAY_MS, 0),
        proc_ms=times.number("proc", 0, _DAY_MS, 0), credit=h.integer("credit", 1, _MOST_CREDIT),
        model=h.text("model", ""), planes=planes, data=data,
    )  # fmt: skip


def _drop_header(m: Drop) -> dict[str, Any]:
    return {"t": "drop", "session": m.session, "id": m.id, "why": m.why, "credit": m.credit}


def _read_drop(h: Fields, *_: Any) -> Drop:
    return Drop(
        session=h.text("session", ""), id=h.integer("id", 0, _U53),
        why=h.choice("why", DROP_REASONS), credit=h.integer("credit", 1, _MOST_CREDIT),
    )  # fmt: skip


def _error_header(m: ErrorReply) -> dict[str, Any]:
    return _present(
        t="error", session=m.session or None, id=m.id, code=m.code, msg=_one_line(m.text),
        fatal=m.fatal, retry_ms=m.retry_ms or None, credit=m.credit,
    )  # fmt: skip


def _read_error(h: Fields, *_: Any) -> ErrorReply:
    return ErrorReply(
        code=h.choice("code", ERROR_CODES), text=h.text("msg", ""), session=h.text("session", ""),
        id=h.integer("id", 0, _U53) if "id" in h else None, fatal=h.flag("fatal", False),
        retry_ms=h.number("retry_ms", 0, _DAY_MS, 0),
        credit=h.integer("credit", 1, _MOST_CREDIT) if "credit" in h else None,
    )  # fmt: skip


def _references_header(m: UseReferences) -> dict[str, Any]:
    pictures = [
        _present(fmt=p.fmt, bytes=p.bytes, w=p.width or None, h=p.height or None)
        for p in m.pictures
    ]
    return _present(
        t="references", session=m.session, kind="pairs" if m.kind == "pairs" else None,
        pictures=pictures if pictures or m.count is None else None, count=m.count,
    )  # fmt: skip


def _read_references(h: Fields, data: tuple[Buffer, ...], *_: Any) -> UseReferences:
    kind = h.choice("kind", REFERENCE_KINDS, "pictures")
    pictures = tuple(_read_picture(p) for p in h.objects("pictures", _MOST_REFERENCES))
    if kind == "pairs" and len(pictures) % 2:
        raise ProtocolError(
            "bad_header", f"pairs are a render and its truth in turn, got {len(pictures)} pictures"
        )
    described, came = sum(p.bytes for p in pictures), sum(map(len, data))
    if len(data) != bool(pictures) or described != came:
        raise ProtocolError(
            "size_mismatch",
            f"pictures of {described} bytes are described, {came} follow in {len(data)} planes: "
            f"put all into one",
        )
    count = h.integer("count", 0, _MOST_REFERENCES) if "count" in h else None
    return UseReferences(
        session=h.text("session", ""), kind=kind, pictures=pictures, data=data, count=count
    )


def _read_picture(h: Fields) -> ReferencePicture:
    fmt, length = h.choice("fmt", tuple(PICTURE_FORMATS)), h.integer("bytes", 1, 1 << 31)
    channels = PICTURE_FORMATS[fmt]
    if not channels:
        return ReferencePicture(fmt=fmt, bytes=length)
    width, height = h.integer("w", 1, _ANY_SIDE), h.integer("h", 1, _ANY_SIDE)
    if length != width * height * channels:
        raise ProtocolError(
            "size_mismatch",
            f"{width}x{height} {fmt} takes {width * height * channels} bytes, got {length}",
        )
    return ReferencePicture(fmt=fmt, bytes=length, width=width, height=height)


def _bye_header(m: Bye) -> dict[str, Any]:
    return _present(t="bye", session=m.session or None, why=m.why or None)


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _one_line(text: str) -> str:
    """Make a text that a reader accepts: one printable line of bounded length."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:LONGEST_TEXT]


def _age(h: Fields) -> float | None:
    return h.number("max_age_ms", 0, _DAY_MS) if "max_age_ms" in h else None


def _pts(h: Fields) -> int:
    return h.integer("pts", -_I64 - 1, _I64, 0)


def _sides(h: Fields, limits: Limits) -> tuple[int, int]:
    width, height = h.integer("w", 1, _ANY_SIDE), h.integer("h", 1, _ANY_SIDE)
    if max(width, height) > limits.side:
        raise ProtocolError(
            "too_large", f"sides up to {limits.side} pixels are taken, got {width}x{height}"
        )
    return width, height


_HEADERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Hello: _hello_header,
    Welcome: _welcome_header,
    FrameRequest: _frame_header,
    Result: _result_header,
    Drop: _drop_header,
    ErrorReply: _error_header,
    Ping: lambda m: {"t": "ping", "n": m.n},
    Pong: lambda m: {"t": "pong", "n": m.n},
    Stats: lambda m: _present(t="stats", values=m.values),
    UseReferences: _references_header,
    Bye: _bye_header,
}
_READERS: dict[str, Callable[[Fields, tuple[Buffer, ...], Limits, PlaneMemo], Message]] = {
    "hello": _read_hello,
    "welcome": _read_welcome,
    "frame": _read_frame,
    "result": _read_result,
    "drop": _read_drop,
    "error": _read_error,
    "ping": lambda h, *_: Ping(n=h.integer("n", 0, _U53, 0)),
    "pong": lambda h, *_: Pong(n=h.integer("n", 0, _U53, 0)),
    "stats": lambda h, *_: Stats(values=h.plain("values") if "values" in h else None),
    "references": _read_references,
    "bye": lambda h, *_: Bye(session=h.text("session", ""), why=h.text("why", "")),
}
_TYPES = tuple(_READERS)
