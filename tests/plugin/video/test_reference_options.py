"""`restore-video --reference`, `--reference-clip` and `--keys`: pictures of the person."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from splatmend.core import (
    InputError,
    Reference,
    ReferenceFit,
    References,
    RestorerTraits,
    VideoInputError,
)
from splatmend.plugin import VideoOptions, open_clip, read_clip_references, restore_video
from splatmend.plugin.video import command
from splatmend.plugin.video.reference_options import ReferenceOptions
from splatmend.plugin.video.rotation import as_coded, references_as_coded, upright
from splatmend.temporal import TemporalOptions

from blobs import blobs

SIZE = (128, 160)
FRAMES = 5
SCENE = blobs((SIZE[0], SIZE[1] + 2 * FRAMES), seed=5)
SHARP = [np.ascontiguousarray(SCENE[:, 2 * i : 2 * i + SIZE[1]]) for i in range(FRAMES)]
SOFT = [cv2.GaussianBlur(picture, (0, 0), 2) for picture in SHARP]


def write_pictures(folder: Path, pictures: list[Any]) -> Path:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index:04d}.png"), picture[..., ::-1])
    return folder


def write_video(path: Path, pictures: list[Any], *, rate: int = 25, rotation: int = 0) -> Path:
    """A clip without loss."""
    codec, pixels = ("ffv1", "bgr0") if path.suffix == ".mkv" else ("libx264rgb", "rgb24")
    with av.open(str(path), "w") as output:
        video = output.add_stream(codec, rate, options={"qp": "0"} if codec != "ffv1" else {})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = pixels
        if rotation:
            video.set_display_rotation(rotation)
        for picture in pictures:
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(video.encode(None))
    return path


def read(folder: Path) -> list[Any]:
    return [cv2.imread(str(p))[..., ::-1] for p in sorted(folder.iterdir())]


def psnr(ours: Any, truths: Any) -> float:
    error = np.stack(ours).astype(float) - np.stack(truths)
    return float(10 * np.log10(255**2 / (error[:, 8:-8, 16:-16] ** 2).mean()))


@pytest.fixture
def soft(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "soft", SOFT)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", SHARP[2:3]) / "0000.png"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], list[str]]]:
    """`run("in.mp4", "out.mp4", ...)`: exit code, lines on stdout, lines on stderr."""

    def call(*arguments: Any) -> tuple[int, list[str], list[str]]:
        given = [*map(str, arguments), "--model", "copy", "--device", "cpu"]
        code = command.restore_video(given)
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return call


@pytest.mark.parametrize("flags", [[], ["--temporal"], ["--tile", "128"]])
def test_a_sharp_reference_makes_a_soft_clip_sharp(
    flags: list[str], soft: Path, photo: Path, run: Any, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        code, out, err = run(soft, tmp_path / name, *flags, "--reference", photo)
        assert (code, err) == (0, [])
        assert "copy on cpu, guided by 1 reference: " in out[0]
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert psnr(one, SHARP) > psnr(SOFT, SHARP) + 4
    assert np.array_equal(one, two)


def test_several_references_and_folders_of_clips(photo: Path, run: Any, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(clips / "a.mkv", SOFT)
    write_video(clips / "b.mkv", SOFT[::-1])
    more = write_pictures(tmp_path / "more", SHARP[:1])
    flags = ["--codec", "ffv1", "--pix-fmt", "bgr0", "--reference", photo, "--reference", more]
    code, out, err = run(clips, tmp_path / "mended", *flags, photo)
    assert (code, err, len(out)) == (0, [], 2)
    assert all("guided by 3 references: " in line for line in out)
    for name, truths in (("a", SHARP), ("b", SHARP[::-1])):
        with av.open(str(tmp_path / "mended" / f"{name}.mkv")) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert psnr(frames, truths) > psnr(SOFT, SHARP) + 4


def test_key_pairs_carry_what_was_changed(soft: Path, run: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    write_pictures(keys / "renders", SOFT[1:3])
    write_pictures(keys / "photos", SHARP[1:3])
    write_pictures(tmp_path / "with:colon", SHARP[1:3])
    answers = []
    for name, given in (
        ("one", f"{keys / 'renders'}:{keys / 'photos'}"),
        ("two", keys),
        ("three", f"{keys / 'renders'}:{tmp_path / 'with:colon'}"),
    ):
        (tmp_path / name).mkdir()
        code, out, _ = run(soft, tmp_path / name, "--keys", given)
        assert code == 0
        assert "guided by 2 key pairs: " in out[0]
        answers.append(read(tmp_path / name))
    assert psnr(answers[0], SHARP) > psnr(SOFT, SHARP) + 6
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_a_clip_gives_references(soft: Path, run: Any, tmp_path: Path) -> None:
    clean = write_video(tmp_path / "clean@home.mkv", SHARP)
    for part, count in ((clean, 5), (f"{clean}@0.04-0:00.12", 2), (f"{clean}@-0.12", 3)):
        target = tmp_path / f"out{count}"
        target.mkdir()
        code, out, _ = run(soft, target, "--reference-clip", part)
        assert code == 0
        assert f"guided by {count} references: " in out[0]
        assert psnr(read(target), SHARP) > psnr(SOFT, SHARP) + 4
    part = read_clip_references(clean, start=Fraction(1, 25), end=Fraction(3, 25))
    assert [np.array_equal(r.picture, p) for r, p in zip(part, SHARP[1:3], strict=True)] == [
        True,
        True,
    ]


@pytest.mark.parametrize("rate", [25, 1])
def test_long_clips_give_64_frames_evenly_spaced(rate: int, tmp_path: Path) -> None:
    wide = blobs((40, 240), seed=1)
    pictures = [np.ascontiguousarray(wide[:, i : i + 48]) for i in range(190)]
    pictures[0] = np.zeros_like(pictures[0])
    clean = write_video(tmp_path / "clean.mkv", pictures, rate=rate)
    found = []
    for reference in read_clip_references(clean):
        match = [np.array_equal(reference.picture, picture) for picture in pictures]
        found.append(match.index(True))
    assert 60 <= len(found) <= 64
    assert found[0] <= 4
    assert found[-1] >= 185
    assert set(np.diff(found)) <= {2, 3, 4}


def test_a_clip_that_phones_film_sideways(run: Any, photo: Path, tmp_path: Path) -> None:
    sideways = [np.ascontiguousarray(np.rot90(picture)) for picture in SOFT]
    clip = write_video(tmp_path / "in.mp4", sideways, rotation=-90)
    matrix = open_clip(clip).display_matrix
    assert np.array_equal(upright(sideways[0], matrix), SOFT[0])
    assert np.array_equal(as_coded(SOFT[0], matrix), sideways[0])
    flags = ["--codec", "libx264rgb", "--crf", "0", "--reference", photo]
    assert run(clip, tmp_path / "out.mp4", *flags)[0] == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert psnr([np.rot90(f, -1) for f in frames], SHARP) > psnr(SOFT, SHARP) + 4
    clean = [np.ascontiguousarray(np.rot90(picture)) for picture in SHARP]
    write_video(tmp_path / "clean.mp4", clean, rotation=-90)
    assert np.array_equal(read_clip_references(tmp_path / "clean.mp4")[0].picture, SHARP[0])


@pytest.mark.parametrize(
    "matrix",
    [(a, 0, 0, 0, d, 0, 0, 0, 1) for a in (1, -1) for d in (1, -1)]
    + [(0, b, 0, c, 0, 0, 0, 0, 1) for b in (1, -1) for c in (1, -1)],
)
def test_every_turn_is_undone(matrix: tuple[int, ...]) -> None:
    turned = upright(SHARP[0], matrix)
    assert np.array_equal(as_coded(turned, matrix), SHARP[0])
    # where the matrix sends the pixel at column 1, row 2, counted from the corner that comes first
    a, b, _, c, d = matrix[:5]
    across, down = a * 1 + c * 2, b * 1 + d * 2
    width, height = turned.shape[1], turned.shape[0]
    place = (down if b + d > 0 else height - 1 + down, across if a + c > 0 else width - 1 + across)
    assert np.array_equal(turned[place], SHARP[0][2, 1])


def test_key_pairs_are_turned_with_both_alphas() -> None:
    alphas = [np.full(SIZE, value, np.uint8) for value in (9, 99)]
    for alpha in alphas:
        alpha[:40, :70] = 255
    pair = Reference(picture=SHARP[0], render=SOFT[0], alpha=alphas[0], render_alpha=alphas[1])
    matrix = (0, 1, 0, -1, 0, 0, 0, 0, 1)
    turned = references_as_coded(References([pair]), matrix)
    assert turned is not None
    for ours, theirs in zip(turned[0].planes, pair.planes, strict=True):
        assert ours is not None
        assert theirs is not None
        assert np.array_equal(ours, as_coded(theirs, matrix))
    assert references_as_coded(None, matrix) is None


class FailsAfter:
    """A restorer that is `copy` for some frames and then is interrupted."""

    traits = RestorerTraits("copy", keeps_colors=True)

    def __init__(self, device: Any, frames: int) -> None:
        self.device, self.frames = device, frames

    def __call__(self, rgb: Any) -> Any:
        self.frames -= 1
        if self.frames < 0:
            raise KeyboardInterrupt
        return rgb.clone()


@pytest.mark.slow
@pytest.mark.parametrize("temporal", [None, TemporalOptions()])
def test_resumed_runs_want_the_same_references(
    temporal: Any, soft: Path, copy: Any, tmp_path: Path
) -> None:
    target, whole = tmp_path / "out.mov", tmp_path / "whole.mov"
    sets = [References([Reference(picture=picture)]) for picture in SHARP[:2]]

    def options(references: References | None, **changes: Any) -> VideoOptions:
        return VideoOptions(references=references, temporal=temporal, segment_frames=2, **changes)

    def interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            # one more call than frames: the run's fingerprint asks the restorer once
            restore_video(soft, target, FailsAfter(copy.device, 4), options(sets[0]))
        assert not target.exists()

    for other in (sets[1], None):
        interrupt()
        summary = restore_video(soft, target, copy, options(other, resume=True))
        assert summary.resumed == 0
        assert summary.warnings == ("the earlier run could not be taken up: other references",)
        target.unlink()
    interrupt()
    same = References([Reference(picture=SHARP[0].copy())])
    assert restore_video(soft, target, copy, options(same, resume=True)).resumed == 2
    restore_video(soft, whole, copy, options(sets[0]))
    assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("flags", [[], ["--temporal"]])
def test_references_of_somebody_else_are_said(
    flags: list[str], soft: Path, photo: Path, run: Any, tmp_path: Path
) -> None:
    other = write_pictures(tmp_path / "other", [np.ascontiguousarray(SHARP[2][::-1, ::-1])])
    (tmp_path / "out").mkdir()
    code, out, err = run(soft, tmp_path / "out", *flags, "--reference", other)
    assert (code, len(out)) == (0, 1)
    (line,) = err
    assert line.startswith("restore-video: warning: no reference fits 5 of 5 frames: are they pic")
    code, _, err = run(soft, tmp_path / "out", *flags, "--reference", other, photo)
    assert (code, err) == (0, [])


def test_the_summary_counts_frames_that_no_reference_fits(
    soft: Path, copy: Any, tmp_path: Path
) -> None:
    def fit(references: References | None) -> ReferenceFit:
        options = VideoOptions(references=references)
        return restore_video(soft, tmp_path / "out.mov", copy, options).fit

    stranger = Reference(picture=np.ascontiguousarray(SHARP[2][::-1, ::-1]))
    assert fit(References([stranger])) == ReferenceFit(frames=5, unfit=5)
    assert fit(References([Reference(picture=SHARP[2])])) == ReferenceFit(frames=5, unfit=0)
    assert fit(None) == ReferenceFit()


@pytest.mark.parametrize("mode", ["side", "wipe"])
def test_compare_shows_the_reference_in_a_corner(
    mode: str, soft: Path, photo: Path, run: Any, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    flags = ["--compare", mode, "--compare-reference", "--reference", photo]
    assert run(soft, target, *flags)[0] == 0
    first = read(target)[0]
    small = cv2.resize(SHARP[2], (40, 32), interpolation=cv2.INTER_AREA)
    assert np.array_equal(first[-32:, :40], small)
    assert (first[-33, :41] == 255).all()
    assert np.array_equal(first[:95, :80], SOFT[0][:95, :80])


def test_bad_references_are_one_line_and_leave_nothing(
    soft: Path, photo: Path, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no picture at all\n" * 100)
    (tmp_path / "nothing").mkdir()
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    clean = write_video(tmp_path / "clean.mkv", SHARP)
    target = tmp_path / "out.mkv"
    before = sorted(tmp_path.rglob("*"))
    for flags, said in (
        (["--reference", tmp_path / "lost.jpg"], "no such file: "),
        (["--reference", tmp_path / "text.jpg"], "save it as PNG, JPEG, WebP, TIFF or BMP"),
        (["--reference", photo, tmp_path / "nothing"], "holds no picture"),
        (["--reference", tmp_path / "dot.png"], "1 x 1 pixels, a reference needs at least 32"),
        (["--reference"], "expected at least one argument"),
        (["--reference", photo, "--keys", "a:b"], "--reference and --keys cannot be mixed"),
        (["--reference-clip", tmp_path / "lost.mp4"], "no such file: "),
        (["--reference-clip", f"{clean}@9-12"], "no frame from 9 s to 12 s: name another part"),
        (["--reference-clip", f"{clean}@3-2"], "ends after it starts, got 3 to 2 s"),
        (["--reference-clip", f"{clean}@soon-2"], "'soon' is not a time"),
        (["--reference-clip", f"{clean}@2"], "'2' is no part of a clip: use "),
        (["--keys", "renders"], "needs two folders as renders/:photos/, got 'renders'"),
        (["--keys", photo.parent], "holds no key pairs"),
        (["--keys", f"{soft}:{tmp_path / 'lost'}"], "no such folder"),
        (["--compare-reference", "--reference", photo], "give --compare"),
        (["--compare", "side", "--compare-reference"], "and a reference too"),
    ):
        code, out, err = run(soft, target, *flags)
        assert (code, out, len(err)) == (2, [], 1), err
        assert err[0].startswith("restore-video: error: ")
        assert said in err[0]
    code, _, err = run("--reference", photo, soft, target)
    assert (code, len(err)) == (2, 1)
    assert "INPUT and OUTPUT go before --reference" in err[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_options_and_clips_that_hold_nothing(tmp_path: Path) -> None:
    assert ReferenceOptions().read() is None
    black = write_video(tmp_path / "black.mkv", [np.zeros((64, 64, 3), np.uint8)] * 3)
    with pytest.raises(InputError, match=r"black\.mkv shows nothing"):
        read_clip_references(black)
    (tmp_path / "text.mp4").write_text("no clip\n" * 99)
    with pytest.raises(VideoInputError, match="cannot be read"):
        read_clip_references(tmp_path / "text.mp4")


def test_deep_clips_with_alpha_give_8_bits(make_clip: Any, make_picture: Any) -> None:
    clip = make_clip("in.mkv", codec="ffv1", pix_fmt="yuva444p10le", frames=2, size=(64, 64))
    for index, reference in enumerate(read_clip_references(clip)):
        expected = make_picture(index, (64, 64), 16, 4) / 257
        assert (reference.picture.dtype, reference.picture.shape) == (np.uint8, (64, 64, 3))
        assert reference.alpha is not None
        assert np.abs(reference.alpha - expected[..., 3]).max() < 1
        assert np.abs(reference.picture - expected[..., :3]).max() < 4
