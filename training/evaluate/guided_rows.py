"""References of an evaluation, prepared once and never evaluated themselves."""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.pixels import to_tensor
from splatmend.core.references import (
    Guidance,
    Guide,
    Reference,
    References,
    read_pairs,
    read_references,
)
from splatmend.core.restore.frames import guide_picture
from splatmend.training.data.pairs import (
    PairSource,
    names_to_learn_from,
    read_pair,
    read_picture,
    split_folders,
    subject_box,
)

__all__ = [
    "KEYS",
    "REFERENCES",
    "guidance_for",
    "read_guides",
    "reference_files",
    "set_guides",
    "without_references",
]

REFERENCES, KEYS = "references", "keys"
"""Suffixes of rows: "compact + references" and "compact + keys"."""
_FORM = "--keys takes RENDERS:TRUTHS"
_NAMED = 3
"""Number of file names in a message."""


def read_guides(references: Sequence[Path], keys: str | None) -> dict[str, Guide]:
    """Prepare the guides of `--references` and `--keys`, by the suffix of their rows.

    Raises:
        InputError: see `read_references` and `read_pairs`.
    """
    guides = {}
    if references:
        guides[REFERENCES] = Guide(read_references(references))
    if keys is not None:
        guides[KEYS] = Guide(read_pairs(*split_folders(keys, _FORM)))
    return guides


def set_guides(
    renders: Path, truths: Path, *, holdout: int, references: int, keys: int
) -> dict[str, Guide]:
    """Prepare references and key pairs from the poses of a set that are not evaluated.

    Raises:
        InputError: there are fewer such poses.
    """
    guides = {}
    for label, option, count in (
        (REFERENCES, "--holdout-references", references),
        (KEYS, "--holdout-keys", keys),
    ):
        if not count:
            continue
        names = names_to_learn_from(renders, truths, holdout=holdout)
        if count > len(names):
            raise InputError(
                f"{option} {count}: {renders} has {len(names)} poses that are not judged; ask for "
                f"fewer"
            )
        places = np.linspace(0, len(names) - 1, count).round().astype(int)
        files = [(renders / names[i], truths / names[i]) for i in places]
        guides[label] = Guide(References(_read(files, with_render=label == KEYS)))
    return guides


def _read(files: Sequence[tuple[Path, Path]], *, with_render: bool) -> Iterator[Reference]:
    for render, truth in files:
        shown, clean = read_pair(render, truth)
        yield Reference(picture=clean, render=shown if with_render else None, name=str(truth))


def reference_files(references: Sequence[Path], keys: str | None) -> frozenset[bytes]:
    """Compute the digests of the files that `read_guides` reads."""
    folders = [] if keys is None else [*split_folders(keys, _FORM)]
    files: list[Path] = []
    for path in (*references, *folders):
        inside = (path, path / "renders", path / "photos")
        files += [file for folder in inside if folder.is_dir() for file in folder.iterdir()]
        files.append(path)
    return frozenset(_digest(file) for file in files if file.is_file())


def without_references(
    name: str, pairs: Sequence[PairSource], files: frozenset[bytes]
) -> list[PairSource]:
    """Leave out the pairs of a set whose files are among the references, and report them.

    Copies under other names count as well.

    Raises:
        InputError: no pair is left.
    """
    judged: list[PairSource] = []
    known: list[PairSource] = []
    for pair in pairs:
        own = {_digest(p) for p in (pair.render, pair.reference) if p is not None and files}
        (known if own & files else judged).append(pair)
    if not known:
        return judged
    shown = ", ".join(pair.name for pair in known[:_NAMED])
    rest = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    if not judged:
        raise InputError(
            f"all {len(known)} pictures of the set {name} are among the references ({shown}{rest}):"
            f" give others, or --holdout with --holdout-keys"
        )
    sys.stderr.write(
        f"{name}: {len(known)} of {len(pairs)} pictures are among the references and are not "
        f"judged: {shown}{rest}\n"
    )
    return judged


def guidance_for(
    guides: Mapping[str, Guide], pair: PairSource, degraded: Tensor
) -> dict[str, Guidance]:
    """Compute the guidance by each guide for a pair's degraded picture (1, 3, h, w), by name.

    If the picture is part of a render, the whole render is aligned, as in a viewer.
    """
    if not guides:
        return {}
    box: tuple[slice, slice] = (slice(None), slice(None))
    if pair.render is not None and pair.reference is not None:
        box = subject_box(read_picture(pair.reference))
        degraded = to_tensor([read_picture(pair.render)], degraded.device)

    def boxed(plane: Tensor) -> Tensor:
        return plane[..., box[0], box[1]]

    return {
        label: guide_picture(guide, degraded).guidance.map(boxed) for label, guide in guides.items()
    }


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
