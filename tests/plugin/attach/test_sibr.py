"""The SIBR proxy, between ends that speak as the public programs do."""

import contextlib
import json
import math
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from splatmend.core import Frame, InputError
from splatmend.plugin.attach import sibr, sibr_proxy
from splatmend.plugin.attach.sibr_proxy import ProxyOptions, SibrProxy
from splatmend.plugin.attach.sibr_wire import (
    Reply,
    packed,
    parse_request,
    reading,
    reading_reply,
)
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.inflight import Shown
from splatmend.plugin.server import Server, ServerOptions
from splatmend.plugin.workers import Engine

SIZE = (20, 28)
DIALECTS = ("inria", "gaussian-avatars", "splatviz")


def picture(index: int, size: tuple[int, int] = SIZE) -> Any:
    """(h, w, 3), another one for each index."""
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
    """What viewers of a dialect send; matrices column by column."""
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
    """Notes what it is given; inverts."""

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


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def proxy(stack: ExitStack) -> Callable[..., SibrProxy]:
    """`proxy(renderer.port, client=None, max_side=...)`: running; by default with a stub."""

    def run(port: int, client: Any = None, **options: Any) -> SibrProxy:
        chosen = ProxyOptions(listen="127.0.0.1:0", renderer=f"127.0.0.1:{port}", **options)
        return stack.enter_context(SibrProxy(client or StubClient(), chosen))

    return run


def negative(frames: Any) -> list[Frame]:
    return [frame.with_color(255 - frame.color) for frame in frames]


# what is on the wire


def parsed(message: dict[str, Any], **options: Any) -> Any:
    return parse_request(json.dumps(message).encode(), **{"max_side": 4096, **options})


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_are_told_apart_and_forwarded(dialect: str) -> None:
    message = request(dialect)
    asked = parsed(message)
    assert (asked.dialect, asked.answer) == (dialect, "picture")
    assert (asked.height, asked.width) == SIZE
    assert json.loads(asked.body) == message
    assert asked.timestep == message.get("timestep")


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"resolution_x": 0}, "tail or nothing"),
        ({"resolution_y": 0}, "tail or nothing"),
        ({"show_splatting": False}, "tail"),
        ({"show_splatting": False, "show_mesh": True}, "picture or tail"),
        ({"show_mesh": True}, "picture"),
    ],
)
def test_what_is_asked_for_decides_what_comes(changes: dict[str, Any], answer: str) -> None:
    asked = parsed(request("gaussian-avatars", **changes))
    assert asked.answer == answer
    assert asked.shows_splats == changes.get("show_splatting", True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b'{"resolution_x": 5}']
    + [json.dumps(request(resolution_x=side)).encode()
       for side in (-1, 4097, 2**40, 1.5, True, None, "9", [9])],
)  # fmt: skip
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_request(body, max_side=4096)


def test_splatviz_answers_size_0_with_an_unknown_picture() -> None:
    with pytest.raises(InputError, match="unknown size"):
        parsed(request("splatviz", resolution_x=0, resolution_y=0))


def test_code_is_removed_unless_it_is_allowed() -> None:
    message = request("splatviz", edit_text="gs.boom()")
    asked = parsed(message)
    assert asked.code_removed
    assert json.loads(asked.body) == {**message, "edit_text": ""}
    allowed = parsed(message, allow_code=True)
    assert json.loads(allowed.body)["edit_text"] == "gs.boom()"
    twice = json.dumps(message)[:-1] + ', "edit\\u005ftext": ""}'
    hidden = parse_request(twice.encode(), max_side=4096)
    assert b"boom" not in hidden.body


