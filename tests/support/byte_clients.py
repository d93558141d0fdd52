"""Clients over TCP and WebSocket, in the fewest lines."""

import socket
from contextlib import ExitStack
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as ws_connect

from splatmend.core import Frame
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.frames import to_planes
from splatmend.plugin.protocol.framing import Limits, join, receive, split
from splatmend.plugin.protocol.messages import FrameRequest, Hello, Welcome

LIMITS = Limits()


class TcpClient:
    """Framed messages over a socket, in the fewest lines."""

    def __init__(self, address: str, **_: Any) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), 10)

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> Any:
        return parse(receive(self._read, LIMITS), LIMITS)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def close(self) -> None:
        self.socket.close()


class WebSocketClient:
    """Messages over a WebSocket, one binary message each."""

    def __init__(self, address: str, **options: Any) -> None:
        self._stack = ExitStack()
        made = ws_connect(f"ws://{address}", compression=None, max_size=None, **options)
        self.socket = self._stack.enter_context(made)

    def send_bytes(self, data: bytes) -> None:
        self.socket.send(data)

    def receive(self) -> Any:
        try:
            return parse(split(self.socket.recv(10), LIMITS), LIMITS)
        except ConnectionClosed as error:
            raise EOFError from error

    def close(self) -> None:
        self._stack.close()


CLIENTS: dict[str, Any] = {"tcp": TcpClient, "ws": WebSocketClient}


def send(client: Any, message: Any) -> None:
    client.send_bytes(b"".join(join(encode(message))))


def hello(client: Any, **more: Any) -> Welcome:
    send(client, Hello(**more))
    welcome = client.receive()
    assert isinstance(welcome, Welcome), welcome
    return welcome


def request(session: str, number: int, value: int = 0, size: tuple[int, int] = (4, 6)) -> Any:
    planes, data = to_planes(Frame(color=np.full((*size, 3), value, np.uint8)))
    return FrameRequest(
        session=session, id=number, height=size[0], width=size[1], planes=planes, data=data
    )
