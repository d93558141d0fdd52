"""The JavaScript client in Node: the conformance vectors, a real server, and bad ones."""

import json
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

from splatmend.core import Frame, Reference, References
from splatmend.plugin.protocol.messages import (
    Bye,
    Drop,
    ErrorReply,
    Hello,
    Message,
    Result,
    UseReferences,
)
from splatmend.plugin.server import Engine, GatewayOptions, ReferenceSets, Server, ServerOptions

from node import CODE, HERE, Node, Script, _node
from persons import copying, file_of, person
from serving import negative
from waiting import until

VECTORS = HERE.parents[1] / "protocol" / "vectors" / "smp1.json"


@pytest.fixture
def node(stack: ExitStack) -> Callable[..., Node]:
    """`node(url, mode="ordered")`: a client with these options."""

    def run(url: str, *flags: str, **options: Any) -> Node:
        return stack.enter_context(closing(Node(url, options, *flags)))

    return run


@pytest.fixture
def script(stack: ExitStack) -> Script:
    return stack.enter_context(Script())


def serve(restore: Any = negative, port: int = 0) -> Server:
    address = f"127.0.0.1:{port}"
    return Server(
        [Engine("negative", restore)],
        ServerOptions(
            urls=("tcp://127.0.0.1:0",),
            gateway=GatewayOptions(tcp=address, ws="127.0.0.1:0" if port == 0 else None),
        ),
    )


def address_of(server: Server, kind: str = "tcp") -> str:
    assert server.gateway is not None
    return f"{kind}://{server.gateway.addresses[kind]}"


