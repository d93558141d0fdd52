"""`restore-video`: exit codes, one line for every error, the summary, folders of clips, models."""

import re
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from splatmend.core import UnsharpMask, load_checkpoint, save_checkpoint
from splatmend.core.compact.adapter import save_adapter
from splatmend.core.lora import Lora
from splatmend.plugin.video import command, mux, segments

from waiting import until


@pytest.fixture
def run(capsys):
    """`run("in.mp4", "out.mp4", ...)`: exit code, lines on stdout, lines on stderr."""

    def call(*arguments):
        code = command.restore_video([*map(str, arguments), "--model", "copy", "--device", "cpu"])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return call


def assert_one_error(result, *parts, code=2):
    got, out, err = result
    assert (got, out) == (code, [])
    assert len(err) == 1
    assert err[0].startswith("restore-video: error: ")
    assert all(part in err[0] for part in parts), err[0]


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_summary_line(make_clip, run, tmp_path):
    target = tmp_path / "out.mp4"
    code, out, err = run(make_clip("in.mp4"), target)
    assert (code, err) == (0, [])
    assert len(out) == 1
    assert out[0].startswith("24 frames in ")
    assert "fps, copy on cpu: " in out[0]
    assert out[0].endswith(f"{target}, {target.stat().st_size / 1000:.3g} kB")
    assert leftovers(tmp_path) == []


def test_progress_shows_rate_and_rest(make_clip, run, tmp_path):
    _, _, err = run(make_clip("in.mp4"), tmp_path / "out.mp4", "--progress")
    assert "24/24" in err[-1]
    assert "frames/s" in err[-1]


