"""The client's own thread: the socket, the session, the frames in flight.

It shares with a render thread a slot for frames, a queue for each answer, and attributes that are
read whole. The render thread takes no lock. So a slow server cannot upset the client, nor can an
exception at any line of the render thread (nerfview throws such exceptions).
"""

import itertools
import logging
import threading
import time
from collections import Counter, deque
from contextlib import suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from splatmend.core.errors import InputError
from splatmend.plugin.client.breaker import Breaker
from splatmend.plugin.client.references import ClientReferences, Offer
from splatmend.plugin.client.requests import Request, Shown
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.frames import from_result
from splatmend.plugin.protocol.framing import MAGIC, Buffer, Limits, ProtocolError
from splatmend.plugin.protocol.messages import (
    Bye,
    Drop,
    ErrorReply,
    Hello,
    Message,
    Ping,
    Pong,
    Result,
    UseReferences,
    Welcome,
)
from splatmend.plugin.protocol.plane_formats import PlaneMemo
from splatmend.plugin.protocol.zmq_sockets import Doorbell, may_receive, new_dealer, send_message

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

_HELLO_S = 1.0  # shortest time between two hellos
_BUSY_S = 0.02  # between looks at the clock
_IDLE_S = 0.2
_LEAST_RECLAIM_S = 0.5
_BYE_MS = 200
_REMEMBERED = 64


