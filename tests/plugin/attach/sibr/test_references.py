"""`splatmend sibr --references`: pictures that are sent to the server, or a set that it has."""

import contextlib
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from splatmend.core import InputError, Reference, References
from splatmend.plugin.attach import sibr
from splatmend.plugin.server import ReferenceSets, Server, ServerOptions

import sibr_ends
from persons import SIDE, copying, file_of, is_sharpened, person, soft
from serving import LOCAL
from sibr_ends import Renderer, Viewer, free_port, request
from waiting import until

ANNA = person(1)


@pytest.mark.parametrize("given", ["photo.png", "photos", "anna"])
def test_what_viewers_see_is_guided(
    given: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sibr_ends, "picture", lambda *_: soft(ANNA))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for path in (Path("photo.png"), Path("photos/0.png")):
        path.write_bytes(file_of(ANNA))
    sets = ReferenceSets({"anna": References([Reference(picture=ANNA)])})
    server = stack.enter_context(Server([copying()], ServerOptions(urls=(LOCAL,), references=sets)))
    renderer, port = stack.enter_context(Renderer()), free_port()
    viewers: list[Viewer] = []
    seen: list[bool] = []

    def listens() -> bool:
        with contextlib.suppress(OSError):
            viewers.append(Viewer(f"127.0.0.1:{port}"))
        return bool(viewers)

    def is_guided() -> bool:
        shown: Any = viewers[0].show(request(size=(SIDE, SIDE)))[0]
        return is_sharpened(shown, ANNA)

    def watch() -> None:
        try:
            until(listens)
            with viewers[0]:
                until(is_guided)
                seen.append(True)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch)
    watcher.start()
    arguments = ["--listen", f"127.0.0.1:{port}", "--renderer", f"127.0.0.1:{renderer.port}"]
    arguments += ["--url", server.urls[0], "--deadline-ms", "5000", "--references", given]
    assert sibr.main(arguments) == 0
    watcher.join(10)
    assert seen == [True]


def test_pictures_that_are_not_there_are_said_at_once() -> None:
    with pytest.raises(InputError, match=r"no such file: lost\.jpg"):
        sibr.main(["--references", "lost.jpg"])
