"""The JavaScript client in Node, and a server, both under the test's control."""

import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Queue
from typing import Any, Self

import pytest

from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.framing import Limits, join, receive
from splatmend.plugin.protocol.messages import Hello, Message, Result, Welcome
from splatmend.plugin.protocol.plane_formats import COLOR_FORMATS, PLANE_NAMES, Plane

HERE = Path(__file__).parents[1] / "plugin" / "client" / "javascript"


CODE = HERE.parents[3] / "plugin" / "client" / "javascript"


LIMITS = Limits()


@cache
def _find_node() -> tuple[str, str]:
    """Return the path of Node and an error text, empty if all is well."""
    found = shutil.which("node")
    if found is None:
        return "", "node is not installed"
    said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    major = int(said.strip().lstrip("v").partition(".")[0] or 0)
    return found, "" if major >= 20 else f"node 20 or newer is needed, this is {said.strip()}"


def _node() -> str:
    found, wrong = _find_node()
    if wrong and os.environ.get("FAIL_WITHOUT_PROGRAMS"):
        pytest.fail(f"FAIL_WITHOUT_PROGRAMS is set, and {wrong}")
    if wrong:
        pytest.skip(wrong)
    return found


class Node:
    """A client in Node, which takes its orders line by line."""

    def __init__(self, url: str, options: dict[str, Any], *flags: str) -> None:
        command = [_node(), *flags, HERE / "drive.cjs", CODE / "splatmend.js", url]
        self._process = subprocess.Popen(
            [*command, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._numbers = itertools.count()
        self._answers: dict[int, Queue[Any]] = {}
        self.warnings: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def begin(self, act: str, **more: Any) -> Callable[[], Any]:
        """Send an order; return a function that waits for the answer."""
        number = next(self._numbers)
        answer = self._answers[number] = Queue()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"n": number, "act": act, **more}) + "\n")
        self._process.stdin.flush()
        return lambda: answer.get(timeout=20)

    def do(self, act: str, **more: Any) -> Any:
        return self.begin(act, **more)()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "warn" in said:
                self.warnings.append(said["warn"])
            else:
                self._answers[said.pop("n")].put(said)

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Script:
    """A server under the test's control: one connection at a time, message by message."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connection: socket.socket | None = None

    def accept(self, session: str = "one", credit: int = 1, references: int = 0) -> Hello:
        self.hang_up()
        self._connection = self._listener.accept()[0]
        self._connection.settimeout(10)
        hello = self.receive()
        assert isinstance(hello, Hello)
        self.welcome(session, credit, references)
        return hello

    def welcome(self, session: str, credit: int = 1, references: int = 0) -> None:
        self.send(
            Welcome(
                session=session,
                credit=credit,
                max_part_bytes=1 << 20,
                max_wh=(64, 64),
                in_fmts=COLOR_FORMATS,
                planes=PLANE_NAMES,
                uses=("color",),
                stateful=False,
                model="script",
                hb_ms=60_000,
                max_references=references,
            )
        )

    def send(self, message: Message) -> None:
        assert self._connection is not None
        self._connection.sendall(b"".join(join(encode(message))))

    def receive(self) -> Any:
        return parse(receive(self._read, LIMITS), LIMITS)

    def result(self, frame: Any, value: int, **changed: Any) -> None:
        plane = Plane(name="color", fmt="rgba8", stride=4 * frame.width, origin="bl")
        fields: dict[str, Any] = {
            "session": frame.session, "id": frame.id, "pts": frame.pts, "width": frame.width,
            "height": frame.height, "credit": 1, "planes": (plane,),
            "data": (bytes([value]) * 4 * frame.width * frame.height,),
        }  # fmt: skip
        self.send(Result(**fields | changed))

    def _read(self, count: int) -> bytes:
        assert self._connection is not None
        data = b""
        while len(data) < count:
            piece = self._connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def hang_up(self) -> None:
        if self._connection is not None:
            # a reset, as a killed server leaves it
            linger = struct.pack("ii", 1, 0)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self._listener.close()
