"""Long runs against the frame server: nothing crashes, hangs, grows or stays behind.

    python benchmarks/soak.py fuzz               10^6 random and mutated messages to the parser
    python benchmarks/soak.py soak               10^5 frames; clients come, go, stall, lie and die

`soak` runs the server in a process of its own and ends with an error if its memory, threads or
file descriptors have grown, or a port is still taken at the end.
"""

import json
import multiprocessing
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import tyro
import zmq

from splatmend.core import Frame
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.framing import MAGIC, Limits, ProtocolError, join, split
from splatmend.plugin.gateway import GatewayOptions
from splatmend.plugin.messages import FrameRequest, Hello
from splatmend.plugin.protocol import encode, parse
from splatmend.plugin.server import Server, ServerOptions
from splatmend.plugin.wire_frames import to_frame, to_planes
from splatmend.plugin.workers import Engine

VECTORS = Path(__file__).parents[1] / "tests" / "plugin" / "vectors" / "smp1.json"
PORT = 17990
LIMITS = Limits()


@dataclass(frozen=True)
class Config:
    what: tyro.conf.Positional[Literal["fuzz", "soak"]]
    messages: int = 1_000_000
    frames: int = 100_000
    seed: int = 0


def main() -> int:
    config = tyro.cli(Config, description=__doc__)
    return {"fuzz": fuzz, "soak": soak}[config.what](config)


# The parser


