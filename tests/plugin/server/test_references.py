"""References on the server: its own sets, those that clients send, and refusals."""

import itertools
import struct
import threading
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from splatmend.core import Frame, InputError, Reference, References
from splatmend.core.command_line import parse
from splatmend.plugin.protocol.frames import to_planes
from splatmend.plugin.protocol.framing import ProtocolError
from splatmend.plugin.protocol.messages import (
    ErrorReply,
    FrameRequest,
    Hello,
    ReferencePicture,
    Result,
    UseReferences,
)
from splatmend.plugin.server import ReferenceSets, UploadLimits, read_sets, workers
from splatmend.plugin.server.command import ServeConfig, SetOptions, serve
from splatmend.plugin.server.stats import MetricsEndpoint
from splatmend.plugin.server.uploads import picture_size

from persons import SIDE, copying, file_of, is_sharpened, person, soft
from serving import LOCAL
from waiting import until
from wire import Wire

ANNA, BERT, CARL = person(1), person(2), person(3)
NUMBERS = itertools.count()


def of(*pictures: Any) -> References:
    return References(Reference(picture=picture) for picture in pictures)


def sets(**more: Any) -> ReferenceSets:
    return ReferenceSets({"anna": of(ANNA), "bert": of(CARL, BERT)}, **more)


def restored(wire: Wire, picture: Any, *, cut: bool = False) -> Any:
    """Return a session's restoration of a picture without its fine detail."""
    color = soft(picture)
    planes, data = to_planes(Frame(color=color))
    wire.send(
        FrameRequest(session=wire.session, id=next(NUMBERS), width=SIDE, height=SIDE,
                     planes=planes, data=data, cut=cut)
    )  # fmt: skip
    answer = wire.receive()
    assert isinstance(answer, Result), answer
    return np.frombuffer(answer.data[0], np.uint8).reshape(color.shape)


def upload(*files: bytes, **more: Any) -> UseReferences:
    fmts = ["jpeg" if file.startswith(b"\xff\xd8") else "png" for file in files]
    pictures = [ReferencePicture(fmt=f, bytes=len(d)) for f, d in zip(fmts, files, strict=True)]
    data = (b"".join(files),) if files else ()
    return UseReferences(pictures=tuple(pictures), data=data, **more)


def sent(wire: Wire, message: UseReferences) -> Any:
    """Return the server's answer to references."""
    wire.send(message)
    return wire.receive()


# The server's own sets


@pytest.mark.parametrize("temporal", [True, False])
def test_two_streams_with_two_sets_do_not_mix(temporal, start, connect) -> None:
    server = start(copying(temporal=temporal), references=sets())
    anna, bert, nobody = connect(server), connect(server), connect(server)
    assert (nobody.hello().references, nobody.hello().max_references) == ("", 16)
    assert anna.hello(references="anna").references == "anna"
    assert bert.hello(references="bert").references == "bert"
    for _ in range(2):
        assert is_sharpened(restored(anna, ANNA), ANNA)
        assert is_sharpened(restored(bert, BERT), BERT)
        assert np.array_equal(restored(nobody, ANNA), soft(ANNA))
    assert np.array_equal(restored(anna, BERT, cut=True), soft(BERT))  # no help for another
    assert np.array_equal(restored(bert, ANNA, cut=True), soft(ANNA))


@pytest.mark.slow
@pytest.mark.parametrize("temporal", [True, False])
def test_streams_at_the_same_time_do_not_mix(temporal, start, connect) -> None:
    """Uses two devices, and batches of several sessions."""
    engines = [copying(temporal=temporal, max_batch=4) for _ in range(2)]
    server = start(*engines, references=sets())

    def run(name: str, picture: Any) -> list[bytes]:
        wire = connect(server)
        wire.hello(references=name)
        return [restored(wire, picture).tobytes() for _ in range(5)]

    with ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(run, *each) for each in [("anna", ANNA), ("bert", BERT)] * 3]
        answers = [task.result() for task in tasks]
    for each, picture in zip(answers, [ANNA, BERT] * 3, strict=True):
        assert is_sharpened(np.frombuffer(each[0], np.uint8).reshape(picture.shape), picture)
        assert set(each) == {each[0]}
    assert len({each[0] for each in answers}) == 2


