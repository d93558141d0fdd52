"""The server's reaction to each message, the same for all carriers."""

import hmac
from collections.abc import Callable, Sequence

from splatmend.core.errors import InputError
from splatmend.core.references import Guide
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.framing import Buffer, Limits, ProtocolError
from splatmend.plugin.protocol.messages import (
    VERSION,
    Bye,
    ErrorReply,
    FrameRequest,
    Hello,
    Message,
    Ping,
    Pong,
    Stats,
    UseReferences,
    Welcome,
)
from splatmend.plugin.protocol.plane_formats import COLOR_FORMATS, PLANE_NAMES, PlaneMemo
from splatmend.plugin.server.reference_sets import ReferenceSets
from splatmend.plugin.server.scheduler import Scheduler
from splatmend.plugin.server.sessions import Peer, Session
from splatmend.plugin.server.stats import Figures
from splatmend.plugin.server.uploads import Uploads
from splatmend.plugin.server.workers import Engine

__all__ = ["Dispatcher"]

_RETRY_MS = 1000.0
_FATAL = ("version", "auth")


class Dispatcher:
    """Turns messages into calls on the scheduler, and unusable messages into errors."""

    def __init__(
        self,
        scheduler: Scheduler,
        engine: Engine,
        limits: Limits,
        *,
        sets: ReferenceSets,
        uploads: Uploads,
        tokens: Sequence[str],
        figures: Callable[[], Figures],
    ) -> None:
        self._scheduler = scheduler
        self._engine = engine
        self._limits = limits
        self._sets = sets
        self._uploads = uploads
        self._tokens = tokens
        self._figures = figures
        self._memo = PlaneMemo()

    def receive(self, peer: Peer, parts: Sequence[Buffer]) -> None:
        """Act on one message, header and planes; carriers' threads call it."""
        try:
            self._act(peer, parse(parts, self._limits, self._memo))
        except ProtocolError as error:
            self.refuse(peer, error)

    def lose(self, peer: Peer) -> None:
        """Forget a connection that has ended."""
        self._scheduler.lose(peer)

    def has_session(self, peer: Peer) -> bool:
        """Return whether a connection has said hello."""
        return self._scheduler.session_of(peer) is not None

    def refuse(self, peer: Peer, error: ProtocolError, *, fatal: bool = False) -> None:
        """Answer an unusable message; too many of them in a row end the session."""
        session = self._scheduler.session_of(peer)
        struck_out = session is not None and self._scheduler.refuse(session, error.id)
        fatal = fatal or struck_out or error.code in _FATAL
        peer.send(
            encode(
                ErrorReply(
                    code=error.code,
                    text=str(error),
                    session=session.id if session else "",
                    id=error.id,
                    fatal=fatal,
                    retry_ms=_RETRY_MS if error.code in ("no_session", "busy") else 0,
                    credit=session.credit if session else None,
                )
            )
        )
        if fatal:
            if session is not None:
                self._scheduler.leave(session, "too many errors" if struck_out else error.code)
            peer.close()

    def _act(self, peer: Peer, message: Message) -> None:
        if isinstance(message, FrameRequest):
            self._frame(self._session(peer, message), message)
            return
        if isinstance(message, Hello):
            self._hello(peer, message)
            return
        if isinstance(message, ErrorReply | Pong):  # answering these could go on for ever
            return
        if isinstance(message, Ping):
            if session := self._scheduler.session_of(peer):
                self._scheduler.touch(session)
            peer.send(encode(Pong(n=message.n)))
            return
        session = self._session(peer, message)
        if isinstance(message, Stats):
            self._scheduler.touch(session)
            peer.send(encode(Stats(values=self._figures().values())))
        elif isinstance(message, Bye):
            self._scheduler.leave(session, "bye")
        elif isinstance(message, UseReferences) and message.count is None:
            self._scheduler.touch(session)
            self._use(peer, session, message)
        else:
            kind = type(message).__name__.lower()
            raise ProtocolError("unsupported", f"a {kind} message is for clients, not for servers")

    def _session(self, peer: Peer, message: Message) -> Session:
        session = self._scheduler.session_of(peer)
        frame_id = message.id if isinstance(message, FrameRequest) else None
        if session is None:
            raise ProtocolError(
                "no_session", "this server does not know you: say hello", id=frame_id
            )
        named = getattr(message, "session", "")
        if named and named != session.id:
            raise ProtocolError(
                "no_session", f"your session is {session.id}, not {named}: say hello", id=frame_id
            )
        return session

    def _hello(self, peer: Peer, hello: Hello) -> None:
        if VERSION not in hello.versions:
            raise ProtocolError(
                "version", f"this server speaks version {VERSION}, you {list(hello.versions)}"
            )
        if peer.needs_token and not any(
            hmac.compare_digest(hello.token.encode(), token.encode()) for token in self._tokens
        ):
            raise ProtocolError("auth", "hello needs a token that this server knows")
        try:
            references, guide = self._sets.named(hello.references)
        except InputError as error:
            raise ProtocolError("unsupported", str(error)) from error
        session = self._scheduler.open(peer, hello)
        session.guide = guide
        side = self._limits.side
        peer.send(
            encode(
                Welcome(
                    session=session.id,
                    credit=session.credit,
                    max_part_bytes=self._limits.part_bytes,
                    max_wh=(side, side),
                    in_fmts=COLOR_FORMATS,
                    planes=PLANE_NAMES,
                    uses=self._engine.uses,
                    stateful=session.stateful,
                    model=self._engine.name,
                    hb_ms=self._scheduler.policy.heartbeat_ms,
                    references=references,
                    max_references=self._uploads.limits.pictures,
                )
            )
        )

    def _use(self, peer: Peer, session: Session, message: UseReferences) -> None:
        """Take a client's own references; they guide its frames as soon as they are ready."""

        def use(guide: Guide | None) -> None:
            session.guide, session.preparing = guide, False
            count = 0 if guide is None else len(guide.references)
            peer.send(encode(UseReferences(session=session.id, count=count)))

        def refuse(error: ProtocolError) -> None:
            session.preparing = False
            self.refuse(peer, error)

        if session.preparing:
            raise ProtocolError(
                "busy", "the references sent before are being prepared: wait for the answer"
            )
        if not message.pictures:
            use(None)
            return
        session.preparing = True
        try:
            self._uploads.submit(message, use, refuse)
        except ProtocolError:
            session.preparing = False
            raise

    def _frame(self, session: Session, request: FrameRequest) -> None:
        if request.id <= session.last_id:
            raise ProtocolError(
                "bad_header",
                f"ids must grow: {request.id} came after {session.last_id}",
                # no id: that frame has been answered, and may have only one answer
            )
        self._scheduler.submit(session, request)
