"""The gateway: the same server for clients that speak TCP or WebSocket."""

import gc
import socket
import struct
import threading
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from splatmend.core import Frame, InputError
from splatmend.plugin.protocol.codec import encode
from splatmend.plugin.protocol.framing import MAGIC, Limits, join
from splatmend.plugin.protocol.messages import Bye, ErrorReply, Hello, Ping, Pong, Result
from splatmend.plugin.server import Engine, GatewayOptions, Policy, Server, ServerOptions
from splatmend.plugin.server import gateway as module
from splatmend.plugin.server.dispatcher import Dispatcher

from byte_clients import CLIENTS, TcpClient, WebSocketClient, hello, request, send
from serving import negative
from waiting import is_waiting, until

ANY = "127.0.0.1:0"
TOKEN = "a token of some length"


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Server]:
    """`start(tokens=..., restore=...)`: a running server with both gateways."""

    def run(*, restore: Any = negative, policy: Policy | None = None, **options: Any) -> Server:
        return stack.enter_context(
            Server(
                [Engine("negative", restore)],
                ServerOptions(
                    urls=("tcp://127.0.0.1:0",),
                    gateway=GatewayOptions(tcp=ANY, ws=ANY, **options),
                    policy=policy or Policy(),
                ),
            )
        )

    return run


@pytest.fixture(params=["tcp", "ws"])
def dial(request: pytest.FixtureRequest, stack: ExitStack) -> Callable[..., Any]:
    """`dial(server)`: a connection of each kind in turn."""

    def run(server: Server, **options: Any) -> Any:
        assert server.gateway is not None
        made = CLIENTS[request.param](server.gateway.addresses[request.param], **options)
        return stack.enter_context(closing(made))

    return run


def test_frames_make_the_way(start, dial) -> None:
    client = dial(start())
    session = hello(client, stream="page").session
    for number in range(20):
        send(client, request(session, number, number, size=(480, 640)))
        result = client.receive()
        assert isinstance(result, Result)
        assert result.id == number
        assert set(bytes(result.data[0])) == {255 - number}
    send(client, Ping(n=8))
    assert client.receive() == Pong(n=8)
    send(client, Bye())
    assert isinstance(client.receive(), Bye)


def test_the_client_in_the_documentation_works(start) -> None:
    server = start()
    assert server.gateway is not None
    text = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    block = text[text.index("    import json") : text.index("## A session")]
    code = "\n".join(line[4:] for line in block.splitlines())
    names: dict[str, Any] = {}
    exec(code.replace("7879", server.gateway.addresses["tcp"].split(":")[1]), names)
    names["sock"].close()
    assert names["answer"]["t"] == "result"
    assert names["restored"] == bytes([255]) * 24


def test_messages_may_come_in_any_pieces(start, stack) -> None:
    server = start()
    assert server.gateway is not None
    client = stack.enter_context(closing(TcpClient(server.gateway.addresses["tcp"])))
    session = hello(client).session
    data = b"".join(
        b"".join(join(encode(m))) for m in (request(session, 0, 5), Ping(n=1), Ping(n=2))
    )
    for at in range(0, len(data), 7):
        client.send_bytes(data[at : at + 7])
    kinds = sorted(type(client.receive()).__name__ for _ in range(3))
    assert kinds == ["Pong", "Pong", "Result"]


def test_bad_headers_are_answered_and_bad_framing_ends_the_connection(start, dial) -> None:
    server = start()
    good, bad = dial(server), dial(server)
    session = hello(good).session
    own = hello(bad).session
    bad.send_bytes(b"".join(join([b"{"])))
    answer = bad.receive()
    assert (answer.code, answer.fatal) == ("bad_header", False)
    send(bad, request(own, 3))
    assert isinstance(bad.receive(), Result)
    bad.send_bytes(MAGIC + struct.pack("<2I", 1, (1 << 32) - 1))
    answer = bad.receive()
    assert (answer.code, answer.fatal) == ("too_large", True)
    with pytest.raises(EOFError):
        bad.receive() and bad.receive()
    send(good, request(session, 0))
    assert isinstance(good.receive(), Result)
    until(lambda: len(server.figures().streams) == 1)


def test_a_burst_is_answered_in_full(start, dial) -> None:
    client = dial(start())
    hello(client)
    if isinstance(client, TcpClient):
        client.send_bytes(b"".join(b"".join(join(encode(Ping(n=n)))) for n in range(500)))
    else:
        for number in range(500):
            send(client, Ping(n=number))
    assert [client.receive().n for _ in range(500)] == list(range(500))


