"""A server that answers as the test tells it, and helpers for its clients."""

from typing import Any

import numpy as np
import zmq

from splatmend.core import Frame
from splatmend.plugin.client import Client
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.framing import MAGIC, Limits
from splatmend.plugin.protocol.messages import FrameRequest, Result, Welcome

from waiting import until


def picture(value: int, size: tuple[int, int] = (4, 6)) -> Frame:
    return Frame(color=np.full((*size, 3), value, np.uint8))


class FakeServer:
    """A ROUTER that answers as the test says."""

    def __init__(self, credit: int = 1) -> None:
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.credit = credit
        self.peer = b""

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.router.close(0)
        self.context.term()

    def receive(self, timeout_ms: int = 5000) -> Any:
        if not self.router.poll(timeout_ms):
            return None
        self.peer, _, *parts = self.router.recv_multipart()
        return parse(parts, Limits())

    def send(self, message: Any) -> None:
        self.router.send_multipart([self.peer, MAGIC, *encode(message)])

    def welcome(self, session: str = "s") -> None:
        self.receive()
        self.send(
            Welcome(session=session, credit=self.credit, max_part_bytes=1 << 20, hb_ms=60000,
                    max_wh=(99, 99), in_fmts=(), planes=(), uses=("color",), stateful=False,
                    model="fake")
        )  # fmt: skip

    def answer(self, asked: FrameRequest, **changes: Any) -> None:
        values = {
            "session": asked.session, "id": asked.id, "width": asked.width,
            "height": asked.height, "credit": self.credit, "planes": asked.planes[:1],
            "data": (bytes(255 - b for b in bytes(asked.data[0])),), **changes,
        }  # fmt: skip
        self.send(Result(**values))


def client_of(fake: FakeServer, client: Any, **options: Any) -> Client:
    asks: Client = client(fake.url, wait=False, **options)
    fake.welcome()
    until(lambda: asks.state == "up")
    return asks
