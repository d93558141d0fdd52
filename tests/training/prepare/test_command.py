import json
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from splatmend.core.errors import InputError, ModelError, SplatmendError
from splatmend.training.data.manifest import read_manifest
from splatmend.training.data.pairs import read_picture
from splatmend.training.faces.regions import REGIONS
from splatmend.training.prepare.command import PrepareConfig, main, prepare
from splatmend.training.prepare.contact_sheet import contact_sheet
from splatmend.training.prepare.inputs import find_items, hash_share, read_item
from splatmend.training.prepare.pair_maker import replay

from waiting import until

pytest.importorskip("dlib")
SMALL = ["--size", "128", "--smallest", "96", "--workers", "0"]


def write(path: Path, rgb: np.ndarray) -> Path:
    order = [2, 1, 0, 3][: rgb.shape[2]]
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., order]))
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two portraits of one person and one of another, and three files without a usable face."""
    folder = tmp_path_factory.mktemp("people") / "people"
    folder.mkdir()
    portrait = astronaut()[:400, :448]
    write(folder / "a.png", portrait)
    write(folder / "b.jpg", portrait[:, ::-1])
    write(folder / "c.png", np.ascontiguousarray(portrait[..., ::-1]))
    write(folder / "wall.png", np.full((200, 200, 3), 120, np.uint8))
    write(folder / "stamp.png", cv2.resize(portrait[20:220, 120:320], (100, 100)))
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    entries = [
        {"file": "a.png", "split": "val", "identity": 1, "set": "studio", "scale": 2},
        {"file": "b.jpg", "split": "val", "identity": 1},
        {"file": "c.png", "identity": "two"},
        {"file": "d.png", "set": "composite"},
        *({"file": name} for name in ("wall.png", "stamp.png", "broken.jpg")),
    ]
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def prepared(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one uninterrupted process makes of them."""
    out = tmp_path_factory.mktemp("prepared") / "pairs"
    main([str(sources), "--out", str(out), *SMALL, "--variants", "2", "--cut-out", "0.5"])
    return out