def test_a_black_frame_does_no_harm(start, connect) -> None:
    """Viewers show one before they have anything to show."""
    wire = connect(start(copying(), references=sets(default="anna")))
    for _ in range(2):
        assert not restored(wire, np.zeros_like(ANNA)).any()
        assert is_sharpened(restored(wire, ANNA), ANNA)


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(start, stack) -> None:
    wire = stack.enter_context(closing(Wire(start(copying(), references=sets()).urls[0])))
    wire.send(Hello(references="ann"))
    answer = wire.receive()
    assert isinstance(answer, ErrorReply)
    assert answer.text == "no references are called 'ann': there are anna, bert"
    assert (answer.code, answer.fatal) == ("unsupported", False)
    assert wire.hello(references="bert").references == "bert"


def test_a_server_without_sets_says_so(start, stack) -> None:
    wire = stack.enter_context(closing(Wire(start(copying()).urls[0])))
    wire.send(Hello(references="anna"))
    assert "this server has none; start it with --references" in wire.receive().text


def test_the_default_is_for_those_who_name_none(start, connect) -> None:
    server = start(copying(), references=sets(default="bert"))
    wire = connect(server)
    assert wire.hello().references == "bert"
    assert is_sharpened(restored(wire, BERT), BERT)
    assert wire.hello(references="anna").references == "anna"
    assert np.array_equal(restored(wire, BERT), soft(BERT))


def test_one_set_without_a_name_is_for_all(start, connect) -> None:
    wire = connect(start(copying(), references=ReferenceSets({"default": of(ANNA)})))
    assert is_sharpened(restored(wire, ANNA), ANNA)
    assert sent(wire, upload()).count == 0  # but for a client that wants none
    assert np.array_equal(restored(wire, ANNA), soft(ANNA))


def test_an_engine_that_takes_no_references_is_not_served_with_any(start, connect) -> None:
    with pytest.raises(InputError, match="negative takes no references"):
        start(references=sets())
    wire = connect(start())
    assert wire.hello().max_references == 0
    assert sent(wire, upload(file_of(ANNA))).code == "unsupported"


