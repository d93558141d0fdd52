"""The folders at the root are the sub-packages of ``splatmend``, in layers; so are their rooms."""

import ast
import importlib
import subprocess
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "temporal": {"core"},
    "training": {"core", "temporal"},
    "plugin": {"core", "temporal"},
}
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "core.references": {"core"},
    "core.compact": {"core"},
    "core.estimator": {"core"},
    "core.perceptual": {"core"},
    "core.turbo": {"core", "core.estimator"},
    "core.restore": {"core", "core.compact", "core.references", "core.turbo"},
    "temporal.motion": {"core"},
    "temporal.stabilizer": {"temporal.motion"},
    "temporal.measures": {"core", "core.perceptual", "temporal.motion"},
    "temporal": {
        "core", "core.references", "core.restore",
        "temporal.motion", "temporal.stabilizer",
    },
    "plugin.protocol": {"core"},
    "plugin.client": {"core", "core.references", "plugin.protocol"},
    "plugin.attach": {"core", "plugin.client", "plugin.protocol"},
    "plugin.video": {"core", "core.references", "core.restore", "temporal"},
    "plugin.server": {
        "core", "core.references", "core.restore", "temporal",
        "plugin.protocol", "plugin.video",
    },
    "plugin.tools": {
        "core", "core.perceptual", "core.restore", "core.turbo",
        "temporal.measures", "temporal.motion", "plugin.video",
    },
    "plugin": {"core", "temporal", "plugin.video"},
    "training": {"core"},
    "training.gaussians": {"core"},
    "training.faces": {"core", "core.perceptual", "core.turbo"},
    "training.degradations": {"core", "training.faces", "training.gaussians"},
    "training.data": {
        "core", "core.references", "temporal.motion", "training",
        "training.degradations", "training.faces", "training.gaussians",
    },
    "training.prepare": {"core", "training.data", "training.degradations", "training.faces"},
    "training.avatars": {
        "core", "training.data", "training.degradations", "training.faces", "training.gaussians",
    },
    "training.key_pairs": {
        "core", "core.references", "training.avatars", "training.data", "training.gaussians",
    },
    "training.models": {"core", "core.compact", "core.references", "core.turbo", "training"},
    "training.losses": {
        "core", "core.perceptual", "temporal", "training", "training.data", "training.models",
    },
    "training.evaluate": {
        "core", "core.perceptual", "core.references", "core.restore", "core.turbo",
        "training.data", "training.losses",
    },
    "training.train": {
        "core", "core.compact", "core.estimator", "core.perceptual", "core.restore", "temporal",
        "training", "training.avatars", "training.data", "training.degradations",
        "training.evaluate", "training.gaussians", "training.losses", "training.models",
    },
}  # fmt: skip
"""Each room and the rooms that it may import; a folder's name stands for the files beside its rooms
and, to other folders, for its public names."""
MODULES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]
FACES = {ROOT / folder / "__init__.py" for folder in MAY_IMPORT}


def dotted(path: Path) -> str:
    """core/restore/frames.py -> core.restore.frames; a package is its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path) for path in MODULES}
PACKAGES = {dotted(path) for path in MODULES if path.name == "__init__.py"}


def imported(path: Path) -> set[str]:
    """Modules and public names that one module imports from splatmend (also inside functions)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{a.name}" for a in node.names]
        found |= {n.removeprefix("splatmend.") for n in names if n.startswith("splatmend.")}
    return found


def room_of(name: str) -> str:
    """The room of a module, or of a name in it."""
    while name not in PACKAGES:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_import_direction(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        folders = {name.split(".")[0] for name in imported(path)}
        assert folders - {folder} <= MAY_IMPORT[folder], path


def test_every_room_is_in_the_table() -> None:
    assert set(ROOMS) == PACKAGES


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_allows(room: str) -> None:
    folder = room.split(".")[0]
    for path in (ROOT / room.replace(".", "/")).glob("*.py"):
        if path in FACES:  # a folder's own __init__ gathers its public names
            continue
        names = imported(path)
        assert {room_of(name) for name in names} - {room} <= ROOMS[room], path
        own = {name for name in names if name.rpartition(".")[0] == folder}
        assert own <= NAMES, f"{path}: import public names of {folder} where they are defined"


def test_no_room_imports_another_in_a_circle() -> None:
    assert list(TopologicalSorter(ROOMS).static_order())


def test_every_package_is_in_the_wheel() -> None:
    """Folders without Python too: setuptools calls a folder of data a package."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    on_disk = {
        ".".join(("splatmend", *path.parent.relative_to(ROOT).parts))
        for folder in MAY_IMPORT
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert on_disk == set(config["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("room", ROOMS)
def test_public_surface_is_declared_and_sorted(room: str) -> None:
    package = importlib.import_module(f"splatmend.{room}")
    body = ast.parse((ROOT / room.replace(".", "/") / "__init__.py").read_text()).body
    for node in body:  # names that are imported when they are asked for are told to mypy alone
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            body = [*body, *node.body]
    public = {
        name
        for node in body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("splatmend.")
        for name in (alias.asname or alias.name for alias in node.names)
    }
    declared = getattr(package, "__all__", [])  # a room that others enter by its modules has none
    assert set(declared) == public
    assert len(declared) == len(set(declared))
    assert all(hasattr(package, name) for name in declared)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 50, f"{path.name}: {node.name}"


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples"])
def test_files_beside_the_package_stay_small(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path


def test_no_tracked_file_names_a_registry_host() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    hosts = ("pypi" + ".org", "python" + "hosted.org", "npm" + "js.org")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix != ".safetensors" and path.is_file():
            text = path.read_text(errors="replace")
            assert not any(host in text for host in hosts), name