@pytest.mark.parametrize("angle", [0.0, 0.8, -2.0])
def test_the_camera_sees_points_where_the_renderer_does(angle: float) -> None:
    # as the viewers do it: OpenGL, clip space with y up; the renderers then change the sign of
    # the projected y, and put -1 at the left and top edges
    view = look((0.4, -0.2, 2.5), angle)
    size, fov = (300, 400), (0.9, 0.7)
    projection = np.diag((1 / math.tan(fov[0] / 2), 1 / math.tan(fov[1] / 2), -1.0, 0.0))
    projection[3, 2] = -1.0
    asked = parsed(
        request(size=size, fov_x=fov[0], fov_y=fov[1], view_matrix=view.T.ravel().tolist())
    )
    assert asked.camera is not None
    ahead = np.linalg.inv(view) @ np.array((0.3, 0.2, -2.0, 1.0))
    clip = projection @ view @ ahead
    pixel = ((clip[0] / clip[3] + 1) / 2 * size[1], (-clip[1] / clip[3] + 1) / 2 * size[0])
    x, y, z, _ = np.reshape(asked.camera.view, (4, 4)) @ ahead
    fx, fy, cx, cy = asked.camera.intrinsics
    assert z == pytest.approx(2.0)
    assert (fx * x / z + cx, fy * y / z + cy) == pytest.approx(pixel)
    assert pixel[1] < size[0] / 2  # above the middle, as it is above the axis


@pytest.mark.parametrize(
    "changes",
    [{"view_matrix": [1.0] * 15}, {"view_matrix": [math.inf] * 16}, {"fov_x": 0}, {"fov_y": 4.0},
     {"view_matrix": None}, {"fov_x": "wide"}, {"view_matrix": [10**400] * 16}],
)  # fmt: skip
def test_a_camera_that_makes_no_sense_is_left_out(changes: dict[str, Any]) -> None:
    assert parsed(request(**changes)).camera is None


def fed(steps: Generator[int, Any, Any], stream: bytes) -> tuple[Any, bytes]:
    """What a reader returns, and the bytes that it left."""
    wanted = next(steps)
    while True:
        assert 0 < wanted <= len(stream)
        piece, stream = stream[:wanted], stream[wanted:]
        try:
            wanted = steps.send(piece)
        except StopIteration as end:
            return end.value, stream


def test_a_lone_tail_is_told_from_a_picture() -> None:
    asked = parsed(request("gaussian-avatars", show_splatting=False, show_mesh=True))
    tail = b'{"num_timesteps": 9, "num_points": 5}'
    assert fed(reading_reply(asked), packed(tail) + b"next") == (Reply(None, tail), b"next")
    for start in (b"", packed(tail[:-1] + b"!"), packed(tail)[:5], struct.pack("<I", 60000) + b"{"):
        pixels = start + bytes(asked.picture_bytes - len(start))
        stream = pixels + packed(tail) + b"next"
        assert fed(reading_reply(asked), stream) == (Reply(pixels, tail), b"next")
    tiny = parsed(request("gaussian-avatars", (1, 1), show_splatting=False, show_mesh=True))
    assert fed(reading_reply(tiny), b"abc" + packed(tail)) == (Reply(b"abc", tail), b"")


def test_lengths_are_checked_before_memory_is_taken() -> None:
    for length in (1 << 20, (1 << 20) + 1):
        steps = reading()
        next(steps)
        if length > 1 << 20:
            with pytest.raises(InputError, match="announced"):
                steps.send(struct.pack("<I", length))
        else:
            assert steps.send(struct.pack("<I", length)) == length
    assert fed(reading(), packed(b"")) == (b"", b"")


# between a viewer and a renderer


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_hundred_of_a_hundred_in_order(dialect: str, stack: ExitStack, proxy) -> None:
    options = ServerOptions(urls=("tcp://127.0.0.1:0",))
    server = stack.enter_context(Server([Engine("test", negative)], options))
    client = stack.enter_context(Client(server.urls[0], ClientOptions(deadline_ms=5000)))
    renderer = stack.enter_context(Renderer(dialect))
    between = proxy(renderer.port, client)
    assert client.wait(10)
    viewer = stack.enter_context(Viewer(between.address))
    for index in range(100):
        message = request(dialect)
        message |= {"timestep": index} if dialect == "gaussian-avatars" else {}
        shown, tail = viewer.show(message)
        assert np.array_equal(shown, 255 - picture(index))
        assert tail in (b"/data/scene", b'{"loss": 0.1, "error": ""}',
                        b'{"num_timesteps": 9, "num_points": 5}')  # fmt: skip
        assert renderer.received[-1] == message
    assert between.counts == {"restored": 100}


