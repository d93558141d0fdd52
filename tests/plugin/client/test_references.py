"""References that a client names or sends."""

from typing import Any

import numpy as np
import pytest

from splatmend.core import Frame, InputError, Reference, References
from splatmend.plugin.client import wrap
from splatmend.plugin.client.references import client_references, named_references
from splatmend.plugin.protocol.messages import Bye, FrameRequest, Hello, UseReferences, Welcome
from splatmend.plugin.server import ReferenceSets, Server, ServerOptions, UploadLimits
from splatmend.plugin.server.uploads import Uploads

from fake_server import client_of
from persons import copying, file_of, is_sharpened, person, soft
from serving import LOCAL
from waiting import until

ANNA, BERT = person(1), person(2)


@pytest.fixture
def serve(stack) -> Any:
    """`serve(uploads=...)`: a server with a set called anna."""

    def run(**options: Any) -> Server:
        sets = ReferenceSets({"anna": References([Reference(picture=ANNA)])})
        made = ServerOptions(urls=(LOCAL,), references=sets, **options)
        return stack.enter_context(Server([copying()], made))

    return run


@pytest.fixture
def photo(tmp_path) -> Any:
    path = tmp_path / "photo.png"
    path.write_bytes(file_of(BERT))
    return path


def frame(picture: Any) -> Frame:
    return Frame(color=soft(picture))


def test_a_set_is_named(serve, client) -> None:
    anna = client(serve(), references="anna")
    assert anna.welcome.references == "anna"
    assert is_sharpened(anna.restore(frame(ANNA)).frame.color, ANNA)
    assert anna.references == 0  # it sent none itself


def test_a_name_that_is_unknown_is_said(serve, client, caplog) -> None:
    asks = client(serve(), wait=False, references="eve")
    until(lambda: "no references are called 'eve': there are anna" in caplog.text)
    assert asks.restore(frame(ANNA)).why == "down"


@pytest.mark.parametrize("kind", ["path", "list", "folder", "text", "references"])
def test_pictures_are_sent(kind, serve, client, photo) -> None:
    given = {
        "path": photo,
        "list": [photo, str(photo)],
        "folder": photo.parent,
        "text": [str(photo)],
        "references": References([Reference(picture=BERT)]),
    }[kind]
    asks = client(serve(), references=given)
    until(lambda: asks.references == (2 if kind == "list" else 1))
    assert is_sharpened(asks.restore(frame(BERT)).frame.color, BERT)


@pytest.mark.parametrize(
    ("render", "light"),
    [(soft(ANNA), True), (soft(ANNA), False), (None, False)],
    ids=["light pair", "pair", "picture"],
)
def test_pixels_arrive_as_they_were(render, light, stack) -> None:
    alpha = np.full(ANNA.shape[:2], 255, np.uint8)
    alpha[:9] = 0
    own = alpha // 2 if light else None
    given = References([Reference(picture=ANNA, render=render, alpha=alpha, render_alpha=own)])
    uploads = Uploads(UploadLimits())
    stack.callback(uploads.stop)
    taken: list[Any] = []
    sent = client_references(given).upload
    assert sent is not None
    uploads.submit(sent, taken.append, taken.append)
    until(lambda: len(taken) == 1)
    assert taken[0].references.fingerprint == given.fingerprint


def test_in_order_no_frame_goes_without(serve, client, photo) -> None:
    asks = client(serve(), wait=False, mode="ordered", references=photo)
    shown = list(asks.stream([frame(BERT)] * 3))
    assert all(is_sharpened(one.frame.color, BERT) for one in shown)


