"""The frame server: renderers send frames, restored frames come back.

Threads. One thread owns all ZeroMQ sockets (`zmq_carrier`), one the connections of the optional
gateway (`gateway`). Each device has a worker (`workers`), and one more thread prepares clients'
references (`uploads`). They meet in one monitor (`scheduler`). No thread holds its lock while it
touches pixels or uses sockets.

Memory. A session has at most `credit` frames here, at the worker or waiting. The server answers
any further frame and forgets it. So the number of sessions bounds the memory, and it has a limit.
The server checks sizes before it takes memory. Clients' references are bounded for each client and
for all together. The server gives up a client that does not read its answers.

Newest wins. In the modes latest and sync a session has one waiting frame, and a newer one replaces
it. The server drops frames older than their `max_age_ms` and says so. Sessions take turns; those
without memory may share a batch.

Answers. Each frame gets exactly one result, drop or error with its id, on its own connection. A
session without a connection gets none. A bad frame gets an error and harms nobody else; ten in a
row end their session.

Stopping. The server takes nothing new, drops waiting frames, answers those at a worker, and says
bye to everyone. Then it closes ports and joins threads.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from splatmend.core.errors import InputError
from splatmend.plugin.protocol.curve_keys import ServerKeys
from splatmend.plugin.protocol.framing import Limits
from splatmend.plugin.protocol.upload_limits import UploadLimits
from splatmend.plugin.protocol.zmq_sockets import DEFAULT_URL
from splatmend.plugin.server.dispatcher import Dispatcher
from splatmend.plugin.server.gateway import Gateway, GatewayOptions
from splatmend.plugin.server.reference_sets import ReferenceSets
from splatmend.plugin.server.scheduler import Scheduler
from splatmend.plugin.server.sessions import Policy
from splatmend.plugin.server.stats import Figures, resident_bytes
from splatmend.plugin.server.uploads import Uploads
from splatmend.plugin.server.workers import Engine, Worker
from splatmend.plugin.server.zmq_carrier import ZmqCarrier

__all__ = ["Server", "ServerOptions"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerOptions:
    """Addresses of a server, and limits for its clients."""

    urls: tuple[str, ...] = (DEFAULT_URL,)
    """ZeroMQ addresses, tcp://host:port or ipc://path; port 0 takes a free port."""
    keys: Path | None = None
    """Folder made by `splatmend keys`; None serves only this machine."""
    gateway: GatewayOptions = field(default_factory=GatewayOptions)
    """TCP and WebSocket, off unless they have an address."""
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    references: ReferenceSets = field(default_factory=ReferenceSets)
    """Sets that clients may name."""
    uploads: UploadLimits = field(default_factory=UploadLimits)
    """References that clients may send."""

    def __post_init__(self) -> None:
        if not self.urls:
            raise InputError("a server needs at least one address to bind, got none")


class Server:
    """Serves one or more engines of the same model, one for each device.

    The constructor binds the addresses; work begins with `start`, or with `with`.

    Raises:
        InputError: no engine, an address that cannot be bound, or references for engines that
            cannot use them.
    """

    def __init__(self, engines: Sequence[Engine], options: ServerOptions | None = None) -> None:
        if not engines:
            raise InputError("a server needs at least one engine, got none")
        self._options = options or ServerOptions()
        self._model = engines[0].name
        self._began = time.monotonic()
        upload_limits = self._options.uploads
        if not all(engine.guided for engine in engines):
            if self._options.references:
                raise InputError(f"{self._model} takes no references: serve it without any")
            upload_limits = replace(upload_limits, pictures=0)
        self._uploads = Uploads(upload_limits)
        policy, limits = self._options.policy, self._options.limits
        self._scheduler = Scheduler([Worker.lane(engine) for engine in engines], policy)
        self._workers = [Worker(e, self._scheduler, i) for i, e in enumerate(engines)]
        dispatcher = Dispatcher(
            self._scheduler,
            engines[0],
            limits,
            sets=self._options.references,
            uploads=self._uploads,
            tokens=self._options.gateway.tokens,
            figures=self.figures,
        )
        keys = ServerKeys.load(self._options.keys) if self._options.keys else None
        self._zmq = ZmqCarrier(
            self._options.urls, dispatcher, limits, keys=keys, tick=self._scheduler.tick
        )
        self._gateway: Gateway | None = None
        if self._options.gateway.wanted:
            try:
                self._gateway = Gateway(self._options.gateway, dispatcher, limits)
            except BaseException:
                self._zmq.stop()
                raise
        self._stopped = False

    @property
    def urls(self) -> list[str]:
        """Return the addresses of ZeroMQ, with ports."""
        return self._zmq.urls

    @property
    def gateway(self) -> Gateway | None:
        """Return the gateway, if there is one."""
        return self._gateway

    def start(self) -> Self:
        """Begin to serve; returns at once."""
        for worker in self._workers:
            worker.start()
        self._zmq.start()
        if self._gateway is not None:
            self._gateway.start()
        return self

    def stop(self, grace_s: float = 5.0) -> None:
        """Stop as the module describes; wait `grace_s` seconds at most for frames at a worker."""
        if self._stopped:
            return
        self._stopped = True
        self._scheduler.drain(grace_s)
        self._uploads.stop()
        self._zmq.stop()
        if self._gateway is not None:
            self._gateway.stop()
        for worker in self._workers:
            if not worker.join(timeout_s=grace_s):
                _log.warning("a frame is still being restored; its thread ends with it")

    def figures(self) -> Figures:
        """Return the present figures."""
        frames, streams = self._scheduler.figures()
        return Figures(
            model=self._model,
            uptime_s=round(time.monotonic() - self._began, 3),
            resident_bytes=resident_bytes(),
            frames=frames,
            streams=streams,
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
