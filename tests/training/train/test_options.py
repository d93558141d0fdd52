"""The three jobs: defaults, TOML files and the command line become the values of one run."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from splatmend.core import InputError
from splatmend.training import TrainConfig
from splatmend.training.train.options import JOBS, Job, default_values, read_options

COMMANDS = (
    "train.commands:compact_main", "train.commands:adapter_main", "train.commands:turbo_main",
    "train.fit:main", "train.average:main", "train.train_estimator:main", "evaluate.command:main",
    "prepare.command:main", "avatars.thin_and_render:thin_main",
    "avatars.thin_and_render:render_main", "avatars.from_portrait:main", "avatars.retexture:main",
    "key_pairs.baking:main",
)  # fmt: skip
HELP_ALONE = """
import importlib, sys
from splatmend.core.command_line import EXTRAS

class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if any(top in brought for brought in EXTRAS.values()):
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)

sys.meta_path.insert(0, Blocked())
for command in sys.argv[1:]:
    module, function = command.split(":")
    try:
        getattr(importlib.import_module(f"splatmend.training.{module}"), function)(["--help"])
    except SystemExit as leave:
        assert not leave.code, command
    else:
        raise AssertionError(command)
try:
    from splatmend.training.train.commands import adapter_main
    adapter_main(["--pairs", "a:"])
except Exception as error:
    print(error)
"""


FLAG = re.compile(r"\W{1,3}(--[a-z][\w.-]*)")
"""A flag at the start of its line; text below is indented further."""


def config(job: Job, *words: str) -> TrainConfig:
    return TrainConfig(**read_options(job, words))


def flags(job: Job, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The flags of a job's --help, in their order."""
    with pytest.raises(SystemExit) as left:
        read_options(job, ["--help"])
    assert not left.value.code
    found = (FLAG.match(line) for line in capsys.readouterr().out.splitlines())
    return [match[1] for match in found if match]


def test_the_command_line_beats_the_file_beats_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'faces = ["a", "b"]\nmax_steps = 50\nwarmup_steps = 10\nbatch = 3\naugment = true\n'
        "[loss]\nl1 = 0.25\n"
    )
    given = config("train", str(file), "--batch", "7", "--loss.gram", "0.5")
    assert given.faces == (Path("a"), Path("b"))
    assert (given.max_steps, given.batch, given.augment) == (50, 7, True)
    assert (given.loss.l1, given.loss.gram, given.loss.lpips_vgg) == (0.25, 0.5, 1.0)
    assert given.learning_rate == TrainConfig(faces=(Path("a"),)).learning_rate
    assert config("train", "--batch", "7", "--faces", "c", "--out", str(file)).batch == 7


def test_each_job_has_its_defaults(tmp_path: Path) -> None:
    turbo = config("train-turbo", "--faces", "x", "--no-augment")
    first = (turbo.learning_rate, turbo.warmup_steps, turbo.weight_decay, turbo.batch)
    assert first == (5e-5, 500, 1e-4, 2)
    assert (turbo.loss.l1, turbo.loss.lpips_vgg, turbo.loss.gram) == (0.5, 1.0, 0.07)
    assert (turbo.turbo.rank_unet, turbo.turbo.rank_vae, turbo.turbo.skip_dropout) == (16, 8, 0.3)
    assert (turbo.base, turbo.mixed_precision, turbo.ema) == ("turbo", "fp16", 0.0)
    assert not turbo.augment
    adapter = config("train-adapter", "--pairs", "a:b")
    assert (adapter.base, adapter.rank, adapter.max_steps, adapter.vgg_side) == (
        "compact", 16, 1300, 128
    )  # fmt: skip
    assert (adapter.frames, adapter.self_conditioning, adapter.loss.temporal) == (2, 0.0, 8.0)
    assert config("train", "--pairs", "a:b", "--faces", "x", "--pool", "9").rank == 0
    plain = config("train", "--faces", "x")
    assert plain == TrainConfig(faces=(Path("x"),))
    file = tmp_path / "run.toml"
    file.write_text('manifests = ["m.jsonl"]\n[turbo]\nrank_vae = 4\n')
    stored = config("train-turbo", str(file))
    assert (stored.learning_rate, stored.turbo.rank_vae) == (5e-5, 4)


