"""Every example runs as its docstring says, on small input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from websockets.sync.client import connect

from splatmend.core import Frame
from splatmend.plugin.protocol.codec import encode, parse
from splatmend.plugin.protocol.frames import to_planes
from splatmend.plugin.protocol.framing import Limits, join, split
from splatmend.plugin.protocol.messages import FrameRequest, Hello

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str) -> str:
    """Run one example in a fresh interpreter; warnings are errors there too."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fit_an_avatar(backbones: Path, tmp_path: Path) -> None:
    small = ("--steps", "2", "--frames", "4", "--side", "128")
    weights = ("--lpips-weights", str(backbones))
    said = run("09_fit_an_avatar.py", "--out", str(tmp_path), *small, *weights)
    assert f"use it: restore-video in.mp4 out.mp4 --adapter {tmp_path}" in said
    assert {"avatar.ply", "thin.ply", "adapter.safetensors", "evaluation"} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_every_example_is_tested_here() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{path.name}"' in text for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("side", [192, 512])
def test_demo(tmp_path: Path, side: int) -> None:
    said = run("01_demo.py", "--out", str(tmp_path), "--frames", "4", "--side", str(side))
    assert "look at" in said
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["frames"] == 4
    assert figures["sound_packets_equal"] is True
    assert figures["mended"]["sharpness"] > figures["splatted"]["sharpness"]
    if side == 512:  # what the network is for; small pictures lose some PSNR
        assert figures["mended"]["psnr"] > figures["splatted"]["psnr"]
    assert figures["guided"]["psnr"] > figures["mended"]["psnr"] + 1
    assert figures["guided"]["ssim"] > figures["mended"]["ssim"]
    assert cv2.imread(str(tmp_path / "compare.png")).shape == (side + side * 3 // 4, 4 * side, 3)
    assert {p.name for p in tmp_path.iterdir()} == {
        "splatted.mp4", "mended.mp4", "guided.mp4", "reference.png", "compare.png",
        "compare.webp", "figures.json",
    }  # fmt: skip


def test_restore_frames() -> None:
    said = run("02_restore_frames.py")
    assert "nothing changed where alpha is 0: True" in said


def test_wrap_a_renderer() -> None:
    said = run("03_wrap_a_renderer.py")
    assert "4 of 4 frames restored" in said
    assert "the same where alpha is 0: True" in said


def test_unmodified_script() -> None:
    training, viewing, summary = run("04_unmodified_script.py").splitlines()
    assert float(viewing.rpartition(" ")[2]) > float(training.rpartition(" ")[2])
    assert "1 of 1 pictures restored (diff_gaussian_rasterization.GaussianRasterizer)" in summary


def test_viser() -> None:
    said = run("05_viser.py")
    assert "1 image restored" in said or "viser is not installed" in said


def test_sibr_proxy() -> None:
    said = run("06_sibr_proxy.py")
    assert said == "10 pictures restored, in order: True\n"


def test_browser() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "07_browser.py"), "0", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job may ignore it
    ) as it:
        try:
            assert it.stdout is not None
            page = it.stdout.readline().split()[0]
            text = urllib.request.urlopen(page, timeout=10).read().decode()
            source = text.partition('<script src="')[2].partition('"')[0]
            assert b"class Overlay" in urllib.request.urlopen(source, timeout=10).read()
            address = source.replace("http:", "ws:")
            with connect(address, origin=page.rstrip("/"), compression=None) as socket:
                socket.send(b"".join(join(encode(Hello()))))
                session = parse(split(socket.recv(10), Limits()), Limits()).session
                planes, data = to_planes(Frame(color=np.full((64, 64, 3), 99, np.uint8)))
                frame = FrameRequest(
                    session=session, id=0, width=64, height=64, planes=planes, data=data
                )
                socket.send(b"".join(join(encode(frame))))
                result = parse(split(socket.recv(60), Limits()), Limits())
                assert (result.id, result.model, result.applied) == (0, "compact", True)
        finally:
            it.send_signal(signal.SIGINT)
            said, _ = it.communicate(timeout=30)
        assert (it.returncode, said) == (0, "stopped\n")


def test_csharp() -> None:
    if shutil.which("mcs") is None and os.environ.get("FAIL_WITHOUT_PROGRAMS") != "1":
        pytest.skip("needs Mono: apt-get install --no-install-recommends mono-mcs mono-runtime")
    assert "20 of 20 frames restored by compact" in run("08_csharp.py")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_each_docstring_gives_the_command(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text()
