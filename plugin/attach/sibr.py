"""`splatmend sibr`: restore between a SIBR viewer and its renderer; neither is changed.

Start the renderer and `splatmend serve` as ever, then: splatmend sibr

Connect the viewer to port 6019 instead of 6009, such as SIBR_remoteGaussian_app --port 6019
or remote_viewer.py --port 6019.

It speaks the dialects of Inria's gaussian-splatting, GaussianAvatars and splatviz. Pictures
pass as they are where the server does not answer, and where a mesh alone is drawn.

With pictures of the person: splatmend sibr --references photos/

Ctrl-C stops it.
"""

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated

from splatmend.core.command_line import FlagCreatePairsOff, OmitArgPrefixes, arg, parse, shown
from splatmend.plugin.attach.sibr_proxy import ProxyOptions, SibrProxy
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.client.references import named_references
from splatmend.plugin.protocol.zmq_sockets import DEFAULT_URL

__all__ = ["SibrConfig", "main"]

_log = logging.getLogger(__name__)

_SERVER_S = 1.0  # until its absence is spoken of


@dataclass(frozen=True)
class SibrConfig:
    """Where viewer, renderer and server are."""

    url: Annotated[str, arg(metavar="URL")] = DEFAULT_URL
    """Address of `splatmend serve`: tcp://host:port or ipc://path."""
    deadline_ms: Annotated[float, arg(metavar="MS")] = 250.0
    """A picture waits so long for the server, then it is shown as it is."""
    temporal: bool = True
    """Let the server remove flicker."""
    references: Annotated[tuple[str, ...], shown("PICTURE [PICTURE ...]")] = ()
    """Pictures of the person, or folders of them; or the name of one of the server's sets."""
    key: Annotated[Path | None, shown("FILE")] = None
    """For a server on another machine: the client's .key_secret, see `splatmend keys`."""
    server_key: Annotated[Path | None, shown("FILE")] = None
    """And the server's .key."""
    proxy: OmitArgPrefixes[FlagCreatePairsOff[ProxyOptions]] = field(default_factory=ProxyOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `splatmend sibr ...`; the caller reports errors."""
    config = parse(SibrConfig, arguments, prog="splatmend sibr", description=__doc__ or "")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    options = ClientOptions(
        deadline_ms=config.deadline_ms,
        temporal=config.temporal,
        stream="sibr",
        program="splatmend-sibr",
        key=config.key,
        server_key=config.server_key,
        references=named_references(config.references),
    )
    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Client(config.url, options) as client, SibrProxy(client, config.proxy) as proxy:
            _say(f"viewers on {proxy.address}, renderer on {config.proxy.renderer}, "
                 f"restored by {config.url}")  # fmt: skip
            if not client.wait(_SERVER_S):
                _log.warning("no server at %s yet: pictures pass as they are", config.url)
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _say("stopped")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
