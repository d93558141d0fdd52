"""Servers and clients that are gone when a test ends."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

from splatmend.plugin.server import Engine, Server, ServerOptions

from serving import LOCAL, negative
from wire import Wire


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Server]:
    """Give `start(engine, ..., option=value)`, which returns a running server."""

    def run(*engines: Engine, **options: Any) -> Server:
        engines = engines or (Engine("negative", negative),)
        return stack.enter_context(Server(engines, ServerOptions(urls=(LOCAL,), **options)))

    return run


@pytest.fixture
def connect(stack: ExitStack) -> Callable[..., Wire]:
    """Give `connect(server, mode="latest", ...)`, which returns a client that has said hello."""

    def run(server: Server, **hello: Any) -> Wire:
        wire = stack.enter_context(closing(Wire(server.urls[0])))
        wire.hello(**hello)
        return wire

    return run
