"""The folders at the root are the sub-packages of ``splatmend``, in layers."""

import ast
import importlib
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "temporal": {"core"},
    "training": {"core", "temporal"},
    "plugin": {"core", "temporal"},
}
MODULES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Names of the splatmend folders that one module imports (also inside functions)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{a.name}" for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("splatmend.")}
    return found


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_import_direction(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert imported(path) - {folder} <= MAY_IMPORT[folder], path


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


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_public_surface_is_declared_and_sorted(folder: str) -> None:
    package = importlib.import_module(f"splatmend.{folder}")
    public = {
        name
        for node in ast.parse((ROOT / folder / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for name in (alias.asname or alias.name for alias in node.names)
    }
    assert set(package.__all__) == public
    assert len(package.__all__) == len(set(package.__all__))
    assert all(hasattr(package, name) for name in package.__all__)


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
