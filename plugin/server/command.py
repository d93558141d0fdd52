"""`splatmend serve`: restore the frames of live renderers.

For this machine alone, with compact: splatmend serve --watch

For web pages too: splatmend serve --ws 127.0.0.1:7880 --origin http://localhost:8080

A worker on each of two GPUs: splatmend serve --model mine.safetensors --device cuda:0 cuda:1

With pictures of the persons, a folder for each: splatmend serve --references people/

For other machines, encrypted: splatmend keys keys/ --client laptop, then
splatmend serve --keys keys/ --url tcp://0.0.0.0:7878

Ctrl-C stops it; frames at work are answered first.
"""

import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tyro

from splatmend.core.errors import InputError
from splatmend.core.restore.frames import RestoreOptions
from splatmend.core.restore.registry import load_restorer
from splatmend.plugin.protocol.upload_limits import UploadLimits
from splatmend.plugin.protocol.zmq_sockets import DEFAULT_URL, host_port
from splatmend.plugin.server.gateway import GatewayOptions
from splatmend.plugin.server.reference_sets import ReferenceSets, read_sets
from splatmend.plugin.server.server import Server, ServerOptions
from splatmend.plugin.server.sessions import Policy
from splatmend.plugin.server.stats import Figures, MetricsEndpoint
from splatmend.plugin.server.workers import Engine, engine_of
from splatmend.temporal import Stream, warm_up

__all__ = ["ServeConfig", "engines_of", "main", "serve"]


@dataclass(frozen=True)
class ServeConfig:
    """What to restore with, and where to listen."""

    model: str = "compact"
    """compact, turbo, unsharp, copy, or a checkpoint."""
    adapter: Path | None = None
    """compact fitted to one avatar (train --rank)."""
    base: str | None = None
    """SD-Turbo's folder for turbo, or "download"."""
    device: tuple[str, ...] = ("auto",)
    """cpu, cuda, cuda:1, ...; a worker on each. Streams are spread over them."""
    batch: int | None = None
    """Frames of several streams restored at once (default: 1 on a CPU, else 4)."""
    strength: float = 1.0
    """0, the input, to 1."""
    color_lock: bool = True
    """Keep the model from changing broad colours."""
    magnify: int | None = None
    """Times a frame's size at which it is restored (default: 2 for small ones, else 1)."""
    temporal: bool = True
    """Steady each stream over time, for clients that do not decline."""

    references: Path | None = None
    """Pictures of the person, or renders/ and photos/ of key pairs: one set, for all clients. Or a
    folder for each of several sets, which clients name."""
    reference_default: str | None = None
    """Name of the set for clients that name none."""
    max_references: int = 16
    """Pictures that a client may send as references of its own; 0: none."""

    url: tuple[str, ...] = (DEFAULT_URL,)
    """ZeroMQ: tcp://host:port or ipc://path."""
    keys: Path | None = None
    """Folder of `splatmend keys`: encrypts tcp, and lets in none but the clients on its list."""
    tcp: str | None = None
    """host:port for clients without ZeroMQ."""
    ws: str | None = None
    """host:port for WebSocket."""
    token_file: Path | None = None
    """A token in each line; clients over tcp and ws must know one."""
    origin: tuple[str, ...] = ()
    """Web pages that may connect over ws, such as http://localhost:8080."""

    max_sessions: int = 64
    metrics: str | None = None
    """host:port of a Prometheus endpoint, /metrics."""
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show streams, fps, ages and drops on one screen."""

    def __post_init__(self) -> None:
        if min(self.max_sessions, 1 if self.batch is None else self.batch) < 1:
            raise InputError("max-sessions and batch must be 1 or more")
        if not self.device:
            raise InputError("name at least one device, such as auto")
        if self.reference_default is not None and self.references is None:
            raise InputError("--reference-default names one of the sets of --references: give both")


def main(arguments: Sequence[str] | None = None) -> int:
    """`splatmend serve ...`; errors are the caller's to report."""
    config = tyro.cli(ServeConfig, args=arguments, prog="splatmend serve", description=__doc__)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    # full collections over what the libraries left behind would stop all frames for 0.1 s
    gc.freeze()
    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        serve(config, stop, say=_say)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def serve(config: ServeConfig, stop: threading.Event, *, say: Callable[[str], None]) -> None:
    """Serve until `stop` is set; `say` is told where, and when it is over.

    Raises:
        SplatmendError: a model, a device, a key or an address cannot be used.
    """
    options = _options(config)
    server = Server(engines_of(config), options)
    with ExitStack() as stack:
        stack.enter_context(server)
        addresses = list(server.urls)
        if server.gateway is not None:
            addresses += [f"{kind}://{at}" for kind, at in server.gateway.addresses.items()]
        if config.metrics:
            host, port = host_port(config.metrics)
            endpoint = stack.enter_context(MetricsEndpoint(host, port, server.figures))
            addresses.append(f"http://{endpoint.address}/metrics")
        say(f"serving {config.model} on {', '.join(addresses)}")
        if options.references:
            say(f"references: {options.references}")
        if config.watch:
            stack.enter_context(_watch(server.figures))
        stop.wait()
    say("stopped")


def engines_of(config: ServeConfig) -> list[Engine]:
    """An engine on each device.

    Raises:
        SplatmendError: a model or a device cannot be used.
    """
    options = RestoreOptions(
        strength=config.strength, color_lock=config.color_lock, magnify=config.magnify
    )
    if config.temporal:
        warm_up()
    return [
        engine_of(
            load_restorer(config.model, device=device, base=config.base, adapter=config.adapter),
            options,
            max_batch=config.batch,
            stream=Stream if config.temporal else None,
        )
        for device in config.device
    ]


def _watch(figures: Callable[[], Figures]) -> AbstractContextManager[Any]:
    try:
        from splatmend.plugin.server.watch import watch
    except ModuleNotFoundError as error:
        raise InputError(
            f"--watch needs {error.name}, which is not installed: pip install 'splatmend[gateway]'"
        ) from error
    return watch(figures)


def _options(config: ServeConfig) -> ServerOptions:
    tokens: tuple[str, ...] = ()
    if config.token_file is not None:
        tokens = _tokens(config.token_file)
    return ServerOptions(
        urls=config.url,
        keys=config.keys,
        gateway=GatewayOptions(
            tcp=config.tcp, ws=config.ws, tokens=tokens, origins=config.origin
        ),
        policy=Policy(max_sessions=config.max_sessions),
        references=ReferenceSets() if config.references is None else read_sets(
            config.references, default=config.reference_default
        ),
        uploads=UploadLimits(pictures=config.max_references),
    )  # fmt: skip


def _tokens(path: Path) -> tuple[str, ...]:
    try:
        tokens = tuple(path.read_text().split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read tokens from {path}: {error}") from error
    if not tokens or any(len(token) < 16 or len(token) > 256 for token in tokens):
        raise InputError(f"{path} must hold tokens of 16 to 256 characters, one in each line")
    return tokens


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
