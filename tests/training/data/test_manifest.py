import json
from pathlib import Path

import pytest

from splatmend.core.errors import InputError
from splatmend.training.data.manifest import (
    PairRecord,
    append_record,
    read_manifest,
    repair_manifest,
    write_manifest,
)
from splatmend.training.degradations.patch_masks import PatchOptions
from splatmend.training.degradations.steps import STEPS, Drawn
from splatmend.training.faces.regions import RegionStrengths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the records below name."""
    for name in ("degraded/a.png", "clean/a.png", "alpha/a.png", "regions/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


SHORT = PairRecord(Path("degraded/a.png"), Path("clean/a.png"))
FULL = PairRecord(
    Path("degraded/a.png"),
    Path("clean/a.png"),
    alpha=Path("alpha/a.png"),
    regions=Path("regions/a.png"),
    split="val",
    identity="faces/Zoë",
    seed=2**48 - 1,
    parser="landmarks",
    native_scale=0.8731,
    strengths=RegionStrengths(mouth=0.8),
    steps=(
        Drawn("ghost", 7, {"shift": 3.25, "opacity": 0.3}, PatchOptions(cover=0.3, angle=1.1)),
        Drawn("compress", 8, {"quality": 71.0}),
    ),
)


def test_what_is_written_is_read_back(folder: Path) -> None:
    manifest = folder / "manifest.jsonl"
    for record in (SHORT, FULL):
        append_record(manifest, record)
    assert read_manifest(manifest) == [SHORT, FULL]
    write_manifest(manifest, [FULL])
    assert read_manifest(manifest) == [FULL]
    assert [p.name for p in folder.iterdir() if p.is_file()] == ["manifest.jsonl"]


def test_a_line_by_hand_needs_two_paths(folder: Path) -> None:
    manifest = folder / "mine.jsonl"
    absolute = str(folder / "clean" / "a.png")
    manifest.write_text(f'{{"degraded": "degraded/a.png", "clean": "{absolute}"}}\n\n')
    (record,) = read_manifest(manifest)
    assert record == PairRecord(Path("degraded/a.png"), Path(absolute))
    assert manifest.parent / record.clean == Path(absolute)


GOOD = {"degraded": "degraded/a.png", "clean": "clean/a.png"}
STEP = {"name": "compress", "seed": 1, "parameters": {"quality": 70.0}}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"degraded": "degraded/a.png", "cle', "not JSON"),
        ("[1, 2]", "a JSON object is needed, got list"),
        ({"degraded": "degraded/a.png"}, "lacks 'clean'"),
        (GOOD | {"clean": "clean/b.png"}, "no file .*clean/b.png, which it names as clean"),
        (GOOD | {"clean": "clean"}, "no file"),  # a folder is no picture
        (GOOD | {"clean": 3}, "clean must be a path, got 3"),
        (GOOD | {"alpha": ""}, "alpha must be a path"),
        (GOOD | {"alpah": "alpha/a.png"}, "no field 'alpah': a pair has degraded, clean, alpha"),
        (GOOD | {"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
        (GOOD | {"seed": True}, "seed must be an integer, got true"),
        (GOOD | {"strengths": {"mouth": 2}}, r"mouth must lie in \[0, 1\], got 2"),
        (GOOD | {"strengths": {"ear": 1}}, "not as prepare writes them: .*'ear'"),
        (GOOD | {"steps": [STEP | {"name": "explode"}]}, "no step 'explode': .*coarsen"),
        (GOOD | {"steps": [STEP | {"parameters": {}}]}, "compress takes quality, got nothing"),
        (GOOD | {"steps": [STEP | {"patches": {"cover": 0}}]}, "cover in"),
        (GOOD | {"steps": ["compress"]}, "not as prepare writes them"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(folder: Path, line: object, complaint: str) -> None:
    manifest = folder / "manifest.jsonl"
    bad = line if isinstance(line, str) else json.dumps(line)
    manifest.write_text(f"{json.dumps(GOOD)}\n{bad}\n{json.dumps(GOOD)}\n")
    with pytest.raises(InputError, match=rf"manifest\.jsonl, line 2: .*{complaint}"):
        read_manifest(manifest)
    records, complaints = read_manifest(manifest, skip=True)
    assert records == [SHORT, SHORT]
    assert len(complaints) == 1
    assert "line 2" in complaints[0]


def test_no_manifest_and_no_pair_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest .*splatmend prepare"):
        read_manifest(tmp_path / "manifest.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="lists no pair"):
        read_manifest(tmp_path / "empty.jsonl")
    assert read_manifest(tmp_path / "empty.jsonl", skip=True) == ([], [])


def test_a_kill_at_any_byte_costs_the_last_line_at_most(folder: Path) -> None:
    manifest = folder / "manifest.jsonl"
    append_record(manifest, SHORT)
    first = manifest.stat().st_size
    append_record(manifest, FULL)
    whole = manifest.read_bytes()
    for size in range(first, len(whole), 37):
        manifest.write_bytes(whole[:size])
        repair_manifest(manifest)
        assert read_manifest(manifest) == [SHORT]
        append_record(manifest, FULL)
        assert manifest.read_bytes() == whole
    repair_manifest(manifest)
    assert manifest.read_bytes() == whole
    repair_manifest(folder / "none.jsonl")
    assert not (folder / "none.jsonl").exists()


def test_every_step_fits_into_a_line(folder: Path) -> None:
    steps = tuple(
        Drawn(name, 3, {n: r.at(0.5) for n, r in kind.ranges.items()})
        for name, kind in STEPS.items()
    )
    record = PairRecord(SHORT.degraded, SHORT.clean, steps=steps)
    append_record(folder / "manifest.jsonl", record)
    assert read_manifest(folder / "manifest.jsonl") == [record]
