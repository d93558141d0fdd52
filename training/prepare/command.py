"""`splatmend prepare`: pictures and clips -> aligned crops, region maps, degraded/clean pairs.

splatmend prepare portraits/ talk.mp4 --out pairs/

The folder gets clean/, regions/, degraded/, alpha/ where heads are cut out, manifest.jsonl
with every step's parameters, skipped.json and contact_sheet.png. The same command goes on
after an interruption: a pair that is whole is not made again. The result does not depend on
the number of workers.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated

import cv2
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from splatmend.core.command_line import OmitArgPrefixes, Positional, parse, shown
from splatmend.core.errors import InputError, SplatmendError
from splatmend.training.data.manifest import (
    PairRecord,
    append_record,
    read_manifest,
    repair_manifest,
    write_manifest,
)
from splatmend.training.faces.regions import RegionStrengths
from splatmend.training.prepare.contact_sheet import contact_sheet
from splatmend.training.prepare.inputs import Skipped, find_items
from splatmend.training.prepare.pair_maker import Align, Job, PairMaker, degraded_path

__all__ = ["PrepareConfig", "main", "prepare"]

_SHOWN = 10  # skipped pictures that the summary names


@dataclass(frozen=True)
class _Main:
    """Sources, and the number and size of the pairs."""

    sources: Annotated[tuple[Path, ...], Positional, shown("SOURCE")]
    """Pictures, clips, and folders of them (read as their manifest.json says if they have one)."""
    out: Path
    """Folder for the pairs; a folder that a former run left unfinished is finished."""
    size: int = 512
    """Side of the crops in pixels."""
    align: Align = "face"
    """face: upright around the largest face, as FFHQ; none: pictures are aligned already."""
    parser: str = "auto"
    """Parser of regions: segformer, landmarks, or a Segformer's folder; auto takes the best at
    hand."""
    variants: int = 1
    """Differently degraded pairs of each crop."""
    clip_frames: int = 8
    """Evenly spaced frames taken from each clip."""
    cut_out: float = 0.4
    """Share of the crops whose head is put on a plain ground, with alpha, as viewers show it; fewer
    where rooms are too busy to cut a head out."""


@dataclass(frozen=True)
class _Damage:
    """Damage of each region."""

    strengths: RegionStrengths = field(default_factory=RegionStrengths)
    """Strength of the damage in each region."""


@dataclass(frozen=True)
class _Selection:
    """Pictures that are used, and the people kept for judging."""

    val: float = 0.05
    """Share of the people kept for validation, where the source does not name them."""
    test: float = 0.1
    """Share of the people kept for evaluation, where the source does not name them."""
    skip_sets: tuple[str, ...] = ("composite",)
    """Sets of a source's manifest.json to leave out: averages of people are not a target."""
    smallest: int = 256
    """Native pixels that a face's crop must have across."""


@dataclass(frozen=True)
class _Machine:
    """Processes and the seed."""

    seed: int = 0
    """Names every random choice."""
    workers: int = min(os.cpu_count() or 1, 8)
    """Processes; 0 works in the command's own."""


@dataclass(frozen=True)
class PrepareConfig(_Machine, _Selection, _Damage, _Main):
    """The sources of pairs, and how pairs are made of them."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("nothing to prepare: give pictures, clips or folders")
        if self.size < 64 or self.size % 8:
            raise InputError(f"size must be a multiple of 8 from 64 on, got {self.size}")
        if min(self.variants, self.clip_frames) < 1 or self.workers < 0:
            raise InputError(
                f"variants and clip_frames must be at least 1 and workers at least 0, got "
                f"{self.variants}, {self.clip_frames} and {self.workers}"
            )
        if not 0 <= self.cut_out <= 1 or min(self.val, self.test) < 0 or self.val + self.test > 1:
            raise InputError(
                f"cut_out and val + test must lie in [0, 1], got {self.cut_out} and "
                f"{self.val} + {self.test}"
            )


@dataclass(frozen=True)
class _Options:
    """The options of `splatmend prepare`, in groups."""

    main: Annotated[_Main, OmitArgPrefixes]
    selection: Annotated[_Selection, OmitArgPrefixes] = _Selection()
    machine: Annotated[_Machine, OmitArgPrefixes] = _Machine()
    damage: Annotated[_Damage, OmitArgPrefixes] = field(default_factory=_Damage)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend prepare ...`; errors are the caller's to report."""
    given = parse(_Options, arguments, prog="splatmend prepare", description=str(__doc__))
    groups = (given.main, given.selection, given.machine, given.damage)
    prepare(PrepareConfig(**{name: v for group in groups for name, v in vars(group).items()}))


def prepare(config: PrepareConfig) -> Path:
    """Make all pairs that are not there yet; returns the manifest.

    Raises:
        InputError: a source is missing, `out` was made with other options, or not one pair
            could be made.
        ModelError: the region parser is not at hand.
        SplatmendError: a file cannot be written, or a worker was killed.
    """
    try:
        return _prepare(config)
    except OSError as error:
        raise SplatmendError(
            f"{error.filename or config.out}: {error.strerror}; the pairs that were made are "
            f"whole, and the same command goes on from there"
        ) from error


