"""SMP/1 over TCP and WebSocket, for clients without ZeroMQ: one thread, one event loop.

Every connection passes the same parts to the same dispatcher as ZeroMQ does. Before its hello a
connection may send only headers, and only for some seconds. Web pages may connect only from the
listed origins, because any page can open a socket to 127.0.0.1. The WebSocket port also answers
plain GET requests for two public scripts that pages need.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from splatmend.core.errors import InputError
from splatmend.plugin.protocol.framing import Buffer, Limits, ProtocolError, join, reading, split
from splatmend.plugin.protocol.zmq_sockets import host_port, is_loopback
from splatmend.plugin.server.dispatcher import Dispatcher
from splatmend.plugin.server.web_files import script

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

__all__ = ["Gateway", "GatewayOptions"]

_HELLO_S = 10.0  # until a connection must have said hello
_SILENCE_S = 60.0  # after hello, until a connection must say something again
_FLUSH_S = 1.0  # for the last answers when a connection ends
_MOST_WAITING = 1000  # unread answers; with more, or a full part, a client is given up
_MOST_CONNECTIONS = 128


@dataclass(frozen=True)
class GatewayOptions:
    """Addresses of TCP and WebSocket, as host:port; port 0 takes a free port."""

    tcp: str | None = None
    ws: str | None = None
    tokens: tuple[str, ...] = ()
    """Tokens, one of which must be in a client's hello; none: every client may come in."""
    origins: tuple[str, ...] = ()
    """Origins of web pages that may connect, such as http://localhost:8080; programs have none."""

    @property
    def wanted(self) -> bool:
        """Return whether there is an address to open."""
        return self.tcp is not None or self.ws is not None


class _Connection(Protocol):
    """Common methods of TCP and WebSocket connections."""

    async def read(self, limits: Limits) -> list[Buffer]: ...
    async def write(self, parts: Sequence[Buffer]) -> None: ...
    async def close(self) -> None: ...


