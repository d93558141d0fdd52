"""`splatmend run`: somebody's script, unmodified, with its renders restored.

    splatmend serve                                       in one terminal
    splatmend run local_viewer.py --point_path a.ply      in another
    splatmend run --deadline-ms 60000 render.py -m out    no picture is missed, however slow
    splatmend run -m package.viewer --port 8080
    splatmend run --references photos/ viewer.py          with pictures of the person

gsplat, Inria's rasteriser and its forks are patched when the script imports them, see
`splatmend.plugin.attach.patches` for which, and for what is taken for a picture. With
gradients on nothing is touched; but an evaluation inside a training runs without, and so its
pictures are restored and its figures are theirs.

A picture is (h, w, 3) floats of about [0, 1], of any rasteriser, not clamped. It travels in
8 bits, and what replaces it lies in [0, 1].

Each thread that renders is a stream of its own. Without a server, or where it is late, the
script goes on with its own pictures. At the end one line on stderr says what was restored.

The script sees its own sys.argv, sys.path[0], __file__ and __main__, and its exit code and
traceback are those of `python script.py`, except that Ctrl-C ends it with 130. torch has been
imported before it. Processes that it spawns are not patched.
"""

import argparse
import atexit
import builtins
import io
import logging
import os
import runpy
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.plugin.attach.patches import Colors, Patches, Picture
from splatmend.plugin.client import Client, ClientOptions, Wrapped, wrap
from splatmend.plugin.client.references import named_references
from splatmend.plugin.client.wrapping import FAULTS
from splatmend.plugin.protocol.zmq_sockets import DEFAULT_URL, check_url

__all__ = ["ImportHook", "RunConfig", "ThreadStreams", "main", "run_script"]

_log = logging.getLogger(__name__)

_INTERRUPTED = 130
_POLL_S = 0.005
_LONGEST_CONNECT_S = 5.0


@dataclass(frozen=True)
class RunConfig:
    """What to run, and how its pictures are restored."""

    target: str
    """The script's path, or the name of a module."""
    arguments: tuple[str, ...] = ()
    """Of the script."""
    as_module: bool = False
    url: str = DEFAULT_URL
    options: ClientOptions = field(default_factory=ClientOptions)
    colors: Colors = "any"
    rasterizers: tuple[str, ...] = ()
    """Further ones, "package.module:Name"."""


def main(arguments: Sequence[str] | None = None) -> int:
    """`splatmend run [options] script.py ...`; returns the script's exit code.

    Raises:
        InputError: an option, or no such script.
        SystemExit: the script's own.
    """
    config = _parse(arguments)
    check_url(config.url)
    if not config.as_module and not Path(config.target).is_file():
        raise InputError(f"there is no script {config.target}: give a file, or -m and a module")
    streams = ThreadStreams(config.url, config.options)
    patches = Patches(streams.restore, colors=config.colors, more=config.rasterizers)
    # first in, last out: what the script does at its exit may still render
    atexit.register(_finish, patches, streams)
    ImportHook(patches.wants, patches.apply).install()
    return run_script(config.target, config.arguments, as_module=config.as_module)


def run_script(target: str, arguments: Sequence[str], *, as_module: bool = False) -> int:
    """Run a script as `python script.py ...` would, or a module as `python -m` would.

    Returns its exit code; prints its traceback if it ends with an exception.

    Raises:
        SystemExit: the script's own.
    """
    sys.argv[:] = [target, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd() if as_module else Path(target).resolve().parent)
    try:
        if as_module:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            _execute(str(Path(target).absolute()))
    except SystemExit:
        raise
    except BaseException as error:
        shown = error.with_traceback(_of_script(error.__traceback__))
        sys.excepthook(type(error), shown, shown.__traceback__)
        return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