def test_sizes_change_and_pause(stack: ExitStack, proxy) -> None:
    for dialect in ("inria", "gaussian-avatars"):
        renderer = stack.enter_context(Renderer(dialect))
        with Viewer(proxy(renderer.port).address) as viewer:
            for index, size in enumerate([(7, 9), (64, 48), (1, 1), (33, 5)]):
                viewer.ask(request(dialect, resolution_x=0, resolution_y=0))
                if dialect == "inria":  # and of the other nothing may come, or the next is broken
                    assert viewer.tail() == b"/data/scene"
                number = len(renderer.received) if dialect == "inria" else index
                shown, _ = viewer.show(request(dialect, size, timestep=number))
                assert np.array_equal(shown, 255 - picture(number, size))


@pytest.mark.parametrize("bound", [True, False])
def test_a_lone_mesh_passes_as_it_is(bound: bool, stack: ExitStack, proxy) -> None:
    renderer = stack.enter_context(Renderer("gaussian-avatars", bound_to_mesh=bound))
    client = StubClient()
    between = proxy(renderer.port, client)
    with Viewer(between.address) as viewer:
        mesh = request("gaussian-avatars", show_splatting=False, show_mesh=True, timestep=3)
        if bound:
            assert np.array_equal(viewer.show(mesh)[0], picture(3))
        else:
            viewer.ask(mesh)
            assert b"num_timesteps" in viewer.tail()
        viewer.ask(request("gaussian-avatars", show_splatting=False))
        assert b"num_timesteps" in viewer.tail()
        assert np.array_equal(viewer.show(request("gaussian-avatars"))[0], 255 - picture(0))
    assert len(client.given) == 1
    assert client.skipped == bound


def test_jumps_of_the_avatar_are_cuts_and_cameras_go_along(stack: ExitStack, proxy) -> None:
    renderer, client = stack.enter_context(Renderer("gaussian-avatars")), StubClient()
    between = proxy(renderer.port, client)
    for steps in ([0, 1, 2, 2, 1, 7, 8], [8]):
        with Viewer(between.address) as viewer:
            for step in steps:
                client.wants_frames = step != 7  # the cut is for the first that goes out
                viewer.show(request("gaussian-avatars", timestep=step))
    assert [cut for _, cut, _ in client.given] == [True, False, False, False, False, True, True]
    assert client.skipped == 1
    assert all(camera is not None for _, _, camera in client.given)


# ends that come and go