def _prepare(config: PrepareConfig) -> Path:
    items, skipped = find_items(
        config.sources, clip_frames=config.clip_frames, skip_sets=config.skip_sets
    )
    manifest = config.out / "manifest.jsonl"
    done = _resume(config, manifest)
    jobs = []
    for item in items:
        missing = [n for n in range(config.variants) if degraded_path(item, n) not in done]
        if missing:
            jobs.append(Job(item, tuple(missing)))
    bar = tqdm(
        total=sum(len(job.variants) for job in jobs), unit="pair", disable=not sys.stderr.isatty()
    )
    made = 0
    for job, result in zip(jobs, _results(jobs, config), strict=True):
        if isinstance(result, SplatmendError):
            raise result
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            for record in result:
                append_record(manifest, record)
            made += len(result)
        bar.update(len(job.variants))
    bar.close()
    return _finish(config.out, manifest, made, skipped)


def _resume(config: PrepareConfig, manifest: Path) -> set[Path]:
    """List the pairs that are whole, after clearing up the remains of a kill."""
    config.out.mkdir(parents=True, exist_ok=True)
    options = _options(config)
    path = config.out / "prepare.json"
    if not path.exists():
        if manifest.exists():
            raise InputError(f"{manifest} was not made by prepare: give another --out")
        _write(path, json.dumps(options, indent=1))
    before = json.loads(path.read_text())
    for name, value in options.items():
        if before.get(name) != value:
            raise InputError(
                f"{config.out} was made with {name} {before.get(name)}, not {value}: give the "
                f"same options to go on, or another --out"
            )
    for unfinished in config.out.rglob("*.part"):
        unfinished.unlink(missing_ok=True)
    repair_manifest(manifest)
    if not manifest.exists():
        return set()
    records, complaints = read_manifest(manifest, skip=True)
    if complaints:  # pictures that are gone: made again, so their lines must go
        write_manifest(manifest, records)
    return {record.degraded for record in records}


def _options(config: PrepareConfig) -> dict[str, object]:
    """List the settings that a pair depends on, as JSON would give them back."""
    maker = asdict(_maker(config))
    del maker["out"]
    options: dict[str, object] = json.loads(json.dumps(maker))
    return options


def _maker(config: PrepareConfig) -> PairMaker:
    return PairMaker(**{each.name: getattr(config, each.name) for each in fields(PairMaker)})


_Result = list[PairRecord] | Skipped | SplatmendError
"""Result of a job; an error is carried over as a value, for a traceback is not a message."""


def _results(jobs: Sequence[Job], config: PrepareConfig) -> Iterator[_Result]:
    """One result a job, in the order of the jobs, whoever works on them."""
    if not jobs:
        return
    work = _Work(jobs, _maker(config))
    work.load()  # here first: a missing package is said once, and at once
    if config.workers == 0:
        yield from (work[index] for index in range(len(jobs)))
        return
    loader = DataLoader(
        _Work(jobs, _maker(config)),
        batch_size=None,
        num_workers=min(config.workers, len(jobs)),
        collate_fn=_as_it_is,
        worker_init_fn=_on_one_thread,
        # not forked: OpenMP hangs in the child of a process that has used it
        multiprocessing_context="spawn",
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        yield SplatmendError(
            "a worker was killed, as happens when memory runs out: the same command goes on from "
            "here, and fewer --workers need less"
        )


class _Work(Dataset[_Result]):
    """Jobs as the workers of a DataLoader want them."""

    def __init__(self, jobs: Sequence[Job], maker: PairMaker) -> None:
        self._jobs, self._make = jobs, maker

    def load(self) -> None:
        """Load the models that the jobs need, and fail where one is missing."""
        _ = self._make.region_parser
        if self._make.align == "face":
            _ = self._make.landmarker

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, index: int) -> _Result:
        job = self._jobs[index]
        try:
            return self._make(job)
        except InputError as error:
            return Skipped(job.item.key, str(error))
        except SplatmendError as error:
            return error


def _as_it_is(result: _Result) -> _Result:
    return result


def _on_one_thread(_: int) -> None:
    cv2.setNumThreads(1)  # DataLoader sees to torch's


def _finish(out: Path, manifest: Path, made: int, skipped: Sequence[Skipped]) -> Path:
    """Write contact sheet, list of skipped pictures and summary."""
    _write(out / "skipped.json", json.dumps([asdict(each) for each in skipped], indent=1))
    lines = [f"  {each.key}: {each.reason}" for each in skipped[:_SHOWN]]
    if len(skipped) > _SHOWN:
        lines.append(f"  ... all in {out / 'skipped.json'}")
    if not manifest.exists():
        raise InputError("\n".join(("no pair could be made", *lines)))
    records = read_manifest(manifest)
    cv2.imwrite(str(out / "contact_sheet.png"), contact_sheet(out, records)[..., ::-1])
    splits = Counter(record.split for record in records)
    parsers = Counter(record.parser for record in records)
    people = len({record.identity for record in records})
    sys.stdout.write(
        f"{len(records)} pairs of {people} people in {manifest}: {made} made now, "
        f"{', '.join(f'{n} {split}' for split, n in splits.items())}; regions by "
        f"{', '.join(str(parser) for parser in parsers)}; {len(skipped)} skipped\n"
        + "".join(f"{line}\n" for line in lines)
    )
    return manifest


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text)
    unfinished.replace(path)


if __name__ == "__main__":
    main()
