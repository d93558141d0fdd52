"""Parts that restore_video carries over: time, pixels, streams, tags."""

from fractions import Fraction
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from splatmend.core import InputError, RestoreOptions, RestorerTraits
from splatmend.plugin import EncodingOptions, VideoOptions, restore_video

LOSSLESS = EncodingOptions(crf=0)
VFR = np.cumsum(([0] + [512, 300, 900, 512, 40, 700] * 4)[:24]).tolist()


def options(**changes):
    return VideoOptions(**{"segment_frames": 10, "encoding": LOSSLESS} | changes)


def worst(before, after):
    pairs = zip(before.frames, after.frames, strict=True)
    return [
        max(c)
        for c in zip(
            *[[abs(a - b).max() for a, b in zip(*p, strict=True)] for p in pairs], strict=True
        )
    ]


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("cfr.mp4", {}),
        ("ntsc.mp4", {"time_base": Fraction(1, 30000), "rate": Fraction(30000, 1001)}),
        ("vfr.mp4", {"pts": VFR}),
        ("vfr.mkv", {"pts": VFR}),
        ("late.mp4", {"pts": [p + 4321 for p in VFR]}),
        ("turned.mp4", {"rotation": 90}),
        ("turned.mkv", {"rotation": 180}),
        ("wide.mp4", {"aspect": Fraction(4, 3)}),
        ("full.mp4", {"tags": (6, 2, 6, 6)}),
        ("untagged.mp4", {"tags": (2, 0, 2, 2)}),
        ("odd.mp4", {"size": (49, 63)}),
    ],
)
def test_h264_keeps_time_pixels_and_tags(name, clip, make_clip, contents, copy, tmp_path):
    source = make_clip(name, **clip)
    target = tmp_path / f"out_{name}"
    summary = restore_video(source, target, copy, options())
    before, after = contents(source), contents(target)
    assert summary.warnings == ()
    assert summary.frames == len(after.pts) == 24
    assert after.pts == before.pts
    assert after.time_base == before.time_base
    assert all(a < b for a, b in pairwise(after.dts))
    assert after.tags == before.tags
    assert after.rotation == before.rotation
    assert after.aspect == before.aspect
    assert after.formats == before.formats
    assert max(worst(before, after)) <= 1  # YUV to RGB and back, rounded once each way


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix", "encoding"),
    [
        ("libx265", "yuv444p10le", ".mp4", EncodingOptions(crf=0)),
        ("libx265", "yuv444p10le", ".mov", EncodingOptions(codec="h264", crf=1)),
        ("ffv1", "yuv444p10le", ".mkv", EncodingOptions(codec="ffv1")),
        ("ffv1", "yuv444p12le", ".mkv", EncodingOptions(codec="ffv1")),
    ],
)
def test_more_than_8_bits_stay(
    codec, pix_fmt, suffix, encoding, make_clip, contents, copy, tmp_path
):
    flags = {"x265-params": "log-level=none:lossless=1"} if codec == "libx265" else {}
    clip_suffix = ".mkv" if codec == "ffv1" else suffix
    source = make_clip(
        f"in{clip_suffix}",
        codec=codec,
        pix_fmt=pix_fmt,
        options=flags,
        tags=(9, 1, 9, 16),
        rate=Fraction(25),
        time_base=Fraction(1, 1000) if clip_suffix == ".mkv" else Fraction(1, 12800),
    )
    target = tmp_path / f"out{suffix}"
    restore_video(source, target, copy, options(encoding=encoding))
    before, after = contents(source), contents(target)
    assert after.pts == before.pts
    assert after.time_base == before.time_base
    assert after.tags == before.tags
    assert after.formats == ({pix_fmt} if "10" in pix_fmt or codec == "ffv1" else after.formats)
    assert np.any(after.frames[0][0] % 4)  # 8 bits stretched to 10 would be multiples of 4
    limit = 1 if codec == "ffv1" else 24  # of 1023; neither x264 nor x265 is lossless by crf
    assert max(worst(before, after)) <= limit


