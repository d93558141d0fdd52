"""A soak test: 10^5 frames through a server whose clients come and go, stall, misbehave and die.

    python benchmarks/soak.py                    over ZeroMQ, TCP and WebSocket; some minutes

The server runs in a process of its own. The test fails if a frame comes back wrong, or if the
server's memory, threads or descriptors have grown. It also fails if a connection, a port or a
client thread is left.
"""

import multiprocessing
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import tyro
import zmq
from websockets.sync.client import connect as ws_connect

from splatmend.core import Frame
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.frames import to_planes
from splatmend.plugin.protocol.framing import MAGIC, Buffer, Limits, join, receive, split
from splatmend.plugin.protocol.messages import FrameRequest, Hello, Message, Result
from splatmend.plugin.server import Engine, GatewayOptions, Server, ServerOptions

PORT = 17990
LIMITS = Limits()
SILENCE_S = 12  # the server closes silent sessions after ten
GROWN = 1.03  # allowed growth of resident memory, from 10 % of the frames on
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc: give freed memory back
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Config:
    frames: int = 100_000
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """The resources of the server's process."""

    frames: int
    megabytes: float
    threads: int
    descriptors: int
    connections: int

    def __str__(self) -> str:
        return (
            f"after {self.frames:>7} frames: {self.megabytes:.1f} MB resident, {self.threads} "
            f"threads, {self.descriptors} descriptors, {self.connections} connections"
        )


def main() -> int:
    config = tyro.cli(Config, description=__doc__)
    os.environ.update(MALLOC)  # otherwise resident memory never falls
    stop = SPAWN.Event()
    process = SPAWN.Process(target=run_server, args=(PORT, stop), daemon=True)
    process.start()
    tally: Counter[str] = Counter()
    crowd = Crowd(config.seed, tally)
    with Client(crowd.url, ClientOptions(deadline_ms=5000)) as first:
        assert first.wait(30)
    for kind in crowd.kinds:
        kind(0.5)  # allocations that happen only once happen now
    time.sleep(SILENCE_S)
    samples = [sample(process.pid, tally)]
    began = time.perf_counter()
    while tally["restored"] < config.frames:
        crowd.round()
        samples.append(sample(process.pid, tally))
    seconds = time.perf_counter() - began
    time.sleep(SILENCE_S)
    samples.append(sample(process.pid, tally))
    crowd.sync(0.1)  # the server still works
    stop.set()
    process.join(30)
    say(f"{tally['restored']} frames restored in {seconds:.0f} s: {dict(sorted(tally.items()))}")
    for share in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1):
        say(str(samples[round(share * (len(samples) - 1))]))
    return verdict(samples, tally, process.exitcode)


