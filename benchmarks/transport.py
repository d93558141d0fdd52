"""Throughput of the frame server against a bare echo and its peers, in one run.

    python benchmarks/transport.py

Servers run in processes of their own. The restorer copies its input. The bare DEALER/ROUTER echo
reads and writes every pixel, with the same socket options. imagezmq and vidgear take part if they
are installed.
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import zmq

from splatmend.core import Frame, RestoreOptions, keep_freed_memory, load_restorer
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.frames import to_planes
from splatmend.plugin.protocol.framing import MAGIC, Limits
from splatmend.plugin.protocol.messages import FrameRequest, Hello, Welcome
from splatmend.plugin.protocol.zmq_sockets import set_common_options
from splatmend.plugin.server import Engine, Policy, Server, ServerOptions, engine_of

PORT = 17878
LIMITS = Limits()
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Config:
    size: int = 512
    seconds: float = 1.5
    """Duration of each measurement."""
    rounds: int = 3
    """Number of rounds; each measures all rows in turn."""
    out: Path | None = None
    """File for the figures as JSON."""


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    report(transport(config), config.out)


def report(rows: list[dict[str, Any]], out: Path | None) -> None:
    """Write a markdown table, and the same figures as JSON."""
    if out is not None:
        out.write_text(json.dumps(rows, default=str))
    names = list(rows[0])
    sys.stdout.write("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|\n")
    for row in rows:
        cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        sys.stdout.write("| " + " | ".join(cells) + " |\n")


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    started = SPAWN.Process(target=target, args=arguments, daemon=True)
    started.start()
    try:
        yield started
    finally:
        started.kill()
        started.join()


# Servers


def echo_server(port: int, keep: bool = False) -> None:
    """Run the bare echo: no protocol, no threads, no checks; one pass over the pixels."""
    if keep:
        keep_freed_memory()
    url = f"tcp://127.0.0.1:{port}"
    router = zmq.Context().socket(zmq.ROUTER)
    set_common_options(router, url)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # otherwise a full queue drops the answer
    router.bind(url)
    while True:
        identity, header, pixels = router.recv_multipart(copy=False)
        copy = np.frombuffer(pixels.buffer, np.uint8).copy()
        router.send_multipart([identity, header, copy], copy=False)


def copy_engine() -> Engine:
    return Engine("copy", lambda frames: [f.with_color(f.color.copy()) for f in frames])


def tensor_engine() -> Engine:
    return engine_of(load_restorer("copy", device="cpu"), RestoreOptions())


def smp_server(port: int, engine: Callable[..., Engine], *arguments: Any, credit: int = 1) -> None:
    keep_freed_memory()  # like `splatmend serve`
    options = ServerOptions(
        urls=(f"tcp://127.0.0.1:{port}",), policy=Policy(credit_local=credit)
    )  # fmt: skip
    Server([engine(*arguments)], options).start()
    time.sleep(3600)


def imagezmq_server(port: int) -> None:
    import imagezmq

    hub = imagezmq.ImageHub(open_port=f"tcp://127.0.0.1:{port}")
    while True:
        _, image = hub.recv_image()
        hub.send_reply(image.copy().tobytes())


def netgear_server(port: int) -> None:
    from vidgear.gears import NetGear

    options = {"bidirectional_mode": True, "jpeg_compression": False}
    gear = NetGear(address="127.0.0.1", port=str(port), protocol="tcp", pattern=1,
                   receive_mode=True, logging=False, **options)  # fmt: skip
    last = None
    while True:
        received = gear.recv(return_data=last)
        if received is not None:
            last = received[1].copy()


# Clients: each yields once per answered frame


def echo_client(port: int, frame: np.ndarray, inflight: int) -> Iterator[None]:
    url = f"tcp://127.0.0.1:{port}"
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        set_common_options(dealer, url)
        dealer.connect(url)
        for _ in range(inflight - 1):
            dealer.send_multipart([b"x" * 200, frame], copy=False)
        while True:
            dealer.send_multipart([b"x" * 200, frame], copy=False)
            dealer.recv_multipart(copy=False)
            yield


def smp_client(port: int, frame: np.ndarray, inflight: int) -> Iterator[None]:
    """Speak SMP/1 by hand, as briefly as the bare echo, so that only the server is measured."""
    url = f"tcp://127.0.0.1:{port}"
    planes, data = to_planes(Frame(color=frame))
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        set_common_options(dealer, url)
        dealer.connect(url)
        dealer.send_multipart([MAGIC, *encode(Hello(mode="ordered"))], copy=False)
        welcome = parse(dealer.recv_multipart()[1:], LIMITS)
        assert isinstance(welcome, Welcome)
        assert welcome.credit >= inflight
        request = FrameRequest(session=welcome.session, id=0, height=frame.shape[0],
                               width=frame.shape[1], planes=planes, data=data)  # fmt: skip
        before, after = bytes(encode(request)[0]).split(b'"id":0,')
        answered = 0
        for number in range(1 << 40):
            header = b'%b"id":%d,%b' % (before, number, after)
            dealer.send_multipart([MAGIC, header, frame], copy=False)
            if number - answered + 1 < inflight:
                continue
            answer = bytes(dealer.recv_multipart(copy=False)[1])
            assert b'"t":"result"' in answer
            assert b'"id":%d,' % answered in answer
            answered += 1
            yield


def our_client(port: int, frame: np.ndarray, mode: Any) -> Iterator[None]:
    given = Frame(color=frame)
    with Client(f"tcp://127.0.0.1:{port}", ClientOptions(mode=mode, deadline_ms=5000)) as client:
        assert client.wait(20)
        if mode == "ordered":
            for shown in client.stream(given for _ in range(1 << 40)):
                assert shown.restored, shown.why
                yield
        while True:
            shown = client.restore(given)
            assert shown.restored, shown.why
            yield


def imagezmq_client(port: int, frame: np.ndarray) -> Iterator[None]:
    import imagezmq

    with closing(imagezmq.ImageSender(connect_to=f"tcp://127.0.0.1:{port}")) as sender:
        while True:
            reply = sender.send_image("", frame)
            np.frombuffer(reply, np.uint8).reshape(frame.shape)
            yield


def netgear_client(port: int, frame: np.ndarray) -> Iterator[None]:
    from vidgear.gears import NetGear

    options = {"bidirectional_mode": True, "jpeg_compression": False}
    gear = NetGear(address="127.0.0.1", port=str(port), protocol="tcp", pattern=1,
                   logging=False, **options)  # fmt: skip
    try:
        while True:
            gear.send(frame)
            yield
    finally:
        gear.close()


@dataclass(frozen=True)
class Row:
    name: str
    inflight: int
    server: Callable[..., None]
    arguments: tuple[Any, ...]
    client: Callable[..., Iterator[None]]
    with_: tuple[Any, ...] = ()


def transport(config: Config) -> list[dict[str, Any]]:
    """Measure frames/s and time per frame with 1 and 3 in flight, and ratios to the bare echo."""
    of_three = partial(smp_server, credit=3)
    bare = {
        n: Row(f"bare echo, {n} in flight", n, echo_server, (), echo_client, (n,)) for n in (1, 3)
    }
    rows = [
        bare[1],
        Row("SMP/1 server, 1 in flight", 1, smp_server, (copy_engine,), smp_client, (1,)),
        Row("SMP/1 server and client, sync", 1, smp_server, (copy_engine,), our_client, ("sync",)),
        Row("imagezmq, image as the reply", 1, imagezmq_server, (), imagezmq_client),
        Row("vidgear NetGear, both ways, raw", 1, netgear_server, (), netgear_client),
        bare[3],
        Row("the same, freed memory kept", 3, echo_server, (True,), echo_client, (3,)),
        Row("SMP/1 server, 3 in flight", 3, of_three, (copy_engine,), smp_client, (3,)),
        Row("SMP/1 server and client, ordered", 3, of_three, (copy_engine,), our_client,
            ("ordered",)),
        Row("SMP/1 with tensors, ordered", 3, of_three, (tensor_engine,), our_client,
            ("ordered",)),
    ]  # fmt: skip
    rows = [row for row in rows if available(row)]
    figures: dict[str, list[tuple[float, float, float]]] = {row.name: [] for row in rows}
    for turn in range(config.rounds):
        for index, row in enumerate(rows):
            port = PORT + turn * len(rows) + index
            with process(row.server, port, *row.arguments):
                figures[row.name].append(measure(row, port, config))

    def medians(row: Row) -> list[float]:
        return [statistics.median(column) for column in zip(*figures[row.name], strict=True)]

    table = []
    for row in rows:
        (fps, p50, p99), (bare_fps, bare_p50, _) = medians(row), medians(bare[row.inflight])
        table.append({"": row.name, "frames/s": fps, "p50 ms": p50, "p99 ms": p99,
                      "to bare": fps / bare_fps, "added ms": p50 - bare_p50})  # fmt: skip
    return table


def available(row: Row) -> bool:
    try:
        if row.server is imagezmq_server:
            import imagezmq  # noqa: F401
        if row.server is netgear_server:
            import vidgear.gears  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"{row.name}: left out, {error}\n")
        return False
    return True


def measure(row: Row, port: int, config: Config) -> tuple[float, float, float]:
    """Measure frames/s, and median and 99th percentile of time between answers times inflight."""
    frames = row.client(port, noise(config.size), *row.with_)
    for _ in range(20):
        next(frames)
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < config.seconds:
        before = time.perf_counter()
        next(frames)
        times.append(time.perf_counter() - before)
    fps = len(times) / (time.perf_counter() - began)
    frames.close()
    times.sort()
    middle, high = times[len(times) // 2], times[len(times) * 99 // 100]
    return fps, middle * 1e3 * row.inflight, high * 1e3 * row.inflight


if __name__ == "__main__":
    main()