@pytest.mark.parametrize(
    ("source", "target", "flags", "parts"),
    [
        ("absent.mp4", "out.mp4", [], ["no such file", "absent.mp4"]),
        ("text.mp4", "out.mp4", [], ["text.mp4 cannot be read", "Invalid data"]),
        ("sound.m4a", "out.mp4", [], ["no video stream, only audio"]),
        ("in.mp4", "out.xyz", [], ["cannot write out.xyz", ".mp4", ".webm", ".png"]),
        ("in.mp4", "in.mp4", [], ["is the source itself"]),
        ("in.mp4", "absent/out.mp4", [], ["no such folder", "absent"]),
        ("in.mp4", "out.mp4", ["--codec", "h999"], ["no encoder 'h999'", "libx264"]),
        ("in.mp4", "out.mp4", ["--codec", "aac"], ["is not a video encoder", "libx264"]),
        ("in.mp4", "out.webm", ["--codec", "h264"], [".webm cannot hold", "libvpx-vp9"]),
        ("in.mp4", "out.mp4", ["--crf", "99"], ["crf must lie in [0, 51]", "99"]),
        ("in.mp4", "out.mp4", ["--crf", "high"], ["--crf", "high"]),
        ("in.mp4", "out.mp4", ["--pix-fmt", "yuv999"], ["no pixel format 'yuv999'", "yuv420p"]),
        ("in.mp4", "out.mp4", ["--strength", "2"], ["strength", "[0, 1]"]),
        ("in.mp4", "out.mp4", ["--start", "soon"], ["'soon' is not a time"]),
        ("in.mp4", "out.mp4", ["--start", "99"], ["no frame from 99 s on"]),
        ("in.mp4", "out.mp4", ["--batch", "0"], ["batch must be at least 1"]),
        ("in.mp4", "out.mp4", ["--colour"], ["unrecognized arguments: --colour"]),
        ("in.mp4", "out.png", [], ["holds one picture"]),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    source, target, flags, parts, make_clip, run, tmp_path
):
    make_clip("in.mp4")
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as output:
        stream = output.add_stream("aac", 48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        silence.sample_rate = 48000
        output.mux(stream.encode(silence))
        output.mux(stream.encode(None))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert_one_error(run(tmp_path / source, tmp_path / target, *flags), *parts)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_unknown_model(make_clip, capsys, tmp_path):
    make_clip("in.mp4")
    code = command.restore_video([str(tmp_path), str(tmp_path / "out"), "--model", "best"])
    (line,) = capsys.readouterr().err.splitlines()
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert line.startswith("restore-video: error: no restorer called 'best'")


def test_an_encoder_that_cannot_be_opened_names_those_that_can(make_clip, run, tmp_path):
    # compiled in, but there is no such hardware here; where there is, this is no error
    code, _, err = run(make_clip("in.mp4"), tmp_path / "out.mp4", "--codec", "h264_qsv")
    if code:
        assert len(err) == 1
        assert "h264_qsv cannot be opened" in err[0]
        assert "libx264" in err[0]


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv"])
def test_a_truncated_file_yields_what_could_be_read(name, make_clip, contents, run, tmp_path):
    source = cut(make_clip(name, frames=50, faststart=True, pix_fmt="yuv420p"), 0.5)
    target = tmp_path / "out.mp4"
    result = run(source, target)
    assert_one_error(result, "is damaged", "it ends at ", "before its stated end", code=3)
    count = len(contents(target).pts)
    assert 15 <= count <= 35
    assert result[2][0].endswith(f"what could be read is in {target}: {count} frames")
    assert leftovers(tmp_path) == []


def test_a_file_cut_before_its_index_has_nothing_to_read(make_clip, run, tmp_path):
    source = cut(make_clip("in.mp4", frames=50), 0.5)
    assert_one_error(run(source, tmp_path / "out.mp4"), "cannot be read")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_a_corrupt_packet_is_left_out_and_counted(make_clip, contents, run, tmp_path):
    every = {"preset": "ultrafast", "g": "1"}
    source = make_clip("in.mp4", frames=20, options=every, pix_fmt="yuv420p")
    with av.open(str(source)) as container:
        packet = [p for p in container.demux(video=0) if p.size][7]
        place, size = packet.pos, packet.size
    data = bytearray(source.read_bytes())
    data[place : place + size] = b"\xff" * size
    source.write_bytes(data)
    target = tmp_path / "out.mp4"
    assert_one_error(
        run(source, target), "packets left out because they could not be decoded: 1", code=3
    )
    times = contents(target).times
    assert len(times) == 19
    assert times[7] - times[6] == 2 * (times[1] - times[0])  # the others stay where they were


def test_lost_transport_packets_are_noticed(make_clip, contents, run, tmp_path):
    tick = Fraction(1, 90000)
    source = make_clip("in.ts", frames=50, audio=True, pix_fmt="yuv420p", time_base=tick)
    data = bytearray(source.read_bytes())
    middle = len(data) // 188 // 2
    del data[188 * middle : 188 * (middle + 40)]
    source.write_bytes(data)
    target = tmp_path / "out.mp4"
    assert_one_error(run(source, target), "marked as corrupt", code=3)
    assert 30 <= len(contents(target).pts) < 50


def test_full_disk(make_clip, run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    source, target = make_clip("in.mp4"), tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    monkeypatch.setattr(segments.os, "fsync", full)
    assert_one_error(run(source, target), "cannot write", "No space left on device")
    monkeypatch.undo()
    assert target.read_bytes() == b"precious"
    monkeypatch.setattr(mux, "_not_carried", full)
    assert_one_error(run(source, target), "No space left", "24 frames are whole", "--resume")
    monkeypatch.undo()
    code, out, _ = run(source, target, "--resume")
    assert code == 0
    assert out[0].startswith("24 frames (24 of them from before)")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
from splatmend.plugin.video.command import restore_video
sys.exit(restore_video(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_real_write_error_from_the_system(make_clip, tmp_path):
    source = make_clip("in.mp4", frames=50)
    arguments = [str(source), str(tmp_path / "out.mp4"), "--model", "copy", "--crf", "0"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("restore-video: error: cannot write")
    assert "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_read_only_folder(make_clip, run, tmp_path, monkeypatch):
    source, real = make_clip("in.mp4"), Path.mkdir

    def refuse(self, *arguments, **options):
        if "splatmend" in self.name:
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere, so modes prove nothing
    assert_one_error(run(source, tmp_path / "out.mp4"), "cannot write", "Permission denied")


def test_a_folder_of_clips(make_clip, run, tmp_path):
    clips, target = tmp_path / "clips", tmp_path / "mended"
    clips.mkdir()
    make_clip("clips/a.mp4", frames=5)
    cut(make_clip("clips/b.mp4", frames=50, faststart=True, pix_fmt="yuv420p"), 0.6)
    (clips / "c.mkv").write_text("nothing")
    make_clip("clips/d.mov", frames=5)
    code, out, err = run(clips, target)
    assert code == 3
    assert [line.split()[0] for line in out] == ["5", "5"]
    assert [("b.mp4" in err[0]), ("c.mkv" in err[1]), len(err)] == [True, True, 2]
    assert sorted(p.name for p in target.iterdir()) == ["a.mp4", "b.mp4", "d.mov"]
    assert_one_error(run(clips, tmp_path / "o.mp4"), "needs a folder")


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(make_clip, tmp_path):
    source = make_clip("in.mp4", frames=400, size=(240, 320), pix_fmt="yuv420p")
    target = tmp_path / "out.mp4"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "splatmend.plugin.video.command",
            source,
            target,
            *UNSHARP,
            *SEGMENTS,
        ],
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job may ignore it
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: [*tmp_path.glob(".out.mp4.splatmend/*.packets")] or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    whole = re.match(r"restore-video: interrupted; (\d+) frames are whole: .+ --resume", said)
    assert int(whole[1]) % 8 == 0
    assert not target.exists()
    assert list((tmp_path / ".out.mp4.splatmend").iterdir())


@pytest.fixture
def mended(capsys, tmp_path):
    """`mended(picture, "--model", "unsharp", ...)`: the picture that `restore-video` writes."""
    source, target = tmp_path / "in.png", tmp_path / "out.png"

    def call(picture, *arguments):
        cv2.imwrite(str(source), picture)
        given = (source, target, *arguments, "--device", "cpu")
        assert command.restore_video([str(argument) for argument in given]) == 0
        assert ("gated on cpu" in capsys.readouterr().out) == ("--gate" in arguments)
        return cv2.imread(str(target)).astype(int)

    return call


@pytest.fixture(scope="module")
def face():
    return np.ascontiguousarray(astronaut()[:192, 100:356, ::-1])  # BGR


def noisy(picture):
    dice = np.random.default_rng(3)
    return np.clip(picture + dice.normal(0, 15, picture.shape), 0, 255).astype(np.uint8)


UNSHARP, SEGMENTS = ("--model", "unsharp"), ("--segment-frames", "8")


def test_a_gate_spares_what_looks_clean(mended, face):
    def change(picture, *flags):
        return np.abs(mended(picture, *UNSHARP, *flags) - picture).mean()

    assert change(face, "--gate") < 0.5 * change(face)
    assert change(noisy(face), "--gate") == change(noisy(face)) > 5


def test_a_gate_judges_the_picture_and_not_its_tiles(mended, face, monkeypatch):
    half, sides, sharpen = face.copy(), [], UnsharpMask.__call__
    half[:, 128:] = noisy(face)[:, 128:]
    whole = mended(half, *UNSHARP, "--gate")
    with monkeypatch.context() as patched:
        patched.setattr(
            UnsharpMask, "__call__", lambda r, x: sides.append(max(x.shape[2:])) or sharpen(r, x)
        )
        tiled = mended(half, *UNSHARP, "--gate", "--tile", 128)
    assert max(sides) == 128
    assert np.abs(tiled - whole).max() <= 1
    assert np.abs(mended(half[:, :128], *UNSHARP, "--gate") - whole[:, :128]).mean() > 0.5


@pytest.fixture
def compact():
    """Header and weights of the model inside the package."""
    with as_file(files("splatmend.core.compact") / "weights.safetensors") as path:
        return load_checkpoint(path)


@pytest.fixture
def adapter(compact, tmp_path):
    """An adapter for it that changes two layers."""
    weights, rank = compact[1], 2
    shapes = {name: weights[f"{name}.weight"].shape for name in ("stem", "head")}
    down = {name: 0.1 * torch.randn(rank, *shape[1:]) for name, shape in shapes.items()}
    up = {name: 0.1 * torch.randn(shape[0], rank, 1, 1) for name, shape in shapes.items()}
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, Lora(rank, 4.0, down=down, up=up), weights, {})
    return path


def test_an_adapter_is_added_to_compact(mended, face, compact, adapter, tmp_path):
    header, weights = compact
    lora = load_checkpoint(adapter)[1]
    for name in ("stem", "head"):
        down, up = (lora[f"{half}.{name}"].float() for half in ("down", "up"))
        change = torch.einsum("oryx,rihw->oihw", up, down)
        weights[f"{name}.weight"] = weights[f"{name}.weight"].float() + 4.0 / 2 * change
    by_hand = tmp_path / "by_hand.safetensors"
    save_checkpoint(by_hand, replace(header, notes={}), weights)
    fitted = mended(face, "--adapter", adapter)  # which sees small frames as they are
    assert np.abs(fitted - mended(face, "--model", by_hand, "--magnify", "1")).max() <= 1
    assert np.abs(fitted - mended(face)).mean() > 1


def test_adapters_that_cannot_be_used_are_one_line(
    make_clip, run, adapter, tiny_checkpoint, capsys, tmp_path
):
    source, target = make_clip("in.mp4"), tmp_path / "out.mp4"
    result = run(source, target, "--adapter", adapter)
    assert_one_error(result, "copy takes no adapter, only compact does: leave", str(adapter))
    for model, path, part in (
        (tiny_checkpoint, adapter, "was trained on other weights"),
        ("compact", tmp_path / "lost.safetensors", "there is no such file"),
        ("compact", source, "cannot be read as safetensors"),
        ("compact", tiny_checkpoint, "holds a 'compact', not an adapter"),
    ):
        arguments = (source, target, "--model", model, "--adapter", path, "--device", "cpu")
        code = command.restore_video([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert_one_error((code, said.out.splitlines(), said.err.splitlines()), str(path), part)
    assert not target.exists()


FIRST = (
    "INPUT", "OUTPUT", "--reference", "--reference-clip", "--keys", "--temporal", "--compare",
    "--model", "--adapter", "--strength",
)  # fmt: skip
GROUPS = ("references", "time", "flicker", "encoding", "model-and-device", "resuming")
OPTIONS = ("--start", "--tile", "--crf", "--resume", "--no-color-lock", "exit codes")


def test_help_begins_with_what_matters_most(capsys):
    with pytest.raises(SystemExit) as ended:
        command.restore_video(["--help"])
    assert not ended.value.code
    text = capsys.readouterr().out
    assert text.startswith("usage: restore-video ")
    wanted = [rf"^\W*{name}\b" for name in FIRST] + [rf"\b{name} options\b" for name in GROUPS]
    places = [re.search(pattern, text, re.MULTILINE).start() for pattern in wanted]
    assert places == sorted(places)
    assert all(option in text for option in OPTIONS)
    assert "None" not in text
