"""A client that speaks plain SMP/1 over ZeroMQ, and engines for servers under test."""

import threading
from typing import Any

import numpy as np
import zmq

from splatmend.core import Frame
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.frames import to_planes
from splatmend.plugin.protocol.framing import MAGIC, Limits
from splatmend.plugin.protocol.messages import (
    Bye,
    Drop,
    ErrorReply,
    FrameRequest,
    Hello,
    Result,
    Welcome,
)
from splatmend.plugin.server import Engine

from serving import negative

PATIENCE_MS = 5000


class Wire:
    """A DEALER that speaks SMP/1 and nothing else."""

    def __init__(
        self, url: str, keys: tuple[bytes, bytes, bytes] | None = None, *, queue: int = 1000
    ) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, queue)
        if keys is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey = keys[0], keys[1]
            self.socket.curve_serverkey = keys[2]
        self.socket.connect(url)
        self.session = ""

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()

    def send(self, message: Any) -> None:
        self.socket.send_multipart([MAGIC, *encode(message)])

    def receive(self, timeout_ms: int = PATIENCE_MS) -> Any:
        if not self.socket.poll(timeout_ms):
            return None
        magic, *parts = self.socket.recv_multipart()
        assert magic == MAGIC
        return parse(parts, Limits())

    def hello(self, **more: Any) -> Welcome:
        self.send(Hello(**more))
        welcome = self.receive()
        while isinstance(welcome, Bye):
            welcome = self.receive()
        assert isinstance(welcome, Welcome), welcome
        self.session = welcome.session
        return welcome

    def frame(
        self, number: int, value: int = 0, size: tuple[int, int] = (4, 6), **more: Any
    ) -> None:
        planes, data = to_planes(Frame(color=np.full((*size, 3), value, np.uint8)))
        self.send(
            FrameRequest(
                session=self.session, id=number, height=size[0], width=size[1], planes=planes,
                data=data, **more,
            )
        )  # fmt: skip

    def answers(self, count: int) -> dict[int, Any]:
        """Receive the answers to `count` frames, by id; every id once."""
        found: dict[int, Any] = {}
        while len(found) < count:
            answer = self.receive()
            assert isinstance(answer, Result | Drop | ErrorReply), answer
            assert answer.id is not None
            assert answer.id not in found
            found[answer.id] = answer
        return found


class Gate:
    """An engine that notes its frames and waits until it may go on."""

    def __init__(self, *, max_batch: int = 1, is_open: bool = False) -> None:
        self.batches: list[list[tuple[str, int]]] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.engine = Engine("gate", self.restore, max_batch=max_batch)
        if is_open:
            self.open.set()

    def restore(self, frames: Any) -> list[Frame]:
        self.batches.append([(f.stream_id, int(f.color[0, 0, 0])) for f in frames])
        self.entered.release()
        assert self.open.wait(10)
        return negative(frames)
