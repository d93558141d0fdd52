"""`splatmend fit`: everything from a PLY to a judged adapter, and again without doing it twice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from splatmend.core import InputError, load_restorer
from splatmend.core.references import read_pairs
from splatmend.training.config import TrainConfig
from splatmend.training.gaussians.ply import read_ply, write_ply
from splatmend.training.train.fit import FitConfig, fit, main

SMALL = ["--frames", "4", "--size", "128", "128", "--steps", "2"]


@pytest.mark.slow
def test_from_a_ply_to_a_judged_adapter(
    ball: Path,
    backbones: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "mine"
    words = [str(ball), str(out), *SMALL, "--lpips-weights", str(backbones)]
    main(words)
    adapter = out / "adapter.safetensors"
    said = capsys.readouterr().out
    assert f"--adapter {adapter}" in said
    load_restorer("compact", device="cpu", adapter=adapter)
    judged = json.loads((out / "evaluation" / "evaluation.json").read_text())
    (rows,) = judged.values()
    fitted = f"compact+{adapter}"
    assert set(rows) == {"input", "compact", fitted, "compact + keys", f"{fitted} + keys"}
    assert all(len(row["psnr"]) == 2 for row in rows.values())  # every other pose of four

    (best,) = (line for line in said.splitlines() if line.startswith("best on the poses"))
    means = {name: sum(row["lpips_vgg"]) / 2 for name, row in rows.items() if name != "input"}
    assert f"{min(means.values()):.3f}" == best.split(", ")[0].rpartition(" ")[2]
    assert f"--keys {out / 'keys' / 'renders'}:{out / 'keys' / 'photos'}" in said
    pairs = read_pairs(out / "keys" / "renders", out / "keys" / "photos")
    assert [Path(pair.name).name for pair in pairs] == ["0000.png", "0002.png"]  # those trained on

    made = {p: p.stat().st_mtime_ns for p in out.rglob("*.png") if p.parent.name != "evaluation"}
    assert len(made) == 8 + 4
    weights = load_file(adapter)
    monkeypatch.chdir(ball.parent)  # the same avatar, typed in another way
    words = [ball.name, *words[1:]]
    main(words)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    again = load_file(adapter)
    assert all(again[name].equal(weight) for name, weight in weights.items())
    with pytest.raises(InputError, match="a fit of other settings"):
        main([*words, "--keep", "0.5"])


@pytest.mark.slow
def test_texture_can_be_told_to_stay_in_its_place(
    ball: Path, backbones: Path, tmp_path: Path
) -> None:
    """As many crops an update as without, each of them seen twice."""
    config = FitConfig(
        ball, tmp_path / "mine", frames=4, size=(192, 192), steps=2, temporal=True,
        lpips_weights=backbones,
    )  # fmt: skip
    load_restorer("compact", device="cpu", adapter=fit(config))
    log = (tmp_path / "mine" / "log.jsonl").read_text()
    rows = [json.loads(line) for line in log.splitlines()]
    assert len(rows) == 2
    assert all(row["temporal"] > 0 for row in rows)
    settings = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert settings["batch"] * settings["frames"] == TrainConfig(pairs=("a:b",)).batch
    assert settings["self_conditioning"] == 0
    with pytest.raises(InputError, match="a fit of other settings"):
        fit(replace(config, temporal=False))


def test_a_missing_avatar_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.ply"):
        fit(FitConfig(tmp_path / "none.ply", tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()


def test_cameras_that_miss_the_avatar_are_told_where_it_is(ball: Path, tmp_path: Path) -> None:
    far = read_ply(ball)
    write_ply(tmp_path / "far.ply", replace(far, center=far.center * 10 + 5))
    words = [str(tmp_path / "far.ply"), str(tmp_path / "mine"), *SMALL]
    with pytest.raises(InputError, match="see next to nothing") as refused:
        main(words)
    assert not (tmp_path / "mine" / "thin").exists()
    advice = str(refused.value).partition("--target")[2].replace(",", "").split()
    target, distance = [float(x) for x in advice[:3]], float(advice[4])
    assert target == pytest.approx([5, 5, 5], abs=0.2)
    assert 1 < distance < 10
