import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import splatmend.training.evaluate.metrics
from splatmend.core import InputError, ModelError
from splatmend.core.pixels import pad_to_multiple
from splatmend.core.restorer import Copy, Restorer
from splatmend.training.data.manifest import PairRecord, append_record
from splatmend.training.data.pairs import folder_pairs, portrait_pairs, subject_box
from splatmend.training.evaluate.command import EvaluateConfig, evaluate, markdown_table
from splatmend.training.evaluate.metrics import psnr


@pytest.fixture
def pairs(tmp_path: Path, face: np.ndarray) -> tuple[Path, Path]:
    folders = tmp_path / "render", tmp_path / "reference"
    for folder in folders:
        folder.mkdir()
    picture = np.full((200, 200, 3), 255, np.uint8)
    picture[50:150, 60:160] = face[:100, :100]
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folders[1] / name), picture)
        cv2.imwrite(str(folders[0] / name), cv2.GaussianBlur(picture, (0, 0), 1.5))
    cv2.imwrite(str(folders[0] / "extra.png"), picture)
    return folders


@pytest.fixture
def judge(
    pairs: tuple[Path, Path], backbones: Path, tmp_path: Path
) -> Callable[..., dict[str, dict[str, list[float]]]]:
    """`judge(restorers=...)`: the rows of the one set, by default without any network."""

    def run(**settings: Any) -> dict[str, dict[str, list[float]]]:
        config = {
            "pairs": (f"{pairs[0]}:{pairs[1]}",),
            "restorers": ("copy",),
            "measures": ("psnr", "ssim"),
            "lpips_weights": backbones,
            "out": tmp_path / "out",
            "device": "cpu",
        }
        (rows,) = evaluate(EvaluateConfig(**config | settings)).values()
        return rows

    return run


