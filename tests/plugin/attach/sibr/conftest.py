"""A proxy between ends that are gone when a test ends."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from splatmend.plugin.attach.sibr_proxy import ProxyOptions, SibrProxy

from sibr_ends import StubClient


@pytest.fixture
def proxy(stack: ExitStack) -> Callable[..., SibrProxy]:
    """`proxy(renderer.port, client=None, max_side=...)`: running; by default with a stub."""

    def run(port: int, client: Any = None, **options: Any) -> SibrProxy:
        chosen = ProxyOptions(listen="127.0.0.1:0", renderer=f"127.0.0.1:{port}", **options)
        return stack.enter_context(SibrProxy(client or StubClient(), chosen))

    return run
