"""Options as a dataclass: groups, defaults in words, and errors of one line."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from splatmend.core import InputError
from splatmend.core.command_line import (
    EXTRAS,
    Flag,
    OmitArgPrefixes,
    Positional,
    UseAppendAction,
    arg,
    missing,
    need,
    parse,
    shown,
)

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Inner:
    """Settings of the network."""

    batch: Annotated[int | None, shown("N", default="1 on a CPU, else 4")] = None
    """Frames at once."""
    color_lock: Flag = True
    """Let colours change."""


@dataclass(frozen=True)
class Options:
    source: Annotated[Positional[Path], arg(metavar="INPUT")]
    """The clip to read."""
    width: int | None = None
    """Columns of the result, and a text of such a length that its default goes to a next line."""
    mode: Literal["side", "wipe"] | None = None
    """Both in one picture."""
    tags: UseAppendAction[tuple[str, ...]] = ()
    """Words."""
    even: Flag = False
    """Even widths."""
    network: OmitArgPrefixes[Inner] = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.even and (self.width or 0) % 2:
            raise InputError(f"width must be even, got {self.width}")


def read(*words: str, default: Options | None = None) -> Options:
    return parse(
        Options,
        words,
        prog="splatmend try",
        description="`splatmend try`: try options.",
        default=default,
        epilog="examples:\n  one\n",
    )


def test_options_are_read() -> None:
    assert read("a.mp4") == Options(Path("a.mp4"))
    words = ["--width", "4", "--mode", "wipe", "--tags", "x", "--tags=y", "--even", "--batch", "2"]
    assert read(*words, "a.mp4", "--no-color-lock") == Options(
        Path("a.mp4"), 4, "wipe", ("x", "y"), True, Inner(2, False)
    )
    assert read(default=Options(Path("b"), 6)) == Options(Path("b"), 6)


def test_the_words_of_the_process_are_the_default(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["try", "a.mp4", "--width", "2"])
    given = parse(Options, None, prog="try", description="")
    assert given == Options(Path("a.mp4"), 2)


@pytest.mark.parametrize("columns", ["80", "200"])
def test_help(columns, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert not ended.value.code
    said = capsys.readouterr().out
    assert said.startswith("usage: splatmend try [-h] ")
    assert "\nTry options.\n" in said
    assert said.endswith("\nexamples:\n  one\n")
    for text in ("INPUT", "The clip to read.", "network options", "Settings of the network."):
        assert text in said
    assert "(default: 1 on a CPU, else 4)" in " ".join(said.split())
    assert "--mode {side,wipe}" in said
    assert "None" not in said
    assert "default:" not in said.replace("(default: 1 on a CPU, else 4)", "")
    box = [line for line in said.splitlines() if line.startswith(("╭", "│", "╰"))]
    assert len({len(line) for line in box}) == 1  # a default that is blanked out leaves it whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: INPUT; see splatmend try --help"),
        (["a", "--width"], "--width: a value is missing; see splatmend try --help"),
        (["a", "--width", "x"], "--width: invalid literal for int() with base 10: 'x'; see "),
        (["a", "--width", "None"], "--width: invalid literal for int() with base 10: 'None'; "),
        (["a", "--mode", "up"], "--mode: 'up' is not one of side, wipe; see splatmend try --help"),
        (["a", "b"], "unrecognized arguments: b; see splatmend try --help"),
        (["a", "--widht", "3"], "unrecognized arguments: --widht 3; did you mean --width?"),
        (["--widht", "3", "a"], "unrecognized arguments: --widht; did you mean --width?"),
        (["--", "--widht", "a"], "unrecognized arguments: a; see splatmend try --help"),
        (["a", "--zzz=1"], "unrecognized arguments: --zzz=1; see splatmend try --help"),
        (["a", "--even", "--width", "3"], "width must be even, got 3"),
    ],
)
def test_errors_are_one_line(words, message, capsys) -> None:
    with pytest.raises(InputError) as raised:
        read(*words)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert capsys.readouterr() == ("", "")


def test_a_missing_module_is_said_with_its_extra() -> None:
    need("train", "json", "dataclasses")
    with pytest.raises(InputError, match=r"needs no_such_module, .* 'splatmend\[train\]'"):
        need("train", "json", "no_such_module")
    lost = missing(ModuleNotFoundError("No module named 'peft'", name="peft.tuners"))
    assert str(lost) == (
        "this needs peft.tuners, which is not installed: pip install 'splatmend[turbo]'"
    )
    assert "install it" in str(missing(ModuleNotFoundError("elsewhere")))


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev"}
    for extra, modules in EXTRAS.items():
        packages = {package.partition(">")[0].replace("-", "_") for package in extras[extra]}
        packages = {"dlib" if package == "dlib_bin" else package for package in packages}
        assert set(modules) == packages