@pytest.mark.parametrize("temporal", [True, False])
def test_it_is_said_once_that_references_do_not_fit(
    temporal, start, connect, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(workers, "_JUDGED_AFTER", 4)
    server = start(copying(temporal=temporal), references=sets())
    right, wrong = (connect(server, references="anna", stream=name) for name in ("right", "wrong"))
    for index in range(6):
        for wire, person_ in ((right, ANNA), (wrong, BERT)):
            restored(wire, person_, cut=index == 0)
            restored(wire, 255 - person_, cut=True)  # in between, something else
    counted = {s.stream: (s.guided, s.unfit) for s in server.figures().streams}
    assert counted == {"right": (12, 6), "wrong": (12, 12)}
    until(lambda: "stream wrong: no reference fits 4 of 4 frames" in caplog.text)
    assert "stream right" not in caplog.text
    assert caplog.text.count("no reference fits") == 1
    with MetricsEndpoint("127.0.0.1", 0, server.figures) as endpoint:
        page = urllib.request.urlopen(f"http://{endpoint.address}/metrics").read().decode()
    rows = [line for line in page.splitlines() if line.startswith("splatmend_stream_guided")]
    assert len(rows) == 4
    (unfit,) = (row for row in rows if 'fits="no"' in row and 'stream="wrong"' in row)
    assert unfit.endswith(" 12.0")


# Folders


def put(folder: Any, *pictures: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        (folder / f"{number}.png").write_bytes(file_of(picture))


def test_a_folder_of_pictures_is_one_set(tmp_path) -> None:
    put(tmp_path, ANNA, CARL)
    found = read_sets(tmp_path)
    assert str(found) == "default (2 pictures); for clients that name none: default"
    assert found.named("")[0] == "default"


def test_renders_and_photos_are_one_set_of_pairs(tmp_path) -> None:
    put(tmp_path / "renders", soft(ANNA))
    put(tmp_path / "photos", ANNA)
    assert str(read_sets(tmp_path)) == "default (1 key pair); for clients that name none: default"


def test_folders_are_sets(tmp_path) -> None:
    put(tmp_path / "bert", BERT)
    put(tmp_path / "anna" / "renders", soft(ANNA))
    put(tmp_path / "anna" / "photos", ANNA)
    (tmp_path / ".hidden").mkdir()
    assert str(read_sets(tmp_path)) == "anna (1 key pair), bert (1 picture)"
    assert read_sets(tmp_path).named("") == ("", None)
    assert read_sets(tmp_path, default="anna").named("")[0] == "anna"
    with pytest.raises(InputError, match=r"no set of references is called 'eve': .* anna, bert"):
        read_sets(tmp_path, default="eve")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "has neither pictures nor folders"),
        (["notes.txt"], "has neither pictures nor folders"),
        (["a.png", "folder/b.png"], "has pictures and folders: move the pictures"),
        (["folder/notes.txt"], "holds no picture"),
    ],
)
def test_folders_that_are_no_sets(tmp_path, entries, message) -> None:
    for entry in entries:
        put((tmp_path / entry).parent)
        (tmp_path / entry).write_bytes(file_of(ANNA))
    with pytest.raises(InputError, match=message):
        read_sets(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read_sets(tmp_path / "absent")


def test_serve_reads_its_references(tmp_path, stack) -> None:
    put(tmp_path / "anna", ANNA)
    stop, said = threading.Event(), []
    config = ServeConfig(
        model="copy",
        device=("cpu",),
        url=(LOCAL,),
        references=tmp_path,
        reference_sets=SetOptions(max_references=0),
    )
    thread = threading.Thread(target=serve, args=(config, stop), kwargs={"say": said.append})
    thread.start()
    until(lambda: len(said) == 2)
    assert said[1] == "references: anna (1 picture)"
    wire = stack.enter_context(closing(Wire(said[0].split()[3])))
    welcome = wire.hello(references="anna")
    assert (welcome.references, welcome.max_references) == ("anna", 0)
    assert is_sharpened(restored(wire, ANNA), ANNA)
    stop.set()
    thread.join(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reference-default", "anna"], "give both"),
        (["--max-references", "-1"], "0 to 64 reference pictures, got -1"),
        (["--references", "absent"], "is not a folder"),
    ],
)
def test_serve_options_that_cannot_be(options, message) -> None:
    given = ["--model", "copy", "--device", "cpu", "--url", LOCAL, *options]
    stop = threading.Event()
    stop.set()
    with pytest.raises(InputError, match=message):
        serve(parse(ServeConfig, given, prog="serve", description=""), stop, say=print)


# References from clients


@pytest.mark.parametrize("temporal", [True, False])
def test_a_client_sends_its_own(temporal, start, connect) -> None:
    wire = connect(start(copying(temporal=temporal)))
    assert np.array_equal(restored(wire, ANNA), soft(ANNA))
    answer = sent(wire, upload(file_of(BERT, ".jpg"), file_of(ANNA), session=wire.session))
    assert answer == UseReferences(session=wire.session, count=2)
    assert is_sharpened(restored(wire, ANNA), ANNA)
    assert sent(wire, upload(file_of(CARL))).count == 1  # instead of those before
    assert np.array_equal(restored(wire, ANNA), soft(ANNA))


def test_pixels_and_pairs(start, connect) -> None:
    wire = connect(start(copying()))
    described = ReferencePicture(fmt="rgb8", bytes=ANNA.nbytes, width=SIDE, height=SIDE)
    assert sent(wire, UseReferences(pictures=(described,), data=(ANNA.tobytes(),))).count == 1
    assert is_sharpened(restored(wire, ANNA), ANNA)
    assert sent(wire, upload(file_of(soft(BERT)), file_of(BERT), kind="pairs")).count == 1
    assert is_sharpened(restored(wire, BERT), BERT)


