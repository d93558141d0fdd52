"""A viewer and a renderer that speak SIBR's dialects as the public programs do."""

import contextlib
import json
import math
import socket
import struct
import threading
from typing import Any

import numpy as np

from splatmend.core import Frame
from splatmend.plugin.attach.sibr_wire import parse_request
from splatmend.plugin.client import ClientOptions
from splatmend.plugin.client.requests import Shown

SIZE = (20, 28)


DIALECTS = ("inria", "gaussian-avatars", "splatviz")


def picture(index: int, size: tuple[int, int] = SIZE) -> Any:
    """Make a picture (h, w, 3), another one for each index."""
    ramp = np.arange(size[0] * size[1] * 3) * (2 * index + 1) + index
    return (ramp % 251).astype(np.uint8).reshape(*size, 3)


def look(eye: tuple[float, float, float], angle: float = 0.0) -> Any:
    """World to camera in OpenGL's axes, turned around y."""
    matrix = np.eye(4)
    matrix[[0, 0, 2, 2], [0, 2, 0, 2]] = (
        math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    )  # fmt: skip
    matrix[:3, 3] = -matrix[:3, :3] @ np.array(eye)
    return matrix


def request(dialect: str = "inria", size: tuple[int, int] = SIZE, **changes: Any) -> dict[str, Any]:
    """Make the request of a dialect's viewer; matrices column by column."""
    common: dict[str, Any] = {
        "resolution_x": size[1], "resolution_y": size[0], "fov_x": 0.7, "fov_y": 0.5,
        "z_near": 0.01, "z_far": 10.0, "scaling_modifier": 1.0, "keep_alive": True,
        "view_matrix": look((0, 0, 3)).T.ravel().tolist(),
        "view_projection_matrix": [0.0] * 16,
    }  # fmt: skip
    avatar = {"do_training": False, "show_splatting": True, "show_mesh": False,
              "mesh_opacity": 0.5, "use_original_mesh": False, "timestep": 0}  # fmt: skip
    inria = {"train": 1, "shs_python": 0, "rot_scale_python": 0}
    own = {
        "inria": inria,
        "gaussian-avatars": avatar,
        "splatviz": {**inria, "edit_text": "", "slider": {}, "stop_at_value": -1,
                     "single_training_step": False},
    }  # fmt: skip
    return {**common, **own[dialect], **changes}


class Renderer:
    """One viewer at a time; `recv` without a loop, small writes, Nagle: as the originals."""

    def __init__(self, dialect: str = "inria", port: int = 0, *, bound_to_mesh: bool = True):
        self.dialect, self.bound = dialect, bound_to_mesh
        self.received: list[dict[str, Any]] = []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.conn: socket.socket | None = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.listener, self.conn):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.listener.close()

    def run(self) -> None:
        while True:
            try:
                self.conn, _ = self.listener.accept()
            except OSError:
                return
            with self.conn, contextlib.suppress(ValueError, OSError):
                while True:
                    self.answer(self.conn)

    def answer(self, conn: socket.socket) -> None:
        length = int.from_bytes(conn.recv(4), "little")
        message = json.loads(conn.recv(length))
        self.received.append(message)
        width, height = message["resolution_x"], message["resolution_y"]
        shown = message.get("show_splatting", True)
        shown = shown or (message.get("show_mesh") and self.bound)
        index = message.get("timestep", len(self.received) - 1)
        if width and height and shown:
            conn.sendall(picture(index, (height, width)).tobytes())
        elif not (width and height) and self.dialect == "gaussian-avatars":
            return
        tail = {"inria": "/data/scene", "splatviz": '{"loss": 0.1, "error": ""}'}
        text = tail.get(self.dialect, '{"num_timesteps": 9, "num_points": 5}').encode()
        conn.sendall(len(text).to_bytes(4, "little"))
        conn.sendall(text)


class Viewer:
    """Length and JSON in two writes, as the originals."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self.sock = socket.create_connection((host, int(port)), timeout=10)

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        self.sock.sendall(struct.pack("<I", len(text)))
        self.sock.sendall(text)

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def tail(self) -> bytes:
        return self.read(int.from_bytes(self.read(4), "little"))

    def show(self, message: dict[str, Any]) -> tuple[Any, bytes]:
        self.ask(message)
        size = message["resolution_y"], message["resolution_x"]
        pixels = np.frombuffer(self.read(size[0] * size[1] * 3), np.uint8)
        return pixels.reshape(*size, 3), self.tail()

    def is_sent_away(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return self.sock.recv(1) == b""
        return True


class StubClient:
    """A client that inverts frames, and notes its arguments."""

    def __init__(self) -> None:
        self.options = ClientOptions()
        self.wants_frames, self.state = True, "up"
        self.given: list[tuple[Frame, bool, Any]] = []
        self.skipped = 0

    def restore(self, frame: Frame, *, cut: bool, camera: Any) -> Shown:
        self.given.append((frame, cut, camera))
        return Shown(frame.with_color(255 - frame.color), restored=True, id=0)

    def skip(self) -> None:
        self.skipped += 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


# the bytes on the wire


def parsed(message: dict[str, Any], **options: Any) -> Any:
    return parse_request(json.dumps(message).encode(), **{"max_side": 4096, **options})
