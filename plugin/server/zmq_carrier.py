"""ZeroMQ for the server: one thread that owns every ROUTER socket.

Any thread may queue a message to send; it then rings the owner's bell.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from splatmend.core.errors import InputError
from splatmend.plugin.protocol.curve_keys import ServerKeys, serve_zap
from splatmend.plugin.protocol.framing import MAGIC, Buffer, Limits, ProtocolError
from splatmend.plugin.protocol.zmq_sockets import (
    Doorbell,
    check_url,
    is_local_url,
    may_receive,
    send_message,
    set_common_options,
)
from splatmend.plugin.server.dispatcher import Dispatcher

__all__ = ["ZmqCarrier"]

_TICK_S = 0.05
_RETRY_S = 0.002
_FLUSH_MS = 500  # for the last answers when the server stops
_STALLED_S = 2.0  # the carrier gives up a peer that has read nothing for so long
_MOST_BEHIND = 1000  # or that has left so many answers unread, or a full part of bytes
_BURST = 64  # messages taken from one socket before answers go out


@dataclass(frozen=True)
class _ZmqPeer:
    """One DEALER, identified by its ROUTER."""

    router: int
    identity: bytes
    local: bool = field(compare=False)
    post: Callable[["_ZmqPeer", Sequence[Buffer]], None] = field(compare=False, repr=False)
    needs_token: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        return f"zmq {self.identity.hex()}"

    def send(self, parts: Sequence[Buffer]) -> None:
        self.post(self, parts)

    def close(self) -> None:
        """Do nothing: ROUTER cannot close, and a peer without a session gets only errors."""


@dataclass
class _Backlog:
    """Messages that wait for room at a peer; `moved` is the time of its last read."""

    moved: float
    waiting: deque[Sequence[Buffer]] = field(default_factory=deque)
    bytes: int = 0

    def add(self, parts: Sequence[Buffer]) -> None:
        self.waiting.append(parts)
        self.bytes += sum(map(len, parts))

    def remove(self) -> None:
        self.bytes -= sum(map(len, self.waiting.popleft()))
        self.moved = time.monotonic()


class ZmqCarrier:
    """Binds ROUTER sockets and carries messages between them and a dispatcher.

    Raises:
        InputError: an address is taken, malformed, or open to other machines without keys.
    """

    def __init__(
        self,
        urls: Sequence[str],
        dispatcher: Dispatcher,
        limits: Limits,
        *,
        keys: ServerKeys | None,
        tick: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._limits = limits
        self._keys = keys
        self._tick = tick
        self._outbox: deque[tuple[_ZmqPeer, Sequence[Buffer]]] = deque()
        self._behind: dict[_ZmqPeer, _Backlog] = {}
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._zap: zmq.Socket[bytes] | None = None
        self._routers: list[zmq.Socket[bytes]] = []
        self._local: list[bool] = []
        try:
            if keys is not None:
                self._zap = self._context.socket(zmq.REP)
                self._zap.setsockopt(zmq.LINGER, 0)
                self._zap.bind("inproc://zeromq.zap.01")
            for url in urls:
                check_url(url)
                self._bind(url)
            self._bell = Doorbell([*self._routers, *((self._zap,) if self._zap else ())])
        except BaseException:
            self._close(linger_ms=0)
            raise
        self._thread = threading.Thread(target=self._run, name="smp-zmq", daemon=True)

    @property
    def urls(self) -> list[str]:
        """Return the bound addresses, with ports."""
        return [r.getsockopt_string(zmq.LAST_ENDPOINT) for r in self._routers]

    def start(self) -> None:
        """Begin to carry messages."""
        self._thread.start()

    def stop(self) -> None:
        """Send queued messages, close the ports, end the thread."""
        self._stopping.set()
        self._bell.ring()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._close(linger_ms=0)
            self._bell.close()

    def _bind(self, url: str) -> None:
        local = is_local_url(url)
        if not local and self._keys is None:
            raise InputError(
                f"{url} is open to other machines: make keys with `splatmend keys` and give "
                f"their folder, or bind 127.0.0.1"
            )
        router = self._context.socket(zmq.ROUTER)
        self._routers.append(router)
        self._local.append(local)
        set_common_options(router, url)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else answers to lost peers vanish unseen
        router.setsockopt(zmq.MAXMSGSIZE, max(self._limits.part_bytes, self._limits.header_bytes))
        if self._keys is not None and url.startswith("tcp://"):
            self._keys.apply(router)
        private = _make_private(url)
        try:
            router.bind(url)
        except zmq.ZMQError as error:
            raise InputError(
                f"cannot bind {url}: {error.strerror}; choose another port or path"
            ) from error
        if private is not None:
            private.chmod(0o600)

    def _post(self, peer: _ZmqPeer, parts: Sequence[Buffer]) -> None:
        self._outbox.append((peer, parts))
        self._bell.ring()

    def _run(self) -> None:
        next_tick = time.monotonic()
        while not self._stopping.is_set():
            self._flush()
            counts = [self._receive(i, router) for i, router in enumerate(self._routers)]
            if self._zap is not None and self._keys is not None:
                while may_receive(self._zap):
                    serve_zap(self._zap, self._keys)
            if time.monotonic() >= next_tick:
                self._tick()
                next_tick = time.monotonic() + _TICK_S
            if max(counts) < _BURST and not self._outbox:
                self._bell.wait(_RETRY_S if self._behind else _TICK_S)
        self._flush()
        self._close(linger_ms=_FLUSH_MS)
        self._bell.close()

    def _receive(self, index: int, router: "zmq.Socket[bytes]") -> int:
        """Take waiting messages; return their number, `_BURST` if there may be more."""
        count = 0
        while count < _BURST and may_receive(router):
            count += 1
            identity, *parts = self._message(router)
            peer = _ZmqPeer(index, bytes(identity), self._local[index], self._post)
            if not parts or parts[0] != MAGIC:
                text = f"a message starts with the part {MAGIC!r}"
                self._dispatcher.refuse(peer, ProtocolError("bad_header", text))
            else:
                self._dispatcher.receive(peer, parts[1:])
        return count

    def _message(self, router: "zmq.Socket[bytes]") -> list[Buffer]:
        """Read one message; keep at most one part more than a message may have."""
        parts: list[Buffer] = [router.recv()]
        while router.getsockopt(zmq.RCVMORE):
            # identity, magic and header are small: a copy is cheaper than a shared buffer
            part = router.recv() if len(parts) < 3 else router.recv(copy=False).buffer
            if len(parts) < self._limits.planes + 4:
                parts.append(part)
        return parts

    def _flush(self) -> None:
        """Send queued messages; those for a peer without room wait for a while."""
        for peer in list(self._behind):
            self._catch_up(peer, self._behind[peer])
        while self._outbox:
            peer, parts = self._outbox.popleft()
            if peer in self._behind:
                self._behind[peer].add(parts)
            elif not self._sends(peer, parts):
                self._behind[peer] = _Backlog(time.monotonic())
                self._behind[peer].add(parts)

    def _catch_up(self, peer: _ZmqPeer, backlog: "_Backlog") -> None:
        while backlog.waiting and self._sends(peer, backlog.waiting[0]):
            backlog.remove()
        if not backlog.waiting:
            self._behind.pop(peer, None)
        elif (
            time.monotonic() - backlog.moved > _STALLED_S
            or len(backlog.waiting) > _MOST_BEHIND
            or backlog.bytes > self._limits.part_bytes
        ):
            self._give_up(peer)

    def _sends(self, peer: _ZmqPeer, parts: Sequence[Buffer]) -> bool:
        """Send a message; return False if there is no room, as far as ZeroMQ knows."""
        router = self._routers[peer.router]
        try:
            send_message(router, [peer.identity, MAGIC, *parts])
        except zmq.Again:
            return False
        except zmq.ZMQError:  # EHOSTUNREACH: the peer is gone
            self._give_up(peer)
        return True

    def _give_up(self, peer: _ZmqPeer) -> None:
        self._behind.pop(peer, None)
        self._dispatcher.lose(peer)

    def _close(self, *, linger_ms: int) -> None:
        for sock in (*self._routers, *((self._zap,) if self._zap else ())):
            sock.close(linger_ms)
        self._context.term()


def _make_private(url: str) -> Path | None:
    """Return the file of an ipc address; make its missing folder private."""
    if not url.startswith("ipc://") or os.name != "posix":
        return None
    path = Path(url.removeprefix("ipc://"))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {path.parent}: {error.strerror}") from error
    return path