class Connection:
    """Owns the connection to one server."""

    def __init__(
        self,
        url: str,
        hello: Hello,
        breaker: Breaker,
        *,
        keys: tuple[bytes, bytes, bytes] | None,
        patience_s: float,
        references: ClientReferences | None = None,
    ) -> None:
        self.state = "down"
        """up: wait for answers. probe: send one frame, do not wait. bypass, down: send nothing."""
        self.credit = 1
        self.uses: tuple[str, ...] = ("color", "alpha")
        self.welcome: Welcome | None = None
        self.newest: tuple[Shown, float] | None = None
        """The newest restored frame and when its original was made."""
        self.counts: Counter[str] = Counter()
        self.ready = threading.Event()
        """Set while there is a session; render threads do not use it."""
        self._ordered = hello.mode == "ordered"
        self._hello = hello
        self._breaker = breaker
        self._patience_s = patience_s
        self.offer = Offer(references or ClientReferences())
        self._slot: deque[Request] = deque(maxlen=None if self._ordered else 1)
        self._given_up: deque[Request] = deque()
        self._inflight: dict[int, Request] = {}
        self._rtts: deque[float] = deque(maxlen=_REMEMBERED)
        self.ages_ms: deque[float] = deque(maxlen=_REMEMBERED)
        """Ages of the last restored frames, from the call until the answer."""
        self._pings = itertools.count()
        self._last_sent_id = -1
        self._connected = False
        self._lost_at = time.monotonic()
        self._next_hello = 0.0
        self._last_sent = 0.0
        self._warned: set[str] = set()
        self._closing = self._ended = False
        self._limits = Limits(part_bytes=1 << 30, message_bytes=1 << 31, side=1 << 16)
        self._memo = PlaneMemo()
        self._context = zmq.Context()
        self._socket = new_dealer(self._context, url, keys)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self._bell = Doorbell([self._socket, self._monitor])
        self._url = url
        self._thread = threading.Thread(target=self._run, name="smp-client", daemon=True)

    # For render threads: no locks

    def start(self) -> None:
        """Connect in the background."""
        try:
            self._socket.connect(self._url)
        except BaseException:
            self._release()
            raise
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Hand over a frame; except in ordered, it replaces one that still waits."""
        self._slot.append(request)
        self._bell.ring()
        if self._ended:
            self._answer_slot()

    def give_up(self, request: Request) -> None:
        """Give up a frame whose deadline has passed."""
        self._given_up.append(request)

    def close(self) -> None:
        """Say bye, answer waiting frames with the raw ones, end the thread."""
        self._closing = True
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join()

    # The thread's own

    def _run(self) -> None:
        try:
            ready = [self._monitor]
            while not self._closing:
                if self._monitor in ready:
                    while may_receive(self._monitor):
                        self._watch_connection()
                now = time.monotonic()
                self._expire(now)
                self._keep_session(now)
                self._submit_waiting()
                ready = []
                if not self._receive_all():
                    ready = self._bell.wait(_BUSY_S if self._inflight else _IDLE_S)
        finally:
            self._leave()

    def _submit_waiting(self) -> None:
        now = time.monotonic()
        while self._given_up:
            self._miss(self._given_up.popleft(), now)
        while self._slot and not self._may_wait(now):
            if self.welcome is None:
                self._answer(self._slot.popleft(), "down")
            elif not self._ordered and not self._breaker.may_send(now):
                self._answer(self._slot.popleft(), "bypass")
            elif len(self._inflight) >= self.credit:
                return
            else:
                request = self._slot.popleft()
                if request.deadline is not None and now > request.deadline:
                    self._miss(request, now)
                elif not self._send_frame(request, self.welcome.session, now):
                    if self._ordered:
                        self._slot.appendleft(request)
                        return
                    self._answer(request, "busy")
            self._show_state(now)

    def _may_wait(self, now: float) -> bool:
        """Return whether ordered frames wait for an absent server or for their references."""
        away = self.welcome is None and now - self._lost_at < self._patience_s
        return self._ordered and (away or self.offer.is_open)

    def _send_frame(self, request: Request, session: str, now: float) -> bool:
        """Send a frame; return False if the socket has no room."""
        if not self._send(request.message(session, self._last_sent_id)):
            return False
        request.sent = now
        self._inflight[request.id] = request
        self._last_sent_id = request.id
        self._breaker.sent()
        self.counts["sent"] += 1
        return True

    def _send(self, message: Message) -> bool:
        try:
            send_message(self._socket, [MAGIC, *encode(message)])
        except zmq.ZMQError:
            return False
        self._last_sent = time.monotonic()
        return True

    def _receive_all(self) -> int:
        """Act on waiting messages; return their number."""
        count = 0
        while may_receive(self._socket):
            count += 1
            parts: list[Buffer] = [self._socket.recv()]
            while self._socket.getsockopt(zmq.RCVMORE):
                small = len(parts) < 2  # magic and header
                parts.append(self._socket.recv() if small else self._socket.recv(copy=False).buffer)
            try:
                if parts[0] == MAGIC:
                    self._act(parse(parts[1:], self._limits, self._memo))
                else:
                    self.counts["unreadable"] += 1
            except ProtocolError as error:
                self.counts["unreadable"] += 1
                self._warn("unreadable", f"the server sent an unreadable message: {error}")
        return count

    def _act(self, message: Message) -> None:
        now = time.monotonic()
        if isinstance(message, Welcome):
            self.credit, self.uses = message.credit, message.uses
            self.welcome = message
            self._breaker.answered()
            if trouble := self.offer.begin(message):
                self._warn("references", trouble)
            self.ready.set()
        elif isinstance(message, UseReferences) and self._is_ours(message):
            self.offer.hear(message)
        elif isinstance(message, Result | Drop | ErrorReply) and self._is_ours(message):
            self.offer.hear(message)
            self._settle(message, now)
        elif isinstance(message, Ping):
            self._send(Pong(n=message.n))
        elif isinstance(message, Bye) and self._is_ours(message):
            self._lose_session()
        self._show_state(now)

    def _is_ours(self, message: Result | Drop | ErrorReply | Bye | UseReferences) -> bool:
        ours = self.welcome is not None and message.session == self.welcome.session
        return ours or (isinstance(message, ErrorReply) and not message.session)

    def _settle(self, message: Result | Drop | ErrorReply, now: float) -> None:
        request = None if message.id is None else self._inflight.pop(message.id, None)
        if isinstance(message, ErrorReply):
            self._warn(message.code, f"the server answered {message.code}: {message.text}")
            if message.fatal or message.code == "no_session":
                self._lose_session(request)
                request = None if self._ordered else request
        if request is None:  # given up before, or never ours: do not show it
            if not isinstance(message, ErrorReply):
                self.counts["unasked"] += 1
            return
        if isinstance(message, Result):
            self._rtts.append(now - request.sent)
            if not request.missed:  # a late answer still counts as a miss
                self._breaker.answered()
            self._show(request, message, now)
        elif isinstance(message, Drop) and message.why == "shutdown" and self._ordered:
            self._lose_session(request)
        elif isinstance(message, Drop):
            if message.why in ("stale", "busy"):
                self._breaker.missed(now)
            self._answer(request, message.why)
        else:
            self._breaker.missed(now)
            self._answer(request, message.code)

    def _show(self, request: Request, result: Result, now: float) -> None:
        if not result.applied:
            self._answer(request, "unchanged")
            return
        try:
            frame = from_result(request.frame, result)
        except InputError as error:
            self._warn("unreadable", str(error))
            self._answer(request, "unreadable")
            return
        self.ages_ms.append((now - request.made) * 1e3)
        shown = Shown(frame, restored=True, id=request.id, age_ms=self.ages_ms[-1])
        if self.newest is None or self.newest[0].id < request.id:
            self.newest = shown, request.made
        self.counts["restored"] += 1
        request.answers.put(shown)

    def _answer(self, request: Request, why: str) -> None:
        self.counts[why] += 1
        request.answers.put(request.raw(why))

    def _miss(self, request: Request, now: float) -> None:
        """Count a frame as missed, once."""
        if not request.missed:
            request.missed = True
            self._breaker.missed(now)
            self._answer(request, "late")
        if not self._breaker.is_closed and not self._ordered:
            self._inflight.pop(request.id, None)  # makes room for the probe

    def _expire(self, now: float) -> None:
        """Count late frames, and take back the credit of frames that never came back."""
        if self._inflight:
            limit = self._patience_s if self._ordered else self._reclaim_s()
        for request in list(self._inflight.values()):
            if request.deadline is not None and now > request.deadline:
                self._miss(request, now)
            if now - request.sent > limit:
                self._inflight.pop(request.id, None)
                self._miss(request, now)
        self._show_state(now)

    def _reclaim_s(self) -> float:
        if not self._rtts:
            return 4 * _LEAST_RECLAIM_S  # the first frame may have to warm up the server
        slow = sorted(self._rtts)[len(self._rtts) * 95 // 100]
        return max(4 * slow, _LEAST_RECLAIM_S)

    def _watch_connection(self) -> None:
        event = recv_monitor_message(self._monitor)
        if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
            self._next_hello = 0.0
        elif event["event"] == zmq.EVENT_DISCONNECTED:
            self._connected = False
            self._lose_session()
        else:
            self._warn("auth", "the server does not let this key in")

    def _keep_session(self, now: float) -> None:
        if self.welcome is None:
            if self._connected and now >= self._next_hello:
                self._next_hello = now + _HELLO_S
                self._send(self._hello)
        elif self.offer.due is not None and self._send(self.offer.due):
            self.offer.due = None
        elif now - self._last_sent > self.welcome.hb_ms / 1e3:
            self._send(Ping(n=next(self._pings)))

    def _lose_session(self, unanswered: Request | None = None) -> None:
        """End the session: show the frames in flight raw or, in ordered, send them again."""
        if self.welcome is not None:
            self._lost_at = time.monotonic()
        self.welcome = None
        self.offer.end()
        self.ready.clear()
        lost = sorted(
            [*self._inflight.values(), *((unanswered,) if unanswered else ())], key=lambda r: r.id
        )
        self._inflight.clear()
        self._last_sent_id = -1
        if self._ordered:
            self._slot.extendleft(reversed(lost))
        else:
            for request in lost:
                if request is not unanswered and not request.missed:
                    self._answer(request, "down")
        self._show_state(time.monotonic())

    def _show_state(self, now: float) -> None:
        if self.welcome is None:
            self.state = "down"
        elif self._breaker.is_closed:
            self.state = "up"
        else:
            self.state = "probe" if self._breaker.may_send(now) else "bypass"

    def _warn(self, kind: str, text: str) -> None:
        """Log each kind of trouble once, because it may come with every frame."""
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("%s: %s", self._url, text)

    def _leave(self) -> None:
        if self.welcome is not None:
            self._send(Bye(session=self.welcome.session))
        self.welcome = None
        self.state = "down"
        for request in self._inflight.values():
            self._answer(request, "closed")
        self._ended = True  # set before the slot is emptied: a later `submit` empties it again
        self._answer_slot()
        self._release()

    def _answer_slot(self) -> None:
        with suppress(IndexError):
            while True:
                self._answer(self._slot.popleft(), "closed")

    def _release(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(_BYE_MS)
        self._context.term()
        self._bell.close()