@pytest.mark.slow
def test_one_table_with_all_rows_on_the_same_pictures(
    pairs: tuple[Path, Path], backbones: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report = evaluate(
        EvaluateConfig(
            pairs=(f"{pairs[0]}:{pairs[1]}",),
            restorers=("copy", "unsharp"),
            measures=("lpips_vgg", "lpips_alex", "psnr"),
            lpips_weights=backbones,
            out=tmp_path / "out",
            device="cpu",
        )
    )
    (rows,) = report.values()
    assert list(rows) == ["input", "copy", "unsharp"]
    assert all(len(v) == 2 for row in rows.values() for v in row.values())
    assert rows["copy"] == rows["input"]
    assert rows["unsharp"]["psnr"][0] > rows["input"]["psnr"][0]  # it undoes some of a blur
    table = (tmp_path / "out" / "evaluation.md").read_text()
    assert table in capsys.readouterr().out
    assert "| copy | 2 |" in table
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == report
    grid = cv2.imread(str(next((tmp_path / "out").glob("*.png"))))
    assert grid.shape == (36 + 2 * 384, 4 * 384, 3)  # titles above


def test_the_table_gives_means_medians_and_ratios() -> None:
    rows = {
        "input": {"lpips_vgg": [0.2, 0.4], "lpips_alex": [0.1, 0.1], "psnr": [20.0, 30.0]},
        "ours": {"lpips_vgg": [0.1, 0.2], "lpips_alex": [0.1, 0.1], "psnr": [25.0, 30.0]},
    }
    lines = markdown_table(rows).splitlines()
    assert lines[2].startswith("| input | 2 | 0.3000 (0.3000) |")
    assert "0.1500 (0.1500) x0.50" in lines[3]
    assert lines[3].endswith("27.5000 (27.5000) |")


def test_the_box_holds_the_subject_and_a_rim() -> None:
    picture = np.full((100, 120, 3), 255, np.uint8)
    assert subject_box(picture) == (slice(None), slice(None))
    picture[40:60, 30:70] = 0
    assert subject_box(picture) == (slice(32, 68), slice(22, 78))


def test_fixed_portraits_are_the_same_every_time(portraits_folder: Path) -> None:
    (first,), (again,) = portrait_pairs(portraits_folder), portrait_pairs(portraits_folder)
    assert all((a == b).all() for a, b in zip(first(), again(), strict=True))


def test_pairs_that_cannot_be_matched_are_refused(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    assert len(folder_pairs(*pairs)) == 2
    with pytest.raises(InputError, match="no folder"):
        folder_pairs(pairs[0], tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no picture name in common"):
        folder_pairs(pairs[0], tmp_path / "empty")
    cv2.imwrite(str(pairs[0] / "a.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match="sizes must agree"):
        folder_pairs(*pairs)[0]()
    with pytest.raises(InputError, match="give --faces, --manifests or --pairs"):
        EvaluateConfig()


@pytest.mark.slow
def test_by_default_all_that_can_run_is_measured(
    judge: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def missing() -> None:
        raise ModelError("pip install dlib-bin")

    monkeypatch.setattr(splatmend.training.evaluate.metrics, "load_face_models", missing)
    rows = judge(measures=())
    assert list(rows["copy"]) == ["lpips_vgg", "lpips_alex", "dists", "psnr", "ssim"]
    assert all(v > 0 for values in rows["input"].values() for v in values)
    assert capsys.readouterr().err.startswith("left out: pip install dlib-bin\n")
    with pytest.raises(ModelError, match="pip install"):
        judge(measures=("psnr", "landmarks"))


def test_results_of_other_programs_are_judged_on_the_same_box(
    judge: Callable[..., Any], pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    whole, boxed = tmp_path / "whole", tmp_path / "results" / "more"
    whole.mkdir()
    for name in ("a", "b"):  # as large as the renders, of another kind of file, with more beside
        picture = cv2.imread(str(pairs[0] / f"{name}.png"))
        cv2.imwrite(str(whole / f"{name}.webp"), picture, [cv2.IMWRITE_WEBP_QUALITY, 101])
        (whole / f"{name}.txt").write_text("settings")
    judge(save_pictures=True)
    saved = next((tmp_path / "out").glob("*/render"))
    assert {p.name for p in saved.iterdir()} == {"input", "copy", "reference"}
    (tmp_path / "results").mkdir()
    (saved / "input").rename(boxed)
    rows = judge(external=(f"whole={whole}", f"boxed={boxed}", f"best={saved / 'reference'}"))
    assert list(rows) == ["input", "copy", "whole", "boxed", "best"]
    assert rows["whole"] == rows["boxed"] == rows["input"]
    assert rows["best"]["psnr"] == pytest.approx([60, 60])


def test_results_are_looked_for_under_the_name_of_the_set(
    judge: Callable[..., Any], pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    judge()
    (name,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    inside = tmp_path / "results" / name
    inside.parent.mkdir(parents=True)
    pairs[0].rename(inside)
    pairs[0].symlink_to(inside)
    assert judge(external=(f"other={tmp_path / 'results'}",))["other"]["psnr"][0] < 60


def test_results_that_cannot_be_judged_are_refused(
    judge: Callable[..., Any], pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    picture = cv2.imread(str(pairs[0] / "a.png"))
    cv2.imwrite(str(results / "a.png"), picture)
    with pytest.raises(InputError, match=r"x: .* lacks 1 of the 2 pictures .*, among them b:"):
        judge(external=(f"x={results}",))
    cv2.imwrite(str(results / "b.png"), picture[:50])
    with pytest.raises(InputError, match=r"b\.png is 200x50, .* against 116x116"):
        judge(external=(f"x={results}",))
    (results / "b.png").write_text("no picture")
    with pytest.raises(InputError, match=r"b\.png is not an 8-bit picture"):
        judge(external=(f"x={results}",))
    with pytest.raises(InputError, match="no folder"):
        judge(external=(f"x={tmp_path / 'nowhere'}",))
    for bad in ("x", "=folder", "x="):
        with pytest.raises(InputError, match="--external takes NAME=FOLDER"):
            judge(external=(bad,))
    with pytest.raises(InputError, match="two rows are called 'copy'"):
        judge(external=(f"copy={results}",))


@dataclass(frozen=True)
class Broken(Copy):
    """Gives a picture with one number that is none, for pictures with a dark corner."""

    def __call__(self, rgb: Tensor) -> Tensor:
        broken = rgb.clone()
        if rgb[..., 0, 0].amax() < 0.5:
            broken[0, 0, 40, 40] = torch.nan
        return broken


def test_a_picture_with_a_bad_number_is_counted_out(
    judge: Callable[..., Any],
    pairs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: Any, **__: Any) -> Restorer:
        return Broken(torch.device("cpu"))

    for folder in pairs:
        picture = cv2.imread(str(folder / "b.png"))
        cv2.imwrite(str(folder / "b.png"), 255 - picture)
    monkeypatch.setattr("splatmend.training.evaluate.command.load_restorer", load)
    rows = judge(restorers=("broken",))
    assert np.isnan(rows["broken"]["psnr"]).tolist() == [False, True]
    assert np.isfinite(rows["input"]["psnr"]).all()
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert "| broken | 2 |" in text
    assert "(n 1)" in text
    (stored,) = json.loads((tmp_path / "out" / "evaluation.json").read_text()).values()
    assert stored["broken"]["psnr"][1] is None


def test_the_summary_has_intervals_and_names(judge: Callable[..., Any], tmp_path: Path) -> None:
    judge(restorers=("copy", "unsharp"), seed=3)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["settings"]["seed"] == 3
    (found,) = stored["sets"].values()
    assert found["pictures"] == ["a.png", "b.png"]
    same = found["rows"]["copy"]["psnr"]["against_input"]["difference"]
    assert same == {"value": 0, "low": 0, "high": 0}
    gain = found["rows"]["unsharp"]["psnr"]
    assert gain["n"] == 2
    assert gain["against_input"]["difference"]["low"] > 0


@pytest.mark.slow
def test_turbo_is_shown_what_its_autoencoder_costs(
    judge: Callable[..., Any],
    pairs: tuple[Path, Path],
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from splatmend.core.turbo.base import load_base
    from splatmend.core.turbo.network import Turbo
    from splatmend.core.turbo.restorer import turbo_restorer

    network = Turbo(*load_base(tiny_base), torch.randn(1, 77, 16))
    turbo = turbo_restorer(network, device=torch.device("cpu"))
    monkeypatch.setattr("splatmend.training.evaluate.command.load_restorer", lambda *_, **__: turbo)
    rows = judge(restorers=("turbo",), base=str(tiny_base))
    assert list(rows) == ["input", "turbo", "vae floor"]
    _, clean = folder_pairs(*pairs)[0]()  # 116 x 116: padded to what the autoencoder divides
    _, vae = load_base(tiny_base)
    with torch.inference_mode():
        latent = vae.encode(2 * pad_to_multiple(clean, 8) - 1).latent_dist.mode()
        decoded = vae.decode(latent).sample[..., :116, :116] / 2 + 0.5
    expected = psnr(decoded.clamp(0, 1), clean).item()
    assert rows["vae floor"]["psnr"] == pytest.approx([expected] * 2, abs=0.01)
    assert "vae floor" not in judge(restorers=("turbo",), base=str(tiny_base), floor=False)
    monkeypatch.undo()
    assert "vae floor" not in judge(restorers=("copy",))


def test_what_is_done_is_kept_when_a_later_set_fails(
    judge: Callable[..., Any], pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    later = tmp_path / "later"
    later.mkdir()
    (later / "a.png").write_text("no picture")
    both = (f"{pairs[0]}:{pairs[1]}", f"{later}:{pairs[1]}")
    with pytest.raises(InputError, match="not an 8-bit picture"):
        judge(pairs=both)
    (name,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert name.endswith("render")


def test_two_sets_of_one_name_are_both_reported(
    pairs: tuple[Path, Path], backbones: Path, tmp_path: Path
) -> None:
    report = evaluate(
        EvaluateConfig(
            pairs=(f"{pairs[0]}:{pairs[1]}",) * 2,
            restorers=(),
            measures=("psnr",),
            lpips_weights=backbones,
            out=tmp_path / "out",
        )
    )
    first, second = report
    assert second == f"{first} 2"
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_settings_that_leave_nothing_are_refused(judge: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="no picture left: check --holdout and --limit"):
        judge(holdout=3)
    with pytest.raises(InputError, match="limit must be at least 1, got 0"):
        judge(limit=0)
    with pytest.raises(InputError, match="no measure 'lpips': there are lpips_vgg"):
        judge(measures=("lpips",))


def test_prepared_pairs_are_a_set_and_only_those_of_the_test_split(
    pairs: tuple[Path, Path], tmp_path: Path, backbones: Path
) -> None:
    manifest = tmp_path / "prepared" / "manifest.jsonl"
    manifest.parent.mkdir()
    for index, split in enumerate(("train", "test", "test")):
        for folder, name in zip(pairs, ("degraded", "clean"), strict=True):
            source = sorted(folder.iterdir())[0]
            (manifest.parent / f"{name}{index}.png").write_bytes(source.read_bytes())
        files = {name: Path(f"{name}{index}.png") for name in ("degraded", "clean")}
        append_record(manifest, PairRecord(**files, split=split))
    report = evaluate(
        EvaluateConfig(
            manifests=(manifest,), restorers=("copy",), measures=("psnr",),
            lpips_weights=backbones, out=tmp_path / "out", device="cpu",
        )
    )  # fmt: skip
    assert list(report) == ["prepared"]
    assert len(report["prepared"]["copy"]["psnr"]) == 2
    settings = json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]
    assert settings["manifests"] == [str(manifest)]
