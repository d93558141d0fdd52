"""The release: what its archives hold, and that a wheel works where no checkout is at hand."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from splatmend.plugin.video.command import restore_video

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = tuple(f"{folder}/" for folder in ("core", "plugin", "temporal", "training"))
UNTOUCHED = {".git", ".venv", "build", "dist", "demo", "runs", "splatmend.egg-info"}


def tracked() -> set[str]:
    """Files of the checkout; the test is skipped where there is none, as in an unpacked sdist."""
    listed = subprocess.run(
        ["git", "ls-files", "--full-name"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    if "pyproject.toml" not in names:
        pytest.skip("not a git checkout")
    return names


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def test_the_versions_agree() -> None:
    version = PROJECT["project"]["version"]
    cited = re.search(r'^version: "(.+)"$', (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == version


def test_the_notice_names_every_data_set_that_asks_for_it() -> None:
    card, notice = ((ROOT / name).read_text() for name in ("core/compact/README.md", "NOTICE"))
    asking = [line for line in card.splitlines() if line.startswith("|") and "CC BY" in line]
    assert len(asking) == 2
    for line in asking:
        doi = re.search(r"doi (\S+?) ", line)
        assert doi is not None
        assert doi[1] in notice
        assert line.split("|")[1].split(",")[0].strip() in notice


@dataclass(frozen=True)
class Built:
    """What `python -m build` said and made of a copy of the working tree."""

    said: str
    sdist: Path
    wheel: Path

    def in_the_sdist(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}

    def in_the_wheel(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("release")

    def ignored(at: str, names: list[str]) -> set[str]:
        caches = {name for name in names if name == "__pycache__" or name.endswith("_cache")}
        return caches | (UNTOUCHED if Path(at) == ROOT else set())

    source = copytree(ROOT, folder / "source", ignore=ignored)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    done = subprocess.run(
        command, cwd=source, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    (sdist,), (wheel,) = (list((folder / "dist").glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    return Built(done.stdout + done.stderr, sdist, wheel)


@pytest.mark.slow
def test_the_build_has_nothing_to_warn_of(built: Built) -> None:
    assert not re.search("warning|deprecat", built.said, re.IGNORECASE)


@pytest.mark.slow
def test_the_sdist_holds_the_whole_checkout(built: Built) -> None:
    assert tracked() - built.in_the_sdist() == set()


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages_and_no_other(built: Built) -> None:
    own = {name for name in built.in_the_sdist() if name.startswith(PACKAGES)}
    files = built.in_the_wheel()
    assert {name for name in files if name.startswith("splatmend/")} == {
        f"splatmend/{name}" for name in own
    }
    info = f"splatmend-{PROJECT['project']['version']}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= files


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`installed("restore-video", ...)`: run a program of an environment with only the wheel.

    The other packages are those of this environment. Their folder is named in a .pth file, and
    Python does not read the .pth files in there: the editable Splatmend stays out of sight.
    """
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    found = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(found, "others.pth").write_text("\n".join(others) + "\n")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", built.wheel], check=True, env=clean_environment())

    def run(program: str, *arguments: Any) -> str:
        command = [folder / "bin" / program, *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("python", "-c", "import splatmend.core as c; print(c.__file__)").startswith(found)
    return run


@pytest.mark.slow
def test_an_installed_wheel_restores_a_picture_as_the_checkout_does(
    installed: Callable[..., str], tmp_path: Path
) -> None:
    source = tmp_path / "in.png"
    face = np.ascontiguousarray(astronaut()[:192, 128:320, ::-1])
    cv2.imwrite(str(source), cv2.GaussianBlur(face, (0, 0), 1.5))
    ours, theirs = tmp_path / "ours.png", tmp_path / "theirs.png"
    assert "compact on cpu" in installed("restore-video", source, theirs, "--device", "cpu")
    assert restore_video([str(source), str(ours), "--device", "cpu"]) == 0
    before, one, other = (cv2.imread(str(p)).astype(int) for p in (source, ours, theirs))
    assert np.abs(one - other).max() <= 1
    assert np.abs(other - before).mean() > 0.5


@pytest.mark.slow
def test_an_installed_wheel_brings_its_commands_and_clients(installed: Callable[..., str]) -> None:
    said = installed("splatmend", "--help")
    assert all(name in said for name in PROJECT["project"]["entry-points"]["splatmend.commands"])
    code = (
        "from splatmend.plugin.server.web_files import script;"
        "from importlib.metadata import version;"
        "print(version('splatmend'), len(script('/attach.js')) > 20_000)"
    )
    assert installed("python", "-c", code) == f"{PROJECT['project']['version']} True\n"
