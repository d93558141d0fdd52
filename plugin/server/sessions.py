"""What the server knows of one client: its connection, its frames, its figures."""

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
        """Restore the next frames of the stream: as many, in order, of the same size and type."""
        ...

    def reset(self) -> None:
        """Forget what came before: a cut, a gap, another size, an error."""
        ...


class Peer(Protocol):
    """One connection of one carrier; equal and of equal hash as long as it is the same one."""

    @property
    def name(self) -> str:
        """For logs."""
        ...

    @property
    def local(self) -> bool:
        """Whether it comes from this machine."""
        ...

    @property
    def needs_token(self) -> bool:
        """Whether the carrier leaves it to `hello` to prove who this is."""
        ...

    def send(self, parts: Sequence[Buffer], /) -> None:
        """Queue a message, from any thread and without waiting; into the void if it is gone."""
        ...

    def close(self) -> None:
        """End the connection once what was sent is out, where the carrier has connections."""
        ...


@dataclass(frozen=True)
class Policy:
    """How many, how long, how often."""

    max_sessions: int = 64
    credit_local: int = 1
    """Unanswered frames of a client on this machine: each more costs one service time of age."""
    credit_remote: int = 2
    """Of others: one frame travels while another is restored."""
    idle_s: float = 10.0
    """A session from which nothing came for so long is closed."""
    heartbeat_ms: float = 2000.0
    """How often clients that have nothing to say say so."""
    strikes: int = 10
    """Bad frames in a row that close a session."""
    longest_gap: int = 8
    """Frames missing in a row after which a stream starts anew."""


@dataclass(eq=False)
class Job:
    """One frame on its way; times are those of `time.monotonic`."""

    session: "Session"
    request: FrameRequest
    received: float
    taken: float = 0.0
    prepared: float = 0.0
    restored: float = 0.0
    starts_anew: bool = False
    """Whether what came before has nothing to do with it."""
    guide: Guide | None = None
    """What its session's references were when it was prepared."""
    answered: bool = False

    @property
    def kind(self) -> tuple[object, ...]:
        """Frames of one kind can share a batch."""
        color = next(plane for plane in self.request.planes if plane.name == "color")
        return self.request.width, self.request.height, color.fmt, color.alpha

    def is_stale(self, now: float) -> bool:
        """Whether it has waited longer than its client finds useful."""
        if self.session.ordered:
            return False
        limit = self.request.max_age_ms
        if limit is None:
            limit = self.session.hello.max_age_ms
        return limit is not None and (now - self.received) * 1e3 > limit


@dataclass(eq=False)
class Session:
    """One client; guarded by the scheduler's lock but for what its worker alone touches."""

    id: str
    peer: Peer
    hello: Hello
    credit: int
    lane: int
    """Index of the worker that has this session's memory."""
    stateful: bool
    meter: Meter
    pending: deque[Job] = field(default_factory=deque)
    active: list[Job] = field(default_factory=list)
    """Frames at the worker."""
    last_id: int = -1
    strikes: int = 0
    last_seen: float = field(default_factory=time.monotonic)
    closing: str | None = None
    """Why, once a bye is due as soon as everything is answered."""
    gone: bool = False
    """Nobody waits for answers any more."""

    guide: Guide | None = None
    """The references that guide its frames from now on; not shared with any other session."""
    preparing: bool = False
    """Whether references of its own are being prepared."""

    stream: StreamLike | None = None
    """The worker's alone, as is `stream_guide`, with which it was made."""
    stream_guide: Guide | None = None
    judged: Guide | None = None
    """The worker's alone: the references of which it knows, and has said, whether they fit."""
    last_id_prepared: int = -(1 << 60)
    """The worker's alone, as is `last_kind`: of the frame before."""
    last_kind: tuple[object, ...] = ()

    @property
    def fit(self) -> ReferenceFit:
        """In how many frames its references fitted, since it has them."""
        return ReferenceFit() if self.guide is None else self.guide.fit

    @property
    def ordered(self) -> bool:
        """Whether every frame counts."""
        return self.hello.mode == "ordered"