class _GatewayPeer:
    """One connection in the form that the dispatcher uses."""

    def __init__(self, name: str, limits: Limits, *, local: bool, needs_token: bool) -> None:
        self.name = name
        self.local = local
        self.needs_token = needs_token
        self.writing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[Sequence[Buffer] | None] = asyncio.Queue()
        self._waiting_bytes = 0
        self._most_bytes = limits.part_bytes

    def send(self, parts: Sequence[Buffer]) -> None:
        self._call(parts)

    def close(self) -> None:
        self._call(None)

    def _call(self, item: Sequence[Buffer] | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the peer with it
            self._loop.call_soon_threadsafe(self._put, item)

    def _put(self, item: Sequence[Buffer] | None) -> None:
        if self._outbox.qsize() < _MOST_WAITING and self._waiting_bytes < self._most_bytes:
            self._outbox.put_nowait(item)
            self._waiting_bytes += sum(map(len, item or ()))
        elif self.writing is not None:
            self.writing.cancel()  # the client does not read its answers

    def forget(self) -> None:
        """Free queued messages.

        The task that failed to send them refers to this object in a cycle, and a full run of the
        garbage collector may come late.
        """
        self.writing = None
        self._outbox = asyncio.Queue()
        self._most_bytes = 0

    async def write_all(self, connection: _Connection) -> None:
        """Send queued messages until `close` ends the queue."""
        while (parts := await self._outbox.get()) is not None:
            await connection.write(parts)
            self._waiting_bytes -= sum(map(len, parts))


class Gateway:
    """Binds at once, serves from `start` to `stop`.

    Raises:
        InputError: an address is malformed, taken, or open to other machines without a token.
    """

    def __init__(self, options: GatewayOptions, dispatcher: Dispatcher, limits: Limits) -> None:
        self._options = options
        self._dispatcher = dispatcher
        self._limits = limits
        self._sockets: dict[str, socket.socket] = {}
        try:
            for kind, address in (("tcp", options.tcp), ("ws", options.ws)):
                if address is not None:
                    self._sockets[kind] = _listen(address, has_tokens=bool(options.tokens))
        except BaseException:
            self._close_sockets()
            raise
        self.addresses = {kind: _name(sock) for kind, sock in self._sockets.items()}
        """host:port of "tcp" and "ws", with ports."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: set[_GatewayPeer] = set()
        self._stopping = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="smp-gateway", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        """Send queued messages, close connections and ports, end the thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in self._sockets.values():
            sock.close()

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            if "tcp" in self._sockets:
                server = await asyncio.start_server(
                    self._tcp, sock=self._sockets["tcp"], limit=1 << 20
                )
                stack.callback(server.close)
            if "ws" in self._sockets:
                await stack.enter_async_context(self._websocket_server())
            self._started.set()
            await self._stopping.wait()
            for peer in self._peers:
                peer.close()
            if self._tasks:
                _, late = await asyncio.wait(self._tasks, timeout=2 * _FLUSH_S)
                for task in late:
                    task.cancel()

    def _websocket_server(self) -> Any:
        try:
            from websockets.asyncio.server import serve
        except ModuleNotFoundError as error:
            raise InputError(
                "the WebSocket gateway needs websockets, which is not installed: "
                "pip install 'splatmend[gateway]'"
            ) from error
        origins: list[Any] = [None, *self._options.origins]
        return serve(
            self._websocket,
            sock=self._sockets["ws"],
            origins=origins,
            process_request=_http,
            compression=None,  # it takes milliseconds, and rendered pixels hardly shrink
            max_size=self._limits.message_bytes,
            max_queue=2,
            close_timeout=_FLUSH_S,
        )

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._track(self._converse(_Tcp(reader, writer), writer.get_extra_info("peername")))

    async def _websocket(self, connection: "ServerConnection") -> None:
        await self._track(self._converse(_WebSocket(connection), connection.remote_address))

    async def _track(self, conversation: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(conversation)
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(task)
        finally:
            self._tasks.discard(task)

    async def _converse(self, connection: _Connection, address: Any) -> None:
        host = str(address[0]) if address else ""
        peer = _GatewayPeer(
            f"gateway {host}",
            self._limits,
            local=is_loopback(host),
            needs_token=bool(self._options.tokens),
        )
        if len(self._peers) >= _MOST_CONNECTIONS:
            await connection.close()
            return
        self._peers.add(peer)
        reads = asyncio.create_task(self._read_all(connection, peer))
        writes = peer.writing = asyncio.create_task(peer.write_all(connection))
        try:
            await asyncio.wait((reads, writes), return_when=asyncio.FIRST_COMPLETED)
            self._dispatcher.lose(peer)
            peer.close()
            await asyncio.wait((writes,), timeout=_FLUSH_S)
        finally:
            self._dispatcher.lose(peer)
            self._peers.discard(peer)
            for task in (reads, writes):
                task.cancel()
            await asyncio.gather(reads, writes, return_exceptions=True)
            peer.forget()
            await connection.close()

    async def _read_all(self, connection: _Connection, peer: _GatewayPeer) -> None:
        """Read until the client leaves, falls silent, or sends something other than a message."""
        try:
            while True:
                known = self._dispatcher.has_session(peer)
                limits = self._limits if known else replace(self._limits, planes=0)
                async with asyncio.timeout(_SILENCE_S if known else _HELLO_S):
                    parts = await connection.read(limits)
                self._dispatcher.receive(peer, parts)
                await asyncio.sleep(0)  # let others have their turn
        except ProtocolError as error:
            self._dispatcher.refuse(peer, error, fatal=True)
        except (TimeoutError, EOFError, OSError):
            return


class _Tcp:
    """A TCP connection: messages follow each other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, limits: Limits) -> list[Buffer]:
        message = reading(limits)
        wanted = next(message)
        while True:
            data = await self._reader.readexactly(wanted)
            try:
                wanted = message.send(data)
            except StopIteration as end:
                parts: list[Buffer] = end.value
                return parts

    async def write(self, parts: Sequence[Buffer]) -> None:
        for buffer in join(parts):
            self._writer.write(buffer)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self._writer.wait_closed()
        except TimeoutError:  # the client does not read
            self._writer.transport.abort()
        except OSError:
            return


class _WebSocket:
    """A WebSocket connection: each message is one binary message."""

    def __init__(self, connection: "ServerConnection") -> None:
        from websockets.exceptions import ConnectionClosed

        self._connection = connection
        self._closed: type[Exception] = ConnectionClosed

    async def read(self, limits: Limits) -> list[Buffer]:
        try:
            message = await self._connection.recv()
        except self._closed as error:
            raise EOFError from error
        if isinstance(message, str):
            raise ProtocolError("bad_header", "messages are binary, got text")
        return split(message, limits)

    async def write(self, parts: Sequence[Buffer]) -> None:
        try:
            await self._connection.send(b"".join(join(parts)))
        except self._closed as error:
            raise ConnectionResetError from error

    async def close(self) -> None:
        await self._connection.close()


def _http(connection: "ServerConnection", request: "Request") -> "Response | None":
    """Answer a plain HTTP request; return None for a WebSocket handshake."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return None
    body = script(request.path.partition("?")[0])
    if body is None:
        return connection.respond(HTTPStatus.NOT_FOUND, "there is /attach.js and /splatmend.js\n")
    response = connection.respond(HTTPStatus.OK, "")
    response.body = body
    for name in ("Content-Type", "Content-Length"):
        del response.headers[name]  # setting one adds another
    response.headers.update(
        {
            "Content-Type": "text/javascript; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "cross-origin",  # for pages that are isolated
        }
    )
    return response


def _listen(address: str, *, has_tokens: bool) -> socket.socket:
    host, port = host_port(address)
    if not is_loopback(host) and not has_tokens:
        raise InputError(
            f"{address} is open to other machines: give --token-file, and put TLS in front of it; "
            f"or use 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(f"cannot bind {address}: {error.strerror}; choose another port") from error
    # connections inherit it; asyncio sets it only on sockets with a named protocol, and Nagle's
    # algorithm would keep back each plane until the header is acknowledged, 40 ms
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _name(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
