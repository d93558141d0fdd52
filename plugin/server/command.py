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
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from splatmend.core.command_line import Flag, OmitArgPrefixes, arg, need, parse, shown
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
from splatmend.temporal import Stream

__all__ = [
    "Network",
    "Operation",
    "Processing",
    "ServeConfig",
    "SetOptions",
    "engines_of",
    "main",
    "serve",
]


@dataclass(frozen=True, kw_only=True)
class Processing:
    """More about how frames are restored."""

    base: Annotated[str | None, shown("DIR")] = None
    """SD-Turbo's folder for turbo, or "download"."""
    batch: Annotated[int | None, shown("N", default="1 on a CPU, else 4")] = None
    """Frames of several streams restored at once."""
    color_lock: bool = True
    """Keep the model from changing broad colours."""
    magnify: Annotated[int | None, shown("N", default="2 for small frames, else 1")] = None
    """Restore at N times the size of a frame."""

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise InputError(f"batch must be 1 or more, got {self.batch}")


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """More about pictures of the person."""

    reference_default: Annotated[str | None, shown("NAME")] = None
    """Of several sets, the one for clients that do not name a set."""
    max_references: Annotated[int, arg(metavar="N")] = 16
    """Pictures that a client may send as references of its own; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Other machines and other protocols."""

    keys: Annotated[Path | None, shown("DIR")] = None
    """Folder of `splatmend keys`: encrypts tcp, and only the clients on its list get in."""
    tcp: Annotated[str | None, shown("HOST:PORT")] = None
    """For clients without ZeroMQ."""
    token_file: Annotated[Path | None, shown("FILE")] = None
    """A token in each line; clients over tcp and ws must know one."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Limits and monitoring."""

    max_sessions: Annotated[int, arg(metavar="N")] = 64
    """Clients at once."""
    metrics: Annotated[str | None, shown("HOST:PORT")] = None
    """Address of a Prometheus endpoint, /metrics."""

    def __post_init__(self) -> None:
        if self.max_sessions < 1:
            raise InputError(f"max-sessions must be 1 or more, got {self.max_sessions}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The arguments of `splatmend serve`: those that matter most, then groups of the others."""

    model: Annotated[str, arg(metavar="NAME")] = "compact"
    """compact, turbo, unsharp, copy, or a checkpoint."""
    adapter: Annotated[Path | None, shown("FILE")] = None
    """compact fitted to one avatar, by fit or train-adapter."""
    device: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ("auto",)
    """cpu, cuda, cuda:1, ...; a worker on each. Streams are spread over them."""
    strength: Annotated[float, arg(metavar="S")] = 1.0
    """0, the input, to 1, the restored frame."""
    temporal: bool = True
    """Remove flicker from each stream, for clients that do not decline."""
    references: Annotated[Path | None, shown("DIR")] = None
    """Pictures of the person, or renders/ and photos/ of key pairs; or a folder for each set."""
    url: Annotated[tuple[str, ...], arg(metavar="URL [URL ...]")] = (DEFAULT_URL,)
    """ZeroMQ: tcp://host:port or ipc://path."""
    ws: Annotated[str | None, shown("HOST:PORT")] = None
    """For WebSocket."""
    origin: Annotated[tuple[str, ...], shown("URL [URL ...]")] = ()
    """Web pages that may connect over ws, such as http://localhost:8080."""
    watch: Flag = False
    """Show streams, fps, ages and drops on one screen."""
    processing: OmitArgPrefixes[Processing] = field(default_factory=Processing)
    reference_sets: OmitArgPrefixes[SetOptions] = field(default_factory=SetOptions)
    network: OmitArgPrefixes[Network] = field(default_factory=Network)
    operation: OmitArgPrefixes[Operation] = field(default_factory=Operation)

    def __post_init__(self) -> None:
        if not self.device:
            raise InputError("name at least one device, such as auto")
        if self.reference_sets.reference_default is not None and self.references is None:
            raise InputError("--reference-default names one of the sets of --references: give both")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `splatmend serve ...`; the caller reports errors."""
    config = parse(ServeConfig, arguments, prog="splatmend serve", description=__doc__ or "")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    # full collections over the objects of the libraries would stop all frames for 0.1 s
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
        if config.operation.metrics:
            host, port = host_port(config.operation.metrics)
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
    """Make an engine on each device.

    Raises:
        SplatmendError: a model or a device cannot be used.
    """
    options = RestoreOptions(
        strength=config.strength,
        color_lock=config.processing.color_lock,
        magnify=config.processing.magnify,
    )
    return [
        engine_of(
            load_restorer(
                config.model, device=device, base=config.processing.base, adapter=config.adapter
            ),
            options,
            max_batch=config.processing.batch,
            stream=Stream if config.temporal else None,
        )
        for device in config.device
    ]


def _watch(figures: Callable[[], Figures]) -> AbstractContextManager[Any]:
    need("gateway", "rich")
    from splatmend.plugin.server.watch import watch

    return watch(figures)


def _options(config: ServeConfig) -> ServerOptions:
    tokens: tuple[str, ...] = ()
    if config.network.token_file is not None:
        tokens = _tokens(config.network.token_file)
    return ServerOptions(
        urls=config.url,
        keys=config.network.keys,
        gateway=GatewayOptions(
            tcp=config.network.tcp, ws=config.ws, tokens=tokens, origins=config.origin
        ),
        policy=Policy(max_sessions=config.operation.max_sessions),
        references=ReferenceSets() if config.references is None else read_sets(
            config.references, default=config.reference_sets.reference_default
        ),
        uploads=UploadLimits(pictures=config.reference_sets.max_references),
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
