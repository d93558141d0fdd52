"""`restore-video --temporal`: the stream's bytes, also after a kill."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.core import Frame, RestorerTraits, from_tensor
from splatmend.plugin import VideoOptions, restore_video
from splatmend.plugin.video.command import restore_video as command
from splatmend.temporal import Stream, TemporalOptions

import waiting

STUCK_RUN = """
import sys, threading
sys.path[:0] = sys.argv[3:]
from test_temporal import Flickering, options
from splatmend.plugin import restore_video

class Stuck(Flickering):
    left = 40

    def __call__(self, rgb):
        self.left -= 1
        if self.left < 0:
            threading.Event().wait()  # for the test to kill
        return super().__call__(rgb)

restore_video(sys.argv[1], sys.argv[2], Stuck(), options())
"""


class Flickering:
    """A restorer whose detail depends on every bit of a frame, and that can fail."""

    traits = RestorerTraits("flickering", keeps_colors=True)
    device = torch.device("cpu")

    def __init__(self, frames=10**9):
        self.frames = frames

    def __call__(self, rgb):
        self.frames -= 1
        if self.frames < 0:
            raise KeyboardInterrupt
        color = from_tensor(rgb, np.uint8)[0]
        grain = np.random.default_rng(int(color.sum())).normal(size=color.shape)
        grain = cv2.GaussianBlur(grain.astype(np.float32), (0, 0), 1)
        return (rgb + 0.1 * torch.from_numpy(grain).permute(2, 0, 1)).clamp(0, 1)


def options(**changes):
    given = {"segment_frames": 8, "batch": 2, "temporal": TemporalOptions(refresh=3)}
    return VideoOptions(**given | changes)


@pytest.fixture
def pictures(tmp_path):
    """Make 20 pictures that move, stand still for a while, and jump once."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(size=(120, 200, 3)).astype(np.float32), (0, 0), 3)
    texture = np.clip(128 + 45 * field / field.std(), 0, 255).astype(np.uint8)
    shifts = [min(i, 6) + max(0, i - 12) for i in range(20)]
    colors = [texture[s : s + 96, 2 * s : 2 * s + 112] for s in shifts]
    colors[17:] = [255 - c for c in colors[17:]]
    for index, color in enumerate(colors):
        cv2.imwrite(str(folder / f"{index:04d}.png"), color[..., ::-1])
    return folder, colors


def read(folder):
    return [cv2.imread(str(p))[..., ::-1] for p in sorted(folder.iterdir())]


def test_a_video_gets_the_bytes_of_the_stream(pictures, tmp_path):
    source, colors = pictures
    frames = [Frame(color=color, pts=i) for i, color in enumerate(colors)]
    expected = Stream(Flickering(), None, TemporalOptions(refresh=3)).restore(frames)
    for batch in (1, 3):
        target = tmp_path / f"out{batch}"
        target.mkdir()
        restore_video(source / "%04d.png", target, Flickering(), options(batch=batch))
        assert len(read(target)) == 20
        for answer, frame in zip(read(target), expected, strict=True):
            assert np.array_equal(answer, frame.color)
    alone = tmp_path / "alone"
    alone.mkdir()
    restore_video(source / "%04d.png", alone, Flickering(), options(temporal=None, batch=1))
    differs = [not np.array_equal(a, b.color) for a, b in zip(read(alone), expected, strict=True)]
    assert not differs[0]
    assert not differs[17]  # the jump
    assert sum(differs) > 10


def segments(folder):
    try:
        return json.loads((folder / "journal.json").read_text())["segments"]
    except (OSError, ValueError):
        return []