def test_a_web_page_that_posts_to_the_port_is_turned_away(start, stack) -> None:
    server = start()
    assert server.gateway is not None
    client = stack.enter_context(closing(TcpClient(server.gateway.addresses["tcp"])))
    client.send_bytes(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert client.receive().fatal
    with pytest.raises(EOFError):
        client.receive()


def test_before_hello_only_headers_are_read(start, dial) -> None:
    client = dial(start())
    send(client, request("", 0))
    answer = client.receive()
    assert answer.fatal
    if answer.code != "bad_header":
        assert answer.code == "no_session"
    with pytest.raises(EOFError):
        client.receive()


def test_tokens(start, dial) -> None:
    server = start(tokens=("another token", TOKEN))
    for token in ("", "a token of some lengti", "ein Schlüssel"):
        client = dial(server)
        send(client, Hello(token=token))
        answer = client.receive()
        assert (answer.code, answer.fatal) == ("auth", True)
        assert token not in answer.text or not token
        with pytest.raises(EOFError):
            client.receive()
    hello(dial(server), token=TOKEN)


def test_origins(start, stack) -> None:
    server = start(origins=("http://localhost:8080",))
    assert server.gateway is not None
    address = server.gateway.addresses["ws"]
    for origin in ("http://evil.example", "http://localhost:8081", "null"):
        with pytest.raises(InvalidStatus, match="403"):
            WebSocketClient(address, origin=origin)
    for origin in ("http://localhost:8080", None):
        hello(stack.enter_context(closing(WebSocketClient(address, origin=origin))))


def test_no_page_may_come_in_unless_it_is_listed(start) -> None:
    server = start()
    assert server.gateway is not None
    with pytest.raises(InvalidStatus, match="403"):
        WebSocketClient(server.gateway.addresses["ws"], origin="http://localhost:8080")


def test_text_is_refused(start, stack) -> None:
    server = start()
    assert server.gateway is not None
    client = stack.enter_context(closing(WebSocketClient(server.gateway.addresses["ws"])))
    client.socket.send("hello")
    answer = client.receive()
    assert (answer.code, answer.fatal) == ("bad_header", True)


def test_a_client_that_leaves_is_forgotten(start, dial) -> None:
    server = start()
    client = dial(server)
    hello(client)
    client.close()
    until(lambda: not server.figures().streams)


def test_a_client_that_says_nothing_is_shown_out(start, dial, monkeypatch) -> None:
    monkeypatch.setattr(module, "_HELLO_S", 0.2)
    client = dial(start())
    with pytest.raises(EOFError):
        client.receive()


def test_a_client_that_does_not_read_is_given_up(start, stack, monkeypatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_S", 0.2)
    server = start(policy=Policy(credit_local=1000))
    assert server.gateway is not None
    stalled = stack.enter_context(closing(TcpClient(server.gateway.addresses["tcp"])))
    other = stack.enter_context(closing(TcpClient(server.gateway.addresses["tcp"])))
    session = hello(stalled, mode="ordered").session
    own = hello(other).session
    stalled.socket.settimeout(5)
    number = 0
    with suppress(OSError):
        while len(server.figures().streams) == 2:
            number += 1
            send(stalled, request(session, number, size=(512, 512)))
            assert number < 500
    until(lambda: len(server.figures().streams) == 1)
    send(other, request(own, 0))
    assert isinstance(other.receive(), Result)


def test_stopping_answers_what_is_at_work(dial) -> None:
    entered, go = threading.Event(), threading.Event()

    def wait(frames: Any) -> list[Frame]:
        entered.set()
        assert go.wait(10)
        return negative(frames)

    options = ServerOptions(
        urls=("tcp://127.0.0.1:0",), gateway=GatewayOptions(tcp=ANY, ws=ANY)
    )  # fmt: skip
    server = Server([Engine("wait", wait)], options).start()
    client = dial(server)
    session = hello(client).session
    send(client, request(session, 0))
    assert entered.wait(5)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: is_waiting(stopping))
    go.set()
    assert isinstance(client.receive(), Result)
    assert isinstance(client.receive(), Bye)
    with pytest.raises(EOFError):
        client.receive()
    stopping.join(10)
    assert server.gateway is not None
    for address in server.gateway.addresses.values():
        host, port = address.split(":")
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind((host, int(port)))


def test_sessions_of_all_carriers_share_one_server(start, dial) -> None:
    server = start(policy=Policy(max_sessions=1))
    first, second = dial(server), dial(server)
    hello(first)
    send(second, Hello())
    answer = second.receive()
    assert isinstance(answer, ErrorReply)
    assert (answer.code, answer.fatal, answer.retry_ms) == ("busy", False, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tcp": "7879"}, "use host:port"),
        ({"tcp": "127.0.0.1:port"}, "use host:port"),
        ({"ws": "127.0.0.1:99999"}, "use host:port"),
        ({"ws": "0.0.0.0:0"}, "open to other machines: give --token-file"),
        ({"tcp": "192.0.2.1:0", "tokens": (TOKEN,)}, "cannot bind 192.0.2.1:0"),
        ({"tcp": "127.0.0.1:0", "ws": "[::]:0"}, "open to other machines"),
    ],
)
def test_addresses_that_cannot_be(options, message) -> None:
    with pytest.raises(InputError, match=message):
        Server(
            [Engine("negative", negative)],
            ServerOptions(urls=("tcp://127.0.0.1:0",), gateway=GatewayOptions(**options)),
        )


