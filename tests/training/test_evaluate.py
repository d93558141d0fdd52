import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.core import InputError
from splatmend.training.evaluate import EvaluateConfig, evaluate, markdown_table
from splatmend.training.pairs import folder_pairs, portrait_pairs, subject_box


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


def test_one_table_with_all_rows_on_the_same_pictures(
    pairs: tuple[Path, Path], backbones: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report = evaluate(
        EvaluateConfig(
            pairs=(f"{pairs[0]}:{pairs[1]}",),
            restorers=("copy", "unsharp"),
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
    assert grid.shape == (2 * 384, 4 * 384, 3)


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
    with pytest.raises(InputError, match="give --faces, --pairs or both"):
        EvaluateConfig()
