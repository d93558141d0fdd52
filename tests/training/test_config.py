"""Presets, TOML files and the command line become one value."""

from pathlib import Path

import pytest

from splatmend.core import InputError
from splatmend.training import TrainConfig
from splatmend.training.config import PRESETS, parse_config


def test_the_command_line_beats_the_file_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'faces = ["a", "b"]\nmax_steps = 50\nwarmup_steps = 10\nbatch = 3\naugment = true\n'
        "[loss]\nl1 = 0.25\n"
    )
    config = parse_config([str(file), "--batch", "7", "--loss.gram", "0.5"])
    assert config.faces == (Path("a"), Path("b"))
    assert (config.max_steps, config.batch, config.augment) == (50, 7, True)
    assert (config.loss.l1, config.loss.gram, config.loss.lpips_vgg) == (0.25, 0.5, 1.0)
    assert config.learning_rate == TrainConfig(faces=(Path("a"),)).learning_rate


def test_the_kind_of_run_chooses_the_preset(tmp_path: Path) -> None:
    turbo = parse_config(["--base", "turbo", "--faces", "x", "--no-augment"])
    seed = (turbo.learning_rate, turbo.warmup_steps, turbo.weight_decay, turbo.batch)
    assert seed == (5e-5, 500, 1e-4, 2)
    assert (turbo.loss.l1, turbo.loss.lpips_vgg, turbo.loss.gram) == (0.5, 1.0, 0.07)
    assert (turbo.turbo.rank_unet, turbo.turbo.rank_vae, turbo.turbo.skip_dropout) == (16, 8, 0.3)
    assert not turbo.augment
    adapter = parse_config(["--pairs", "a:b"])
    assert adapter.rank == PRESETS["adapter"]["rank"] == 16
    assert parse_config(["--pairs", "a:b", "--rank", "0"]).rank == 0
    assert parse_config(["--pairs", "a:b", "--faces", "x", "--pool", "9"]).rank == 0
    file = tmp_path / "run.toml"
    file.write_text('base = "turbo"\nmanifests = ["m.jsonl"]\n')
    assert parse_config([str(file)]).learning_rate == 5e-5


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    with pytest.raises(InputError, match=r"run\.toml cannot be read: No such file"):
        parse_config([str(file)])
    file.write_text("faces = [")
    with pytest.raises(InputError, match=r"run\.toml is not TOML"):
        parse_config([str(file)])
    file.write_text('faces = ["a"]\n[loss]\nl2 = 1\n')
    with pytest.raises(InputError, match=r"no setting loss\.l2; the table has .*l1, log_mse"):
        parse_config([str(file)])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"faces": ()}, "nothing to train on"),
        ({"pairs": ("a:b",)}, "on both together with --pool"),
        ({"pairs": ("a:b",), "pool": 5, "pair_share": 1.5}, r"pair_share must lie in \[0, 1\]"),
        ({"pairs": ("a:b",), "pool": 5, "undamaged": -0.1}, r"undamaged must lie in \[0, 1\]"),
        ({"pool": 5, "splat_targets": 45}, r"splat_targets must lie in \[0, 1\], got 45"),
        ({"faces": (), "pairs": ("a:b",), "pool": 5}, "--pool needs --faces"),
        (
            {"temporal": True, "pool": 5, "pairs": ("a:b",)},
            "are for single frames",
        ),
        ({"temporal": True, "pool": 5, "undamaged": 0.1}, "are for single frames"),
        ({"temporal": True, "pool": 5, "still_share": 2}, r"still_share must lie in \[0, 1\]"),
        ({"pool": 5, "still_share": 0.5}, "--still-share needs --temporal and --pool"),
        ({"renew": 0}, "renew, validate_every and save_every must be at least 1"),
        ({"holdout": 1}, "holdout must be 0 or at least 2"),
        ({"crop": 150}, "crop must be a multiple of 32"),
        ({"crop": 32}, r"at least vgg_side \(64\)"),
        ({"max_steps": 100, "warmup_steps": 100}, "warmup_steps must lie between"),
        ({"base": "turbo", "rank": 4}, "--rank is compact's"),
        ({"accumulate": 0}, "must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        TrainConfig(**({"faces": (Path("a"),)} | changes))