def fuzz(config: Config) -> int:
    dice = random.Random(config.seed)
    texts = json.loads(VECTORS.read_text(encoding="utf-8"))
    valid = [bytes.fromhex(v["hex"]) for v in texts["messages"]]
    invalid = [bytes.fromhex(v["hex"]) for v in texts["invalid"]]
    outcomes: Counter[str] = Counter()
    slowest, memory = 0.0, []
    began = time.perf_counter()
    for number in range(config.messages):
        kind = number % 4
        if kind == 0:
            message = MAGIC + dice.randbytes(dice.randrange(64))
        elif kind == 1:
            message = mutated(dice.choice(valid + invalid), dice, valid)
        else:  # only the header, its length set right
            header, *planes = (bytes(part) for part in split(dice.choice(valid), LIMITS))
            message = b"".join(join([mutated(header, dice, valid), *planes]))
        started = time.perf_counter()
        try:
            parsed = parse(split(message, LIMITS), LIMITS)
        except ProtocolError as error:
            outcomes[error.code] += 1
        else:
            outcomes["valid"] += 1
            if isinstance(parsed, FrameRequest):
                to_frame(parsed)
        slowest = max(slowest, time.perf_counter() - started)
        if number % (config.messages // 10 or 1) == config.messages // 20:
            memory.append(psutil.Process().memory_info().rss / 1e6)
    seconds = time.perf_counter() - began
    say(f"{config.messages} messages in {seconds:.0f} s, the slowest {slowest * 1e3:.1f} ms")
    say(f"outcomes: {dict(outcomes)}")
    say(f"resident MB: {', '.join(f'{m:.1f}' for m in memory)}")
    return int(memory[-1] > memory[1] + 2)


def mutated(message: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    data = bytearray(message)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            pieces = (
                b"0",
                b"9" * 30,
                b"null",
                b'"',
                b"-",
                b"1e999",
                b"[" * 1200,
                b"\\ud800",
                b"{}",
            )
            data[at:at] = dice.choice(pieces)
        elif kind == 2:
            del data[at : at + dice.randrange(1, 9)]
        elif kind == 3:
            other = dice.choice(others)
            data[at:] = other[dice.randrange(len(other)) :]
        elif kind == 4:
            data[8:12] = struct.pack("<I", dice.choice((0, 1, len(data), 1 << 16, (1 << 32) - 1)))
        else:
            data[at : at + 1] = dice.randbytes(1)
    return bytes(data)


# The server


def negative(frames: Any) -> list[Frame]:
    return [frame.with_color(255 - frame.color) for frame in frames]


def run_server(port: int, stop: Any) -> None:
    options = ServerOptions(
        urls=(f"tcp://127.0.0.1:{port}",),
        gateway=GatewayOptions(tcp=f"127.0.0.1:{port + 1}", ws=f"127.0.0.1:{port + 2}"),
    )
    with Server([Engine("negative", negative, max_batch=2)] * 2, options):
        stop.wait()


def soak(config: Config) -> int:
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    process = spawn.Process(target=run_server, args=(PORT, stop), daemon=True)
    process.start()
    watched = psutil.Process(process.pid)
    tally: Counter[str] = Counter()
    samples = []
    began = time.perf_counter()
    crowd = Crowd(config.seed, tally)
    with Client(f"tcp://127.0.0.1:{PORT}", ClientOptions(deadline_ms=5000)) as first:
        assert first.wait(30)
    while tally["restored"] < config.frames:
        crowd.round()
        samples.append((tally["restored"], watched.memory_info().rss / 1e6, watched.num_threads(),
                        watched.num_fds()))  # fmt: skip
    seconds = time.perf_counter() - began
    time.sleep(12)  # silent sessions are closed after ten
    samples.append((tally["restored"], watched.memory_info().rss / 1e6, watched.num_threads(),
                    watched.num_fds()))  # fmt: skip
    stop.set()
    process.join(30)
    say(f"{tally['restored']} frames restored in {seconds:.0f} s: {dict(tally)}")
    for at in sorted({0, len(samples) // 4, len(samples) // 2, 3 * len(samples) // 4,
                      len(samples) - 1}):  # fmt: skip
        frames, memory, threads, files = samples[at]
        say(f"after {frames:>7} frames: {memory:.1f} MB, {threads} threads, {files} descriptors")
    free = all(is_free(PORT + offset) for offset in range(3))
    say(f"server ended with {process.exitcode}, ports free: {free}")
    say(f"threads left here: {[t.name for t in threading.enumerate() if 'smp' in t.name]}")
    settled = samples[len(samples) // 4]
    grown = samples[-1][1] > settled[1] * 1.05 + 2 or samples[-1][2:] > settled[2:]
    return int(grown or tally["wrong"] > 0 or not free or process.exitcode != 0)


class Crowd:
    """Clients of every kind, a few at a time."""

    def __init__(self, seed: int, tally: Counter[str]) -> None:
        self.dice = random.Random(seed)
        self.tally = tally
        self.url = f"tcp://127.0.0.1:{PORT}"

    def round(self) -> None:
        kinds = [self.sync, self.latest, self.ordered, self.ordered, self.stalls, self.dies,
                 self.lies, self.breaks_off]  # fmt: skip
        chosen = [self.ordered, *self.dice.sample(kinds, 3)]
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

    def dealer(self) -> tuple[Any, Any]:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVHWM, 1)
        dealer.connect(self.url)
        return context, dealer

    def stalls(self, share: float) -> None:
        """Sends frames and never reads."""
        context, dealer = self.dealer()
        dealer.send_multipart([MAGIC, *encode(Hello(mode="ordered"))])
        dealer.poll(5000)
        session = parse(dealer.recv_multipart()[1:], LIMITS).session  # type: ignore[union-attr]
        planes, data = to_planes(Frame(color=np.zeros((256, 256, 3), np.uint8)))
        for number in range(int(300 * share)):
            message = FrameRequest(session=session, id=number, width=256, height=256,
                                   planes=planes, data=data)  # fmt: skip
            with suppress(zmq.Again):
                dealer.send_multipart([MAGIC, *encode(message)], zmq.NOBLOCK)
        dealer.close(0)
        context.term()
        self.tally["stalled clients"] += 1

    def dies(self, share: float) -> None:
        """Goes without a bye, in the middle of its work."""
        context, dealer = self.dealer()
        dealer.send_multipart([MAGIC, *encode(Hello())])
        dealer.poll(5000)
        session = parse(dealer.recv_multipart()[1:], LIMITS).session  # type: ignore[union-attr]
        planes, data = to_planes(self.picture(1))
        for number in range(int(20 * share)):
            message = FrameRequest(session=session, id=number, width=64, height=64,
                                   planes=planes, data=data)  # fmt: skip
            dealer.send_multipart([MAGIC, *encode(message)])
        dealer.close(0)
        context.term()
        self.tally["dead clients"] += 1

    def lies(self, share: float) -> None:
        """Sends junk."""
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
        """Leaves a TCP connection in the middle of a message."""
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
