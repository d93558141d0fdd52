"""The C# client: compiled with Mono, against the conformance vectors and a real server."""

import json
import os
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatmend.core import Frame, Reference, References
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.framing import Limits, ProtocolError, join, split
from splatmend.plugin.server import Engine, GatewayOptions, ReferenceSets, Server, ServerOptions

from csharp import Driver, connections, is_prompt
from persons import copying, file_of, person
from serving import Held
from waiting import until

ROOT = Path(__file__).parents[4]
SOURCES = (
    ROOT / "plugin/client/csharp/Splatmend.cs",
    ROOT / "tests/plugin/client/csharp/Conformance.cs",
)
SMP1 = json.loads((ROOT / "tests/plugin/protocol/vectors/smp1.json").read_text(encoding="utf-8"))
LIMITS = Limits(part_bytes=1 << 30, message_bytes=1 << 31, side=1 << 16)  # the client's


def negative(frames: Any) -> list[Frame]:
    """Where there is anything to see; `restore_frames` would not touch the rest either."""
    return [_negative(frame) for frame in frames]


def _negative(frame: Frame) -> Frame:
    color = frame.color
    other = (1 if color.dtype.kind == "f" else 255) - color
    if frame.alpha is not None:
        other = np.where(frame.alpha[..., None] > 0, other, color)
    return frame.with_color(other.astype(color.dtype))


