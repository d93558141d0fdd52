"""The command `splatmend`: its list of commands, and the way to each.

Nothing here imports torch before a command is known: --help and --version answer at once.
"""

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points, version

__all__ = ["COMMANDS", "main"]

_INTERRUPTED = 130  # shells report it for a process that Ctrl-C ended
_ENTRY_POINTS = "splatmend.commands"

COMMANDS: dict[str, dict[str, str]] = {
    "restore": {
        "restore-video": "restore a video, an image sequence, a picture or a folder of clips",
        "convert": "convert turbo weights from one format into another",
    },
    "live": {
        "serve": "restore the frames of live renderers, as a server",
        "run": "run a script unchanged and restore what it renders",
        "sibr": "restore between a SIBR viewer and its renderer",
        "keys": "make the keys that let clients on other machines in",
    },
    "fit and train": {
        "fit": "fit compact to one avatar: thin, render, train and evaluate",
        "references": "bake key pairs of a light avatar from its full one",
        "train-adapter": "train an adapter of compact for one avatar from pairs of renders",
        "train": "train compact from pictures",
        "train-turbo": "train turbo from pictures",
        "prepare": "cut faces out of pictures and clips and make training pairs",
        "relief": "make an avatar of each portrait and render it whole and damaged",
        "retexture": "dress an avatar's Gaussians in the colours of portraits",
        "thin": "leave out most Gaussians of an avatar",
        "render": "render an avatar from a path of cameras",
        "average": "average the weights of several runs",
        "train-estimator": "train the estimator that tells clean frames from damaged ones",
    },
    "inspect": {
        "evaluate": "compare restorers on pairs: LPIPS, PSNR, identity and more",
        "measure": "measure flicker, lag and drift of clips",
        "bench": "time each step towards speed on this machine",
    },
}
"""Every command by its group, with the line of `splatmend --help`."""

_EPILOG = """\
splatmend <command> --help tells the options of one.
restore-video is also a command by itself.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `splatmend <command> ...`, a command that some folder of the package registered."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        sys.stderr.write(_listing())
        return 2
    if given[0] in ("-h", "--help"):
        sys.stdout.write(_listing())
        return 0
    if given[0] in ("-V", "--version"):
        sys.stdout.write(f"splatmend {version('splatmend')}\n")
        return 0
    commands = {point.name: point.load for point in entry_points(group=_ENTRY_POINTS)}
    if given[0] not in commands:
        sys.stderr.write(f"splatmend: error: {_unknown(given[0], commands)}\n")
        return 2
    return _run(given[0], commands[given[0]], given[1:])


def _run(name: str, load: Callable[[], Callable[..., int | None]], given: Sequence[str]) -> int:
    """Run one command; its errors become one line and an exit code."""
    from splatmend.core.command_line import missing
    from splatmend.core.errors import SplatmendError
    from splatmend.core.heap import keep_freed_memory

    keep_freed_memory()
    try:
        return load()(given) or 0
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "splatmend":
            raise  # of this package: a fault, and no extra would mend it
        return _fail(name, missing(error))
    except SplatmendError as error:
        return _fail(name, error, code=error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write(f"splatmend {name}: interrupted\n")
        return _INTERRUPTED


def _fail(name: str, error: Exception, *, code: int = 2) -> int:
    one_line = " ".join(str(error).split())
    sys.stderr.write(f"splatmend {name}: error: {one_line}\n")
    sys.stderr.flush()
    return code


def _listing() -> str:
    width = max(len(name) for group in COMMANDS.values() for name in group)
    groups = "".join(
        f"\n{group}:\n" + "".join(f"  {name:{width}}  {line}\n" for name, line in lines.items())
        for group, lines in COMMANDS.items()
    )
    return f"usage: splatmend [-h] [--version] <command> ...\n{groups}\n{_EPILOG}"


def _unknown(name: str, commands: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(commands), n=1)
    way_out = f"did you mean {near[0]}?" if near else "splatmend --help lists the commands"
    return f"no command {name!r}; {way_out}"


if __name__ == "__main__":
    sys.exit(main())
