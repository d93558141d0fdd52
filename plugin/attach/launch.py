"""`splatmend run`: somebody's script, unmodified, with its renders restored.

gsplat, Inria's rasteriser and its forks are patched when the script imports them;
`splatmend.plugin.attach.patches` lists them and tells a picture from other results. Nothing is
touched while gradients are on. An evaluation inside a training runs without gradients: its
pictures are restored, and its figures are those of the restored pictures.

A picture is (h, w, 3) floats of about [0, 1], of any rasteriser, not clamped. It travels in
8 bits, and its replacement lies in [0, 1].

Each thread that renders is a stream of its own. Without a server, or where it is late, the
script goes on with its own pictures. At the end one line on stderr counts the restored ones.

The script sees its own sys.argv, sys.path[0], __file__ and __main__. Its exit code and traceback
are those of `python script.py`, except that Ctrl-C ends it with 130. torch has been imported
before it. Processes that it spawns are not patched.
"""

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
from typing import Annotated, Any, Literal

from torch import Tensor

from splatmend.core.command_line import (
    FlagCreatePairsOff,
    Positional,
    UseAppendAction,
    arg,
    parse,
    shown,
)
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


_DESCRIPTION = """\
Run a script, unmodified, with its renders restored. Options go before the script.

gsplat, Inria's rasteriser and its forks are patched when the script imports them. Nothing is
touched while gradients are on.
"""
_EPILOG = """\
examples:
  splatmend serve                                       in one terminal
  splatmend run local_viewer.py --point_path a.ply      in another
  splatmend run --deadline-ms 60000 render.py -m out    no picture is missed, however slow
  splatmend run -m package.viewer --port 8080
  splatmend run --references photos/ viewer.py          with pictures of the person

Without a server the script continues with its own pictures. The last line on stderr counts the
restored pictures.
"""


@dataclass(frozen=True)
class RunConfig:
    """The script, and how its pictures are restored."""

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
    """Run `splatmend run [options] script.py ...`; return the script's exit code.

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
    # first in, last out: the script may still render at its exit
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
    """Patches modules right after they were executed, before their importer goes on.

    Args:
        wants: whether a module of that name is to be patched.
        patch: is given each such module; its errors are logged.
    """

    def __init__(
        self, wants: Callable[[str], bool], patch: Callable[[types.ModuleType], None]
    ) -> None:
        self._wants = wants
        self._patch = patch

    def install(self) -> None:
        """Begin; modules that were imported before are patched at once."""
        for name, module in list(sys.modules.items()):
            if self._wants(name) and isinstance(module, types.ModuleType):
                self.patch(module)
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """End; patched modules stay patched."""
        sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of the other finders, with its loader wrapped."""
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
        """Return the restored picture, new, (h, w, 3); or `picture.rgb` itself."""
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


@dataclass(frozen=True)
class _Arguments:
    """The arguments of `splatmend run`."""

    script: Annotated[Positional[str], arg(metavar="SCRIPT")]
    """A script, or with -m the name of a module."""
    arguments: Annotated[Positional[tuple[str, ...]], shown("ARGUMENT ...")] = ()
    """Arguments of the script."""
    module: Annotated[FlagCreatePairsOff[bool], arg(aliases=("-m",), help_behavior_hint="")] = False
    """Run a module; stands right before its name."""
    url: Annotated[str, arg(metavar="URL")] = DEFAULT_URL
    """Address of `splatmend serve`: tcp://host:port or ipc://path."""
    mode: Literal["sync", "latest"] = "sync"
    """sync waits for each picture; latest shows the newest one, for viewers that always render."""
    deadline_ms: Annotated[float, arg(metavar="MS")] = 250.0
    """In sync: the longest wait."""
    temporal: Annotated[FlagCreatePairsOff[bool], shown()] = True
    """Restore each picture by itself: for cameras that jump."""
    references: Annotated[UseAppendAction[tuple[str, ...]], shown("PICTURE")] = ()
    """A picture of the person, a folder of them, or one of the server's sets; once for each."""
    colors: Colors = "any"
    """sh restores only renders from spherical harmonics."""
    rasterizer: Annotated[UseAppendAction[tuple[str, ...]], shown("package.module:Name")] = ()
    """A further function or class that returns an image first; once for each."""


def _separated(given: Sequence[str]) -> list[str]:
    """Put -- before the script: all after it belongs to the script."""
    place = 0
    while place < len(given) and given[place].startswith("-"):
        if given[place] in ("-m", "--module"):
            return [*given[: place + 1], "--", *given[place + 1 :]]
        alone = "=" in given[place] or given[place] in ("-h", "--help", "--no-temporal")
        place += 1 if alone else 2
    return [*given[:place], "--", *given[place:]]


def _parse(arguments: Sequence[str] | None) -> RunConfig:
    words = _separated(sys.argv[1:] if arguments is None else arguments)
    given = parse(_Arguments, words, prog="splatmend run", description=_DESCRIPTION, epilog=_EPILOG)
    return RunConfig(
        target=given.script,
        arguments=given.arguments,
        as_module=given.module,
        url=given.url,
        options=ClientOptions(
            mode=given.mode,
            deadline_ms=given.deadline_ms,
            temporal=given.temporal,
            stream=Path(given.script).name[:64],
            program="splatmend-run",
            references=named_references(given.references),
        ),
        colors=given.colors,
        rasterizers=given.rasterizer,
    )


def _execute(path: str) -> None:
    """Execute a file as the interpreter does; runpy would remove `__main__` at the end."""
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
    """Strip the frames of this module and of the import system from a traceback."""
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
    """Close the streams, and count the restored pictures in one line."""
    line = _summary(patches, streams.close())
    if sys.stderr is not None:
        sys.stderr.write(f"splatmend run: {line}\n")


def _summary(patches: Patches, sent: Counter[str]) -> str:
    """Count in one line; name reasons only where there are any."""
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