def png_head(width: int, height: int) -> bytes:
    """Make a PNG that promises pixels and has none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


SMALL = file_of(person(4, 40))


@pytest.mark.parametrize(
    ("files", "code", "message"),
    [
        ([SMALL] * 17, "too_large", "at most 16 reference pictures are taken, got 17"),
        ([SMALL, png_head(2049, 8)], "too_large", "picture 2 of 2 has 2049 x 8 pixels"),
        ([png_head(1 << 30, 1 << 30)], "too_large", "references have at most 2048 a side"),
        ([SMALL + bytes(1 << 20)] * 3, "too_large", "may have 2 MiB in all, got 3.0"),
        ([SMALL, b"GIF89a and no picture"], "unsupported", "picture 2 of 2: it is no png"),
        ([b"\xff\xd8 and no picture"], "unsupported", "it is no jpeg"),
        ([png_head(64, 64)], "unsupported", "picture 1 of 1 cannot be decoded"),
        ([SMALL[:-30]], "unsupported", "picture 1 of 1 is damaged"),
        ([file_of(person(4, 31))], "unsupported", "at least 32 a side"),
        ([file_of(np.full((64, 64, 3), 9, np.uint8))], "unsupported", "one plain colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refusals_are_one_error_and_the_stream_goes_on(
    files, code, message, start, connect
) -> None:
    wire = connect(start(copying(), uploads=UploadLimits(bytes=2 << 20)))
    assert sent(wire, upload(file_of(ANNA))).count == 1
    answer = sent(wire, upload(*files))
    assert (answer.code, answer.id, answer.fatal) == (code, None, False)
    assert message in answer.text
    assert is_sharpened(restored(wire, ANNA), ANNA)  # with the references it had before
    assert wire.receive(50) is None


def test_uploads_can_be_switched_off(start, connect) -> None:
    wire = connect(start(copying(), uploads=UploadLimits(pictures=0)))
    assert wire.hello().max_references == 0
    answer = sent(wire, upload(SMALL))
    assert (answer.code, answer.text[:41]) == (
        "unsupported", "this server takes no references from clie",
    )  # fmt: skip
    assert np.array_equal(restored(wire, ANNA), soft(ANNA))


def test_what_all_clients_hold_is_bounded_and_given_back(start, connect) -> None:
    room = 2 * ANNA.nbytes + 4 * SIDE * SIDE  # two sets, and one being decoded
    server = start(copying(), uploads=UploadLimits(memory=room))
    file = file_of(ANNA, ".jpg")
    wires = [connect(server) for _ in range(3)]

    def there_is_room_for(wire: Wire) -> bool:
        wire.hello()  # forgives the refused messages
        answer = sent(wire, upload(file))
        assert isinstance(answer, UseReferences) or answer.code == "busy"
        return isinstance(answer, UseReferences)

    for wire in wires[:2]:
        until(lambda wire=wire: there_is_room_for(wire))
    answer = sent(wires[2], upload(file))
    assert (answer.code, answer.id) == ("busy", None)
    assert "send smaller pictures, or try later" in answer.text
    wires[0].hello()  # the session that held them is gone
    until(lambda: there_is_room_for(wires[2]))


def test_strangers_cannot_send_any(start, stack) -> None:
    wire = stack.enter_context(closing(Wire(start(copying()).urls[0])))
    assert sent(wire, upload(SMALL)).code == "no_session"


def test_a_server_that_stops_waits_for_no_client(start, connect) -> None:
    """Sends many uploads at once; the fixture checks that no thread is left."""
    server = start(copying())
    for _ in range(8):
        connect(server).send(upload(*[file_of(person(5, 700))] * 4))
    server.stop()


def test_sizes_are_read_from_headers() -> None:
    tall = np.ascontiguousarray(person(6, 80)[:, :50])
    assert picture_size(file_of(tall), "png") == (50, 80)
    jpeg = file_of(tall, ".jpg")
    assert picture_size(jpeg, "jpeg") == (50, 80)
    padded = jpeg[:2] + b"\xff\xff\xff\xe1\x00\x04ab" + jpeg[2:]
    assert picture_size(padded, "jpeg") == (50, 80)
    for damaged in (b"", jpeg[:20], jpeg[:2] + bytes(100), jpeg[:2] + b"\xff\x01" * 9999):
        with pytest.raises(ProtocolError, match="it is no jpeg"):
            picture_size(damaged, "jpeg")
