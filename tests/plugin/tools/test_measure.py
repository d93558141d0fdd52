"""`splatmend measure`: clips in, one table, one plot and one file of figures out."""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from splatmend.core import InputError, VideoInputError
from splatmend.plugin.tools import measure as module
from splatmend.plugin.tools.measure import MeasureConfig, main
from splatmend.plugin.tools.plot import Panel, plot_series

Pictures = list[Any]
QUICK = ("--no-lpips", "--no-faces", "--strides", "1", "2")


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Any]) -> Callable[..., Path]:
    """`folder("name", change)`: twelve frames of a moving pattern as a folder of PNG."""

    def write(name: str, change: Callable[[int, Any], Any] = lambda _, p: p) -> Path:
        target = tmp_path / name
        target.mkdir()
        for index in range(12):
            shown = change(index, make_picture(index, (64, 96)))
            cv2.imwrite(
                str(target / f"{index:04d}.png"), shown[..., [2, 1, 0, 3][: shown.shape[2]]]
            )
        return target

    return write


def flicker(index: int, picture: Any) -> Any:
    return np.clip(picture.astype(int) + 8 * (-1) ** index, 0, 255).astype(np.uint8)


def report(out: Path) -> Any:
    return json.loads((out / "measures.json").read_text())


def test_outputs_beside_input_and_reference(
    folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    soft = folder("soft", lambda _, p: cv2.GaussianBlur(p, (0, 0), 1))
    shaky, clean = folder("shaky", flicker), folder("clean")
    main([
        str(soft), f"flickering={shaky}", "--reference", str(clean), "--input", str(shaky),
        "--seams", "6", "--out", str(out), *QUICK,
    ])  # fmt: skip
    table = (out / "measures.md").read_text()
    said = capsys.readouterr()
    assert table in said.out
    assert "12 frames" in said.out
    assert "left out" not in said.err  # nobody asked for them
    assert table.startswith(
        "| | input | soft | flickering | reference |\n|---|---:|---:|---:|---:|"
    )
    written = report(out)
    assert written["frames"] == 12
    assert written["guide"] == "reference"
    assert written["clips"]["flickering"] == str(shaky)
    figures = {name: m["figures"] for name, m in written["measures"].items()}
    assert figures["input"] == figures["flickering"]
    assert (
        figures["flickering"]["warping_error_relative"]
        > 10 * figures["soft"]["warping_error_relative"]
    )
    assert figures["soft"]["lag"] == 0
    row = next(line for line in table.splitlines() if "by pixel" in line)
    assert f"{1e3 * figures['soft']['warping_error_relative']:.2f}" in row
    assert "LPIPS" not in table
    plot = cv2.imread(str(out / "measures.png"))
    assert plot is not None
    assert plot.shape[1] == 960
    assert plot.std() > 5


def test_a_clip_alone(folder: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    main([str(folder("alone")), "--out", str(out), *QUICK])
    assert report(out)["guide"] is None
    assert "warping_error" in report(out)["measures"]["alone"]["figures"]


def test_videos_are_measured_as_far_as_the_shortest_goes(
    make_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    long, short = make_clip("long.mp4", frames=14), make_clip("short.mp4", frames=9)
    main([str(short), "--input", str(long), "--out", str(out), *QUICK])
    assert report(out)["frames"] == 9
    assert "input: only the first 9 frames are measured, short has no more" in (
        capsys.readouterr().err
    )
    # both hold the same pictures
    figures = report(out)["measures"]["short"]["figures"]
    assert figures["warping_error_relative"] == 0
    main([str(short), "--input", str(long), "--out", str(out), "--start", "0.08", *QUICK])
    assert report(out)["frames"] == 7
    main([str(short), "--input", str(long), "--out", str(out), "--duration", "0.16", *QUICK])
    assert report(out)["frames"] == 4


def test_alpha_is_laid_on_white(folder: Callable[..., Path], tmp_path: Path) -> None:
    def cut_out(_: int, picture: Any) -> Any:
        alpha = np.zeros((*picture.shape[:2], 1), np.uint8)
        alpha[16:48, 16:80] = 255
        return np.concatenate([picture, alpha], 2)

    def on_white(_: int, picture: Any) -> Any:
        white = np.full_like(picture, 255)
        white[16:48, 16:80] = picture[16:48, 16:80]
        return white

    out = tmp_path / "out"
    arguments = [str(folder("alpha", cut_out)), "--reference", str(folder("white", on_white))]
    main([*arguments, "--out", str(out), *QUICK])
    assert report(out)["measures"]["alpha"]["figures"]["psnr"] == pytest.approx(60)


def test_a_crop_measures_only_what_is_inside(folder: Callable[..., Path], tmp_path: Path) -> None:
    def damaged(_: int, picture: Any) -> Any:
        changed = picture.copy()
        changed[:, 60:] = 0
        return changed

    out = tmp_path / "out"
    arguments = [str(folder("damaged", damaged)), "--reference", str(folder("clean"))]
    main([*arguments, "--out", str(out), "--crop", "0", "8", "60", "64", *QUICK])
    assert report(out)["measures"]["damaged"]["figures"]["psnr"] == pytest.approx(60)
    with pytest.raises(InputError, match=r"crop .* leaves the frames of .*: 96x64"):
        main([*arguments, "--out", str(out), "--crop", "0", "0", "97", "64", *QUICK])
    with pytest.raises(InputError, match="left < right"):
        MeasureConfig(("a",), crop=(9, 0, 9, 64))


def test_exact_motion_from_the_renderer(folder: Callable[..., Path], tmp_path: Path) -> None:
    planes, out = tmp_path / "planes", tmp_path / "out"
    planes.mkdir()
    np.savez(planes / "0000.npz", depth=np.ones((64, 96), np.float16))
    for index in range(1, 12):
        motion = np.zeros((2, 64, 96), np.float16)
        motion[0] = -2  # the pattern rolls two pixels to the right
        np.savez(planes / f"{index:04d}.npz", motion=motion)
    arguments = [
        str(folder("ours", flicker)),
        "--reference",
        str(folder("clean")),
        "--out",
        str(out),
    ]
    main([*arguments, "--motion", str(planes), "--crop", "4", "0", "92", "60", *QUICK])
    own = report(out)["measures"]["reference"]["figures"]["warping_error"]
    assert own < 1e-4
    with pytest.raises(InputError, match=r"holds no \.npz: render with --planes"):
        main([*arguments, "--motion", str(out), *QUICK])


def test_what_is_not_installed_is_left_out_with_one_line(
    folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_lpips(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'lpips'", name="lpips")

    monkeypatch.setattr(module, "load_lpips", no_lpips)
    monkeypatch.delitem(sys.modules, "splatmend.plugin.tools.plot")
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.setattr("splatmend.core.perceptual.dlib_models.find_spec", lambda _: None)
    main([str(folder("clean")), "--out", str(tmp_path / "out"), "--strides", "1"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1].split(":")[0] for line in lines if "left out" in line] == [
        "LPIPS is left out",
        "identity and landmarks are left out",
        "the plot is left out",
    ]
    assert lines[-1].endswith("(pip install 'splatmend[plot]')")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["measures.json", "measures.md"]


@pytest.mark.skipif(
    find_spec("dlib") is None or find_spec("face_recognition_models") is None,
    reason="dlib-bin and face-recognition-models are not installed",
)
def test_clips_without_a_face_have_no_face_figures(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    main([str(folder("clean")), "--out", str(out), "--no-lpips", "--strides", "1"])
    assert "identity" not in (out / "measures.md").read_text()


def test_clips_that_cannot_be_measured_are_named(
    folder: Callable[..., Path], tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    clean = folder("clean")
    with pytest.raises(InputError, match="two clips are called 'clean'"):
        main([str(clean), str(clean), *QUICK])
    with pytest.raises(InputError, match="two clips are called 'reference'"):
        main([f"reference={clean}", *QUICK])
    with pytest.raises(VideoInputError, match="no such file"):
        main([str(tmp_path / "nowhere.mp4"), "--out", str(tmp_path / "out"), *QUICK])
    other = make_clip("other.mp4", size=(48, 64))
    with pytest.raises(InputError, match=r"of one size, got clean \(3, 64, 96\), reference"):
        main([str(clean), "--reference", str(other), *QUICK])
    with pytest.raises(InputError, match="no frame in the time asked for"):
        main([str(clean), "--start", "60", "--out", str(tmp_path / "out"), *QUICK])


def test_a_plot_shows_every_clip_and_bears_gaps_and_flat_lines() -> None:
    lines = {
        "input": [None, 1.0, 1.0, None, 2.0],
        "ours": [0.0] * 5,
        "other": [-1.0, 5, None, 3, 4],
    }
    plot = plot_series([Panel("a measure", lines), Panel("flat", {"ours": [0.0] * 5})],
                       faint=["input"], marks=[2])  # fmt: skip
    colors = {tuple(c) for c in plot.reshape(-1, 3)}
    assert {(160, 160, 160), (0, 114, 178), (213, 94, 0)} <= colors
    assert plot.dtype == np.uint8
    empty = plot_series([Panel("nothing", {"ours": [None, None]})])
    assert empty.shape[1] == 960


def test_one_outlier_does_not_flatten_the_rest() -> None:
    rng = np.random.default_rng(0)
    usual = (1 + rng.random(300)).tolist()
    plots = [plot_series([Panel("m", {"ours": v})]) for v in (usual, [*usual[:-1], 1e4])]
    blue = [np.flatnonzero((p == (0, 114, 178)).all(2)[60:].any(1)) for p in plots]
    assert np.ptp(blue[1]) > 0.8 * np.ptp(blue[0])
