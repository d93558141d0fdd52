"""`splatmend evaluate` with references: rows beside those without, and no answer given away."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from splatmend.core import InputError
from splatmend.training.evaluate.command import EvaluateConfig, evaluate

Rows = dict[str, dict[str, list[float]]]


@pytest.fixture
def poses(tmp_path: Path, face: np.ndarray) -> tuple[Path, Path]:
    """Six poses of a face that moves over white, and what a soft renderer makes of them."""
    thin, whole = tmp_path / "thin", tmp_path / "whole"
    thin.mkdir()
    whole.mkdir()
    for step in range(6):
        picture = np.full((192, 192, 3), 255, np.uint8)
        picture[24:168, 20 + step : 148 + step] = face[56:200, 64 - step : 192 - step]
        cv2.imwrite(str(whole / f"{step}.png"), picture)
        cv2.imwrite(str(thin / f"{step}.png"), cv2.GaussianBlur(picture, (0, 0), 2))
    return thin, whole


@pytest.fixture
def judge(poses: tuple[Path, Path], tmp_path: Path) -> Callable[..., Rows]:
    """`judge(keys=...)`: the rows of the one set, without any network."""

    def run(**settings: Any) -> Rows:
        config = {
            "pairs": (f"{poses[0]}:{poses[1]}",),
            "restorers": ("copy",),
            "measures": ("psnr",),
            "out": tmp_path / "out",
            "device": "cpu",
        }
        (rows,) = evaluate(EvaluateConfig(**config | settings)).values()
        return rows

    return run


def judged(tmp_path: Path) -> list[str]:
    (found,) = json.loads((tmp_path / "out" / "summary.json").read_text())["sets"].values()
    return found["pictures"]


def test_poses_that_are_not_judged_help_those_that_are(
    judge: Callable[..., Rows], tmp_path: Path
) -> None:
    rows = judge(restorers=("copy", "unsharp"), holdout=3, holdout_keys=2, holdout_references=3)
    assert list(rows) == [
        "input",
        *("copy", "copy + references", "copy + keys"),
        *("unsharp", "unsharp + references", "unsharp + keys"),
    ]
    assert judged(tmp_path) == ["2.png", "5.png"]
    psnr = {name: np.mean(row["psnr"]) for name, row in rows.items()}
    assert psnr["copy"] == psnr["input"]
    assert psnr["copy + references"] > psnr["copy"] + 0.5
    assert psnr["copy + keys"] > psnr["copy"] + 3
    assert psnr["unsharp + keys"] > psnr["unsharp"] + 1
    table = (tmp_path / "out" / "evaluation.md").read_text()
    assert "| copy + keys | 2 |" in table
    without = judge(restorers=("copy", "unsharp"), holdout=3)
    assert all(without[name] == rows[name] for name in ("input", "copy", "unsharp"))


def test_pictures_among_the_references_are_not_judged(
    judge: Callable[..., Rows],
    poses: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys = tmp_path / "keys"
    for folder, name in zip(poses, ("renders", "photos"), strict=True):
        (keys / name).mkdir(parents=True)
        for step in (0, 4):
            shutil.copy(folder / f"{step}.png", keys / name / f"{step}_copy.png")
    rows = judge(keys=f"{keys / 'renders'}:{keys / 'photos'}", references=(poses[1] / "1.png",))
    assert "2 of 6" not in (said := capsys.readouterr().err)
    assert "3 of 6 pictures are among the references and are not judged: 0.png, 1.png" in said
    assert judged(tmp_path) == ["2.png", "3.png", "5.png"]
    assert list(rows) == ["input", "copy", "copy + references", "copy + keys"]
    assert np.mean(rows["copy + keys"]["psnr"]) > np.mean(rows["copy"]["psnr"]) + 1

    rows = judge(references=(keys,))  # a folder of key pairs is one set of references
    assert list(rows) == ["input", "copy", "copy + references"]
    assert judged(tmp_path) == ["1.png", "2.png", "3.png", "5.png"]
    with pytest.raises(InputError, match=r"all 6 pictures of the set .* are among the references"):
        judge(references=(poses[1],))


def test_references_that_do_not_fit_are_refused(
    judge: Callable[..., Rows], poses: tuple[Path, Path]
) -> None:
    folders = f"{poses[0]}:{poses[1]}"
    with pytest.raises(InputError, match=r"--holdout-keys 9: .*thin has 4 poses that are not"):
        judge(holdout=3, holdout_keys=9)
    with pytest.raises(InputError, match="needs --pairs and a --holdout of at least 2"):
        judge(holdout_keys=1)
    with pytest.raises(InputError, match="give --keys or --holdout-keys, not both"):
        judge(keys=folders, holdout=3, holdout_keys=2)
    with pytest.raises(InputError, match="--holdout-references must be at least 0, got -1"):
        judge(holdout=3, holdout_references=-1)
    with pytest.raises(InputError, match="--keys takes RENDERS:TRUTHS, got 'nowhere'"):
        judge(keys="nowhere")
    with pytest.raises(InputError, match="two rows are called 'copy \\+ keys'"):
        judge(external=(f"copy + keys={poses[0]}",), holdout=3, holdout_keys=1)