@pytest.mark.parametrize(
    ("source_name", "target_name", "limit"),
    [("in.mov", "out.mov", 16), ("in.mkv", "out.mkv", 1)],
)
def test_alpha_survives(source_name, target_name, limit, make_clip, contents, copy, tmp_path):
    mov = source_name.endswith("mov")
    source = make_clip(
        source_name,
        codec="prores_ks" if mov else "ffv1",
        pix_fmt="yuva444p10le" if mov else "yuva444p",
        time_base=Fraction(1, 12800 if mov else 1000),
        frames=12,
    )
    target = tmp_path / target_name
    restore_video(source, target, copy, options(encoding=EncodingOptions()))
    before, after = contents(source), contents(target)
    assert after.pts == before.pts
    assert after.time_base == before.time_base
    assert len(after.frames[0]) == 4
    assert max(worst(before, after)) <= limit  # of 4095 in ProRes, of 255 in FFV1


def test_alpha_goes_through_vp9_and_back(make_clip, contents, copy, tmp_path):
    source = make_clip("in.mkv", codec="ffv1", pix_fmt="yuva420p", time_base=Fraction(1, 1000))
    first, second = tmp_path / "first.webm", tmp_path / "second.webm"
    fine = options(encoding=EncodingOptions(crf=2))
    restore_video(source, first, copy, fine)
    restore_video(first, second, copy, fine)
    before, after = contents(source), contents(second)
    assert after.pts == before.pts
    assert after.formats == {"yuva420p"}
    difference = [abs(a[3] - b[3]).mean() for a, b in zip(before.frames, after.frames, strict=True)]
    assert max(difference) < 2


def test_alpha_is_refused_where_it_would_be_lost_unless_dropped(
    make_clip, contents, copy, tmp_path
):
    source = make_clip("in.mkv", codec="ffv1", pix_fmt="yuva444p", frames=3)
    target = tmp_path / "out.mp4"
    with pytest.raises(Exception, match=r"has alpha and .mp4 cannot hold it: write out.mov"):
        restore_video(source, target, copy, options())
    dropped = options(encoding=EncodingOptions(drop_alpha=True, crf=0))
    restore_video(source, target, copy, dropped)
    assert contents(target).formats == {"yuv444p"}


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv"])
def test_other_streams_are_copied_byte_for_byte(name, make_clip, contents, copy, tmp_path):
    source = make_clip(
        name,
        audio=True,
        subtitles="mov_text" if name.endswith("mp4") else "subrip",
        chapters=True,
        metadata={"title": "T", "invented": "kept"},
        frames=30,
    )
    target = tmp_path / f"out_{name}"
    summary = restore_video(source, target, copy, options())
    before, after = contents(source), contents(target)
    assert summary.warnings == ()
    assert after.streams == before.streams
    assert after.others == before.others
    assert len(after.others["audio:aac"]) > 40
    assert {k.lower(): v for k, v in before.metadata.items()} == {
        k.lower(): v for k, v in after.metadata.items()
    }
    assert [_chapter(c) for c in after.chapters] == [_chapter(c) for c in before.chapters]


def _chapter(chapter):
    ticks = (chapter["start"], chapter["end"])
    return (*(t * chapter["time_base"] for t in ticks), chapter["metadata"]["title"])


def test_sound_that_starts_elsewhere_stays_in_step(make_clip, contents, copy, tmp_path):
    source = make_clip("in.mp4", audio=True, audio_start=9600, pts=[p + 777 for p in VFR])
    target = tmp_path / "out.mp4"
    restore_video(source, target, copy, options())
    before, after = contents(source), contents(target)
    assert after.pts == before.pts
    assert after.others == before.others


def test_a_stream_that_the_target_cannot_hold_is_named(make_clip, contents, copy, tmp_path):
    source = make_clip("in.mkv", audio=True, subtitles="subrip")
    target = tmp_path / "out.mp4"
    summary = restore_video(source, target, copy, options())
    assert summary.warnings == ("stream 2 (subtitle, srt) is left out: .mp4 cannot hold it",)
    assert len(contents(target).others["audio:aac"]) > 40


