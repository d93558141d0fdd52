"""The command `splatmend`, and what all commands have in common."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from splatmend.core import InputError
from splatmend.plugin import cli
from splatmend.plugin.video import command

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = [name for lines in cli.COMMANDS.values() for name in lines]


def test_the_table_holds_every_command() -> None:
    assert sorted(NAMES) == sorted(PROJECT["entry-points"]["splatmend.commands"])
    assert all(line for lines in cli.COMMANDS.values() for line in lines.values())


def test_help_lists_every_command_in_groups(capsys) -> None:
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: splatmend ")
    places = []
    for group, lines in cli.COMMANDS.items():
        places.append(said.index(f"\n{group}:\n"))
        places += [said.index(f"\n  {name} ") for name in lines]
        assert all(f"  {line}\n" in said for line in lines.values())
    assert places == sorted(places)
    assert max(map(len, said.splitlines())) <= 100


def test_without_a_command_the_list_is_an_error(capsys) -> None:
    assert cli.main([]) == 2
    said = capsys.readouterr()
    assert "  restore-video" in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("measur", "did you mean measure?"),
        ("restore", "did you mean restore-video?"),
        ("frobnicate", "splatmend --help lists the commands"),
    ],
)
def test_an_unknown_command_is_one_line_with_the_nearest(name, way_out, capsys) -> None:
    assert cli.main([name]) == 2
    assert capsys.readouterr().err == f"splatmend: error: no command {name!r}; {way_out}\n"


def test_the_version(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"splatmend {PROJECT['version']}\n"


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_the_list_and_the_version_load_nothing_heavy(flag) -> None:
    code = (
        "import sys; from splatmend.plugin.cli import main; main(sys.argv[1:]); "
        "print([n for n in ('torch', 'numpy', 'tyro', 'splatmend.core') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, flag], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


HELP_OF_ALL = """
import contextlib, io, sys
from splatmend.core.command_line import EXTRAS
from splatmend.plugin import cli

class Hidden:
    modules = {module for brings in EXTRAS.values() for module in brings}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

assert not Hidden.modules & set(sys.modules)
sys.meta_path.insert(0, Hidden())
for name in sys.argv[1:]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            code = cli.main([name, "--help"])
        except SystemExit as ended:
            code = ended.code or 0
    usage = text.getvalue().startswith(f"usage: splatmend {name} ")
    print(name, code, usage, "(default: None)" in text.getvalue())
"""


@pytest.mark.slow
def test_every_help_works_with_the_base_dependencies_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, *NAMES], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{name} 0 True False" for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["convert", "a.pkl", "b.safetensors"], "diffusers", "turbo"),
        (["bench", "--models", "turbo", "--tiny"], "diffusers", "turbo"),
    ],
)
def test_a_missing_extra_is_said_when_the_command_runs(
    arguments, module, extra, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"needs {module}, which is not installed: pip install 'splatmend[{extra}]'" in said


class Command:
    """An entry point of a command that ends as it is told."""

    name = "train"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def load(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            ModuleNotFoundError("No module named 'lpips'", name="lpips"),
            2,
            "error: this needs lpips, which is not installed: pip install 'splatmend[train]'",
        ),
        (InputError("two\n lines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_the_end_of_a_command_is_one_line(error, code, line, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda **_: [Command(error)])
    assert cli.main(["train"]) == code
    assert capsys.readouterr().err == f"splatmend train: {line}\n"


def test_a_module_of_our_own_that_is_missing_is_a_fault(monkeypatch) -> None:
    fault = ModuleNotFoundError("No module named 'splatmend.lost'", name="splatmend.lost")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [Command(fault)])
    with pytest.raises(ModuleNotFoundError):
        cli.main(["train"])


def test_a_wrong_argument_is_one_line_with_the_command_s_name(capsys) -> None:
    for name in ("serve", "measure", "restore-video"):
        assert cli.main([name, "a", "b", "--nonsense"]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"splatmend {name}: error: unrecognized arguments: ")
        assert "--nonsense" in said.err
        assert (said.err.count("\n"), said.out) == (1, "")


@pytest.mark.parametrize("name", ["restore_video", "main"])
def test_commands_keep_freed_memory(name, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: calls.append(name))
    monkeypatch.setattr("splatmend.core.heap.keep_freed_memory", lambda: calls.append(name))
    if name == "main":
        assert cli.main(["measure"]) == 2  # no input was named
    else:
        assert command.restore_video([]) == 2
    assert calls
