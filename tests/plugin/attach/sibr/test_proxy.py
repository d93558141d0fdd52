"""The SIBR proxy, between ends that speak as the public programs do."""

import contextlib
import json
import os
import select
import signal
import socket
import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from splatmend.core import Frame, InputError
from splatmend.plugin.attach import sibr, sibr_proxy
from splatmend.plugin.attach.sibr_proxy import ProxyOptions, SibrProxy
from splatmend.plugin.attach.sibr_wire import packed
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.server import Engine, Server, ServerOptions

from serving import negative
from sibr_ends import DIALECTS, SIZE, Renderer, StubClient, Viewer, free_port, picture, request
from waiting import until

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
        assert not select.select([viewer.sock], [], [], 0.1)[0]  # later, silence is its right
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
    between = proxy(renderer.port, client)
    viewer = stack.enter_context(Viewer(between.address))
    assert np.array_equal(viewer.show(request())[0], 255 - picture(0))
    server.stop()
    for index in range(1, 30):
        assert np.array_equal(viewer.show(request())[0], picture(index))
    assert between.counts.get("late", 0) <= 1  # one deadline
    assert sum(between.counts.values()) == 30


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
        with pytest.raises(InputError, match="is not an address"):
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