@pytest.mark.parametrize("after", [9, 11, 12, 14])
def test_an_interrupted_run_resumes_to_the_same_bytes(after, pictures, tmp_path):
    source, _ = pictures
    target, whole = tmp_path / "out.mov", tmp_path / "whole.mov"
    folder = tmp_path / ".out.mov.splatmend"
    with pytest.raises(KeyboardInterrupt):
        restore_video(source / "%04d.png", target, Flickering(after), options())
    found = segments(folder)
    assert 1 <= len(found) <= 2
    kept = sorted(p.name for p in folder.iterdir() if p.suffix == ".npz")
    assert kept == [found[-1]["state"]]  # the states of the segments before are gone
    summary = restore_video(source / "%04d.png", target, Flickering(), options(resume=True))
    assert summary.resumed == 8 * len(found)
    assert summary.warnings == ()
    restore_video(source / "%04d.png", whole, Flickering(), options())
    assert target.read_bytes() == whole.read_bytes()
    assert not folder.exists()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_packets(make_clip, tmp_path, request):
    source = make_clip("in.mp4", frames=60, audio=True, size=(96, 112))
    target, whole = tmp_path / "out.mp4", tmp_path / "whole.mp4"
    folder = tmp_path / ".out.mp4.splatmend"
    folders = (request.path.parent, Path(waiting.__file__).parent)  # of its imports
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK_RUN, *map(str, (source, target, *folders))],
        stderr=subprocess.PIPE,
    )
    try:
        waiting.until(lambda: segments(folder) or process.poll() is not None, 60)
        assert process.poll() is None, process.stderr.read().decode()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not target.exists()
    resumed = restore_video(source, target, Flickering(), options(resume=True))
    assert 8 <= resumed.resumed < 60
    restore_video(source, whole, Flickering(), options())
    assert target.read_bytes() == whole.read_bytes()


def test_frames_with_alpha_resume_too(make_clip, tmp_path):
    source = make_clip("in.mkv", codec="ffv1", pix_fmt="yuva444p", frames=20, size=(96, 112))
    target, whole = tmp_path / "out.mov", tmp_path / "whole.mov"
    with pytest.raises(KeyboardInterrupt):
        restore_video(source, target, Flickering(12), options())
    assert restore_video(source, target, Flickering(), options(resume=True)).resumed == 8
    restore_video(source, whole, Flickering(), options())
    assert target.read_bytes() == whole.read_bytes()


def test_a_run_with_other_memory_is_not_taken_up(pictures, tmp_path):
    source, _ = pictures
    target = tmp_path / "out.mov"

    def interrupt():
        with pytest.raises(KeyboardInterrupt):
            restore_video(source / "%04d.png", target, Flickering(9), options())

    for other in (None, TemporalOptions(gain=0.5)):
        interrupt()
        again = options(resume=True, temporal=other)
        summary = restore_video(source / "%04d.png", target, Flickering(), again)
        assert summary.resumed == 0
        assert "other" in summary.warnings[0]
    interrupt()
    state = next((tmp_path / ".out.mov.splatmend").glob("*.npz"))
    state.write_bytes(state.read_bytes()[:500])
    summary = restore_video(source / "%04d.png", target, Flickering(), options(resume=True))
    assert summary.resumed == 0


def test_the_command(make_clip, capsys, tmp_path):
    source = make_clip("in.mp4", frames=4, size=(96, 112))
    steady, alone, weak = (tmp_path / f"{name}.mkv" for name in ("steady", "alone", "weak"))
    common = ["--model", "unsharp", "--codec", "ffv1", "--device", "cpu"]
    assert command([str(source), str(steady), "--temporal", *common]) == 0
    assert command([str(source), str(alone), *common]) == 0
    knobs = ["--temporal", "--temporal-gain", "0.3", "--temporal-input-gain", "0.2"]
    assert command([str(source), str(weak), *knobs, *common]) == 0
    assert len({p.read_bytes() for p in (steady, alone, weak)}) == 3
    capsys.readouterr()
    for wrong, said in (
        (["--temporal-gain", "0.3"], "--temporal-gain, --temporal-input-gain and --flow need"),
        (["--temporal", "--temporal-gain", "1"], "gain must lie in [0, 1), got 1.0"),
        (["--temporal", "--flow", "farneback"], "use dis, dis-fast, or raft:FILE"),
    ):
        assert command([str(source), str(tmp_path / "x.mkv"), *wrong, *common]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "x.mkv").exists()
