"""The list of pairs that `splatmend prepare` writes and training reads: JSON, one pair a line.

Paths are relative to the manifest's folder. Only `degraded` and `clean` are required, so pairs
from any renderer can be listed by hand or by a script.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, overload

from splatmend.core.checkpoint import config_from_json
from splatmend.core.errors import InputError
from splatmend.training.data.portraits import Split
from splatmend.training.degradations.patch_masks import PatchOptions
from splatmend.training.degradations.steps import Drawn
from splatmend.training.faces.regions import RegionStrengths

__all__ = ["PairRecord", "append_record", "read_manifest", "repair_manifest", "write_manifest"]


@dataclass(frozen=True)
class PairRecord:
    """One line: the files of a pair, and the data to repeat its degradation."""

    degraded: Path
    clean: Path
    alpha: Path | None = None
    """Coverage of the subject, 8 bits, grey; None if the whole frame is the subject."""
    regions: Path | None = None
    """Indices into `REGIONS`, 8 bits, grey."""
    split: Split = "train"
    identity: str = ""
    """The person shown: pictures of one person must not be in two splits."""
    seed: int | None = None
    parser: str | None = None
    """Name of the region parser that drew `regions`."""
    native_scale: float = 1.0
    """Pixels of the source across the crop over stored pixels."""
    strengths: RegionStrengths | None = None
    steps: tuple[Drawn, ...] = ()
    """The steps that turned clean into degraded, in this order; empty for real pairs."""


@overload
def read_manifest(path: Path, *, skip: Literal[False] = False) -> list[PairRecord]: ...


@overload
def read_manifest(path: Path, *, skip: Literal[True]) -> tuple[list[PairRecord], list[str]]: ...


def read_manifest(
    path: Path, *, skip: bool = False
) -> list[PairRecord] | tuple[list[PairRecord], list[str]]:
    """Read every pair; the files in each line must exist.

    Args:
        path: the manifest.
        skip: leave bad lines out and return (records, complaints), one for each bad line.

    Raises:
        InputError: the manifest cannot be read. Without `skip` also: a line is bad (the message
            gives file and line), or there is no pair.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"no manifest {path} ({error.strerror}): `splatmend prepare` writes one"
        ) from error
    records, complaints = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(_parse(line, path.parent))
        except InputError as error:
            complaint = f"{path}, line {number}: {error}"
            if not skip:
                raise InputError(complaint) from error
            complaints.append(complaint)
    if skip:
        return records, complaints
    if not records:
        raise InputError(f"{path} lists no pair")
    return records


def append_record(path: Path, record: PairRecord) -> None:
    """Append one line in a single write: a kill tears the last line at most."""
    with path.open("ab", buffering=0) as file:
        file.write(_to_line(record))


def repair_manifest(path: Path) -> None:
    """Cut off the last line if a kill has torn it; a missing file is fine."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = file.read()
        file.truncate(whole.rfind(b"\n") + 1)


def write_manifest(path: Path, records: Iterable[PairRecord]) -> None:
    """Write all lines anew; the old file stays until the new one is complete."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(b"".join(_to_line(record) for record in records))
    unfinished.replace(path)


def _to_line(record: PairRecord) -> bytes:
    entry = {name: value for name, value in asdict(record).items() if value not in (None, (), "")}
    for step in entry.get("steps", ()):
        if step["patches"] is None:
            del step["patches"]
    return json.dumps(entry, default=_to_plain).encode() + b"\n"


def _to_plain(value: object) -> object:
    return value.as_posix() if isinstance(value, Path) else str(value)


_PATHS = ("degraded", "clean", "alpha", "regions")
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(_PATHS, (str, "a path")),
    "split": (str, f"one of {', '.join(get_args(Split))}"),
    "identity": (str, "a string"),
    "seed": (int, "an integer"),
    "parser": (str, "a string"),
    "native_scale": ((int, float), "a number"),
    "strengths": (dict, "an object"),
    "steps": (list, "a list"),
}


def _parse(line: bytes, folder: Path) -> PairRecord:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise InputError(f"a JSON object is needed, got {type(entry).__name__}")
    for name, value in entry.items():
        if name not in _KINDS:
            known = ", ".join(field.name for field in fields(PairRecord))
            raise InputError(f"no field {name!r}: a pair has {known}")
        kind, wanted = _KINDS[name]
        if not isinstance(value, kind) or isinstance(value, bool) or (name in _PATHS and not value):
            raise InputError(f"{name} must be {wanted}, got {json.dumps(value)}")
    if missing := [name for name in ("degraded", "clean") if name not in entry]:
        raise InputError(f"it lacks {missing[0]!r}")
    if entry.get("split", "train") not in get_args(Split):
        raise InputError(f"split must be {_KINDS['split'][1]}, got {entry['split']!r}")
    for name in _PATHS:
        if name in entry and not (folder / entry[name]).is_file():
            raise InputError(f"no file {folder / entry[name]}, which it names as {name}")
    return _build(entry)


def _build(entry: dict[str, Any]) -> PairRecord:
    values = dict(entry) | {name: Path(entry[name]) for name in _PATHS if name in entry}
    try:
        if "strengths" in entry:
            values["strengths"] = RegionStrengths(**entry["strengths"])
        values["steps"] = tuple(_to_step(step) for step in entry.get("steps", ()))
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"steps or strengths are not as prepare writes them: {error}") from error
    return PairRecord(**values)


def _to_step(entry: dict[str, Any]) -> Drawn:
    patches = entry.get("patches")
    values = dict(entry) | {"patches": config_from_json(PatchOptions, patches) if patches else None}
    return config_from_json(Drawn, values)
