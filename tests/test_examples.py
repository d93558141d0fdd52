"""Every example runs as its docstring says, on small input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str) -> str:
    """Run one example in a fresh interpreter; warnings are errors there too."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested_here() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{path.name}"' in text for path in EXAMPLES.glob("*.py"))


def test_demo(tmp_path: Path) -> None:
    said = run("01_demo.py", "--out", str(tmp_path), "--frames", "4", "--side", "192")
    assert "look at" in said
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["frames"] == 4
    assert figures["sound_packets_equal"] is True
    assert figures["mended"]["sharpness"] > figures["splatted"]["sharpness"]
    assert cv2.imread(str(tmp_path / "compare.png")).shape == (192 + 144, 3 * 192, 3)
    assert {p.name for p in tmp_path.iterdir()} == {
        "splatted.mp4", "mended.mp4", "compare.png", "figures.json"
    }  # fmt: skip


def test_restore_frames() -> None:
    said = run("02_restore_frames.py")
    assert "nothing changed where alpha is 0: True" in said


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_each_docstring_gives_the_command(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text()