def test_the_renderer_may_come_late_go_and_come_back(
    proxy, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    between = proxy(port)
    for _ in range(3):
        with Viewer(between.address) as viewer:
            viewer.ask(request())
            assert viewer.is_sent_away()
    assert caplog.text.count("is not there") == 1
    for _ in range(2):
        with Viewer(between.address) as viewer:
            with Renderer(port=port):
                assert np.array_equal(viewer.show(request())[0], 255 - picture(0))
            assert viewer.is_sent_away()  # without asking
    assert caplog.text.count("went away") == 2


def test_viewers_take_turns(stack: ExitStack, proxy) -> None:
    renderer = stack.enter_context(Renderer())
    between = proxy(renderer.port)
    with Viewer(between.address) as first:
        first.show(request())
        second = stack.enter_context(Viewer(between.address))
        second.ask(request())
        first.show(request())
        assert len(renderer.received) == 2
    assert second.read(picture(0).size) == (255 - picture(2)).tobytes()
    second.tail()
    second.show(request())


def test_a_viewer_that_leaves_while_the_renderer_works_frees_the_place(proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        between = proxy(silent.getsockname()[1])
        for _ in range(2):
            with Viewer(between.address) as viewer:
                viewer.ask(request())
                conn, _ = silent.accept()
                conn.settimeout(10)
                assert conn.recv(4)
            with conn:
                while conn.recv(4096):
                    pass


def test_who_says_nothing_does_not_keep_viewers_out(
    stack: ExitStack, proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sibr_proxy, "_FIRST_REQUEST_S", 0.05)
    renderer = stack.enter_context(Renderer())
    between = proxy(renderer.port)
    with Viewer(between.address) as silent, Viewer(between.address) as viewer:
        viewer.ask(request())
        assert silent.is_sent_away()
        assert viewer.read(picture(0).size) == (255 - picture(0)).tobytes()
        viewer.tail()
        time.sleep(0.1)  # later, silence is a viewer's right
        viewer.show(request())
    assert "said nothing" in caplog.text


def test_a_viewer_may_ask_ahead(stack: ExitStack, proxy) -> None:
    renderer = stack.enter_context(Renderer())
    with Viewer(proxy(renderer.port).address) as viewer:
        for _ in range(5):
            viewer.ask(request())
        for index in range(5):
            assert viewer.read(picture(0).size) == (255 - picture(index)).tobytes()
            assert viewer.tail() == b"/data/scene"


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "542393671 bytes was announced"),
        (packed(b"no json"), "a request is JSON"),
        (packed(json.dumps(request(resolution_x=10**6)).encode()), "from 0 to 4096, got 1000000"),
    ],
)
def test_garbage_closes_one_connection_with_one_line(
    sent: bytes, says: str, stack: ExitStack, proxy, caplog: pytest.LogCaptureFixture
) -> None:
    renderer = stack.enter_context(Renderer())
    between = proxy(renderer.port)
    for _ in range(3):
        with Viewer(between.address) as viewer:
            viewer.sock.sendall(sent)
            assert viewer.is_sent_away()
    assert caplog.text.count(says) == 1
    assert len(caplog.records) == 1
    with Viewer(between.address) as viewer:
        viewer.show(request())


