"""State of one client at the server: its connection, its frames, its figures."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from splatmend.core.frame import Frame
from splatmend.core.references import Guide, ReferenceFit
from splatmend.plugin.protocol.framing import Buffer
from splatmend.plugin.protocol.messages import FrameRequest, Hello
from splatmend.plugin.server.stats import Meter

__all__ = ["Job", "Peer", "Policy", "Session", "StreamLike"]


class StreamLike(Protocol):
    """A restorer with memory along one stream, such as `splatmend.temporal`'s."""

    def restore(self, frames: Sequence[Frame], /) -> list[Frame]:
        """Restore the next frames of the stream; return as many, of equal size and type."""
        ...

    def reset(self) -> None:
        """Forget earlier frames: after a cut, a gap, another size, an error."""
        ...


class Peer(Protocol):
    """One connection of one carrier; equal and of equal hash for the same connection."""

    @property
    def name(self) -> str:
        """Return a name for logs."""
        ...

    @property
    def local(self) -> bool:
        """Return whether it comes from this machine."""
        ...

    @property
    def needs_token(self) -> bool:
        """Return whether `hello` must carry a token, because the carrier proves nothing."""
        ...

    def send(self, parts: Sequence[Buffer], /) -> None:
        """Queue a message, from any thread and without waiting; drop it if the peer is gone."""
        ...

    def close(self) -> None:
        """End the connection once all messages are out, if the carrier has connections."""
        ...


@dataclass(frozen=True)
class Policy:
    """Limits of sessions: numbers, times, tolerances."""

    max_sessions: int = 64
    credit_local: int = 1
    """Unanswered frames of a client on this machine; each more adds one service time of age."""
    credit_remote: int = 2
    """Unanswered frames of other clients: one frame travels while another is restored."""
    idle_s: float = 10.0
    """The server closes a session that is silent for so long."""
    heartbeat_ms: float = 2000.0
    """Interval of pings from clients that have nothing else to send."""
    strikes: int = 10
    """Bad frames in a row that close a session."""
    longest_gap: int = 8
    """Missing frames in a row that a stream survives; after more it starts anew."""


@dataclass(eq=False)
class Job:
    """One frame on its way; times come from `time.monotonic`."""

    session: "Session"
    request: FrameRequest
    received: float
    taken: float = 0.0
    prepared: float = 0.0
    restored: float = 0.0
    starts_anew: bool = False
    """Whether it has nothing to do with earlier frames."""
    guide: Guide | None = None
    """The session's references at the time of preparation."""
    answered: bool = False

    @property
    def kind(self) -> tuple[object, ...]:
        """Return size, format and alpha; frames of equal kind can share a batch."""
        color = next(plane for plane in self.request.planes if plane.name == "color")
        return self.request.width, self.request.height, color.fmt, color.alpha

    def is_stale(self, now: float) -> bool:
        """Return whether it has waited longer than its client allows."""
        if self.session.ordered:
            return False
        limit = self.request.max_age_ms
        if limit is None:
            limit = self.session.hello.max_age_ms
        return limit is not None and (now - self.received) * 1e3 > limit


@dataclass(eq=False)
class Session:
    """One client; the scheduler's lock guards it, except for fields of the worker alone."""

    id: str
    peer: Peer
    hello: Hello
    credit: int
    lane: int
    """Index of the worker that holds this session's memory."""
    stateful: bool
    meter: Meter
    pending: deque[Job] = field(default_factory=deque)
    active: list[Job] = field(default_factory=list)
    """Frames at the worker."""
    last_id: int = -1
    strikes: int = 0
    last_seen: float = field(default_factory=time.monotonic)
    closing: str | None = None
    """Reason of a bye that is due once everything is answered; else None."""
    gone: bool = False
    """Whether nobody waits for answers any more."""

    guide: Guide | None = None
    """References that guide its frames from now on; no other session shares them."""
    preparing: bool = False
    """Whether its own references are in preparation."""

    stream: StreamLike | None = None
    """Its memory; for the worker alone, like `stream_guide`, its references."""
    stream_guide: Guide | None = None
    judged: Guide | None = None
    """References whose fit the worker has judged; for the worker alone."""
    last_id_prepared: int = -(1 << 60)
    """Id of the frame before; for the worker alone, like `last_kind`."""
    last_kind: tuple[object, ...] = ()

    @property
    def fit(self) -> ReferenceFit:
        """Count the frames that its present references fitted."""
        return ReferenceFit() if self.guide is None else self.guide.fit

    @property
    def ordered(self) -> bool:
        """Return whether no frame may be dropped."""
        return self.hello.mode == "ordered"
