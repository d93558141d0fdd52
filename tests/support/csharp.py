"""The C# client's driver as a running program, and the sockets at the server's end."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

import psutil

from waiting import until


class Driver:
    """The running program: a line to it, a line back."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            ["mono", str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def figures(self, command: str) -> dict[str, int]:
        return {k: int(v) for k, v in (word.split("=") for word in self(command).split())}

    def until(self, command: str, answer: str) -> None:
        until(lambda: self(command) == answer)

    def smp_threads(self) -> list[str]:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/comm")
        return [name for task in tasks if (name := task.read_text().strip()).startswith("smp-")]

    def sockets(self) -> int:
        return len(psutil.Process(self.process.pid).net_connections())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(10) == 0


def connections(port: int) -> list[Any]:
    """Return this process's sockets at a port that it listens on."""
    every = psutil.Process().net_connections("tcp")
    found = [c for c in every if c.raddr and c.laddr.port == port]
    assert found
    return found


def is_prompt(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as same:
        return bool(same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