def test_trim_starts_at_zero_and_cuts_the_sound(make_clip, contents, copy, tmp_path):
    source = make_clip("in.mp4", frames=40, audio=True, chapters=True, options={"preset": "fast"})
    target = tmp_path / "out.mp4"
    restore_video(source, target, copy, options(start=Fraction(1, 2), duration=Fraction(3, 5)))
    before, after = contents(source), contents(target)
    kept = [i for i, t in enumerate(before.times) if Fraction(1, 2) <= t < Fraction(11, 10)]
    assert len(kept) == 15
    assert after.times == [before.times[i] - before.times[kept[0]] for i in kept]
    origin = before.times[kept[0]]
    sound = [p for p in before.others["audio:aac"] if origin <= p[1] < Fraction(11, 10)]
    assert [p[0] for p in after.others["audio:aac"]] == [p[0] for p in sound]
    shifts = {a[1] - b[1] for a, b in zip(sound, after.others["audio:aac"], strict=True)}
    assert all(abs(s - origin) <= Fraction(1, 48000) for s in shifts)
    titles = [_chapter(c)[2] for c in after.chapters]
    assert titles == ["B"]
    middle = before.frames[kept[3]][0]
    assert abs(after.frames[3][0] - middle).max() <= 1


def test_trim_of_a_file_that_seeks_badly(make_clip, contents, copy, tmp_path):
    source = make_clip(
        "in.ts", frames=40, audio=True, pix_fmt="yuv420p", time_base=Fraction(1, 90000)
    )
    target = tmp_path / "out.mp4"
    summary = restore_video(source, target, copy, options(start=Fraction(3, 5)))
    before, after = contents(source), contents(target)
    assert (
        after.times
        == [t - before.times[-len(after.times)] for t in before.times][-len(after.times) :]
    )
    assert 20 <= summary.frames < 40


def test_timecode_and_cover_survive(make_clip, contents, copy, tmp_path):
    source = make_clip("in.mov", frames=5, timecode="01:00:00:00", time_base=Fraction(1, 25))
    target = tmp_path / "out.mov"
    assert restore_video(source, target, copy, options()).warnings == ()
    assert contents(target).streams == contents(source).streams == ["video:h264", "data:None"]
    covered = tmp_path / "covered.mp4"
    png = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    with av.open(str(source)) as old, av.open(str(covered), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        cover = new.add_mux_stream("png", width=16, height=16)
        cover.disposition, cover.time_base = Disposition.attached_pic, Fraction(1, 1000)
        picture = av.Packet(png)
        picture.stream, picture.time_base, picture.pts, picture.dts = cover, cover.time_base, 0, 0
        new.mux(picture)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = video
                new.mux(packet)
    for name in ("covered_out.mp4", "covered_out.mkv"):
        assert restore_video(covered, tmp_path / name, copy, options()).warnings == ()
        assert contents(tmp_path / name).others["video:png"][0][0] == png


def test_side_by_side_and_wipe(make_clip, contents, copy, tmp_path):
    source = make_clip("in.mp4", frames=4)
    before = contents(source)
    for mode, width in (("side", 128), ("wipe", 64)):
        target = tmp_path / f"{mode}.mp4"
        restore_video(source, target, copy, options(compare=mode))
        luma = contents(target).frames[2][0]
        assert luma.shape == (48, width)
        assert abs(luma[:, :30] - before.frames[2][0][:, :30]).max() <= 1
    assert luma[:, 32].min() >= 234


def test_a_restorer_is_really_applied(make_clip, contents, copy, tmp_path):
    class Inverted:
        traits, device = RestorerTraits("inverted"), copy.device

        def __call__(self, rgb):
            return 1 - rgb

    source = make_clip("in.mp4", frames=3, size=(64, 64))
    target = tmp_path / "out.mp4"
    plain = RestoreOptions(color_lock=False)
    restore_video(source, target, Inverted(), options(restore=plain, batch=2))
    before, after = contents(source), contents(target)
    expected = 16 + 235 - before.frames[1][0]
    assert abs(after.frames[1][0] - expected).max() <= 2


def test_an_existing_target_is_replaced_only_by_a_whole_one(make_clip, copy, tmp_path):
    class Broken:
        traits, device = RestorerTraits("broken", keeps_colors=True), copy.device
        calls = 0

        def __call__(self, rgb):
            self.calls += 1
            if self.calls > 12:
                raise InputError("broken on purpose")
            return rgb

    source, target = make_clip("in.mp4"), tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(InputError, match="broken on purpose"):
        restore_video(source, target, Broken(), options(segment_frames=5))
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "wrong", [{"start": -1}, {"batch": 0}, {"tile": 64}, {"duration": 0}, {"compare": "blink"}]
)
def test_options_out_of_range(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        VideoOptions(**wrong)
