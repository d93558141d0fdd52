"""Addresses, sockets and sending for both ends of a ZeroMQ connection."""

import ipaddress
import re
import selectors
import socket
from collections.abc import Sequence
from contextlib import suppress

import zmq

from splatmend.core.errors import InputError
from splatmend.plugin.protocol.framing import Buffer

__all__ = [
    "DEFAULT_URL",
    "Doorbell",
    "check_url",
    "host_port",
    "is_local_url",
    "is_loopback",
    "may_receive",
    "new_dealer",
    "send_message",
    "set_common_options",
]

DEFAULT_URL = "tcp://127.0.0.1:7878"

_BUFFER_BYTES = 4 << 20  # in the kernel, each way: five frames of 512 x 512
_QUEUE = 8  # messages per connection and direction
_RECONNECT_MS = (100, 500)


# as plain numbers: the enum's operators take longer than the calls
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_LAST = int(zmq.NOBLOCK)
_POLLIN = int(zmq.POLLIN)
_SMALL = 1 << 20  # bytes; a copy costs less than a shared buffer, which wakes a thread of pyzmq

_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:.%]+\]|[^\[\]:/\s]+):(\d{1,5}|\*)")
_IPC = re.compile(r"ipc://[^*@\s]\S*")


def check_url(url: str) -> None:
    """Refuse addresses that ZeroMQ would refuse late or misread, such as a port above 65535.

    Raises:
        InputError: the address is neither tcp://host:port nor ipc://path.
    """
    tcp = _TCP.fullmatch(url)
    if (tcp and (tcp[2] == "*" or int(tcp[2]) <= 65535)) or _IPC.fullmatch(url):
        return
    raise InputError(f"{url!r} is not an address: use tcp://host:port, with a port up to 65535, or "
                     f"ipc:///path/of/a/socket")  # fmt: skip


def is_local_url(url: str) -> bool:
    """Return whether only this machine can reach an address."""
    return url.startswith("ipc://") or is_loopback(url.removeprefix("tcp://").rpartition(":")[0])


def is_loopback(host: str) -> bool:
    """Return whether a host, by name or number, is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_port(address: str) -> tuple[str, int]:
    """Split "host:port"; the host comes without brackets.

    Raises:
        InputError: the address has another form.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InputError(f"{address!r} is not an address: use host:port, such as 127.0.0.1:7879")
    return host.strip("[]"), int(port)


def set_common_options(sock: "zmq.Socket[bytes]", url: str) -> None:
    """Set short queues, large buffers and heartbeats, so that frames do not age in a queue."""
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, _QUEUE)
    sock.setsockopt(zmq.RCVHWM, _QUEUE)
    sock.setsockopt(zmq.SNDBUF, _BUFFER_BYTES)
    sock.setsockopt(zmq.RCVBUF, _BUFFER_BYTES)
    sock.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
    sock.setsockopt(zmq.IPV6, "[" in url)


def new_dealer(
    context: "zmq.Context[zmq.Socket[bytes]]", url: str, keys: tuple[bytes, bytes, bytes] | None
) -> "zmq.Socket[bytes]":
    """Make a client's socket, not connected yet; `keys` are public, secret and the server's."""
    sock = context.socket(zmq.DEALER)
    set_common_options(sock, url)
    sock.setsockopt(zmq.IMMEDIATE, 1)  # nothing queues up for a server that is away
    sock.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS[0])
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS[1])
    if keys is not None:
        for option, key in zip(
            (zmq.CURVE_PUBLICKEY, zmq.CURVE_SECRETKEY, zmq.CURVE_SERVERKEY), keys, strict=True
        ):
            sock.setsockopt(option, key)
    return sock


def send_message(sock: "zmq.Socket[bytes]", parts: Sequence[Buffer]) -> None:
    """Send without waiting, all parts or none; large ones are not copied.

    Raises:
        zmq.Again: the queue is full.
        zmq.ZMQError: nobody is connected.
    """
    last = len(parts) - 1
    for index, part in enumerate(parts):
        sock.send(part, _LAST if index == last else _MORE, copy=len(part) < _SMALL)


def may_receive(sock: "zmq.Socket[bytes]") -> bool:
    """Return whether a message is there."""
    return bool(int(sock.getsockopt(zmq.EVENTS)) & _POLLIN)


class Doorbell:
    """Lets the thread that owns ZeroMQ sockets sleep until something happens; any may ring.

    zmq.Poller does the same with three times the system calls, several a frame. The price is a
    rule, because a socket's descriptor tells of changes only: after the last use of a socket
    `may_receive` must return False before the next wait.
    """

    def __init__(self, socks: Sequence["zmq.Socket[bytes]"]) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._rung = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read, selectors.EVENT_READ)
        for sock in socks:
            self._selector.register(int(sock.getsockopt(zmq.FD)), selectors.EVENT_READ, sock)

    def ring(self) -> None:
        """Wake the owner, without a lock and without waiting."""
        if not self._rung:
            self._rung = True
            with suppress(BlockingIOError, OSError):  # full: it will wake; closed: never
                self._write.send(b"\0")

    def wait(self, timeout_s: float) -> "list[zmq.Socket[bytes]]":
        """Sleep until a socket's state may have changed, someone rings, or the time is over.

        Returns:
            The sockets whose state may have changed, as ZeroMQ reports.
        """
        ready = []
        for key, _ in self._selector.select(timeout_s):
            if key.data is not None:
                ready.append(key.data)
                continue
            with suppress(BlockingIOError):
                self._read.recv(64)
            self._rung = False  # before the owner looks: later events ring again
        return ready

    def close(self) -> None:
        """Free the descriptors."""
        self._selector.close()
        self._read.close()
        self._write.close()
