"""A proxy between a SIBR viewer and its renderer, which sends every picture to a frame server.

One thread waits for both sides at once. Either side may close at any time. A renderer that is
training has no time limit.
"""

import logging
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import numpy as np

from splatmend.core.errors import InputError
from splatmend.core.frame import Frame
from splatmend.plugin.attach.sibr_wire import Request, packed, parse_request, reading, reading_reply
from splatmend.plugin.client import Client
from splatmend.plugin.protocol.framing import Buffer
from splatmend.plugin.protocol.zmq_sockets import host_port, is_loopback

__all__ = ["ProxyOptions", "SibrProxy"]

_log = logging.getLogger(__name__)

_CONNECT_S = 2.0
_FIRST_REQUEST_S = 10.0  # viewers ask at once; a silent connection would block the next viewer
_BACKLOG = 4
_MOST_SAID = 50  # warnings while nothing works
_MOST_SIDE = 1 << 14  # pixels; 0.8 GB a picture
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)  # cheap to make, unlike the default

_T = TypeVar("_T")


@dataclass(frozen=True)
class ProxyOptions:
    """Both sides of a proxy, and the limits of the messages between them."""

    listen: str = "127.0.0.1:6019"
    """host:port for the viewer; port 0 takes a free port."""
    renderer: str = "127.0.0.1:6009"
    """host:port of the renderer, here or elsewhere; it may start later."""
    allow_remote: bool = False
    """Listen for other machines too. There is no password, and a viewer can stop a training."""
    allow_edit_text: bool = False
    """Let viewers send Python code, which splatviz's renderers execute; else it is removed."""
    max_side: int = 4096
    """Pixels; a viewer that asks for more is disconnected."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_side <= _MOST_SIDE:
            raise InputError(f"max-side must be from 1 to {_MOST_SIDE}, got {self.max_side}")
        if not is_loopback(host_port(self.listen)[0]) and not self.allow_remote:
            raise InputError(
                f"{self.listen} is open to other machines, and the protocol has no password: use "
                f"127.0.0.1 and a tunnel such as ssh -L, or give --allow-remote"
            )
        if host_port(self.renderer) == host_port(self.listen):
            raise InputError(f"{self.listen} cannot be the viewer's and the renderer's address")


class SibrProxy:
    """Binds at once, serves one viewer after the other from `start` to `stop`.

    Each viewer has its own connection to the renderer. When one side leaves, the proxy closes the
    other connection, which viewers and renderers can handle. The proxy itself stays.

    Args:
        client: a client in the mode sync. The proxy alone uses it, and does not close it.
        options: both sides.

    Raises:
        InputError: an address cannot be used, or the client has another mode.
    """

    def __init__(self, client: Client, options: ProxyOptions | None = None) -> None:
        self._options = options = options or ProxyOptions()
        if client.options.mode != "sync":
            raise InputError(f"a proxy needs a client in the mode sync, not {client.options.mode}")
        self._client = client
        self._listener = _listen(options.listen)
        host, port = self._listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        """host:port for viewers, with the port filled in."""
        self.counts: Counter[str] = Counter()
        """Pictures restored, and pictures shown raw by reason: one of `Shown.why`, or mesh."""
        self._bell, self._rope = socket.socketpair()
        self._open: list[socket.socket] = []
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="smp-sibr", daemon=True)

    def start(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close connections and port, end the thread."""
        with suppress(OSError):  # stopped before
            self._rope.send(b"\0")
        for sock in list(self._open):  # a viewer that does not read
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()
        for sock in (self._listener, self._bell, self._rope):
            sock.close()

    def _run(self) -> None:
        with suppress(_StoppedError):
            while True:
                _wait(self._bell, self._listener)
                try:
                    viewer, _ = self._listener.accept()
                except OSError as error:  # the viewer left already, or too many files are open
                    self._warn(f"cannot accept a viewer: {error.strerror}")
                    _wait(self._bell, timeout_s=0.1)
                    continue
                with closing(viewer):
                    self._open = [viewer]
                    self._attend(_prepared(viewer))

    def _attend(self, viewer: socket.socket) -> None:
        """Serve one viewer until it or the renderer leaves."""
        before = self.counts.copy()
        try:
            self._serve(viewer)
        except _GoneError as gone:
            if gone.who == "renderer":
                self._warn(f"renderer {self._options.renderer} {gone}; the viewer is disconnected")
        except InputError as error:
            self._warn(f"connection closed: {error}")
        except _StoppedError:
            raise
        except Exception:
            _log.exception("connection closed")  # the next viewer may succeed
        done = self.counts - before
        if done:
            self._said.clear()
            _log.info("viewer left: %s", ", ".join(f"{n} {why}" for why, n in done.items()))

    def _serve(self, viewer: socket.socket) -> None:
        body = _receive(reading(), _Ends(self._bell, viewer, "viewer"), _FIRST_REQUEST_S)
        request = self._parse(body)
        with closing(self._connect()) as renderer:
            self._open = [viewer, renderer]
            asking = _Ends(self._bell, viewer, "viewer", renderer, "renderer")
            answering = _Ends(self._bell, renderer, "renderer", viewer, "viewer")
            scene = _Scene(self._client)
            while True:
                answering.send(packed(request.body))
                if request.answer != "tail or nothing" or answering.comes_first():
                    reply = _receive(reading_reply(request), answering)
                    if reply.picture is not None:
                        picture, what = scene.restored(request, reply.picture)
                        asking.send(picture)
                        self.counts[what] += 1
                    asking.send(packed(reply.tail))
                request = self._parse(_receive(reading(), asking))

    def _connect(self) -> socket.socket:
        try:
            address = host_port(self._options.renderer)
            return _prepared(socket.create_connection(address, timeout=_CONNECT_S))
        except (OSError, UnicodeError) as error:  # Unicode: a name that no host can have
            raise _GoneError("renderer", f"is not there: {error}") from error

    def _parse(self, body: Buffer) -> Request:
        options = self._options
        request = parse_request(body, max_side=options.max_side, allow_code=options.allow_edit_text)
        if request.code_removed:
            self._warn("edit_text was removed: only --allow-edit-text lets viewers send code")
        return request

    def _warn(self, text: str) -> None:
        """Log a text once until a viewer is served: viewers reconnect ten times a second."""
        if text not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(text)
            _log.warning(text)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Scene:
    """The pictures of one viewer, in order."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cut = True
        self._timestep: int | None = None

    def restored(self, request: Request, picture: Buffer) -> tuple[Buffer, str]:
        """Return the picture to show, and "restored" or the reason why it is not."""
        step, last = request.timestep, self._timestep
        # the avatar jumps to another pose
        self._cut |= step is not None and last is not None and abs(step - last) > 1
        self._timestep = step
        if not request.shows_splats or not self._client.wants_frames:
            self._client.skip()
            return picture, self._client.state if request.shows_splats else "mesh"
        color = np.frombuffer(picture, np.uint8).reshape(request.height, request.width, 3)
        shown = self._client.restore(Frame(color=color), cut=self._cut, camera=request.camera)
        self._cut = False
        if not shown.restored:
            return picture, shown.why
        restored: Any = np.ascontiguousarray(shown.frame.color)
        return memoryview(restored).cast("B"), "restored"


class _StoppedError(Exception):
    """Signals that the proxy stops."""


class _GoneError(Exception):
    """Signals that one side has closed its connection."""

    def __init__(self, who: str, text: str = "went away") -> None:
        super().__init__(text)
        self.who = who


@dataclass(frozen=True)
class _Ends:
    """A socket to wait for, and the other side's socket, which may close meanwhile."""

    bell: socket.socket
    sock: socket.socket
    name: Literal["viewer", "renderer"]
    other: socket.socket | None = None
    other_name: str = ""

    def send(self, data: Buffer) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise _GoneError(self.name) from error

    def read(self, count: int, timeout_s: float | None = None) -> Buffer:
        """Read exactly `count` bytes."""
        pixels: Any = np.empty(count, np.uint8)
        buffer = memoryview(pixels)
        filled = 0
        while filled < count:
            self._wait(timeout_s)
            try:
                came = self.sock.recv_into(buffer[filled:])
            except OSError as error:
                raise _GoneError(self.name) from error
            if not came:
                raise _GoneError(self.name)
            filled += came
        return buffer

    def comes_first(self) -> bool:
        """Return whether this side sends next, rather than the other."""
        assert self.other is not None
        return self.sock in _wait(self.bell, self.sock, self.other)

    def _wait(self, timeout_s: float | None) -> None:
        # the other end sends small pieces, each after the acknowledgement of the last; the kernel
        # forgets this option with everything that is sent
        if _QUICKACK is not None:
            with suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        watched = [self.sock, *([self.other] if self.other is not None else [])]
        ready = _wait(self.bell, *watched, timeout_s=timeout_s)
        if not ready:
            raise InputError(f"a {self.name} has said nothing for {timeout_s:.0f} s")
        if self.sock in ready or self.other is None:
            return
        try:
            gone = not self.other.recv(1, socket.MSG_PEEK)
        except OSError:
            gone = True
        if gone:
            raise _GoneError(self.other_name)
        if self.other_name == "renderer":
            raise InputError("the renderer sent more than was asked for: it speaks another dialect")
        _wait(self.bell, self.sock)  # the viewer has sent its next request already


def _receive(steps: Generator[int, Buffer, _T], ends: _Ends, timeout_s: float | None = None) -> _T:
    """Run a reader of sibr_wire to its end."""
    wanted = next(steps)
    while True:
        data = ends.read(wanted, timeout_s)
        try:
            wanted = steps.send(data)
        except StopIteration as end:
            result: _T = end.value
            return result


def _wait(
    bell: socket.socket, *socks: socket.socket, timeout_s: float | None = None
) -> set[socket.socket]:
    """Return the sockets that can be read; none after the timeout.

    Raises:
        _StoppedError: the bell rang.
    """
    with _Selector() as selector:
        for sock in (bell, *socks):
            selector.register(sock, selectors.EVENT_READ)
        ready = {key.fileobj for key, _ in selector.select(timeout_s)}
    if bell in ready:
        raise _StoppedError
    return {sock for sock in socks if sock in ready}


def _prepared(sock: socket.socket) -> socket.socket:
    sock.settimeout(None)
    with suppress(OSError):  # the other side left already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _listen(address: str) -> socket.socket:
    host, port = host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot bind {address}: {error}; choose another to listen on") from error
    listener.setblocking(False)  # a viewer may leave before accept
    return listener