def test_a_refusal_is_said_and_frames_go_on(serve, client, photo, caplog) -> None:
    tiny = photo.with_name("many")
    tiny.mkdir()
    for number in range(3):
        (tiny / f"{number}.png").write_bytes(file_of(BERT))
    server = serve(uploads=UploadLimits(pictures=3, side=64))
    for mode in ("sync", "ordered"):
        asks = client(server, mode=mode, references=tiny)
        if mode == "sync":
            shown = asks.restore(frame(BERT))
        else:
            (shown,) = asks.stream([frame(BERT)])
        assert shown.restored
        assert np.array_equal(shown.frame.color, soft(BERT))
        until(lambda: "picture 1 of 3 has 96 x 96 pixels" in caplog.text)
        caplog.clear()


@pytest.mark.parametrize(
    ("most", "message"),
    [(0, "takes no reference pictures, got 2: name one"), (1, "takes at most 1 reference pic")],
)
def test_what_the_server_will_not_take_is_not_sent(
    most, message, serve, client, photo, caplog
) -> None:
    asks = client(serve(uploads=UploadLimits(pictures=most)), references=[photo, photo])
    assert message in caplog.text
    assert asks.restore(frame(BERT)).restored
    assert asks.references == 0


def test_an_older_server_is_not_bothered(fake, client, caplog, photo) -> None:
    for given, said in ((photo, "takes no reference pictures"), ("anna", "too old to have sets")):
        asks = client_of(fake, client, references=given, mode="latest")
        assert said in caplog.text
        asks.restore(frame(BERT))
        assert isinstance(fake.receive(), FrameRequest)
        asks.close()
        fake.receive()  # bye


@pytest.mark.slow
def test_they_are_sent_again_to_a_server_that_comes_back(fake, client, photo) -> None:
    asks = client(fake.url, wait=False, references=photo)
    for session in ("one", "two"):
        assert isinstance(fake.receive(), Hello)
        fake.send(
            Welcome(session=session, credit=1, max_part_bytes=1 << 20, max_wh=(99, 99), in_fmts=(),
                    planes=(), uses=("color",), stateful=False, model="fake", hb_ms=60000,
                    max_references=1)
        )  # fmt: skip
        sent = fake.receive()
        assert isinstance(sent, UseReferences)
        assert (sent.session, len(sent.pictures)) == (session, 1)
        fake.send(UseReferences(session=session, count=1))
        until(lambda: asks.references == 1)
        if session == "one":
            fake.send(Bye(session=session))
            until(lambda: asks.references == 0)


@pytest.mark.slow
def test_large_pictures_are_sent_as_jpeg() -> None:
    dice = np.random.default_rng(0)
    noise = [dice.integers(0, 256, (2000, 2000, 3), np.uint8) for _ in range(3)]
    packed = client_references(References(Reference(picture=p) for p in noise))
    assert packed.upload is not None
    assert {picture.fmt for picture in packed.upload.pictures} == {"jpeg"}
    with pytest.raises(InputError, match="3 references take more than the 32 MiB"):
        client_references(References(Reference(picture=p, render=p) for p in noise))


def test_a_command_line_names_pictures_or_a_set(photo, monkeypatch) -> None:
    monkeypatch.chdir(photo.parent)
    for words in (["photo.png"], ["."], [str(photo), "./photo.png"]):
        named = named_references(words)
        assert named is not None
        assert named.upload is not None
        assert (named.name, len(named.upload.pictures)) == ("", len(words))
    assert named_references([]) is None
    named = named_references(["anna"])
    assert named is not None
    assert (named.name, named.upload) == ("anna", None)
    for words in (["lost.jpg"], ["lost/anna"], ["anna", "bert"]):
        with pytest.raises(InputError, match="no such file: "):
            named_references(words)


def test_wrap_takes_them(serve, stack, client) -> None:
    server = serve()
    render = wrap(lambda: soft(ANNA), url=server.urls[0], references="anna")
    stack.callback(render.close)
    assert render.client.wait(10)
    assert is_sharpened(render(), ANNA)
    with pytest.raises(InputError, match="a client that is shared has its references"):
        wrap(lambda: soft(ANNA), client(server), references="anna")
