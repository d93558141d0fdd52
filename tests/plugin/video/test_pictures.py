"""Sequences, folders and single pictures, in and out."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from splatmend.core import DamagedInputError, VideoInputError, VideoOutputError
from splatmend.plugin import VideoOptions, clips_in, open_clip, restore_video

PLAIN = VideoOptions(segment_frames=4)


@pytest.fixture
def write_sequence(tmp_path, make_picture):
    def write(name, count=6, depth=8, channels=3, first=1):
        folder = tmp_path / "frames"
        folder.mkdir(exist_ok=True)
        for i in range(count):
            cv2.imwrite(
                str(folder / (name % (first + i))), make_picture(i, (48, 64), depth, channels)
            )
        return folder

    return write


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(("depth", "channels"), [(8, 3), (8, 4), (16, 3), (16, 4)])
def test_png_sequence_comes_back_exactly(depth, channels, write_sequence, copy, tmp_path):
    folder = write_sequence("shot_%04d.png", depth=depth, channels=channels, first=101)
    target = tmp_path / "out" / "mended_%05d.png"
    target.parent.mkdir()
    summary = restore_video(folder / "shot_%04d.png", target, copy, PLAIN)
    assert summary.frames == 6
    assert [p.name for p in sorted(target.parent.iterdir())] == [
        f"mended_{n:05d}.png" for n in range(101, 107)
    ]
    for n in (101, 106):
        before, after = (
            read(folder / f"shot_{n:04d}.png"),
            read(target.parent / f"mended_{n:05d}.png"),
        )
        assert after.dtype == before.dtype
        assert np.array_equal(after, before)


def test_folder_becomes_a_video_at_the_given_rate(write_sequence, copy, contents, tmp_path):
    folder = write_sequence("%03d.png")
    target = tmp_path / "out.mp4"
    restore_video(folder, target, copy, VideoOptions(rate=Fraction(30000, 1001)))
    after = contents(target)
    assert after.times == [Fraction(1001 * i, 30000) for i in range(6)]
    assert after.formats == {"yuv420p"}
    assert after.tags[:2] == (1, 1)  # RGB has no matrix: the one that was chosen is stated


def test_video_becomes_a_folder_of_pictures(make_clip, copy, tmp_path):
    source, target = make_clip("in.mp4", frames=6, audio=True), tmp_path / "pictures"
    summary = restore_video(source, target, copy, PLAIN)
    assert [p.name for p in sorted(target.iterdir())] == [f"{n:06d}.png" for n in range(1, 7)]
    assert read(target / "000003.png").shape == (48, 64, 3)
    assert summary.warnings == ("stream 1 (audio) is left out: pictures hold none",)
    assert summary.bytes == sum(p.stat().st_size for p in target.iterdir())


def test_only_what_was_written_is_counted(write_sequence, copy, tmp_path):
    source, target = write_sequence("%03d.png"), tmp_path / "out"
    target.mkdir()
    (target / "of_yesterday.png").write_bytes(bytes(1000))
    summary = restore_video(source, target / "mended_%02d.png", copy, PLAIN)
    assert summary.bytes == sum(p.stat().st_size for p in target.glob("mended_*"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_single_picture(suffix, write_sequence, copy, tmp_path):
    source = write_sequence("face%d%%.png", count=1) / "face1%.png"
    target = tmp_path / f"out%03x{suffix}"
    restore_video(source, target, copy, PLAIN)
    difference = abs(read(target)[..., :3].astype(int) - read(source))
    assert difference.mean() < (6 if suffix in (".jpg", ".webp") else 1e-9)


def test_rotation_that_pictures_cannot_hold_is_named(make_clip, copy, tmp_path):
    source = make_clip("in.mp4", frames=2, rotation=90)
    summary = restore_video(source, tmp_path / "out", copy, PLAIN)
    assert summary.warnings == ("the source's rotation is left out: pictures are written as coded",)


def test_alpha_sequence_to_prores_and_back(write_sequence, copy, tmp_path):
    folder = write_sequence("%04d.png", channels=4)
    movie, back = tmp_path / "out.mov", tmp_path / "back"
    restore_video(folder, movie, copy, PLAIN)
    assert open_clip(movie).alpha
    restore_video(movie, back, copy, PLAIN)
    before, after = read(folder / "0002.png"), read(back / "000002.png")
    assert after.dtype == np.uint16
    assert abs(after / 257 - before)[..., 3].max() < 0.6
    assert abs(after / 257 - before)[..., :3].mean() < 1.5


def test_a_broken_picture_leaves_a_gap_and_is_reported(write_sequence, copy, tmp_path):
    folder = write_sequence("%04d.png")
    broken = folder / "0003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(
        DamagedInputError, match="pictures left out because they could not be decoded: 1"
    ):
        restore_video(folder, tmp_path / "out", copy, PLAIN)
    assert [p.stem for p in sorted((tmp_path / "out").iterdir())] == [
        "000001", "000002", "000004", "000005", "000006"
    ]  # fmt: skip


def test_places_that_cannot_be(write_sequence, make_clip, copy, tmp_path):
    folder = write_sequence("%04d.png")
    with pytest.raises(VideoOutputError, match="overwrite the source"):
        restore_video(folder, folder, copy)
    with pytest.raises(VideoOutputError, match=r"holds one picture: use one_%06d\.png"):
        restore_video(folder, tmp_path / "one.png", copy)
    with pytest.raises(VideoInputError, match=r"called like x_%d\.png"):
        restore_video(folder / "x_%d.png", tmp_path / "o.mp4", copy)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VideoInputError, match="neither clips nor pictures"):
        restore_video(empty, tmp_path / "o.mp4", copy)
    make_clip("b.mp4", frames=2)
    make_clip("a.mkv", frames=2)
    assert [p.name for p in clips_in(tmp_path)] == ["a.mkv", "b.mp4"]