def files(folder: Path) -> dict[str, bytes]:
    """All but unfinished ones: a worker may outlive a killed command for some seconds."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".part"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_pairs_are_listed_with_all_that_made_them(prepared: Path) -> None:
    records = read_manifest(prepared / "manifest.jsonl")
    assert [r.identity for r in records] == ["people/1"] * 4 + ["people/two"] * 2
    assert [r.split for r in records[:4]] == ["val"] * 4
    assert len({r.seed for r in records}) == 6
    assert {r.parser for r in records} == {"landmarks"}
    assert records[0].native_scale == pytest.approx(2 * records[2].native_scale, rel=0.05)
    for record in records:
        clean, degraded, regions = (
            cv2.imread(str(prepared / path), cv2.IMREAD_UNCHANGED)
            for path in (record.clean, record.degraded, record.regions)
        )
        assert clean.shape == degraded.shape == (128, 128, 3)
        assert regions.shape == (128, 128)
        assert regions.max() == len(REGIONS) - 1
        assert np.array_equal(clean, degraded) == (not record.steps)


def test_a_manifest_repeats_its_pairs_to_the_byte(prepared: Path) -> None:
    for record in read_manifest(prepared / "manifest.jsonl"):
        assert np.array_equal(replay(prepared, record), read_picture(prepared / record.degraded))


def test_heads_cut_out_stand_on_a_ground_with_alpha(prepared: Path) -> None:
    records = read_manifest(prepared / "manifest.jsonl")
    cut = [r for r in records if r.alpha is not None]
    assert 0 < len(cut) < len(records)
    for record in cut:
        alpha = read_picture(prepared / record.alpha)[..., 0]
        clean = read_picture(prepared / record.clean).astype(int)
        ground = clean[alpha == 0]
        assert 0.1 < (alpha == 0).mean() < 0.8
        assert np.ptp(ground, axis=0).max() < 110  # one colour, or a ramp of it
        assert not read_picture(prepared / record.regions)[alpha == 0].any()


@pytest.mark.slow
def test_what_cannot_be_used_is_named(
    prepared: Path, sources: Path, capsys: pytest.CaptureFixture
) -> None:
    skipped = {e["key"]: e["reason"] for e in json.loads((prepared / "skipped.json").read_text())}
    assert skipped.keys() == {"people/wall.png", "people/stamp.png", "people/broken.jpg"}
    assert skipped["people/wall.png"] == "no face found"
    assert "too small" in skipped["people/stamp.png"]
    assert "not a picture that OpenCV can read" in skipped["people/broken.jpg"]
    main([str(sources), "--out", str(prepared), *SMALL, "--variants", "2", "--cut-out", "0.5"])
    summary = capsys.readouterr().out
    assert "6 pairs of 2 people" in summary
    assert "0 made now" in summary
    assert "3 skipped" in summary
    assert "people/wall.png: no face found" in summary


@pytest.mark.slow
def test_a_killed_run_is_finished_by_others_with_the_same_bytes(
    prepared: Path, sources: Path, tmp_path: Path
) -> None:
    """SIGKILL with two workers, a line torn, a picture lost: one process ends it alike."""
    out = tmp_path / "pairs"
    options = [str(sources), "--out", str(out), "--size", "128", "--smallest", "96"]
    options += ["--variants", "2", "--cut-out", "0.5", "--workers"]
    command = [sys.executable, "-m", "splatmend.training.prepare.command", *options, "2"]
    manifest = out / "manifest.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        until(
            lambda: run.poll() is not None or (manifest.exists() and manifest.stat().st_size), 150
        )
        run.send_signal(signal.SIGKILL)
    made = read_manifest(manifest)
    assert manifest.read_bytes().startswith((prepared / "manifest.jsonl").read_bytes()[:500])
    manifest.write_bytes(manifest.read_bytes()[:-40])
    (out / made[0].degraded).unlink()
    (out / "degraded" / "left.123.part").touch()
    main([*options, "0"])
    assert not (out / "degraded" / "left.123.part").exists()
    ours, theirs = files(out), files(prepared)
    ours_lines, their_lines = (f.pop("manifest.jsonl").splitlines() for f in (ours, theirs))
    ours.pop("contact_sheet.png")
    theirs.pop("contact_sheet.png")  # in the order of the manifest, which may differ
    assert ours == theirs
    assert sorted(ours_lines) == sorted(their_lines)


def test_other_options_need_another_folder(prepared: Path, sources: Path) -> None:
    before = files(prepared)
    with pytest.raises(InputError, match="was made with seed 0, not 1: give the same options"):
        main([str(sources), "--out", str(prepared), *SMALL, "--cut-out", "0.5", "--seed", "1"])
    assert files(prepared) == before


def test_a_foreign_manifest_is_left_alone(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text("mine\n")
    with pytest.raises(InputError, match="was not made by prepare: give another --out"):
        main([str(sources), "--out", str(tmp_path), *SMALL])
    assert files(tmp_path) == {"manifest.jsonl": b"mine\n"}


@pytest.mark.slow
def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    wall = write(tmp_path / "wall.png", np.full((300, 300, 3), 200, np.uint8))
    with pytest.raises(InputError, match=r"(?s)no pair could be made.*wall\.png: no face found"):
        main([str(wall), "--out", str(tmp_path / "pairs"), *SMALL])


@pytest.mark.slow
def test_pictures_that_are_aligned_are_only_cut_square(tmp_path: Path) -> None:
    portrait = write(tmp_path / "aligned.png", astronaut()[:256, 90:340])  # 256 x 250
    out = tmp_path / "pairs"
    options = ["--size", "248", "--smallest", "250", "--align", "none", "--cut-out", "0"]
    main([str(portrait), "--out", str(out), *options, "--workers", "0"])
    (record,) = read_manifest(out / "manifest.jsonl")
    assert record.native_scale == pytest.approx(250 / 248, abs=1e-3)
    clean = read_picture(out / record.clean).astype(int)
    expected = cv2.resize(astronaut()[3:253, 90:340], (248, 248), interpolation=cv2.INTER_AREA)
    assert np.abs(clean - expected).mean() < 1.5


@pytest.mark.slow
def test_a_file_that_cannot_be_written_stops_the_run(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, _: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SplatmendError, match=r"No space left on device\): the pairs that were"):
        main([str(sources), "--out", str(tmp_path / "pairs"), *SMALL])


def test_a_folder_that_cannot_be_made_is_said(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SplatmendError, match=r"file: .*pairs that were made are whole"):
        main([str(sources), "--out", str(tmp_path / "file"), *SMALL])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"size": 100}, "size must be a multiple of 8"),
        ({"variants": 0}, "variants and clip_frames must be at least 1"),
        ({"val": 0.7, "test": 0.6}, r"val \+ test must lie in"),
        ({"cut_out": 2.0}, r"cut_out and val"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, options: dict, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        PrepareConfig((tmp_path,), out=tmp_path, **options)


def test_a_parser_that_is_not_there_is_said_before_the_work(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no parser 'nowhere'"):
        main([str(sources), "--out", str(tmp_path / "pairs"), "--parser", "nowhere"])


def test_nothing_to_prepare_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to prepare"):
        PrepareConfig((), out=tmp_path)
    with pytest.raises(InputError, match=r"no file or folder .*missing"):
        prepare(PrepareConfig((tmp_path / "missing",), out=tmp_path / "pairs"))


def test_a_contact_sheet_shows_clean_regions_and_degraded(prepared: Path) -> None:
    records = read_manifest(prepared / "manifest.jsonl")
    sheet = contact_sheet(prepared, records, count=3)
    assert sheet.shape == (512, 1536, 3)  # two pairs of three tiles a row; the fourth place empty
    assert not sheet[256:, 768:].any()
    clean = cv2.resize(read_picture(prepared / records[0].clean), (256, 256),
                       interpolation=cv2.INTER_AREA)  # fmt: skip
    assert np.array_equal(sheet[:256, :256], clean)
    assert not np.array_equal(sheet[:256, 256:512], clean)
    stored = cv2.imread(str(prepared / "contact_sheet.png"))
    assert stored.shape == (768, 1536, 3)


# -- sources


def clip(path: Path, frames: int) -> Path:
    """A clip whose frame i is of grey 20 + 4 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = 12
        for index in range(frames):
            gray = np.full((48, 64, 3), 20 + 4 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_of_a_clip_are_evenly_spaced_and_exact(tmp_path: Path) -> None:
    items, skipped = find_items([clip(tmp_path / "talk.mp4", 40)], clip_frames=4)
    assert not skipped
    assert len({item.key for item in items}) == 4
    assert {item.identity for item in items} == {f"{tmp_path.name}/talk"}
    levels = [read_item(item)[0].mean() for item in items]
    assert levels == pytest.approx([20 + 4 * i for i in (5, 15, 25, 35)], abs=3)
    assert len(find_items([tmp_path / "talk.mp4"], clip_frames=100)[0]) == 40


def test_a_damaged_clip_is_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no clip at all" * 40)
    clip(tmp_path / "good.mp4", 3)
    items, (skipped,) = find_items([tmp_path], clip_frames=1)
    assert [item.path.name for item in items] == ["good.mp4"]
    assert skipped.key.endswith("/bad.mp4")
    assert "cannot be read" in skipped.reason


def test_names_and_seeds_do_not_depend_on_where_a_folder_lies(tmp_path: Path) -> None:
    places = [tmp_path / "one" / "faces", tmp_path / "two" / "faces"]
    for place in places:
        (place / "deep").mkdir(parents=True)
        write(place / "deep" / "x.png", np.zeros((8, 8, 3), np.uint8))
    (first,), (second,) = (find_items([place], clip_frames=1)[0] for place in places)
    assert first.key == second.key == "faces/deep/x.png"
    assert first.stem == second.stem
    both, _ = find_items([*places, places[0]], clip_frames=1)  # given twice, taken once
    assert [item.key for item in both] == ["faces/deep/x.png", "faces~2/deep/x.png"]
    assert len({item.stem for item in both}) == 2
    (single,), _ = find_items([places[0] / "deep" / "x.png"], clip_frames=1)
    assert single.key == "deep/x.png"


def test_alpha_and_deep_pictures_are_read_as_eight_bits(tmp_path: Path) -> None:
    layers = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    write(tmp_path / "a.png", layers)
    write(tmp_path / "b.png", layers.astype(np.uint16) * 257)
    for item in find_items([tmp_path], clip_frames=1)[0]:
        rgb, alpha = read_item(item)
        assert np.array_equal(rgb, layers[..., :3])
        assert alpha is not None
        assert np.array_equal(alpha, layers[..., 3])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ('{"file": "a.png"}', "must be a list of objects"),
        ('[{"name": "a.png"}]', "entry 0: an object with a file"),
        ('[{"file": "a.png", "split": "dev"}]', "split must be one of train, val, test"),
        ('[{"file": "a.png", "scale": 0}]', "scale must be above 0, got 0"),
    ],
)
def test_a_bad_manifest_of_a_source_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=rf"manifest\.json.*{complaint}"):
        find_items([tmp_path], clip_frames=1)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt is neither a picture nor a clip"):
        find_items([tmp_path / "notes.txt"], clip_frames=1)
    assert find_items([tmp_path], clip_frames=1) == ([], [])


def test_people_without_a_split_are_shared_out_by_name() -> None:
    shares = [hash_share(f"split:faces/{i}") for i in range(4000)]
    assert np.mean(np.array(shares) < 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(np.array(shares) < 0.15) == pytest.approx(0.15, abs=0.025)
    assert hash_share("a") == hash_share("a") != hash_share("b")
