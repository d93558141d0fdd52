"""Options of the three jobs: each command has the groups that its job reads.

A run is read in this order, later words win: defaults of the job, TOML file, command line.
"""

# ruff: noqa: RUF009  (every group is frozen, which ruff sees in its own file alone)

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from splatmend.core.command_line import OmitArgPrefixes, Positional, parse, shown
from splatmend.core.errors import InputError
from splatmend.training.config import (
    CompactNetworks,
    CompactPool,
    Data,
    Holdout,
    LossNetworks,
    LossTerms,
    LossWeights,
    Machine,
    Manifests,
    Optimizer,
    Output,
    PairFolders,
    Pool,
    Portraits,
    Rank,
    Run,
    Sequences,
    StillShare,
    TrainConfig,
    TurboTraining,
    Validation,
)

__all__ = [
    "JOBS",
    "AdapterOptions",
    "CompactOptions",
    "Job",
    "TurboOptions",
    "default_values",
    "read_options",
]

Job = Literal["train", "train-adapter", "train-turbo"]
"""A job's command."""
SettingsFile = Annotated[Path | None, Positional, shown("RUN.toml")]

_SHIPPED = Path("compact")
_PREFIXED = ("loss", "turbo")


@dataclass(frozen=True)
class _CompactMain(Run, Manifests, PairFolders, Portraits):
    """Pictures to learn from, output and length."""


@dataclass(frozen=True)
class _AdapterMain(Run, Rank, Holdout, PairFolders):
    """Pairs to learn from, output and length."""


@dataclass(frozen=True)
class _TurboMain(Run, Manifests, PairFolders, Portraits):
    """Pictures to learn from, output and length."""


@dataclass(frozen=True)
class _Judged(Validation, Holdout):
    """Validation, on people or poses that the run does not train on."""


@dataclass(frozen=True)
class CompactOptions:
    """Options of `splatmend train`."""

    settings: SettingsFile = None
    """A TOML file of these options: max_steps = 500, and l1 = 1.0 below [loss]."""
    main: Annotated[_CompactMain, OmitArgPrefixes] = _CompactMain()
    data: Annotated[Data, OmitArgPrefixes] = Data()
    pool: Annotated[CompactPool, OmitArgPrefixes] = CompactPool()
    temporal: Annotated[StillShare, OmitArgPrefixes] = StillShare()
    optimizer: Annotated[Optimizer, OmitArgPrefixes] = Optimizer()
    loss: LossWeights = LossWeights()
    loss_networks: Annotated[CompactNetworks, OmitArgPrefixes] = CompactNetworks()
    validation: Annotated[_Judged, OmitArgPrefixes] = _Judged()
    output: Annotated[Output, OmitArgPrefixes] = Output()
    machine: Annotated[Machine, OmitArgPrefixes] = Machine()


@dataclass(frozen=True)
class AdapterOptions:
    """Options of `splatmend train-adapter`; its defaults were measured on renders of one avatar."""

    settings: SettingsFile = None
    """A TOML file of these options: max_steps = 500, and l1 = 1.0 below [loss]."""
    main: Annotated[_AdapterMain, OmitArgPrefixes] = _AdapterMain(
        rank=16, out=Path("runs/adapter"), max_steps=1300, learning_rate=1e-3
    )
    data: Annotated[Data, OmitArgPrefixes] = Data()
    temporal: Annotated[Sequences, OmitArgPrefixes] = Sequences(
        frames=2,
        self_conditioning=0.0,  # shifts do not follow in time
    )
    optimizer: Annotated[Optimizer, OmitArgPrefixes] = Optimizer()
    loss: LossTerms = LossTerms(l1=0.5, log_mse=0.05, temporal=8.0)
    loss_networks: Annotated[LossNetworks, OmitArgPrefixes] = LossNetworks(vgg_side=128)
    validation: Annotated[Validation, OmitArgPrefixes] = Validation()
    output: Annotated[Output, OmitArgPrefixes] = Output()
    machine: Annotated[Machine, OmitArgPrefixes] = Machine()


@dataclass(frozen=True)
class TurboOptions:
    """Options of `splatmend train-turbo`; its defaults are those of the first configuration."""

    settings: SettingsFile = None
    """A TOML file of these options: max_steps = 500, and l1 = 1.0 below [loss]."""
    main: Annotated[_TurboMain, OmitArgPrefixes] = _TurboMain(
        out=Path("runs/turbo"), max_steps=20_000, batch=2, crop=512, learning_rate=5e-5
    )
    turbo: TurboTraining = TurboTraining()
    data: Annotated[Data, OmitArgPrefixes] = Data(augment=True)
    pool: Annotated[Pool, OmitArgPrefixes] = Pool()
    temporal: Annotated[StillShare, OmitArgPrefixes] = StillShare()
    optimizer: Annotated[Optimizer, OmitArgPrefixes] = Optimizer(warmup_steps=500, ema=0.0)
    loss: LossTerms = LossTerms(l1=0.5, log_mse=0.0, lpips_alex=0.0)
    loss_networks: Annotated[LossNetworks, OmitArgPrefixes] = LossNetworks(vgg_side=512)
    validation: Annotated[_Judged, OmitArgPrefixes] = _Judged()
    output: Annotated[Output, OmitArgPrefixes] = Output()
    machine: Annotated[Machine, OmitArgPrefixes] = Machine(mixed_precision="fp16")


Options = CompactOptions | AdapterOptions | TurboOptions