class ImportHook(MetaPathFinder):
    """Has modules patched right after they were executed, before their importer goes on.

    Args:
        wants: whether a module of that name is to be patched.
        patch: is given each such module; what it raises is logged.
    """

    def __init__(
        self, wants: Callable[[str], bool], patch: Callable[[types.ModuleType], None]
    ) -> None:
        self._wants = wants
        self._patch = patch

    def install(self) -> None:
        """From now on; modules that were imported before are patched at once."""
        for name, module in list(sys.modules.items()):
            if self._wants(name) and isinstance(module, types.ModuleType):
                self.patch(module)
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """No longer; what is patched stays so."""
        sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The spec that the other finders have, with its loader wrapped."""
        if not self._wants(fullname):
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = _PatchingLoader(spec.loader, self.patch)
                    return spec
        return None

    def patch(self, module: types.ModuleType) -> None:
        """Patch, and let no fault of that end the import."""
        try:
            self._patch(module)
        except FAULTS as error:
            _log.warning("%s could not be patched: %s", module.__name__, error)


class _PatchingLoader(Loader):
    """Another loader, of which the module sees nothing."""

    def __init__(self, loader: Any, patch: Callable[[types.ModuleType], None]) -> None:
        self._loader = loader
        self._patch = patch

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        created: types.ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._patch(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class ThreadStreams:
    """A client for each thread that renders: viewers have a thread for each of their windows.

    No locks: a viewer may throw an exception into its render thread anywhere.
    """

    def __init__(self, url: str, options: ClientOptions) -> None:
        self._url = url
        self._options = options
        self._of: dict[tuple[int, threading.Thread], Wrapped[...]] = {}
        self._past: Counter[str] = Counter()

    def restore(self, picture: Picture) -> Tensor:
        """(h, w, 3), new; or `picture.rgb` itself."""
        # the process is in the key: after a fork the client's own thread is not there
        key = os.getpid(), threading.current_thread()
        stream = self._of.get(key)
        if stream is None:
            stream = self._of[key] = self._connected()
        if not stream.client.wants_frames:
            self._past[stream.client.state] += 1
        restored: Tensor = stream(picture.rgb, picture.alpha, picture.depth)[0]
        return restored

    def close(self) -> Counter[str]:
        """Close all clients; returns their counts, and how many pictures were not sent, and why."""
        for key in list(self._of):
            self._close(key)
        return self._past

    def _connected(self) -> "Wrapped[...]":
        for key in list(self._of):
            if not key[1].is_alive():
                self._close(key)
        client = Client(self._url, self._options)
        # the first picture is no less worth waiting for than the others
        limit = time.monotonic() + min(self._options.deadline_ms / 1e3, _LONGEST_CONNECT_S)
        while (
            self._options.mode == "sync"
            and (client.state == "down" or client.awaits_references)
            and time.monotonic() < limit
        ):  # fmt: skip
            time.sleep(_POLL_S)
        return wrap(lambda *planes: planes, client, alpha=1, depth=2, layout="hwc")

    def _close(self, key: tuple[int, threading.Thread]) -> None:
        stream = self._of.pop(key, None)
        if stream is not None and key[0] == os.getpid():
            stream.client.close()
            self._past.update(stream.client.counts)


def _parse(arguments: Sequence[str] | None) -> RunConfig:
    parser = argparse.ArgumentParser(
        prog="splatmend run",
        usage="splatmend run [options] script.py|-m module ...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--url", default=DEFAULT_URL, help="of the server")
    add("--mode", choices=("sync", "latest"), default="sync", help=
        "sync waits for each picture; latest shows the newest that came back, which suits "
        "viewers that render all the time")  # fmt: skip
    add("--deadline-ms", type=float, default=250.0, help="in sync: the longest wait (250)")
    add("--no-temporal", action="store_true", help=
        "restore each picture by itself: for cameras that jump")  # fmt: skip
    add("--references", action="append", default=[], metavar="PICTURE", help=
        "a picture of the person or a folder of them, sent to the server; or the name of one of "
        "its sets; give it once for each")  # fmt: skip
    add("--colors", choices=("any", "sh"), default="any", help=
        "sh restores only what is rendered from spherical harmonics")  # fmt: skip
    add("--rasterizer", action="append", default=[], metavar="package.module:Name", help=
        "a further function or class that returns an image first")  # fmt: skip
    # what comes after the script, or after -m and a module, is theirs
    add("-m", dest="module", nargs=argparse.REMAINDER, help="run a module")
    add("script", nargs=argparse.REMAINDER, help="and its arguments")
    given = parser.parse_args(arguments)
    command = given.module or given.script
    if not command:
        parser.error("name a script, or -m and a module")
    mode: Literal["sync", "latest"] = given.mode
    return RunConfig(
        target=command[0],
        arguments=tuple(command[1:]),
        as_module=bool(given.module),
        url=given.url,
        options=ClientOptions(
            mode=mode,
            deadline_ms=given.deadline_ms,
            temporal=not given.no_temporal,
            stream=Path(command[0]).name[:64],
            program="splatmend-run",
            references=named_references(given.references),
        ),
        colors=given.colors,
        rasterizers=tuple(given.rasterizer),
    )


def _execute(path: str) -> None:
    """As the interpreter does it; runpy would take `__main__` away again at the end."""
    module = types.ModuleType("__main__")
    vars(module).update(
        __file__=path,
        __cached__=None,
        __builtins__=builtins,
        __loader__=SourceFileLoader("__main__", path),
    )
    sys.modules["__main__"] = module
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, vars(module))


def _of_script(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback without the frames of this module and of the import system."""
    if traceback is None:
        return None
    rest = _of_script(traceback.tb_next)
    file = traceback.tb_frame.f_code.co_filename
    if file == __file__ or file.startswith(("<frozen importlib", "<frozen runpy")):
        return rest
    return types.TracebackType(
        rest, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno
    )  # fmt: skip


def _finish(patches: Patches, streams: ThreadStreams) -> None:
    """Close what is open, and say in one line what was done."""
    line = _summary(patches, streams.close())
    if sys.stderr is not None:
        sys.stderr.write(f"splatmend run: {line}\n")


def _summary(patches: Patches, sent: Counter[str]) -> str:
    """One line; reasons only where there are any."""
    if not patches.patched:
        return "nothing restored: no known rasterizer was imported (--rasterizer names more)"
    names = ", ".join(patches.patched)
    counts = patches.counts.copy()
    restored, unrestored = counts.pop("restored", 0), counts.pop("unrestored", 0)
    if not restored + unrestored + counts.total():
        return f"nothing restored: {names} rendered nothing without gradients"
    line = f"{restored} of {restored + unrestored} pictures restored ({names})"
    raw = {why: n for why, n in sent.items() if n and why not in ("sent", "restored", "unasked")}
    for text, by in (("shown as they were", raw), ("left alone", dict(counts))):
        if by:
            line += f"; {text}: " + ", ".join(f"{name} {n}" for name, n in by.items())
    if not restored and raw.keys() == {"down"}:
        line += "; no server was found: start one with `splatmend serve`"
    return line


if __name__ == "__main__":
    sys.exit(main())
