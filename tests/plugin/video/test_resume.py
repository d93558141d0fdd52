"""Killed runs that are resumed."""

import json
import os
import signal
import subprocess
import sys

import pytest

from splatmend.core import InputError, RestorerTraits, VideoOutputError
from splatmend.plugin import EncodingOptions, VideoOptions, restore_video
from splatmend.plugin.video import command

from waiting import until

STUCK_RUN = """
import sys, threading
from splatmend.core import load_restorer
from splatmend.plugin import VideoOptions, restore_video

copy = load_restorer("copy", device="cpu")

class Stuck:
    traits, device = copy.traits, copy.device
    left = 40
    def __call__(self, rgb):
        self.left -= len(rgb)
        if self.left < 0:
            threading.Event().wait()  # for the test to kill
        return rgb.clone()

restore_video(sys.argv[1], sys.argv[2], Stuck(), VideoOptions(segment_frames=8, batch=2))
"""


def options(**changes):
    return VideoOptions(**{"segment_frames": 8, "batch": 2} | changes)


def whole_segments(folder):
    try:
        return len(json.loads((folder / "journal.json").read_text())["segments"])
    except (OSError, ValueError):
        return 0


def wait_for_segment(process, folder):
    until(lambda: whole_segments(folder) or process.poll() is not None, 60)
    assert process.poll() is None, process.stderr.read().decode()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_packets(make_clip, contents, copy, tmp_path):
    vfr = [512 * i + 37 * (i % 5) for i in range(60)]
    source = make_clip("in.mp4", frames=60, pts=vfr, audio=True, pix_fmt="yuv420p")
    target, whole = tmp_path / "out.mp4", tmp_path / "whole.mp4"
    folder = tmp_path / ".out.mp4.splatmend"
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK_RUN, str(source), str(target)], stderr=subprocess.PIPE
    )
    try:
        wait_for_segment(process, folder)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not target.exists()
    assert 1 <= whole_segments(folder) < 8
    resumed = restore_video(source, target, copy, options(resume=True))
    assert resumed.resumed >= 8
    assert resumed.frames == 60
    assert resumed.warnings == ()
    restore_video(source, whole, copy, options())
    one, other = contents(target), contents(whole)
    assert one.packets == other.packets
    assert one.dts == other.dts
    assert one.pts == other.pts == vfr
    assert target.read_bytes() == whole.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if "splatmend" in p.name] == []


class FailsAfter:
    """A restorer that is `copy` for some frames and then fails."""

    traits = RestorerTraits("copy", keeps_colors=True)

    def __init__(self, device, calls, error):
        self.device, self.calls, self.error = device, calls, error

    def __call__(self, rgb):
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return rgb.clone()


@pytest.mark.parametrize("name", ["out.webm", "out.mov", "out"])
def test_every_kind_of_target_resumes(name, make_clip, copy, tmp_path):
    source = make_clip("in.mkv", codec="ffv1", pix_fmt="yuva444p", frames=20)
    for target, breaks in ((tmp_path / name, True), (tmp_path / f"whole_{name}", False)):
        if breaks:
            with pytest.raises(KeyboardInterrupt):
                restore_video(
                    source, target, FailsAfter(copy.device, 19, KeyboardInterrupt()), options()
                )
            assert not target.exists()
            assert whole_segments(target.with_name(f".{name}.splatmend")) >= 1
        restore_video(source, target, copy, options(resume=breaks))
    one, other = tmp_path / name, tmp_path / f"whole_{name}"
    if one.is_dir():
        assert len(list(one.iterdir())) == 20
        assert all(p.read_bytes() == (other / p.name).read_bytes() for p in one.iterdir())
    elif name.endswith("mov"):
        assert one.read_bytes() == other.read_bytes()


def test_segments_of_another_run_are_not_taken_up(make_clip, copy, tmp_path):
    source, target = make_clip("in.mp4", frames=20), tmp_path / "out.mp4"

    def interrupt():
        with pytest.raises(KeyboardInterrupt):
            restore_video(
                source, target, FailsAfter(copy.device, 9, KeyboardInterrupt()), options()
            )

    interrupt()
    other = options(resume=True, encoding=EncodingOptions(crf=30))
    summary = restore_video(source, target, copy, other)
    assert summary.resumed == 0
    assert summary.warnings == ("the earlier run could not be taken up: other encoding, options",)
    interrupt()
    os.utime(source, (1, 1))
    assert restore_video(source, target, copy, options(resume=True)).resumed == 0
    interrupt()
    assert restore_video(source, target, copy, options()).resumed == 0


def test_without_a_whole_segment_nothing_is_left(make_clip, copy, tmp_path):
    source, target = make_clip("in.mp4", frames=20), tmp_path / "out.mp4"
    with pytest.raises(InputError, match="on purpose"):
        restore_video(
            source, target, FailsAfter(copy.device, 3, InputError("on purpose")), options()
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize("after", [3, 20])
def test_ctrl_c_promises_what_is_kept(after, make_clip, copy, tmp_path, monkeypatch, capsys):
    source, target = make_clip("in.mp4", frames=30), tmp_path / "out.mp4"
    failing = FailsAfter(copy.device, after, KeyboardInterrupt())
    monkeypatch.setattr(command, "load_restorer", lambda *_, **__: failing)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)  # it goes deaf to the next one
    assert command.restore_video([str(source), str(target), "--segment-frames", "8"]) == 130
    said = capsys.readouterr().err.splitlines()
    kept = target.with_name(".out.mp4.splatmend")
    if after == 3:
        assert said == ["restore-video: interrupted; nothing of out.mp4 is kept"]
        assert not kept.exists()
    else:
        assert "frames are whole: the same command with --resume goes on from there" in said[0]
        assert whole_segments(kept) == int(said[0].split()[2]) // 8 >= 1


def test_a_full_disk_keeps_whole_segments_and_says_so(make_clip, copy, tmp_path, monkeypatch):
    source, target = make_clip("in.mp4", frames=20), tmp_path / "out.mp4"
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # the journal is written first, then each segment and the journal
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VideoOutputError, match=r"No space left.*add --resume to go on"):
        restore_video(source, target, copy, options())
    monkeypatch.undo()
    assert not target.exists()
    assert restore_video(source, target, copy, options(resume=True)).resumed >= 8