def test_a_renderer_out_of_step_closes_the_connection(
    proxy, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        between = proxy(listener.getsockname()[1])
        pixels = bytes(SIZE[0] * SIZE[1] * 3)
        for answer in (pixels + b"\xff" * 4, pixels + packed(b"") + b"more"):
            with Viewer(between.address) as viewer:
                viewer.ask(request())
                conn, _ = listener.accept()
                with conn:
                    conn.sendall(answer)
                    viewer.read(0 if answer[-4:] == b"\xff" * 4 else len(pixels) + 4)
                    assert viewer.is_sent_away()
    assert "a tail of 4294967295 bytes was announced" in caplog.text
    assert "another dialect" in caplog.text


def test_code_is_removed_on_the_way_and_said_once(
    stack: ExitStack, proxy, caplog: pytest.LogCaptureFixture
) -> None:
    renderer = stack.enter_context(Renderer("splatviz"))
    with Viewer(proxy(renderer.port).address) as viewer:
        for _ in range(3):
            viewer.show(request("splatviz", edit_text="import os"))
    assert [message["edit_text"] for message in renderer.received] == ["", "", ""]
    assert caplog.text.count("edit_text was removed") == 1
    with Viewer(proxy(renderer.port, allow_edit_text=True).address) as viewer:
        viewer.show(request("splatviz", edit_text="pass"))
    assert renderer.received[-1]["edit_text"] == "pass"


# without a server


def test_pictures_go_on_when_the_server_goes(stack: ExitStack, proxy) -> None:
    options = ServerOptions(urls=("tcp://127.0.0.1:0",))
    server = Server([Engine("test", negative)], options).start()
    client = stack.enter_context(Client(server.urls[0], ClientOptions(deadline_ms=3000)))
    renderer = stack.enter_context(Renderer())
    assert client.wait(10)
    viewer = stack.enter_context(Viewer(proxy(renderer.port, client).address))
    assert np.array_equal(viewer.show(request())[0], 255 - picture(0))
    server.stop()
    begin = time.monotonic()
    for index in range(1, 30):
        assert np.array_equal(viewer.show(request())[0], picture(index))
    assert time.monotonic() - begin < 3  # one deadline


def test_a_server_that_hangs_costs_three_deadlines(stack: ExitStack, proxy) -> None:
    hangs = threading.Event()
    stack.callback(hangs.set)

    def hang(frames: Any) -> list[Frame]:
        hangs.wait(10)
        return list(frames)

    options = ServerOptions(urls=("tcp://127.0.0.1:0",))
    server = stack.enter_context(Server([Engine("test", hang)], options))
    client = stack.enter_context(Client(server.urls[0], ClientOptions(deadline_ms=100)))
    renderer = stack.enter_context(Renderer())
    between = proxy(renderer.port, client)
    assert client.wait(10)
    viewer = stack.enter_context(Viewer(between.address))
    for index in range(20):
        assert np.array_equal(viewer.show(request())[0], picture(index))
    assert between.counts["late"] <= 5
    assert between.counts["bypass"] >= 10
    hangs.set()


# start and stop


def test_stop_closes_all_even_a_viewer_that_does_not_read(stack: ExitStack) -> None:
    renderer = stack.enter_context(Renderer())
    options = ProxyOptions(listen="127.0.0.1:0", renderer=f"127.0.0.1:{renderer.port}")
    client: Any = StubClient()
    between = SibrProxy(client, options).start()
    viewer = stack.enter_context(Viewer(between.address))
    for _ in range(3):
        viewer.ask(request(size=(2048, 2048)))  # fills all buffers, and is never read
    until(lambda: bool(client.given))
    between.stop()
    between.stop()
    assert not between._thread.is_alive()
    port = int(between.address.split(":")[1])
    socket.create_server(("127.0.0.1", port)).close()
    with contextlib.suppress(ConnectionError):
        while viewer.sock.recv(1 << 20):
            pass


def test_addresses_are_checked(stack: ExitStack) -> None:
    client: Any = StubClient()
    with pytest.raises(InputError, match="allow-remote"):
        ProxyOptions(listen="0.0.0.0:0")
    assert ProxyOptions(listen="0.0.0.0:0", allow_remote=True)
    for bad in ("6019", "localhost:", ":6009", "a:99999"):
        with pytest.raises(InputError, match="no address"):
            ProxyOptions(renderer=bad)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ProxyOptions(listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InputError, match="cannot bind"):
            SibrProxy(client, options)
    with pytest.raises(InputError, match="cannot be"):
        ProxyOptions(listen="127.0.0.1:6009")
    with pytest.raises(InputError, match="max-side"):
        ProxyOptions(max_side=0)
    latest = stack.enter_context(Client("tcp://127.0.0.1:1", ClientOptions(mode="latest")))
    with pytest.raises(InputError, match="sync"):
        SibrProxy(latest, ProxyOptions(listen="127.0.0.1:0"))


def test_the_command_runs_until_a_signal(
    stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sibr, "_SERVER_S", 0.05)
    renderer = stack.enter_context(Renderer())
    port = free_port()
    shown: list[Any] = []

    def watch() -> None:
        def listens() -> bool:
            with contextlib.suppress(OSError):
                shown.append(Viewer(f"127.0.0.1:{port}"))
            return bool(shown)

        until(listens)
        with shown[0]:
            shown.append(shown[0].show(request())[0])
            until(lambda: "no server" in caplog.text)
            os.kill(os.getpid(), signal.SIGTERM)
            assert shown[0].is_sent_away()

    watcher = threading.Thread(target=watch)
    watcher.start()
    arguments = ["--listen", f"127.0.0.1:{port}", "--renderer", f"127.0.0.1:{renderer.port}",
                 "--url", "tcp://127.0.0.1:1"]  # fmt: skip
    assert sibr.main(arguments) == 0
    watcher.join(10)
    assert np.array_equal(shown[1], picture(0))
    assert "no server" in caplog.text
    assert capsys.readouterr().out.splitlines()[-1] == "stopped"