def test_init_compact_names_the_weights_that_ship() -> None:
    shipped = config("train", "--pairs", "a:b", "--init", "compact").init
    assert shipped is not None
    assert shipped.is_file()
    assert shipped == config("train-adapter", "--pairs", "a:b", "--init", "compact").init
    assert config("train", "--faces", "x").init is None
    assert config("train", "--faces", "x", "--init", "runs/compact").init == Path("runs/compact")


@pytest.mark.parametrize(
    ("job", "words", "complaint"),
    [
        ("train", ["--pairs", "a:b", "--holdout", "2"], "which is `splatmend train-adapter` now"),
        ("train", ["--base", "turbo", "--faces", "x"], "`splatmend train-turbo` turbo"),
        ("train", ["--turbo.rank-unet=4"], r"--turbo\.\* is an option of `splatmend train-turbo`"),
        ("train", ["--pairs", "a:b", "--rank", "8"], "--rank is an option of `splatmend train-ad"),
        ("train-adapter", ["--faces", "x"], "--faces is an option of `splatmend train`, not of"),
        ("train-turbo", ["--references"], "--references is an option of `splatmend train`, not"),
        ("train-adapter", ["--loss.shift-mean", "1"], "unrecognized arguments"),
        ("train-turbo", ["--bach", "1"], "--bach 1.*did you mean --batch"),
    ],
)
def test_an_option_of_another_job_names_its_command(
    job: Job, words: list[str], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        read_options(job, words)


def test_a_file_of_another_job_names_its_command(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    for text, complaint in (
        ('base = "turbo"\nfaces = ["x"]', "`splatmend train-turbo` turbo"),
        ("rank = 4", "--rank is an option of `splatmend train-adapter`"),
        ('pairs = ["a:b"]', "which is `splatmend train-adapter` now"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=complaint):
            read_options("train", [str(file)])


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    with pytest.raises(InputError, match=r"run\.toml cannot be read: No such file"):
        read_options("train", [str(file)])
    file.write_text("faces = [")
    with pytest.raises(InputError, match=r"run\.toml is not TOML"):
        read_options("train", [str(file)])
    file.write_text('faces = ["a"]\n[loss]\nl2 = 1\n')
    with pytest.raises(InputError, match=r"no setting loss\.l2; the table has .*l1, log_mse"):
        read_options("train", [str(file)])
    file.write_text('faces = ["a"]\nbatch = "many"\n')
    with pytest.raises(InputError, match="--batch"):
        read_options("train", [str(file)])


def test_help_shows_the_options_that_matter_first(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--out", "--init", "--max-steps", "--batch", "--crop", "--learning-rate"]
    first = {
        "train": ["--faces", "--pairs", "--manifests", *common, "--lpips-weights"],
        "train-adapter": ["--pairs", "--holdout", "--rank", *common, "--lpips-weights"],
        "train-turbo": ["--faces", "--pairs", "--manifests", *common, "--lpips-weights"],
    }
    for job in JOBS:
        listed = flags(job, capsys)
        assert listed[:10] == first[job]
        assert len(set(listed)) == len(listed)
    assert not {"--pool", "--teacher", "--turbo.timestep"} & set(flags("train-adapter", capsys))


def test_the_jobs_together_have_every_setting() -> None:
    settings = {field.name for field in fields(TrainConfig)}
    for job in JOBS:
        assert set(default_values(job)) == settings


@pytest.mark.slow
def test_help_needs_the_base_dependencies_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HELP_ALONE, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Rank of the adapter" in done.stdout
    said = done.stdout.splitlines()[-1]
    assert (
        said
        == "this needs accelerate, which is not installed: pip install 'splatmend[train,turbo]'"
    )
