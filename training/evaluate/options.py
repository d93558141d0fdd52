"""The options of `splatmend evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from splatmend.core.command_line import OmitArgPrefixes, parse
from splatmend.core.errors import InputError
from splatmend.training.evaluate.guided_rows import KEYS, REFERENCES
from splatmend.training.evaluate.metrics import MetricName
from splatmend.training.evaluate.report import INPUT

__all__ = ["FLOOR", "REFERENCE", "EvaluateConfig", "external_folders", "read_options"]

FLOOR = "vae floor"
"""The row of turbo's autoencoder alone."""
REFERENCE = "reference"
"""The row of the truth."""


@dataclass(frozen=True)
class _Main:
    """Sets of pictures, the restorers that are judged on them, and the report."""

    pairs: tuple[str, ...] = ()
    """Real pairs, each RENDERS:REFERENCES: two folders, matched by file name."""
    manifests: tuple[Path, ...] = ()
    """Manifests that `splatmend prepare` made: the pairs of its test split are a set each."""
    faces: Path | None = None
    """Folder of portraits with a manifest; its test split becomes the set "portraits"."""
    holdout: int = 0
    """Judge every k-th pose of the pairs alone, as training with --holdout k left them out."""
    restorers: tuple[str, ...] = ("unsharp", "compact")
    """Names or checkpoints, one row each; "compact+FILE" puts a personal adapter on."""
    references: tuple[Path, ...] = ()
    """Clean pictures of the person, or folders of them: each restorer is also judged with them,
    in a row "NAME + references". Pictures of the sets that are among them are left out."""
    keys: str | None = None
    """Key pairs, RENDERS:TRUTHS: likewise, in a row "NAME + keys"."""
    out: Path = Path("runs/evaluation")
    """Folder for evaluation.json (every value), summary.json, evaluation.md and one comparison
    picture of each set."""
    lpips_weights: Path | None = None
    """Folder with the LPIPS backbones; without it they are downloaded."""
    limit: int | None = None
    """Largest number of pictures of each set, evenly spaced."""


@dataclass(frozen=True)
class _MoreRows:
    """Further rows of the table."""

    external: tuple[str, ...] = ()
    """Results of other programs, each NAME=FOLDER, matched by file name (without its suffix);
    FOLDER/SET is used where it exists. `--save-pictures` writes the pictures for such a program."""
    holdout_references: int = 0
    """Take so many truths of the poses that --holdout does not judge as references of their set."""
    holdout_keys: int = 0
    """Take so many of these poses as key pairs of their set."""
    floor: bool = True
    """With a turbo among the restorers: also judge its autoencoder alone, on the reference, without
    LoRA, skips or UNet. No latent can carry the detail that is lost there."""


@dataclass(frozen=True)
class _How:
    """How pictures are restored and measured."""

    measures: tuple[MetricName, ...] = ()
    """Figures of the table; by default all that can run here."""
    save_pictures: bool = False
    """Write every row's pictures to out/SET/ROW as well, those of input and reference too."""
    strength: float = 1.0
    """Strength of the restoration, from 0, the input, to 1."""
    base: str | None = None
    """For turbo: the folder of SD-Turbo, or "download"."""
    device: str = "auto"
    """cpu, cuda, cuda:1 or mps; auto takes the best there is."""
    seed: int = 0
    """Seed of the resamples that the intervals are made of."""


@dataclass(frozen=True)
class EvaluateConfig(_How, _MoreRows, _Main):
    """The sets of pictures, the rows and the measures of an evaluation."""

    def __post_init__(self) -> None:
        if self.faces is None and not self.pairs and not self.manifests:
            raise InputError("nothing to evaluate: give --faces, --manifests or --pairs")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, got {self.limit}")
        labels = _check_guides(self)
        guided = [f"{name} + {label}" for name in self.restorers for label in labels]
        others = [name for name, _ in external_folders(self)]
        names = [INPUT, FLOOR, REFERENCE, *self.restorers, *guided, *others]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"two rows are called {twice[0]!r}: each needs a name of its own")


def _check_guides(config: EvaluateConfig) -> list[str]:
    """Give the labels of the guided rows."""
    held = {REFERENCES: config.holdout_references, KEYS: config.holdout_keys}
    given = {REFERENCES: bool(config.references), KEYS: config.keys is not None}
    for label, count in held.items():
        if count < 0:
            raise InputError(f"--holdout-{label} must be at least 0, got {count}")
        if count and given[label]:
            raise InputError(f"give --{label} or --holdout-{label}, not both")
        if count and (not config.pairs or config.holdout < 2):
            raise InputError(f"--holdout-{label} needs --pairs and a --holdout of at least 2")
    return [label for label, count in held.items() if count or given[label]]


def external_folders(config: EvaluateConfig) -> list[tuple[str, Path]]:
    """List (name, folder) of each `--external`."""
    found = []
    for text in config.external:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise InputError(f"--external takes NAME=FOLDER, got {text!r}")
        if not Path(folder).is_dir():
            raise InputError(f"--external {name}: no folder {folder}")
        found.append((name, Path(folder)))
    return found


@dataclass(frozen=True)
class _Options:
    """The options of `splatmend evaluate`, in groups."""

    main: Annotated[_Main, OmitArgPrefixes] = _Main()
    rows: Annotated[_MoreRows, OmitArgPrefixes] = _MoreRows()
    measuring: Annotated[_How, OmitArgPrefixes] = _How()


def read_options(arguments: Sequence[str] | None, about: str) -> EvaluateConfig:
    """Read the command line; `about` is the text of --help.

    Raises:
        InputError: an option that is unknown or cannot be used.
    """
    given = parse(_Options, arguments, prog="splatmend evaluate", description=about)
    return EvaluateConfig(**vars(given.main), **vars(given.rows), **vars(given.measuring))
