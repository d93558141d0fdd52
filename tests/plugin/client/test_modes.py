"""The client: it never shows stale or foreign frames, and never blocks for long."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatmend.core import Frame, InputError
from splatmend.plugin.client import Client, ClientOptions
from splatmend.plugin.protocol.curve_keys import KeysConfig, make_keys
from splatmend.plugin.protocol.framing import MAGIC
from splatmend.plugin.protocol.messages import Camera, Drop, ErrorReply
from splatmend.plugin.protocol.plane_formats import Plane
from splatmend.plugin.server import Engine, Server, ServerOptions

from fake_server import client_of, picture
from serving import negative
from waiting import until

# sync


def test_sync_shows_this_very_frame(start, client) -> None:
    asks = client(start())
    for value in range(50):
        shown = asks.restore(picture(value))
        assert shown.restored
        assert (shown.id, shown.why) == (value, "")
        assert (shown.frame.color == 255 - value).all()
        assert shown.age_ms > 0
    assert asks.counts == {"sent": 50, "restored": 50}
    assert asks.welcome is not None
    assert asks.welcome.model == "test"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_all_planes_make_the_way(dtype, start, client) -> None:
    came: list[Frame] = []

    def keep(frames: Any) -> list[Frame]:
        came.extend(frames)
        return [f.with_color(f.color // 2 if dtype != np.float32 else f.color / 2) for f in frames]

    dice = np.random.default_rng(0)
    whole = dice.random((5, 7, 4))
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    frame = Frame(
        color=(whole[..., :3] * top).astype(dtype),
        alpha=(whole[..., 3] * top).astype(dtype),
        alpha_kind="premultiplied",
    )
    mask = np.full((5, 7), 255, np.uint8)
    mask[0] = 0
    camera = Camera(intrinsics=(1.0, 1.0, 0.0, 0.0))
    shown = client(start(keep)).restore(frame, mask=mask, camera=camera)
    assert shown.restored
    assert np.array_equal(came[0].alpha, frame.alpha)
    assert came[0].alpha_kind == "premultiplied"
    assert np.array_equal(shown.frame.alpha, frame.alpha)
    half = frame.color // 2 if dtype != np.float32 else frame.color / 2
    assert np.allclose(shown.frame.color[1:], half[1:])
    assert np.array_equal(shown.frame.color[0], frame.color[0])


def test_sync_waits_until_the_deadline_and_shows_the_frame_itself(start, client) -> None:
    go = threading.Event()

    def late(frames: Any) -> list[Frame]:
        assert go.wait(60)
        return negative(frames)

    asks = client(start(late), deadline_ms=60)
    frame = picture(1)
    shown = asks.restore(frame)  # while the server is held up
    assert shown.frame is frame
    assert (shown.restored, shown.why) == (False, "late")
    go.set()
    until(lambda: asks.counts.get("restored") == 1)
    asks.options.deadline_ms  # noqa: B018
    shown = asks.restore(picture(2))  # not the answer to the first
    assert not shown.restored or (shown.frame.color == 253).all()


def test_sync_waits_for_as_long_as_it_may(fake, client) -> None:
    asks = client_of(fake, client, deadline_ms=600_000)
    answered = threading.Event()

    def answer() -> None:
        asked = fake.receive()
        assert fake.receive(200) is None  # nor is it asked again
        answered.set()
        fake.answer(asked)

    thread = threading.Thread(target=answer)
    thread.start()
    assert asks.restore(picture(1)).restored
    assert answered.is_set()
    thread.join()


def test_arrays_may_be_written_again_at_once(fake, client) -> None:
    asks = client_of(fake, client, mode="latest")
    frame = picture(7)
    asks.restore(frame)
    frame.color[:] = 99
    request = fake.receive()
    assert set(bytes(request.data[0])) == {7}


# Foreign, stale, malformed


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 77},
        {"session": "another"},
        {"width": 3, "height": 8},
        {"width": 12, "height": 2, "planes": (Plane(name="color", fmt="rgb8", stride=36),)},
        {"planes": (Plane(name="color", fmt="rgb16f", stride=36),), "data": (bytes(144),)},
        {"planes": (), "data": (), "applied": False},
    ],
    ids=["id", "session", "broken size", "size", "type", "not applied"],
)
def test_answers_that_are_not_ours_are_not_shown(changes, fake, client) -> None:
    asks = client_of(fake, client, deadline_ms=300)
    threading.Thread(target=lambda: fake.answer(fake.receive(), **changes)).start()
    frame = picture(5)
    shown = asks.restore(frame)
    assert shown.frame is frame
    assert not shown.restored


def test_a_late_answer_is_not_taken_for_the_next(fake, client) -> None:
    """Sends answers that break REQ/REP and clients that trust the order of replies."""
    asks = client_of(fake, client, deadline_ms=200)
    first, second = picture(1), picture(2)
    assert asks.restore(first).frame is first
    late = fake.receive()
    thread = threading.Thread(target=lambda: (fake.answer(late), fake.answer(fake.receive())))
    thread.start()
    shown = asks.restore(second)
    thread.join()
    if shown.restored:
        assert (shown.frame.color == 253).all()
    else:
        assert shown.frame is second


def test_garbage_from_a_server_is_ignored(fake, client) -> None:
    asks = client_of(fake, client)
    for parts in ([b"JUNK"], [MAGIC, b"{"], [MAGIC, b'{"t":"gossip"}'], [b""]):
        fake.router.send_multipart([fake.peer, *parts])
    until(lambda: asks.counts.get("unreadable") == 4)
    threading.Thread(target=lambda: fake.answer(fake.receive())).start()
    assert asks.restore(picture(1)).restored


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda asked: Drop(session="s", id=asked.id, why="busy", credit=1), "busy"),
        (lambda asked: ErrorReply(session="s", id=asked.id, code="internal", text="x"), "internal"),
    ],
)
def test_drops_and_errors_do_not_make_it_wait(answer, why, fake, client) -> None:
    asks = client_of(fake, client)
    threading.Thread(target=lambda: fake.send(answer(fake.receive()))).start()
    shown = asks.restore(picture(1))
    assert (shown.restored, shown.why) == (False, why)


# latest


def test_latest_never_waits_and_shows_the_newest(start, client, held) -> None:
    asks = client(start(held), mode="latest", max_age_ms=600_000)
    assert asks.restore(picture(0)).why == "waiting"
    last, values = -1, itertools.count(1)

    def show() -> int:
        nonlocal last
        value = next(values)
        shown = asks.restore(picture(value % 256))
        if shown.restored:
            assert last <= shown.id < value
            assert (shown.frame.color == 255 - shown.id % 256).all()
            last = shown.id
        return last

    for _ in range(5):
        for _ in range(10):
            show()  # returns, though the server is held up
        before = last
        held.let_go()  # the one at work; the newest takes its place and is held up in turn
        until(lambda before=before: show() > before)
    assert last > 10
    assert asks.counts["sent"] < next(values) - 1  # newer frames took the place of waiting ones


def test_latest_does_not_show_what_is_old_or_does_not_fit(start, client, stack) -> None:
    go = threading.Event()
    go.set()

    def restore(frames: Any) -> list[Frame]:
        assert go.wait(60)
        return negative(frames)

    asks = client(start(restore), mode="latest", max_age_ms=150)
    stack.callback(go.set)  # before the server stops

    def newest(frame: Frame, **more: Any) -> Any:
        return asks.restore(frame, **more)

    newest(picture(1))
    until(lambda: newest(picture(1)).restored)
    assert newest(picture(1, size=(6, 4))).why == "old"
    until(lambda: newest(picture(2)).restored)
    assert newest(picture(2), cut=True).why == "old"
    until(lambda: newest(picture(2)).restored)
    go.clear()  # from now on nothing newer comes back
    until(lambda: newest(picture(3)).why == "old")


def test_a_cut_is_told_though_its_frame_was_replaced(fake, client) -> None:
    asks = client_of(fake, client, mode="latest")
    asks.restore(picture(0))
    first = fake.receive()
    asks.restore(picture(1), cut=True)  # no credit: waits
    asks.restore(picture(2))  # and is replaced
    fake.answer(first)
    second = fake.receive()
    assert [(first.id, first.cut), (second.id, second.cut)] == [(0, False), (2, True)]
    asks.restore(picture(3))
    fake.answer(second)
    assert not fake.receive().cut


# ordered


def test_ordered_gives_every_frame_in_order(start, client) -> None:
    asks = client(start(), mode="ordered")
    shown = list(asks.stream(picture(v % 256) for v in range(300)))
    assert [s.id for s in shown] == list(range(300))
    assert all(s.restored for s in shown)
    assert all((s.frame.color == 255 - i % 256).all() for i, s in enumerate(shown))


def test_ordered_reads_only_as_far_ahead_as_there_is_credit(start, client) -> None:
    asks = client(start(credit_local=3), mode="ordered")
    read = 0

    def source() -> Iterator[Frame]:
        nonlocal read
        for read in range(1, 21):
            yield picture(read)

    for index, _ in enumerate(asks.stream(source())):
        assert read <= index + 4


def test_ordered_waits_for_a_server_that_comes_late(start, client) -> None:
    server = start()
    url = server.urls[0]
    server.stop()
    asks = client(url, mode="ordered", wait=False)
    threading.Timer(0.3, start, kwargs={"url": url}).start()
    shown = list(asks.stream(picture(v) for v in range(10)))
    assert all(s.restored for s in shown)


def test_ordered_gives_up_at_last(client) -> None:
    asks = client("tcp://127.0.0.1:9", mode="ordered", patience_s=0.3, wait=False)
    frames = [picture(v) for v in range(5)]
    shown = list(asks.stream(frames))
    assert [(s.frame is f, s.why) for s, f in zip(shown, frames, strict=True)] == [
        (True, "down")
    ] * 5


def test_modes_have_their_own_method(start, client) -> None:
    server = start()
    with pytest.raises(InputError, match="has stream"):
        client(server, mode="ordered").restore(picture(0))
    with pytest.raises(InputError, match="in the mode ordered, not sync"):
        next(client(server).stream([picture(0)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "latest, sync, ordered, got 'fast'"),
        ({"deadline_ms": 0}, "above 0"),
        ({"key": Path("a")}, "go together"),
    ],
)
def test_options_that_cannot_be(options, message) -> None:
    with pytest.raises(InputError, match=message):
        ClientOptions(**options)


@pytest.mark.parametrize("url", ["127.0.0.1:7878", "tcp://127.0.0.1", "tcp://:1", "http://a:1", ""])
def test_addresses_that_cannot_be(url) -> None:
    with pytest.raises(InputError, match="is not an address: use tcp://host:port"):
        Client(url)


def test_over_ipc(start, client, tmp_path: Path) -> None:
    assert client(start(url=f"ipc://{tmp_path}/smp")).restore(picture(1)).restored


def test_trouble_is_logged_once(fake, client, caplog) -> None:
    asks = client_of(fake, client)
    for _ in range(3):
        error = ErrorReply(session="s", code="internal", text="out of memory")
        fake.send(error)
        fake.router.send_multipart([fake.peer, b"SMP1", b"{"])
    until(lambda: asks.counts.get("unreadable") == 3)
    assert [r.getMessage().count("out of memory") for r in caplog.records] == [1, 0]


def test_with_keys(stack, tmp_path: Path) -> None:
    make_keys(KeysConfig(tmp_path, client="me"))
    engine = Engine("negative", negative)
    options = ServerOptions(urls=("tcp://0.0.0.0:0",), keys=tmp_path)
    server = stack.enter_context(Server([engine], options))
    url = server.urls[0].replace("0.0.0.0", "127.0.0.1")
    keys = ClientOptions(
        key=tmp_path / "me.key_secret", server_key=tmp_path / "server.key", deadline_ms=5000
    )
    asks = stack.enter_context(Client(url, keys))
    assert asks.wait(10)
    assert asks.restore(picture(1)).restored
    with pytest.raises(InputError, match="is not a ZeroMQ key file"):
        Client(url, ClientOptions(key=tmp_path / "x", server_key=tmp_path / "server.key"))
