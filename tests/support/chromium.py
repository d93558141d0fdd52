"""Debian's Chromium without a window, driven over its DevTools protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from websockets.sync.client import connect

HERE = Path(__file__).parents[1] / "plugin" / "client" / "javascript"


BUILD = Path(__file__).parents[2] / "build" / "browser"


FLAGS = (
    "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--disable-sync",
    "--use-angle=gl-egl", "--ignore-gpu-blocklist", "--disable-background-networking",
    "--disable-component-update", "--disable-features=OptimizationHints,MediaRouter",
    "--remote-debugging-port=0", "--window-size=800,700",
)  # fmt: skip


def unavailable(why: str) -> NoReturn:
    if os.environ.get("FAIL_WITHOUT_PROGRAMS"):
        pytest.fail(f"FAIL_WITHOUT_PROGRAMS is set, and {why}")
    pytest.skip(why)


def installed(name: str) -> str:
    return shutil.which(name) or unavailable(f"{name} is not installed")


def lines_of(process: subprocess.Popen[str], stream: Any) -> "Queue[str]":
    """Lines of a program as they come; read to the end, so that it never has to wait."""
    lines: Queue[str] = Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in stream], daemon=True).start()
    assert process.poll() is None
    return lines


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


class Browser:
    """One page of a headless Chromium, over its DevTools protocol."""

    def __init__(self, program: str, profile: Path) -> None:
        self._stack = ExitStack()
        with ExitStack() as undo:
            undo.callback(self.close)
            process = subprocess.Popen(
                [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                env={**os.environ, "LIBGL_ALWAYS_SOFTWARE": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            self._stack.callback(stop, process)
            lines = lines_of(process, process.stderr)
            while "DevTools listening on " not in (line := lines.get(timeout=60)):
                pass
            made = connect(line.split()[-1], compression=None, max_size=None)
            self._socket = self._stack.enter_context(made)
            self._numbers = itertools.count()
            self._session: dict[str, str] = {}
            self.console: list[str] = []
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = {"sessionId": attached["sessionId"]}
            self.call("Page.enable")
            self.call("Runtime.enable")
            undo.pop_all()

    def call(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **self._session}
        self._socket.send(json.dumps(message))
        while True:
            said = json.loads(self._socket.recv(90))
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]
            if said.get("method") == "Runtime.consoleAPICalled":
                arguments = said["params"]["args"]
                self.console.append(" ".join(str(a.get("value", "")) for a in arguments))
            if said.get("method") == "Runtime.exceptionThrown":
                self.console.append(json.dumps(said["params"]["exceptionDetails"]))

    def open(self, url: str) -> None:
        """Load a page, and forget the log of the page before, up to its end."""
        self.call("Page.navigate", url="about:blank")
        wait_for(self, "document.readyState === 'complete'")
        self.console.clear()
        self.call("Page.navigate", url=url)
        wait_for(self, "document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Evaluate an expression in the page and await its value."""
        done = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def screenshot(self) -> Any:
        """Return a screenshot (h, w, 3), uint8, BGR."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def close(self) -> None:
        self._stack.close()


def wait_for(browser: Browser, condition: str) -> None:
    browser.evaluate(
        "new Promise((resolve, reject) => {"
        f"  const look = () => ({condition}) && (clearInterval(timer), resolve());"
        "  const timer = setInterval(look, 50);"
        "  setTimeout(() => reject(new Error('not within 30 s: '"
        "    + JSON.stringify(window.splatmend && [splatmend.state, splatmend.counts]))), 30000);"
        "})"
    )


def attach(gateway: str, **options: Any) -> str:
    """Make a script tag of the gateway's /attach.js with options as attributes."""
    data = "".join(f" data-{name.replace('_', '-')}='{value}'" for name, value in options.items())
    return f'<script src="http://{gateway}/attach.js"{data}></script>'
