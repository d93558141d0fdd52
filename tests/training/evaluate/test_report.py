import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.core import InputError
from splatmend.training.evaluate.report import (
    comparison_grid,
    interval_table,
    markdown_table,
    paired_bootstrap,
    summary,
    write_json,
    write_picture,
)

NAN = math.nan


def test_the_interval_is_that_of_the_theory() -> None:
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.2, 0.6, 200)
    gain = rng.normal(-0.1, 0.05, 200)
    change = paired_bootstrap(list(reference + gain), list(reference))
    assert change is not None
    half = 1.96 * gain.std() / math.sqrt(200)
    assert change.n == 200
    assert change.difference.value == pytest.approx(gain.mean())
    assert change.difference.low == pytest.approx(gain.mean() - half, abs=0.1 * half)
    assert change.difference.high == pytest.approx(gain.mean() + half, abs=0.1 * half)
    assert change.ratio is not None
    assert change.ratio.value == pytest.approx(1 + gain.mean() / reference.mean())


def test_what_pictures_have_in_common_does_not_widen_the_interval() -> None:
    reference = list(np.random.default_rng(0).uniform(0.1, 0.9, 30))
    better = paired_bootstrap([x - 0.1 for x in reference], reference)
    assert better is not None
    assert better.difference.low == pytest.approx(-0.1)
    assert better.difference.high == pytest.approx(-0.1)
    half = paired_bootstrap([x / 2 for x in reference], reference)
    assert half is not None
    assert half.ratio is not None
    assert (half.ratio.low, half.ratio.high) == pytest.approx((0.5, 0.5))


def test_a_seed_names_the_resamples() -> None:
    ours, reference = np.random.default_rng(0).uniform(size=(2, 30)).tolist()
    once, again, other = (paired_bootstrap(ours, reference, seed=s) for s in (1, 1, 2))
    assert once == again
    assert once != other


def test_pairs_without_a_value_are_left_out() -> None:
    change = paired_bootstrap([1.0, NAN, 3.0, 9.0], [2.0, 2.0, 4.0, NAN])
    assert change is not None
    assert change.n == 2
    assert change.difference.value == -1
    assert paired_bootstrap([1.0, NAN], [2.0, 2.0]) is None
    assert paired_bootstrap([1.0], [2.0]) is None


def test_there_is_no_ratio_to_zero() -> None:
    change = paired_bootstrap([1.0, 2.0], [0.0, 0.0])
    assert change is not None
    assert change.ratio is None
    assert change.difference.value == 1.5


@pytest.fixture
def rows() -> dict[str, dict[str, list[float]]]:
    return {
        "input": {
            "dists": [0.2, 0.4, 0.6],
            "identity": [0.9, NAN, 0.7],
            "landmarks": [NAN, NAN, NAN],
        },
        "ours": {
            "dists": [0.1, 0.2, NAN],
            "identity": [1.0, NAN, 0.9],
            "landmarks": [NAN, NAN, NAN],
        },
    }


def test_a_missing_value_poisons_no_mean_and_is_counted(
    rows: dict[str, dict[str, list[float]]],
) -> None:
    figures = summary(rows)
    assert figures["ours"]["dists"]["n"] == 2
    assert figures["ours"]["dists"]["mean"] == pytest.approx(0.15)
    assert figures["ours"]["dists"]["median"] == pytest.approx(0.15)
    # over the two pictures that both have, not 0.15 / 0.4
    assert figures["ours"]["dists"]["against_input"]["ratio"]["value"] == pytest.approx(0.5)
    assert figures["ours"]["identity"]["against_input"]["difference"]["value"] == pytest.approx(
        0.15
    )
    assert figures["ours"]["landmarks"] == {
        "n": 0,
        "mean": None,
        "median": None,
        "against_input": None,
    }
    assert "against_input" not in figures["input"]["dists"]


def test_tables_say_how_many_pictures_a_figure_stands_on(
    rows: dict[str, dict[str, list[float]]],
) -> None:
    _, _, first, second = markdown_table(rows).splitlines()
    assert first == "| input | 3 | 0.4000 (0.4000) | 0.8000 (0.8000) (n 2) | none (n 0) |"
    assert (
        second == "| ours | 3 | 0.1500 (0.1500) x0.50 (n 2) | 0.9500 (0.9500) (n 2) | none (n 0) |"
    )
    table = interval_table(rows).splitlines()
    assert table[0] == "| against input | dists | identity | landmarks |"
    assert table[2].startswith("| ours | x0.500 [0.500, 0.500] | +0.1500 [+0.1000, +0.2000] | ")
    assert table[2].endswith("| too few |")
    assert interval_table({"input": rows["input"]}) == ""


def test_the_grid_has_a_line_of_titles_and_keeps_shapes() -> None:
    wide = np.zeros((100, 200, 3), np.uint8)
    grid = comparison_grid(["input", "runs/" * 40 + "adapter"], [[wide, wide], [wide, wide]])
    assert grid.shape == (36 + 2 * 384, 2 * 384, 3)
    strip, cell = grid[:36], grid[36 : 36 + 384, :384]
    assert (strip[:, :384] < 128).any()
    assert (strip[:, 384:] < 128).any()
    assert (strip[:, -8:] == 255).all()  # the long name was cut to fit
    assert (cell[96:288] == 0).all()
    assert (cell[:96] == 255).all()


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_json(path, {"a": [1.0, NAN, math.inf], "b": (None, "x")})
    text = path.read_text()
    assert json.loads(text) == {"a": [1.0, None, None], "b": [None, "x"]}
    assert "NaN" not in text
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_pictures_are_written_as_rgb(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    write_picture(tmp_path / "red.png", red)
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 255]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"report\.json cannot be written .* choose another --out"):
        write_json(tmp_path / "file" / "report.json", {})
