"""Servers and clients that are gone when a test ends."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.server import Engine, Policy, Server, ServerOptions

from fake_server import FakeServer
from serving import LOCAL, Held, negative


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Server]:
    """`start(restore, url=...)`: a running server."""

    def run(restore: Any = negative, url: str = LOCAL, **policy: Any) -> Server:
        engine = Engine("test", restore, uses=("color", "alpha", "mask", "depth", "motion"))
        options = ServerOptions(urls=(url,), policy=Policy(**policy))
        return stack.enter_context(Server([engine], options))

    return run


@pytest.fixture
def client(stack: ExitStack) -> Callable[..., Client]:
    """`client(server, mode="sync", ...)`: connected, with time limits for slow machines."""

    def run(server: Server | str, *, wait: bool = True, **options: Any) -> Client:
        url = server if isinstance(server, str) else server.urls[0]
        patient = {"deadline_ms": 5000, "max_age_ms": 5000, **options}
        made = stack.enter_context(Client(url, ClientOptions(**patient)))
        assert not wait or made.wait(10)
        return made

    return run


@pytest.fixture
def held(stack: ExitStack) -> Iterator[Held]:  # noqa: ARG001 servers stop once it has let go
    """Make a restorer that waits for the test."""
    made = Held()
    yield made
    made.let_go(1000)


@pytest.fixture
def fake(stack: ExitStack) -> FakeServer:
    return stack.enter_context(FakeServer())