@pytest.fixture
def held(stack: ExitStack) -> Iterator[Held]:  # noqa: ARG001 servers stop after it
    made = Held(negative)
    yield made
    made.let_go(1000)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the client and its driver to one program; warnings are errors."""
    compiler = shutil.which("mcs")
    if compiler is None or shutil.which("mono") is None:
        reason = "needs Mono: apt-get install --no-install-recommends mono-mcs mono-runtime"
        if os.environ.get("FAIL_WITHOUT_PROGRAMS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    target = tmp_path_factory.mktemp("csharp") / "Conformance.exe"
    command = [compiler, "-langversion:7", "-warn:4", "-warnaserror", f"-out:{target}"]
    done = subprocess.run([*command, *map(str, SOURCES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def driver(program: Path, stack: ExitStack) -> Driver:
    return stack.enter_context(Driver(program))


def serve(
    restore: Callable[[Any], list[Frame]] = negative, port: int = 0, **gateway: Any
) -> Server:
    options = ServerOptions(
        urls=("tcp://127.0.0.1:0",),
        gateway=GatewayOptions(tcp=f"127.0.0.1:{port}", **gateway),
    )
    return Server([Engine("negative", restore)], options)


def port_of(server: Server) -> int:
    assert server.gateway is not None
    return int(server.gateway.addresses["tcp"].split(":")[1])


# Conformance


def read(line: str) -> tuple[Any, list[str], bytes]:
    header, framing, planes = line.removeprefix("read ").split("\t")
    data = [plane.replace("-", "").lower() for plane in planes.split(",")[:-1]]
    return json.loads(header), data, bytes.fromhex(framing.replace("-", ""))


def test_valid_vectors(driver: Driver) -> None:
    for vector in SMP1["messages"]:
        answer = driver("parse " + vector["hex"])
        assert answer.startswith("read "), (vector["name"], answer)
        header, planes, framing = read(answer)
        assert header == vector["header"], vector["name"]
        assert planes == vector["planes"], vector["name"]
        text = answer.removeprefix("read ").split("\t")[0].encode()
        parts = [text, *(bytes.fromhex(plane) for plane in planes)]
        assert framing == join(parts)[0], vector["name"]
        assert parse(parts, LIMITS) == parse(split(bytes.fromhex(vector["hex"]), LIMITS), LIMITS)


def test_invalid_vectors(driver: Driver) -> None:
    for vector in SMP1["invalid"]:
        assert driver("parse " + vector["hex"]) == "refused " + vector["code"], vector["name"]


def spoilt(header: bytes, dice: random.Random) -> bytes:
    """Change one to three bytes or pieces of a header."""
    data = bytearray(header)
    pieces = (
        *(b"0", b"9" * 30, b"-", b"1.", b"1e999", b"0.1e-3", b"null", b"true", b"{}", b"[[]]"),
        *(b'"', b",", b" ", b"\t", b"\\", b"\\u00e9", b"\\ud800", b"\xc3\xa9", b"\xff"),
    )
    for _ in range(dice.choice((1, 1, 2, 3))):
        at = dice.randrange(len(data) + 1)
        cut = dice.choice((0, 0, 1, 1, 5))
        data[at : at + cut] = dice.choice((b"", dice.choice(pieces), dice.randbytes(1)))
    return bytes(data)


def as_encoded(header: Any) -> Any:
    """Return a message with the changes that `encode` makes."""
    if "msg" in header:
        header["msg"] = " ".join(header["msg"].split())
    if "srv_ms" in header:
        header["srv_ms"] = {name: round(ms, 3) for name, ms in header["srv_ms"].items()}
    return header


@pytest.mark.slow
def test_it_takes_and_refuses_what_the_server_does(driver: Driver) -> None:
    """Feeds both parsers the same damaged messages; they agree on each."""
    dice = random.Random(5)
    verdicts = set()
    for _ in range(4000):
        whole = bytes.fromhex(dice.choice(SMP1["messages"])["hex"])
        header, *planes = (bytes(part) for part in split(whole, LIMITS))
        message = b"".join(join([spoilt(header, dice), *planes]))
        try:
            mine = json.loads(encode(parse(split(message, LIMITS), LIMITS))[0])
        except ProtocolError as error:
            mine = error.code
        answer = driver("parse " + message.hex())
        theirs = as_encoded(read(answer)[0]) if answer.startswith("read") else answer.split()[1]
        verdicts.add(mine if isinstance(mine, str) else "valid")
        assert theirs == mine, message
    assert {"valid", "bad_header", "size_mismatch"} <= verdicts


# A server


@pytest.mark.parametrize("fmt", ["rgba8", "rgba16f"])
def test_a_hundred_frames_are_restored_in_order(driver: Driver, stack: ExitStack, fmt: str) -> None:
    server = stack.enter_context(serve())
    assert driver(f"open {port_of(server)} sync 5000") == "opened"
    assert driver("wait 10000") == "up"
    done = driver.figures(f"restore 100 {fmt}")
    assert (done["restored"], done["wrong"]) == (100, 0)
    assert driver.figures("counts") == {"sent": 100, "restored": 100}
    (stream,) = json.loads(driver("stats"))["streams"]
    assert (stream["client"], stream["stream"]) == ("splatmend-csharp", 'C♯ "test"')
    assert sorted(driver.smp_threads()) == ["smp-client", "smp-reader"]
    # neither end waits for acknowledgements, which takes three times as long
    assert driver.figures("sockets") == {"prompt": 1, "delaying": 0}
    assert all(is_prompt(connection.fd) for connection in connections(port_of(server)))
    driver("close")
    assert (driver.smp_threads(), driver.sockets()) == ([], 0)


def restored_by(driver: Driver) -> int:
    return driver.figures("counts").get("restored", 0)


@pytest.mark.slow
def test_a_viewer_never_waits_and_shows_the_newest(
    driver: Driver, stack: ExitStack, held: Held
) -> None:
    server = stack.enter_context(serve(held))
    driver(f"open {port_of(server)} latest 600000")
    driver("wait 10000")
    done = driver.figures("flow 20 5 -")  # returns, though no frame comes back
    assert (done["shown"], done["wrong"], done["raw"]) == (0, 0, 20)
    for _ in range(5):
        before = restored_by(driver)
        held.let_go()
        until(lambda before=before: restored_by(driver) > before)
        done = driver.figures("flow 10 5 -")
        assert (done["shown"] >= 1, done["wrong"], done["raw"]) == (True, 0, 0)
    counts = driver.figures("counts")
    assert counts["superseded"] > counts["restored"] >= 5
    assert driver.figures("flow 20 5 cut")["shown"] == 0  # none is from after the cut
    before = restored_by(driver)
    held.let_go()
    until(lambda: restored_by(driver) > before)
    assert driver.figures("flow 1 0 cut")["shown"] == 0


def test_too_old_is_not_shown(driver: Driver, stack: ExitStack, held: Held) -> None:
    server = stack.enter_context(serve(held))
    driver(f"open {port_of(server)} latest 25")
    driver("wait 10000")
    assert driver.figures("flow 30 10 -")["shown"] == 0
    held.let_go()
    until(lambda: restored_by(driver) == 1)  # and that was asked for before the pauses
    assert driver.figures("flow 1 0 -")["shown"] == 0


def test_nothing_throws(driver: Driver, stack: ExitStack) -> None:
    server = stack.enter_context(serve())
    driver(f"open {port_of(server)} sync 5000")
    driver("wait 10000")
    assert driver("misuse") == "taken=0"
    counts = driver.figures("counts")
    assert set(counts) == {"bad_header", "size_mismatch", "too_large"}
    assert driver.figures("restore 3 rgba8")["restored"] == 3  # nothing bad was sent


@pytest.mark.slow
def test_a_killed_server_is_found_again(driver: Driver, stack: ExitStack) -> None:
    def shows_what_is_right() -> bool:
        done = driver.figures("flow 5 5 -")
        assert done["wrong"] == 0
        return done["shown"] > 0

    first = serve().start()
    driver(f"open {port_of(first)} latest 600000")
    driver("wait 10000")
    until(shows_what_is_right)
    first.stop()
    driver.until("state", "Down")
    assert driver.figures("flow 20 5 -")["wrong"] == 0
    stack.enter_context(serve(port=port_of(first)))
    assert driver("wait 3000") == "up"
    before = restored_by(driver)
    until(lambda: shows_what_is_right() and restored_by(driver) > before)


def test_without_a_server_frames_stay_as_they_are(driver: Driver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    driver(f"open {port} sync 600000")
    assert driver.figures("restore 50 rgba8")["restored"] == 0  # and no frame waits
    driver.until("error", f"no server at 127.0.0.1:{port}")
    assert driver("state") == "Down"
    driver("close")
    assert (driver.smp_threads(), driver.sockets()) == ([], 0)


def test_a_silent_listener_does_no_harm(driver: Driver, stack: ExitStack) -> None:
    """Uses a server that takes connections and never says welcome."""
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    driver(f"open {silent.getsockname()[1]} sync 600000")
    accepted, _ = silent.accept()
    with accepted:
        assert b"hello" in accepted.recv(1000)
        assert driver.figures("restore 50 rgba8")["restored"] == 0  # and no frame waits
        driver("close")
    assert (driver.smp_threads(), driver.sockets()) == ([], 0)


@pytest.mark.slow
def test_a_server_that_answers_no_frame_is_left_alone(driver: Driver, stack: ExitStack) -> None:
    hang = threading.Event()

    def stuck(frames: Any) -> list[Frame]:
        hang.wait(20)
        return negative(frames)

    server = stack.enter_context(serve(stuck))
    stack.callback(hang.set)
    driver(f"open {port_of(server)} sync 250")
    driver("wait 10000")
    done = driver.figures("restore 10 rgba8")
    assert done["restored"] == 0
    assert driver("state") == "Bypass"
    counts = driver.figures("counts")
    assert (counts["late"], counts["bypass"]) == (3, 7)
    hang.set()
    until(lambda: driver.figures("restore 1 rgba8")["restored"])  # a probe finds it well again
    done = driver.figures("restore 5 rgba8")
    assert (done["restored"], done["wrong"]) == (5, 0)


def test_a_token_is_needed_where_the_server_says_so(driver: Driver, stack: ExitStack) -> None:
    server = stack.enter_context(serve(tokens=("open sesame"[:4],)))
    driver(f"open {port_of(server)} sync 5000 wrong")
    until(lambda: driver("error").startswith("auth: "))
    driver("close")
    driver(f"open {port_of(server)} sync 5000 open")
    assert driver("wait 10000") == "up"


@pytest.mark.slow
def test_references_are_named_or_sent(driver: Driver, stack: ExitStack, tmp_path: Path) -> None:
    sets = ReferenceSets({"anna": References([Reference(picture=person(1))])})
    gateway = GatewayOptions(tcp="127.0.0.1:0")
    options = ServerOptions(urls=("tcp://127.0.0.1:0",), gateway=gateway, references=sets)
    server = stack.enter_context(Server([copying()], options))
    driver(f"open {port_of(server)} sync 5000 - eve")
    known = "no references are called 'eve': there are anna"
    driver.until("error", f"unsupported: {known}")
    driver("close")
    driver(f"open {port_of(server)} sync 5000 - anna")
    assert driver("wait 10000") == "up"
    driver("close")
    for name, size in (("a.png", 96), ("b.jpg", 96), ("large.png", 2050)):
        (tmp_path / name).write_bytes(file_of(person(1, size), name[-4:]))
    driver(f"open {port_of(server)} sync 5000 - - {tmp_path}/a.png {tmp_path}/b.jpg")
    driver.until("references", "2")
    until(lambda: driver.figures("restore 3 rgba8")["restored"] == 3)  # the first may be late
    driver("close")
    driver(f"open {port_of(server)} sync 5000 - - {tmp_path}/large.png")
    large = "reference picture 1 of 1 has 2050 x 2050 pixels, references have at most 2048 a side"
    driver.until("error", f"too_large: {large}: shrink it")
    assert driver.figures("restore 3 rgba8")["restored"] == 3


ANSWERS = {
    "another's session": {"t": "result", "session": "other", "id": 0},
    "an id that nobody asked for": {"t": "result", "id": 7},
    "another size": {"t": "result", "id": 0, "h": 15},
    "a reason": {"t": "drop", "id": 0, "why": "stale"},
    "no JSON": b"{",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_a_foreign_answer_is_never_shown(
    driver: Driver, stack: ExitStack, answer: dict[str, Any] | bytes
) -> None:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    driver(f"open {listener.getsockname()[1]} sync 400")
    sock, _ = listener.accept()
    stack.enter_context(sock)
    sock.recv(1000)
    welcome = next(v for v in SMP1["messages"] if v["name"] == "welcome")
    sock.sendall(bytes.fromhex(welcome["hex"]))
    assert driver("wait 10000") == "up"
    plane = {"n": "color", "fmt": "rgba8", "stride": 96, "origin": "bl", "alpha": "premul"}
    whole = {"session": "a1b2c3", "w": 24, "h": 16, "credit": 1, "planes": [plane]}
    parts = [answer] if isinstance(answer, bytes) else [
        json.dumps({**whole, **answer}).encode(), bytes(96 * answer.get("h", 16))
    ]  # fmt: skip
    if not isinstance(answer, bytes) and answer["t"] == "drop":
        parts.pop()

    def reply() -> None:
        sock.recv(10_000)
        sock.sendall(b"".join(join(parts)))

    thread = threading.Thread(target=reply)
    thread.start()
    assert driver.figures("restore 1 rgba8")["restored"] == 0
    thread.join()
    assert driver("state") == "Up"
