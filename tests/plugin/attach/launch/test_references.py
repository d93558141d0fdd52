"""`splatmend run --references`: pictures that are sent to the server, or a set that it has."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from splatmend.core import InputError, Reference, References
from splatmend.plugin.attach.launch import main
from splatmend.plugin.server import ReferenceSets, Server, ServerOptions

from persons import copying, file_of, is_sharpened, person, soft
from serving import LOCAL

ANNA, BERT = person(1), person(2)
MODULE = """
import numpy, torch
def render():
    return torch.from_numpy(numpy.load("soft.npy")) / 255
"""
SCRIPT = """
import numpy, torch
import mine
with torch.no_grad():
    numpy.save("shown.npy", mine.render().numpy())
"""


@pytest.mark.parametrize("given", [["photo.png"], ["photos", "photo.png"], ["anna"]])
def test_the_first_picture_is_guided_already(
    given: list[str],
    modules: Path,
    world: list[Callable[[], None]],
    stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(modules)
    Path("photos").mkdir()
    for name, picture in (("photo.png", ANNA), ("photos/0.png", BERT)):
        Path(name).write_bytes(file_of(picture))
    np.save("soft.npy", soft(ANNA))
    Path("mine.py").write_text(MODULE)
    Path("script.py").write_text(SCRIPT)
    sets = ReferenceSets({"anna": References([Reference(picture=ANNA)])})
    server = stack.enter_context(Server([copying()], ServerOptions(urls=(LOCAL,), references=sets)))
    options = [word for one in given for word in ("--references", one)]
    options += ["--url", server.urls[0], "--deadline-ms", "20000", "--rasterizer", "mine:render"]
    assert main([*options, "script.py"]) == 0
    for at_exit in world:
        at_exit()
    shown = np.rint(np.load("shown.npy") * 255).astype(np.uint8)
    assert is_sharpened(shown, ANNA)


def test_pictures_that_are_not_there_are_said_at_once() -> None:
    with pytest.raises(InputError, match=r"no such file: lost\.jpg"):
        main(["--references", "lost.jpg", "viewer.py"])