def verdict(samples: list[Sample], tally: Counter[str], exit_code: int | None) -> int:
    taken = [PORT + offset for offset in range(3) if not is_free(PORT + offset)]
    left = [t.name for t in threading.enumerate() if t.name.startswith("smp-")]
    say(f"server ended with {exit_code}, ports taken: {taken}, threads left here: {left}")
    before, early, after = samples[0], samples[len(samples) // 10], samples[-1]
    grown = (
        after.megabytes > early.megabytes * GROWN
        or after.threads > before.threads
        or after.descriptors > before.descriptors
        or after.connections > before.connections
    )
    return int(grown or tally["wrong"] > 0 or bool(taken) or bool(left) or exit_code != 0)


def sample(pid: int | None, tally: Counter[str]) -> Sample:
    process = psutil.Process(pid)
    return Sample(
        frames=tally["restored"],
        megabytes=process.memory_info().rss / 1e6,
        threads=process.num_threads(),
        descriptors=process.num_fds(),
        connections=sum(c.status != psutil.CONN_LISTEN for c in process.net_connections()),
    )


def run_server(port: int, stop: Any) -> None:
    options = ServerOptions(
        urls=(f"tcp://127.0.0.1:{port}",),
        gateway=GatewayOptions(tcp=f"127.0.0.1:{port + 1}", ws=f"127.0.0.1:{port + 2}"),
    )
    with Server([Engine("negative", negative, max_batch=2)] * 2, options):
        stop.wait()


def negative(frames: Any) -> list[Frame]:
    return [frame.with_color(255 - frame.color) for frame in frames]


class Crowd:
    """Clients of every kind, a few at a time."""

    def __init__(self, seed: int, tally: Counter[str]) -> None:
        self.dice = random.Random(seed)
        self.tally = tally
        self.url = f"tcp://127.0.0.1:{PORT}"
        self.kinds: list[Callable[[float], None]] = [
            *(self.sync, self.latest, self.ordered, self.tcp, self.websocket),
            *(self.stalls, self.stalls_on_tcp, self.dies, self.lies, self.breaks_off),
        ]

    def round(self) -> None:
        chosen = [self.ordered, *self.dice.sample(self.kinds, 3)]
        threads = [threading.Thread(target=each, args=(self.dice.random(),)) for each in chosen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def picture(self, value: int) -> Frame:
        return Frame(color=np.full((64, 64, 3), value % 256, np.uint8))

    def note(self, shown: Any, *, exact: bool = True) -> None:
        if shown.restored:
            right = (shown.frame.color == 255 - shown.id % 256).all()
            self.tally["restored"] += 1
            self.tally["wrong"] += not right
        elif exact:
            self.tally[f"raw: {shown.why}"] += 1

    def sync(self, share: float) -> None:
        with Client(self.url, ClientOptions(deadline_ms=2000)) as client:
            client.wait()
            for value in range(int(200 * share)):
                self.note(client.restore(self.picture(value)))
        self.tally["sync clients"] += 1

    def latest(self, share: float) -> None:
        with Client(self.url, ClientOptions(mode="latest", max_age_ms=2000)) as client:
            client.wait()
            for value in range(int(200 * share)):
                client.restore(self.picture(value))
                time.sleep(0.001)
            newest = client.restore(self.picture(int(200 * share)))
            self.note(newest, exact=False)
        self.tally["latest clients"] += 1

    def ordered(self, share: float) -> None:
        with Client(self.url, ClientOptions(mode="ordered")) as client:
            for shown in client.stream(self.picture(v) for v in range(200 + int(1000 * share))):
                self.note(shown)
        self.tally["ordered clients"] += 1

    def tcp(self, share: float) -> None:
        with socket.create_connection(("127.0.0.1", PORT + 1), 10) as sock:

            def read(count: int) -> Buffer:
                return sock.recv(count, socket.MSG_WAITALL)

            def ask(message: Message) -> Message:
                sock.sendall(b"".join(join(encode(message))))
                return parse(receive(read, LIMITS), LIMITS)

            self.converse(ask, int(500 * share))
        self.tally["tcp clients"] += 1

    def websocket(self, share: float) -> None:
        with ws_connect(f"ws://127.0.0.1:{PORT + 2}", compression=None) as sock:

            def ask(message: Message) -> Message:
                sock.send(b"".join(join(encode(message))))
                answer = sock.recv(10)
                assert isinstance(answer, bytes)
                return parse(split(answer, LIMITS), LIMITS)

            self.converse(ask, int(500 * share))
        self.tally["websocket clients"] += 1

    def converse(self, ask: Callable[[Message], Any], frames: int) -> None:
        """Send frames and read each answer; leave without a bye."""
        session = ask(Hello(mode="ordered")).session
        for number in range(frames):
            answer = ask(self.request(session, number, self.picture(number)))
            assert isinstance(answer, Result), answer
            right = answer.id == number and bytes(answer.data[0]) == bytes(
                [255 - number % 256] * (64 * 64 * 3)
            )
            self.tally["restored"] += 1
            self.tally["wrong"] += not right

    def request(self, session: str, number: int, frame: Frame) -> FrameRequest:
        planes, data = to_planes(frame)
        height, width = frame.size
        return FrameRequest(
            session=session, id=number, width=width, height=height, planes=planes, data=data
        )

    def dealer(self) -> tuple[Any, Any]:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVHWM, 1)
        dealer.connect(self.url)
        return context, dealer

    def stalls(self, share: float) -> None:
        """Send frames and never read."""
        context, dealer = self.dealer()
        dealer.send_multipart([MAGIC, *encode(Hello(mode="ordered"))])
        dealer.poll(5000)
        session = parse(dealer.recv_multipart()[1:], LIMITS).session  # type: ignore[union-attr]
        large = Frame(color=np.zeros((256, 256, 3), np.uint8))
        for number in range(int(300 * share)):
            message = self.request(session, number, large)
            with suppress(zmq.Again):
                dealer.send_multipart([MAGIC, *encode(message)], zmq.NOBLOCK)
        dealer.close(0)
        context.term()
        self.tally["stalled clients"] += 1

    def stalls_on_tcp(self, share: float) -> None:
        """Send frames over TCP and never read, until both sides' buffers are full."""
        large = Frame(color=np.zeros((256, 256, 3), np.uint8))
        with socket.create_connection(("127.0.0.1", PORT + 1), 10) as sock:
            sock.sendall(b"".join(join(encode(Hello(mode="ordered")))))
            welcome = parse(receive(lambda n: sock.recv(n, socket.MSG_WAITALL), LIMITS), LIMITS)
            session = welcome.session  # type: ignore[union-attr]
            sock.settimeout(1)
            with suppress(OSError):
                for number in range(int(1000 * share)):
                    message = self.request(session, number, large)
                    sock.sendall(b"".join(join(encode(message))))
        self.tally["stalled tcp clients"] += 1

    def dies(self, share: float) -> None:
        """Leave without a bye, with frames in flight."""
        context, dealer = self.dealer()
        dealer.send_multipart([MAGIC, *encode(Hello())])
        dealer.poll(5000)
        session = parse(dealer.recv_multipart()[1:], LIMITS).session  # type: ignore[union-attr]
        for number in range(int(20 * share)):
            message = self.request(session, number, self.picture(1))
            dealer.send_multipart([MAGIC, *encode(message)])
        dealer.close(0)
        context.term()
        self.tally["dead clients"] += 1

    def lies(self, share: float) -> None:
        """Send junk."""
        context, dealer = self.dealer()
        dice = random.Random(share)
        for _ in range(50):
            parts = [dice.randbytes(dice.randrange(20)) for _ in range(dice.randrange(1, 9))]
            dealer.send_multipart([MAGIC, *parts] if dice.random() < 0.7 else parts)
        dealer.poll(100)
        dealer.close(0)
        context.term()
        self.tally["lying clients"] += 1

    def breaks_off(self, share: float) -> None:
        """Close a TCP connection in the middle of a message."""
        data = b"".join(join([*encode(Hello())]))
        frame = MAGIC + struct.pack("<3I", 2, 100, 10_000_000) + bytes(int(1000 * share))
        with suppress(OSError), socket.create_connection(("127.0.0.1", PORT + 1), 5) as sock:
            sock.sendall(data)
            sock.recv(4096)
            sock.sendall(frame)
        self.tally["broken connections"] += 1


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