JOBS: Mapping[Job, type[Options]] = {
    "train": CompactOptions,
    "train-adapter": AdapterOptions,
    "train-turbo": TurboOptions,
}
_ABOUT: Mapping[Job, str] = {
    "train": "Train compact on pictures: portraits, prepared pairs or real ones.",
    "train-adapter": (
        "Train an adapter of compact for one avatar, on renders of it and of the whole one."
    ),
    "train-turbo": "Train turbo on pictures: LoRA and skips on a frozen SD-Turbo.",
}
_AGAIN = (
    "The same command goes on after an interruption. Options that do not fit the pictures, the "
    "machine or the number of steps are fitted, and the command says so."
)
_EXAMPLES: Mapping[Job, str] = {
    "train": """\
examples:
  splatmend train --manifests pairs/manifest.jsonl --lpips-weights WEIGHTS
  splatmend train --faces portraits/ --pairs thin/:whole/ --pool 240 --init compact
  splatmend train --faces portraits/ --max-steps 20 --crop 64          # a first trial
  splatmend train run.toml --batch 8
""",
    "train-adapter": """\
examples:
  splatmend train-adapter --pairs thin/:whole/ --holdout 2 --lpips-weights WEIGHTS
  restore-video in.mp4 out.mp4 --adapter runs/adapter/adapter.safetensors
""",
    "train-turbo": """\
examples:
  splatmend train-turbo --turbo.sd-turbo sd-turbo/ --manifests pairs/manifest.jsonl
""",
}


def read_options(job: Job, arguments: Sequence[str]) -> dict[str, Any]:
    """Read `[RUN.toml] [--option value ...]` into the values of a `TrainConfig`, not yet checked.

    Raises:
        InputError: a file that cannot be read, an unknown key or option, or one of another job.
    """
    kind = JOBS[job]
    _check_job(job, [_key(word) for word in arguments if word.startswith("--")])

    def read(words: Sequence[str]) -> Options:
        about = f"{_ABOUT[job]}\n\n{_AGAIN}"
        prog = f"splatmend {job}"
        return parse(kind, words, prog=prog, description=about, epilog=_EXAMPLES[job])

    given = read(arguments)
    if given.settings is not None:
        stated = _read_toml(given.settings)
        _check_job(job, list(stated))
        given = read([*_words(stated, _known(kind)), *arguments])
    values = _filled(_values(given), job)
    if values["init"] == _SHIPPED and job != "train-turbo":
        values["init"] = Path(str(files("splatmend.core.compact") / "weights.safetensors"))
    if job == "train" and values["pairs"] and not values["faces"] and values["init"] is None:
        raise InputError(
            "--pairs without --faces fits one avatar, which is `splatmend train-adapter` now, with "
            "the same options; to train all of compact on these pairs, name the start: "
            "--init compact"
        )
    return values


def default_values(job: Job) -> dict[str, Any]:
    """Give the values of a job's `TrainConfig` without any option."""
    return _filled(_values(JOBS[job]()), job)


def _filled(values: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Add the settings of other jobs, at their defaults, and the base."""
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    return defaults | dict(values) | {"base": "turbo" if job == "train-turbo" else "compact"}


def _key(word: str) -> str:
    """Take the key from a flag: --turbo.rank-unet=4 -> turbo, --pair-share -> pair_share."""
    return word.removeprefix("--").partition("=")[0].partition(".")[0].replace("-", "_")


def _check_job(job: Job, keys: Sequence[str]) -> None:
    """Check that no key belongs to another job, as all did when the three were one command.

    Raises:
        InputError: one does; names the command that has it.
    """
    own = _known(JOBS[job])
    for key in keys:
        if key == "base":
            raise InputError(
                "--base is gone: `splatmend train` trains compact, `splatmend train-adapter` its "
                "adapter for one avatar, `splatmend train-turbo` turbo"
            )
        other = next((name for name, kind in JOBS.items() if key in _known(kind)), None)
        if key not in own and other is not None:
            flag = f"--{key.replace('_', '-')}{'.*' if key in _PREFIXED else ''}"
            raise InputError(f"{flag} is an option of `splatmend {other}`, not of {job}")


def _known(kind: type[Any]) -> dict[str, Any]:
    """List the keys of a job's TOML files with their defaults; of a table, a mapping of its own."""
    known: dict[str, Any] = {}
    for field in fields(kind):
        if field.name in _PREFIXED:
            known[field.name] = _known(type(field.default))
        elif is_dataclass(field.default):
            known |= _known(type(field.default))
        elif field.name != "settings":
            known[field.name] = field.default
    return known


def _values(options: Any) -> dict[str, Any]:
    """Gather all values of the groups, without the groups."""
    values: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name == "loss":
            values["loss"] = LossWeights(**vars(value))
        elif is_dataclass(value) and field.name not in _PREFIXED:
            values |= _values(value)
        elif field.name != "settings":
            values[field.name] = value
    return values


def _read_toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def _words(values: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Turn keys and values into the words that the command line has for them.

    Raises:
        InputError: a key that the table does not have.
    """
    for key, value in values.items():
        if key not in known:
            raise InputError(
                f"there is no setting {prefix}{key}; the table has {', '.join(sorted(known))}"
            )
        name = key.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _words(value, known[key], f"{prefix}{name}.")
        elif isinstance(value, bool):
            yield f"--{prefix}{name if value else f'no-{name}'}"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from (f"--{prefix}{name}", *map(str, value))
        else:
            yield from (f"--{prefix}{name}", str(value))
