"""The command line that all commands share: options as a dataclass, errors as one line.

The fields of the dataclass are the options; their docstrings, of one line each, are the help. A
nested dataclass marked `OmitArgPrefixes` is a group of options. `Positional` marks an argument
without a flag. `shown` gives the placeholder of a value, and a default in words where it depends
on something else. An option `bool | None` that takes True or False needs `FlagConversionOff`.
"""

import difflib
import importlib
import inspect
import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from typing import Annotated, Any, TypeVar

import tyro
from tyro import _errors as parse_errors  # the one way to an error without its box
from tyro.conf import (
    DisallowNone,
    FlagConversionOff,
    FlagCreatePairsOff,
    OmitArgPrefixes,
    Positional,
    UseAppendAction,
    arg,
)

from splatmend.core.errors import InputError

__all__ = [
    "EXTRAS",
    "Flag",
    "FlagConversionOff",
    "FlagCreatePairsOff",
    "OmitArgPrefixes",
    "Positional",
    "UseAppendAction",
    "arg",
    "missing",
    "need",
    "parse",
    "shown",
]

EXTRAS = {
    "faces": ("dlib", "face_recognition_models"),
    "gateway": ("prometheus_client", "rich", "websockets"),
    "plot": ("matplotlib",),
    "train": ("accelerate", "lpips", "torchvision"),
    "turbo": ("diffusers", "huggingface_hub", "peft", "transformers"),
}
"""The modules that each extra of pyproject.toml brings."""
_NO_DEFAULT = re.compile(r"\(default:(?:\s|[│|]|\x1b\[[\d;]*m)*(?:None)?\)")
_LETTER = re.compile(r"(\x1b\[[\d;]*m)|[^\s│|]")
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")

T = TypeVar("T")


class _RefusedError(Exception):
    """A reason against the arguments, on its way past tyro; whether the options gave it."""


def parse(
    options: type[T],
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    default: T | None = None,
    epilog: str = "",
) -> T:
    """Read a command's arguments into its options; --help prints and leaves with exit code 0.

    Args:
        options: a dataclass; nested dataclasses marked `OmitArgPrefixes` are groups.
        argv: the arguments after the command's name; those of the process if None.
        prog: name of the command as it is called, such as "splatmend serve".
        description: first lines of --help; "`splatmend serve`: " before them is left out.
        default: options whose values stand where an argument is not given.
        epilog: last lines of --help.

    Raises:
        InputError: an argument is unknown, missing or has a value that cannot be used.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    text = inspect.cleandoc(description).removeprefix(f"`{prog}`: ")
    known: dict[str, Any] = {"prog": prog, "description": text[:1].upper() + text[1:]}
    if default is not None:
        known["default"] = default
    written = _Help(sys.stdout)
    try:
        with redirect_stdout(written), parse_errors.on_parse_error(_refuse):
            chosen: T = tyro.cli(options, args=given, config=(DisallowNone,), **known)
            return chosen
    except _RefusedError as error:
        reason, is_own = error.args
        raise InputError(reason if is_own else _explained(reason, given, options, known)) from None
    except SystemExit as leave:
        if not leave.code:
            help_text = _NO_DEFAULT.sub(_blank, written.getvalue())
            sys.stdout.write(help_text + ("\n" + epilog.strip("\n") + "\n" if epilog else ""))
        raise


def shown(value: str | None = None, *, default: str = "") -> Any:
    """Mark an option with the placeholder of its value and with its default in words.

    Without a default in words nothing is said of one: use it where the default is no option.
    """
    return arg(metavar=value, help_behavior_hint=f"(default: {default})" if default else "")


Flag = Annotated[FlagCreatePairsOff[bool], shown()]
"""An option without a value: --flag where its default is False, --no-flag where it is True."""


def need(extra: str, *modules: str) -> None:
    """Check that modules of an extra can be imported, before a command begins its work.

    Raises:
        InputError: one of them is missing; names it and the extra that brings it.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise _told(error.name or module, extra) from error


def missing(error: ModuleNotFoundError) -> InputError:
    """Say of an import that failed which extra brings the module."""
    name = error.name or str(error)
    top = name.partition(".")[0]
    return _told(name, next((extra for extra, brings in EXTRAS.items() if top in brings), None))


def _told(module: str, extra: str | None) -> InputError:
    way_out = "install it" if extra is None else f"pip install 'splatmend[{extra}]'"
    return InputError(f"this needs {module}, which is not installed: {way_out}")


def _blank(found: re.Match[str]) -> str:
    """Spaces of the same width, which leave the box around them whole."""
    return _LETTER.sub(lambda letter: letter[1] or " ", found[0])


class _Help(io.StringIO):
    """Keeps a help text; as colourful as the terminal that it is for."""

    def __init__(self, terminal: Any) -> None:
        super().__init__()
        self._terminal = terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Return the terminal's encoding; tyro draws boxes if it is utf-8, in small letters."""
        return (getattr(self._terminal, "encoding", None) or "").lower()

    def isatty(self) -> bool:
        """Tell whether a terminal shows the text, and so its colours."""
        return bool(self._terminal.isatty())


def _refuse(event: parse_errors.ParseErrorEvent) -> None:
    """Take an error away from tyro, which would draw a box around it."""
    match event:
        case parse_errors.MissingArgs():
            names = ", ".join(_name(context.arg) for context in event.missing_arguments)
            reason = f"the following arguments are required: {names}"
        case parse_errors.UnrecognizedArgs():
            reason = f"unrecognized arguments: {' '.join(event.tokens)}"
        case parse_errors.InstantiationFailure(argument=None):
            raise _RefusedError(event.message, True)
        case parse_errors.InstantiationFailure():
            message = event.message.rpartition("'>: ")[2]  # the last of the types that were tried
            reason = f"{_name(event.argument)}: {message}"
        case parse_errors.InvalidChoice():
            choices = ", ".join(sorted(set(event.choices) - {"None"}))
            reason = f"{_name(event.argument)}: {event.value!r} is not one of {choices}"
        case parse_errors.BadValue(reason="too_few_values") if event.argument.is_positional():
            reason = f"the following arguments are required: {_name(event.argument)}"
        case parse_errors.BadValue(reason="too_few_values"):
            reason = f"{_name(event.argument)}: a value is missing"
        case _:
            return  # another kind: tyro says it its own way and leaves with exit code 2
    raise _RefusedError(reason, False)


def _name(argument: Any) -> str:
    """Name the flag of an argument, or the placeholder of one that has no flag."""
    if argument.is_positional():
        return str(argument.lowered.metavar)
    return str(argument.lowered.name_or_flags[-1])


def _explained(reason: str, given: Sequence[str], options: Any, known: dict[str, Any]) -> str:
    """Add the first unknown flag and the one that was perhaps meant, or where all are listed."""
    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        tyro.cli(options, args=["--help"], **known)
    flags = set(_FLAG.findall(text.getvalue()))
    own = given[: given.index("--")] if "--" in given else given
    words = (word.partition("=")[0].replace("_", "-") for word in own if word.startswith("--"))
    unknown = next((word for word in words if word not in flags), None)
    if unknown is None:
        return f"{reason}; see {known['prog']} --help"
    if "are required" in reason:  # tyro stops at the unknown flag and finds nothing behind it
        reason = f"unrecognized arguments: {unknown}"
    near = difflib.get_close_matches(unknown, sorted(flags), n=1)
    return f"{reason}; did you mean {near[0]}?" if near else f"{reason}; see {known['prog']} --help"