def test_the_conformance_vectors() -> None:
    command = [_node(), HERE / "vectors.cjs", CODE / "smp1.js", VECTORS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    wanted = {vector["name"]: vector["code"] for vector in vectors["invalid"]}
    wanted["width 2.0"] = None  # JSON.parse reads it as 2
    assert said["codes"] == wanted
    # the others have 1.0 for 1, or letters that JSON may escape or not
    other = {v["name"] for v in vectors["messages"]} - set(said["sameBytes"])
    assert other == {"hello, ordered", "frame, every plane and padded rows", "result, not applied"}


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_frames_make_the_way(stack, node, kind) -> None:
    server = stack.enter_context(serve())
    flags = ["--experimental-websocket"] if kind == "ws" else []
    client = node(address_of(server, kind), *flags, stream="page")
    assert client.do("wait") == {"up": True, "state": "up"}
    for number in range(20):
        shown = client.do("restore", w=64, h=33, value=number)
        assert shown["restored"], shown
        assert shown["id"] == number
        assert shown["length"] == 4 * 64 * 33
        assert set(shown["values"]) == {255 - number, number}  # a fourth channel stays
        assert 0 < shown["ageMs"] < 500
    (stream,) = server.figures().streams
    assert (stream.stream, stream.client) == ("page", "splatmend-javascript")
    told = client.do("tell")
    assert told["counts"] == {"sent": 20, "restored": 20}
    assert (told["model"], len(told["agesMs"])) == ("negative", 20)
    client.do("close")
    assert client.do("restore")["why"] == "closed"


def test_the_newest_wins(stack, node) -> None:
    entered, go = threading.Event(), threading.Event()

    def wait(frames: Any) -> list[Frame]:
        entered.set()
        assert go.wait(10)
        return negative(frames)

    server = stack.enter_context(serve(wait))
    client = node(address_of(server), maxAgeMs=10_000)
    client.do("wait")
    first = client.begin("restore", value=1)
    assert entered.wait(5)
    second, third = (client.begin("restore", value=v) for v in (2, 3))
    assert second()["why"] == "superseded"
    go.set()
    assert (first()["id"], third()["id"]) == (0, 2)
    assert client.do("tell")["counts"] == {"sent": 2, "superseded": 1, "restored": 2}


@pytest.mark.slow
def test_a_server_that_comes_late_and_one_that_comes_back(node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = node(f"tcp://127.0.0.1:{port}")
    assert client.do("restore")["why"] == "down"
    for _ in range(2):
        with serve(port=port):
            assert client.do("wait", ms=3000)["up"]
            assert client.do("restore", value=9)["restored"]
        while client.do("tell")["state"]:
            pass
        shown = client.do("restore")
        assert (shown["restored"], shown["why"]) == (False, "down")


def test_answers_that_nobody_asked_for_are_never_shown(node, script) -> None:
    client = node(script.url)
    hello = script.accept()
    assert (hello.mode, hello.max_age_ms) == ("latest", 500)
    shown = client.begin("restore", value=1)
    frame = script.receive()
    script.result(frame, 77, session="another")
    script.result(frame, 78, id=frame.id + 1)
    script.result(frame, 79)
    assert shown()["values"] == [79]
    assert client.do("tell")["counts"]["unasked"] == 1


@pytest.mark.slow
def test_late_answers_count_as_misses_and_are_not_shown(node, script) -> None:
    client = node(script.url, maxAgeMs=60, misses=2)
    script.accept()
    client.do("wait")
    shown = client.begin("restore", value=1)
    frame = script.receive()
    assert shown()["why"] == "late"
    script.result(frame, 80)
    script.send(Drop(session="one", id=99, why="stale", credit=1))
    shown = client.begin("restore", value=2)
    frame = script.receive()
    assert frame.id == 1
    assert shown()["why"] == "late"
    assert client.do("restore")["why"] == "bypass"
    assert client.do("tell")["counts"] == {"sent": 2, "late": 2, "unasked": 1, "bypass": 1}
    # after a pause a single frame asks again, and its answer ends the bypass
    while client.do("tell")["state"] != "probe":
        pass
    shown = client.begin("restore", value=3)
    script.result(script.receive(), 81)
    assert shown()["values"] == [81]
    assert client.do("tell")["state"] == "up"


def test_drops_and_errors_show_the_frame_as_it_was(node, script) -> None:
    client = node(script.url, misses=99)
    script.accept()
    client.do("wait")
    answers: list[Callable[[Any], Message]] = [
        lambda f: Drop(session="one", id=f.id, why="stale", credit=1),
        lambda f: ErrorReply(session="one", id=f.id, code="internal", text="no", credit=1),
        lambda f: Result(session="one", id=f.id, width=4, height=2, applied=False, credit=1),
    ]
    for answer, why in zip(answers, ("stale", "internal", "unchanged"), strict=True):
        shown = client.begin("restore")
        script.send(answer(script.receive()))
        got = shown()
        assert (got["restored"], got["why"], got["length"]) == (False, why, 0)
    assert client.warnings == [f"{script.url}: the server answered internal: no"]


def test_a_cut_is_said_with_the_next_frame_that_is_sent(node, script) -> None:
    client = node(script.url, maxAgeMs=10_000)
    script.accept()
    client.do("wait")
    first = client.begin("restore")
    frame = script.receive()
    assert not frame.cut
    client.begin("restore", cut=True)
    third = client.begin("restore")
    script.result(frame, 1)
    first()
    frame = script.receive()
    assert (frame.id, frame.cut) == (2, True)
    script.result(frame, 1)
    third()
    client.do("skip")
    last = client.begin("restore")
    frame = script.receive()
    assert (frame.id, frame.cut) == (4, False)
    script.result(frame, 1)
    last()


@pytest.mark.slow
def test_a_new_session_after_no_session_and_after_bye(node, script) -> None:
    client = node(script.url, maxAgeMs=10_000)
    script.accept("one")
    client.do("wait")
    shown = client.begin("restore")
    frame = script.receive()
    script.send(ErrorReply(id=frame.id, code="no_session", text="say hello", retry_ms=0))
    assert shown()["why"] == "no_session"
    assert isinstance(script.receive(), Hello)
    script.welcome("two")
    client.do("wait")
    script.send(Bye(session="one"))  # of the session before: it means nothing now
    shown = client.begin("restore")
    script.result(script.receive(), 5)
    assert shown()["values"] == [5]
    shown = client.begin("restore")
    script.receive()
    script.send(Bye(session="two", why="shutdown"))
    assert shown()["why"] == "down"


@pytest.mark.slow
def test_in_order_nothing_is_lost_with_the_connection(node, script) -> None:
    client = node(script.url, mode="ordered")
    script.accept("one", credit=2)
    client.do("wait")
    shown = [client.begin("restore", value=v) for v in range(4)]
    assert [script.receive().id for _ in range(2)] == [0, 1]
    assert script.accept("two", credit=2).mode == "ordered"
    for _ in range(4):
        frame = script.receive()
        assert frame.session == "two"
        script.result(frame, 200 + frame.id, credit=2)
    assert [each()["values"] for each in shown] == [[200], [201], [202], [203]]


def test_what_cannot_be_used_is_said_at_once() -> None:
    code = (
        f"const {{ Client }} = require({json.dumps(str(CODE / 'splatmend.js'))});"
        "for (const [url, options] of [['http://x'], ['tcp://127.0.0.1:9', { mode: 'fast' }],"
        "  ['tcp://127.0.0.1:9', { maxAgeMs: 0 }]])"
        "  try { new Client(url, options) } catch (error) { console.log(error.message) }"
    )
    done = subprocess.run([_node(), "-e", code], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert ["use ws://" in lines[0], "mode must be" in lines[1], "> 0" in lines[2]] == [True] * 3


# References


@pytest.fixture
def photos(tmp_path) -> list[str]:
    """Make a PNG and a JPEG."""
    paths = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for path in paths:
        path.write_bytes(file_of(person(1), path.suffix))
    return [str(path) for path in paths]


@pytest.fixture
def guided(stack) -> Server:
    sets = ReferenceSets({"anna": References([Reference(picture=person(1))])})
    options = ServerOptions(
        urls=("tcp://127.0.0.1:0",), gateway=GatewayOptions(tcp="127.0.0.1:0"), references=sets
    )
    return stack.enter_context(Server([copying()], options))


def test_a_set_is_named(guided, node) -> None:
    assert node(address_of(guided), references="anna").do("wait")["up"]
    wrong = node(address_of(guided), references="eve")
    until(lambda: bool(wrong.warnings))
    assert "no references are called 'eve': there are anna" in wrong.warnings[0]
    assert not wrong.do("wait", ms=0)["up"]


def test_pictures_are_sent(guided, node, photos) -> None:
    client = node(address_of(guided), maxAgeMs=60_000)
    client.do("wait")
    client.do("references", paths=photos)
    until(lambda: client.do("tell")["references"] == 2)
    until(lambda: client.do("restore", w=40, h=40, step=7)["restored"])  # the first may be late
    client.do("references", paths=[])
    until(lambda: client.do("tell")["references"] == 0)
    client.do("references", paths=photos * 9)
    until(lambda: bool(client.warnings))
    assert "the server takes 16 reference pictures, got 18" in client.warnings[0]
    until(lambda: client.do("restore", w=40, h=40, step=7)["restored"])


@pytest.mark.slow
def test_pictures_are_sent_again_and_a_refusal_is_said(script, node, photos) -> None:
    client = node(script.url, maxAgeMs=60_000)
    script.accept("one")
    client.do("references", paths=photos)
    until(lambda: bool(client.warnings))
    assert "the server takes no reference pictures, got 2" in client.warnings[0]
    script.accept("two", references=16)
    sent = script.receive()
    assert isinstance(sent, UseReferences)
    assert (sent.session, [p.fmt for p in sent.pictures]) == ("two", ["png", "jpeg"])
    script.send(ErrorReply(code="unsupported", text="picture 2 is damaged", session="two"))
    until(lambda: len(client.warnings) == 2)
    assert "picture 2 is damaged" in client.warnings[1]
    shown = client.begin("restore", value=5)
    script.result(script.receive(), 7)
    assert shown()["restored"]


def test_in_order_frames_wait_for_references(script, node, photos) -> None:
    client = node(script.url, mode="ordered")
    script.accept("one", references=16)
    client.do("references", paths=photos)
    shown = client.begin("restore", value=5)
    assert isinstance(script.receive(), UseReferences)
    client.do("tell")  # a frame would have been sent before this is answered
    script.send(UseReferences(session="one", count=2))
    script.result(script.receive(), 7)
    assert shown()["restored"]
    assert client.do("tell")["references"] == 2
