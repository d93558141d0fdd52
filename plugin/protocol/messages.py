"""The messages of SMP/1, version 1, as frozen dataclasses; codec.py writes and reads them.

A client opens a session with `Hello`, the server answers `Welcome`. For every `FrameRequest`
the server answers exactly one of `Result`, `Drop` and `ErrorReply` with its id. `Ping` and
`Pong` keep a quiet session open, `Stats` asks for figures and brings them, `UseReferences` brings
a client's own references, `Bye` ends a session. `docs/protocol.md` is the specification.
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
"""Of reference pictures; bytes of a pixel, 0 where a picture is a file that says its own size."""
REFERENCE_KINDS = ("pictures", "pairs")


@dataclass(frozen=True, kw_only=True)
class Want:
    """How results should come, where it differs from the request; None: as the request."""

    fmt: str | None = None
    layout: str | None = None
    origin: str | None = None


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Client: opens a session, and replaces the one that the connection had."""

    versions: tuple[int, ...] = (VERSION,)
    client: str = ""
    stream: str = ""
    mode: str = "latest"
    max_age_ms: float | None = None
    """Frames that waited longer at the server are dropped."""
    temporal: bool = True
    """Whether the server may let earlier frames of the session steady later ones."""
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
    """Frames that may be unanswered at any time."""
    max_part_bytes: int
    max_wh: tuple[int, int]
    in_fmts: tuple[str, ...]
    """Of colour."""
    planes: tuple[str, ...]
    """What may be sent."""
    uses: tuple[str, ...]
    """What changes the result; the rest need not be sent."""
    stateful: bool
    model: str
    hb_ms: float
    """A client that has nothing to send sends a ping this often."""
    references: str = ""
    """Name of the set of references that guides the session; empty: none."""
    max_references: int = 0
    """Reference pictures that a client may send; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Pinhole camera of a frame, OpenCV axes (x right, y down, z forward)."""

    intrinsics: tuple[float, ...]
    """fx, fy, cx, cy in pixels."""
    view: tuple[float, ...] | None = None
    """World to camera, 4x4 row by row."""


@dataclass(frozen=True, kw_only=True)
class FrameRequest:
    """Client: a frame to restore."""

    session: str
    id: int
    """Grows by one with each captured frame, so that gaps show what the client dropped."""
    pts: int = 0
    """Nanoseconds of the client's clock; echoed."""
    width: int
    height: int
    cut: bool = False
    """Nothing before this frame belongs to it."""
    max_age_ms: float | None = None
    camera: Camera | None = None
    planes: tuple[Plane, ...]
    data: tuple[Buffer, ...]
    """The bytes of each plane."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Server: the frame, restored; without planes where `applied` is false: keep your own."""

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
    """Server: the frame was not restored, on purpose."""

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
    """Of the frame that it answers; None where it answers none."""
    fatal: bool = False
    """The session is over."""
    retry_ms: float = 0.0
    credit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ping:
    """Either side: are you there?"""

    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Pong:
    """The answer to a ping, with its number."""

    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Client: without `values`, a question; server: the answer."""

    values: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ReferencePicture:
    """Description of one picture; the message's part has their bytes, one after the other."""

    fmt: str
    """A key of `PICTURE_FORMATS`."""
    bytes: int
    width: int = 0
    """Pixels; of rgb8 and rgba8 alone, whose rows follow each other without padding."""
    height: int = 0


@dataclass(frozen=True, kw_only=True)
class UseReferences:
    """Client: use these references from now on, or none; server: so many of them are in use."""

    session: str = ""
    kind: str = "pictures"
    """pictures, or pairs: a render and its truth, in turn."""
    pictures: tuple[ReferencePicture, ...] = ()
    data: tuple[Buffer, ...] = ()
    """One part with the bytes of all pictures; nothing where there are none."""
    count: int | None = None
    """The answer: pictures or pairs in use."""


@dataclass(frozen=True, kw_only=True)
class Bye:
    """Either side: the session ends once every frame is answered; the server answers in kind."""

    session: str = ""
    why: str = ""


Message = (
    Hello | Welcome | FrameRequest | Result | Drop | ErrorReply | Ping | Pong | Stats
    | UseReferences | Bye
)  # fmt: skip