def test_a_gateway_that_never_started_can_be_stopped() -> None:
    options = ServerOptions(urls=("tcp://127.0.0.1:0",), gateway=GatewayOptions(tcp=ANY))
    Server([Engine("negative", negative)], options).stop()


@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ("/splatmend.js", "globalThis.Splatmend = require('./splatmend.js')"),
        ("/attach.js", "class Overlay"),
        ("/attach.js?v=2", "class Overlay"),
    ],
)
def test_pages_get_their_scripts_from_the_port_of_websocket(start, path, holds) -> None:
    server = start(tokens=(TOKEN,))
    assert server.gateway is not None
    url = f"http://{server.gateway.addresses['ws']}{path}"
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
        assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert int(response.headers["Content-Length"]) == len(text.encode())
    assert holds in text
    assert text.count("define('./smp1.js'") == 1
    assert TOKEN not in text


@pytest.mark.parametrize(
    "path",
    ["/", "/attach", "/overlay.js", "/../gateway.py", "/%2e%2e/gateway.py", "//attach.js"],
)
def test_nothing_else_is_served(start, path) -> None:
    server = start()
    assert server.gateway is not None
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{server.gateway.addresses['ws']}{path}", timeout=10)
    with caught.value as response:
        assert (response.code, response.read()) == (404, b"there is /attach.js and /splatmend.js\n")


def tcp_of(server: Server) -> str:
    assert server.gateway is not None
    return server.gateway.addresses["tcp"]


class Generous:
    """In the dispatcher's place: answers a peer's first message with 40 MB."""

    def __init__(self) -> None:
        self.planes: list[weakref.ref[Any]] = []

    def receive(self, peer: Any, _: Any) -> None:
        for _ in range(40):
            plane = np.zeros(1_000_000, np.uint8)
            self.planes.append(weakref.ref(plane))
            peer.send([b"header", memoryview(plane)])

    def has_session(self, _: Any) -> bool:
        return True

    def lose(self, _: Any) -> None: ...

    @property
    def held(self) -> int:
        return sum(plane() is not None for plane in self.planes)


def test_answers_that_nobody_read_are_freed(stack: ExitStack) -> None:
    """Frees memory at once, though a failed task and its connection refer to each other."""
    generous = Generous()
    gateway = module.Gateway(GatewayOptions(tcp=ANY), cast(Dispatcher, generous), Limits())
    gateway.start()
    stack.callback(gateway.stop)
    gc.collect()
    gc.disable()
    stack.callback(gc.enable)
    with closing(TcpClient(gateway.addresses["tcp"])) as client:
        client.send_bytes(b"".join(join([b"hello"])))
        until(lambda: len(generous.planes) == 40)
        assert generous.held > 20  # most do not fit into a socket
    until(lambda: generous.held <= 1)  # the one that was being sent, in its error's traceback


def test_planes_do_not_wait_for_acknowledgements() -> None:
    """Header and plane are two packets: Nagle's algorithm would hold back the second 40 ms."""
    with (
        closing(module._listen("127.0.0.1:0", has_tokens=False)) as listening,
        closing(socket.create_connection(listening.getsockname())),
        closing(listening.accept()[0]) as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
