"""The messages of SMP/1, version 1, as frozen dataclasses; codec.py writes and reads them.

A client opens a session with `Hello`, and the server answers `Welcome`. The server answers every
`FrameRequest` with exactly one `Result`, `Drop` or `ErrorReply` of its id. `Ping` and `Pong` keep
a quiet session open. `Stats` asks for figures and brings them. `UseReferences` brings a client's
own references. `Bye` ends a session. `docs/protocol.md` is the specification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splatmend.plugin.protocol.framing import Buffer
from splatmend.plugin.protocol.plane_formats import Plane

__all__ = [
    "DROP_REASONS",
    "ERROR_CODES",
    "MODES",
    "PICTURE_FORMATS",
    "REFERENCE_KINDS",
    "VERSION",
    "Bye",
    "Camera",
    "Drop",
    "ErrorReply",
    "FrameRequest",
    "Hello",
    "Message",
    "Ping",
    "Pong",
    "ReferencePicture",
    "Result",
    "Stats",
    "UseReferences",
    "Want",
    "Welcome",
]

VERSION = 1
MODES = ("latest", "sync", "ordered")
DROP_REASONS = ("superseded", "stale", "busy", "shutdown")
ERROR_CODES = (
    "version", "bad_header", "unsupported", "size_mismatch", "too_large", "auth", "no_session",
    "busy", "internal",
)  # fmt: skip
PICTURE_FORMATS = {"png": 0, "jpeg": 0, "rgb8": 3, "rgba8": 4}
"""Formats of reference pictures: bytes of a pixel, or 0 for a file that states its own size."""
REFERENCE_KINDS = ("pictures", "pairs")


@dataclass(frozen=True, kw_only=True)
class Want:
    """Wanted format of results; None: as in the request."""

    fmt: str | None = None
    layout: str | None = None
    origin: str | None = None


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Client: open a session, in place of the one that the connection had."""

    versions: tuple[int, ...] = (VERSION,)
    client: str = ""
    stream: str = ""
    mode: str = "latest"
    max_age_ms: float | None = None
    """The server drops frames that waited longer."""
    temporal: bool = True
    """Whether the server may use earlier frames of the session to remove flicker."""
    want: Want = field(default_factory=Want)
    token: str = ""
    references: str = ""
    """Name of one of the server's sets of references; empty: the server's choice."""


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """Server: the session is open."""

    version: int = VERSION
    session: str
    credit: int
    """Number of frames that may be unanswered at any time."""
    max_part_bytes: int
    max_wh: tuple[int, int]
    in_fmts: tuple[str, ...]
    """Accepted formats of colour."""
    planes: tuple[str, ...]
    """Planes that may be sent."""
    uses: tuple[str, ...]
    """Planes that change the result; a client need not send the others."""
    stateful: bool
    model: str
    hb_ms: float
    """Interval of pings from a client that has nothing else to send."""
    references: str = ""
    """Name of the set of references that guides the session; empty: none."""
    max_references: int = 0
    """Number of reference pictures that a client may send; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Pinhole camera of a frame, OpenCV axes (x right, y down, z forward)."""

    intrinsics: tuple[float, ...]
    """fx, fy, cx, cy in pixels."""
    view: tuple[float, ...] | None = None
    """World to camera, 4 x 4, row by row."""


@dataclass(frozen=True, kw_only=True)
class FrameRequest:
    """Client: a frame to restore."""

    session: str
    id: int
    """Grows by one with each captured frame, so gaps show the frames that the client dropped."""
    pts: int = 0
    """Nanoseconds of the client's clock; the answer repeats it."""
    width: int
    height: int
    cut: bool = False
    """This frame starts a new scene."""
    max_age_ms: float | None = None
    camera: Camera | None = None
    planes: tuple[Plane, ...]
    data: tuple[Buffer, ...]
    """The bytes of each plane."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Server: the restored frame; without planes if `applied` is false: keep your own."""

    session: str
    id: int
    pts: int = 0
    width: int
    height: int
    applied: bool = True
    queue_ms: float = 0.0
    proc_ms: float = 0.0
    credit: int
    model: str = ""
    planes: tuple[Plane, ...] = ()
    data: tuple[Buffer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Server: the frame was deliberately not restored."""

    session: str
    id: int
    why: str
    credit: int


@dataclass(frozen=True, kw_only=True)
class ErrorReply:
    """Server: a message could not be used."""

    code: str
    text: str
    session: str = ""
    id: int | None = None
    """Id of the frame that it answers; None if it answers another message."""
    fatal: bool = False
    """The session is over."""
    retry_ms: float = 0.0
    credit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ping:
    """Either side: ask for a sign of life."""

    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Pong:
    """The answer to a ping, with its number."""

    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Client: ask for figures, without `values`; server: send them."""

    values: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ReferencePicture:
    """Description of one picture; the message's part holds all pictures' bytes in a row."""

    fmt: str
    """A key of `PICTURE_FORMATS`."""
    bytes: int
    width: int = 0
    """Pixels; only for rgb8 and rgba8, whose rows have no padding."""
    height: int = 0


@dataclass(frozen=True, kw_only=True)
class UseReferences:
    """Client: use these references from now on, or none; server: the number in use."""

    session: str = ""
    kind: str = "pictures"
    """pictures, or pairs: a render and its truth, in turn."""
    pictures: tuple[ReferencePicture, ...] = ()
    data: tuple[Buffer, ...] = ()
    """One part with the bytes of all pictures; empty without pictures."""
    count: int | None = None
    """The server's answer: number of pictures or pairs in use."""


@dataclass(frozen=True, kw_only=True)
class Bye:
    """Either side: end the session once every frame is answered; the server says bye, too."""

    session: str = ""
    why: str = ""


Message = (
    Hello | Welcome | FrameRequest | Result | Drop | ErrorReply | Ping | Pong | Stats
    | UseReferences | Bye
)  # fmt: skip
