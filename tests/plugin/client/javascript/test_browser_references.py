"""Pictures of the person in a real browser: fetched by the page, sent by attach.js."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from splatmend.core import Reference, References
from splatmend.plugin.server import GatewayOptions, ReferenceSets, Server, ServerOptions

from chromium import attach, wait_for
from persons import copying, file_of, person
from waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def gateway(site: tuple[Path, str]) -> Iterator[str]:
    """Start a server with a set called anna; return its host:port."""
    sets = ReferenceSets({"anna": References([Reference(picture=person(1))])})
    listening = GatewayOptions(ws="127.0.0.1:0", origins=(site[1],))
    options = ServerOptions(urls=("tcp://127.0.0.1:0",), gateway=listening, references=sets)
    with Server([copying()], options) as server:
        assert server.gateway is not None
        yield server.gateway.addresses["ws"]


def test_pictures_of_the_page_are_sent(site, browser, put, gateway) -> None:
    """Shrinks a picture that is too large, because the server would refuse it."""
    (site[0] / "small.png").write_bytes(file_of(person(1)))
    (site[0] / "large.jpg").write_bytes(file_of(person(1, 2100), ".jpg"))
    (site[0] / "other.webp").write_bytes(file_of(person(1), ".webp"))
    value = "/small.png ./large.jpg\n/other.webp"
    browser.open(put("canvas.html", attach(gateway, references=value, max_age_ms=8000)))
    wait_for(browser, "splatmend.references === 3")
    until(lambda: browser.evaluate("(void drawOnce(), splatmend.shown > 0)"))
    assert browser.console == []


def test_a_set_is_named(browser, put, gateway) -> None:
    browser.open(put("canvas.html", attach(gateway, references="anna")))
    wait_for(browser, "splatmend.state === 'up'")
    browser.open(put("canvas.html", attach(gateway, references="eve")))
    until(lambda: (browser.evaluate("0"), browser.console)[1])
    assert browser.evaluate("splatmend.state") == "down"
    assert "no references are called 'eve': there are anna" in browser.console[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("http://localhost:1/photo.jpg", "references must come from the page's own origin"),
        ("//example.invalid/photo.jpg", "put a copy beside the page"),
        ("/absent.jpg", "cannot be fetched: 404"),
        ("/canvas.html", "is not a picture that the browser can read"),
    ],
)
def test_what_cannot_be_used_is_said_and_frames_go_on(
    browser, put, gateway, value, message
) -> None:
    browser.open(put("canvas.html", attach(gateway, references=value, max_age_ms=8000)))
    wait_for(browser, "splatmend.state === 'up'")
    until(lambda: browser.evaluate("(void drawOnce(), splatmend.shown > 0)"))
    said = [line for line in browser.console if "splatmend: " in line]
    assert len(said) == 1
    assert message in said[0]
    assert browser.evaluate("splatmend.references") == 0
