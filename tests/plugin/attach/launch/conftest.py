"""The import system with the rasterisers in it, put back when a test ends."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from splatmend.core import Frame
from splatmend.plugin.attach.launch import ImportHook
from splatmend.plugin.attach.patches import Patches
from splatmend.plugin.server import Engine, Server, ServerOptions

from rasterizers import GSPLAT_RENDERING, INRIA, negative


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of stand-ins on sys.path; forget its modules afterwards."""
    (tmp_path / "diff_gaussian_rasterization.py").write_text(INRIA)
    fork = tmp_path / "diff_surfel_rasterization"
    fork.mkdir()
    (fork / "__init__.py").write_text(INRIA.replace("torch.arange(len(means3D))", "'radii', 2, 3"))
    gsplat = tmp_path / "gsplat"
    gsplat.mkdir()
    (gsplat / "rendering.py").write_text(GSPLAT_RENDERING)
    (gsplat / "__init__.py").write_text("from .rendering import rasterization, rasterization_2dgs")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def patched(modules: Path) -> Iterator[Callable[..., Patches]]:
    """Installs the hook with the given options; removed at the end."""
    assert modules.is_dir()
    hooks: list[ImportHook] = []

    def install(restore: Any = negative, **options: Any) -> Patches:
        patches = Patches(restore, **options)
        hooks.append(ImportHook(patches.wants, patches.apply))
        hooks[-1].install()
        return patches

    yield install
    for hook in hooks:
        hook.remove()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Undo a script's changes; return the functions registered for the exit."""
    at_exit: list[Callable[[], None]] = []

    def register(function: Callable[..., None], *arguments: Any) -> None:
        at_exit.append(lambda: function(*arguments))

    monkeypatch.setattr("atexit.register", register)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", ["replaced", *sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return at_exit


# With a server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    def invert(frames: Any) -> list[Frame]:
        return [frame.with_color(255 - frame.color) for frame in frames]

    engine = Engine("negative", invert)
    with Server([engine], ServerOptions(urls=("tcp://127.0.0.1:0",))) as made:
        yield made
