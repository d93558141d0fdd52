"""Readers of references: pictures of a person, or renders with their truths."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.errors import InputError
from splatmend.core.references.collection import MOST_IN_MEMORY, Reference, References
from splatmend.core.references.picture_file import PictureFacts, picture_facts

__all__ = [
    "PICTURE_SUFFIXES",
    "decode_picture_rgba",
    "read_pairs",
    "read_picture_rgba",
    "read_references",
]

Picture = NDArray[np.uint8]
_Pair = tuple[Path | None, Path]
"""A render, if there is one, and the picture."""

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_FORMATS = "PNG, JPEG, WebP, TIFF or BMP"
_RENDERS, _PHOTOS = "renders", "photos"
_NAMED = 3
"""Number of file names in a message."""


def read_references(source: str | Path | Sequence[str | Path]) -> References:
    """Read a set of references from a picture, a folder, or a list of pictures and folders.

    A folder contributes its PNG, JPEG, WebP, TIFF and BMP files, sorted by name, without hidden
    files and sub-folders. A folder that holds `renders/` and `photos/` is a set of key pairs; see
    `read_pairs`.

    >>> import cv2, tempfile
    >>> picture = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    >>> with tempfile.TemporaryDirectory() as photos:
    ...     written = cv2.imwrite(f"{photos}/photo.png", picture)
    ...     references = read_references(photos)
    >>> len(references), references.kind
    (1, 'pictures')

    Raises:
        InputError: no picture, an unusable picture, more than 1,000 pictures, or pictures mixed
            with key pairs.
    """
    given = [source] if isinstance(source, str | Path) else list(source)
    pairs = [pair for one in given for pair in _found_in(Path(one))]
    return References(_read_all(pairs))


def read_pairs(renders: str | Path, truths: str | Path) -> References:
    """Read key pairs from two folders; a render and its truth share a name except the suffix.

    Pictures without a partner are left out. Render and truth have an alpha each; if only one of
    them has alpha, it counts for both.

    Raises:
        InputError: a folder without pictures, no common name, several pictures of one name, a
            pair of two sizes, more than 1,000 pairs, or an unusable picture.
    """
    return References(_read_all(_matched(Path(renders), Path(truths))))


def read_picture_rgba(path: str | Path) -> tuple[Picture, Picture | None]:
    """Read a picture as RGB (h, w, 3) and its straight alpha (h, w), both uint8.

    Grey becomes RGB, 16 bits are rounded to 8, and the orientation of EXIF is applied. Alpha is
    None where there is none, and where every pixel is opaque. Colour profiles are ignored.

    Raises:
        InputError: no such file, another format, damaged, CMYK or another colour space, or more
            than 16 bits.
    """
    path = Path(path)
    return decode_picture_rgba(_bytes_of(path), path)


def decode_picture_rgba(data: bytes, path: str | Path) -> tuple[Picture, Picture | None]:
    """Decode the bytes of a picture file like `read_picture_rgba`; `path` is for messages.

    Raises:
        InputError: as `read_picture_rgba`.
    """
    facts = picture_facts(data)
    if facts is None:
        raise InputError(f"{path} is not a picture in a supported format: save it as {_FORMATS}")
    if facts.colors != "RGB":
        raise InputError(f"{path} is {facts.colors}, which is not supported: save it as RGB")
    if not facts.whole:
        raise InputError(f"{path} is damaged, it ends in the middle of the picture: copy it again")
    return _planes(_decoded(data, path), facts, path)


def _bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no such file: {path}; name a picture, {_FORMATS}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"{path} is an empty file: name a picture, {_FORMATS}")
    return data


def _decoded(data: bytes, path: str | Path) -> NDArray[Any]:
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # an absurd size
        raise InputError(f"{path} cannot be decoded ({error.err}): save it anew") from error
    if stored is None:
        raise InputError(f"{path} cannot be decoded: it is damaged or not supported")
    if stored.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} has {stored.dtype} pixels: save it with 8 or 16 bits a channel")
    return np.asarray(stored)


def _planes(
    stored: NDArray[Any], facts: PictureFacts, path: str | Path
) -> tuple[Picture, Picture | None]:
    """Split OpenCV's pixels, (h, w) or (h, w, 1 to 4) with blue first, into colour and alpha."""
    layers = np.atleast_3d(_upright(stored, facts.orientation))
    if layers.shape[2] not in (1, 3, 4):
        raise InputError(f"{path} has {layers.shape[2]} channels: save it as RGB")
    multiplied = facts.premultiplied == "always" or (
        facts.premultiplied == "8 bit" and stored.dtype == np.uint8
    )
    if stored.dtype == np.uint16:
        layers = np.rint(layers / 257).astype(np.uint8)
    if layers.shape[2] == 1:
        return np.repeat(layers, 3, 2), None
    color = np.ascontiguousarray(layers[..., 2::-1])
    if layers.shape[2] == 3 or layers[..., 3].min() == 255:
        return color, None
    alpha = np.ascontiguousarray(layers[..., 3])
    if multiplied:
        share = np.maximum(alpha, 1)[..., None] / 255
        color = np.clip(np.rint(color / share), 0, 255).astype(np.uint8)
    return color, alpha


def _upright(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a picture upright by the orientation of EXIF, 1 to 8."""
    if orientation > 4:
        stored = stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return stored


def _found_in(source: Path) -> list[_Pair]:
    if not source.is_dir():
        return [(None, source)]
    renders, photos = source / _RENDERS, source / _PHOTOS
    if renders.is_dir() and photos.is_dir():
        return _matched(renders, photos)
    return [(None, picture) for picture in _pictures_in(source)]


def _pictures_in(folder: Path) -> list[Path]:
    """List the pictures of a folder, sorted by name; at least one."""
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; name a folder of pictures")
    try:
        there = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from error
    pictures = [path for path in there if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        others = f", only {_listed(path.name for path in there)}" if there else ""
        raise InputError(
            f"{folder} holds no picture{others}: name a folder with {_FORMATS} files in it, or "
            f"one with {_RENDERS}/ and {_PHOTOS}/"
        )
    return pictures


def _matched(renders: Path, truths: Path) -> list[_Pair]:
    """Pair the pictures of both folders by stem, sorted by it."""
    ours, theirs = _by_stem(renders), _by_stem(truths)
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise InputError(
            f"no render has the name of a truth: {renders} holds {_listed(ours)}, {truths} holds "
            f"{_listed(theirs)}; give both pictures of a pair one name"
        )
    return [(ours[stem], theirs[stem]) for stem in both]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _pictures_in(folder):
        if path.stem in found:
            raise InputError(
                f"{folder} holds {found[path.stem].name} and {path.name}: keep one picture of "
                f"each name"
            )
        found[path.stem] = path
    return found


def _listed(names: Iterable[str]) -> str:
    """Join the first few names."""
    every = list(names)
    rest = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + rest


def _read_all(pairs: Sequence[_Pair]) -> Iterator[Reference]:
    """Read references one by one; too many are refused before the first is read."""
    if len(pairs) > MOST_IN_MEMORY:
        raise InputError(
            f"{len(pairs)} references were given, a set takes at most {MOST_IN_MEMORY}: leave some "
            f"out, for instance keep one of every {-(-len(pairs) // MOST_IN_MEMORY)}"
        )
    if len({render is None for render, _ in pairs}) > 1:
        raise InputError(
            "pictures and key pairs cannot be mixed in one set: give either, or render the "
            "pictures' views too"
        )
    return (_read_one(render, picture) for render, picture in pairs)


def _read_one(render: Path | None, picture: Path) -> Reference:
    color, alpha = read_picture_rgba(picture)
    if render is None:
        return Reference(picture=color, alpha=alpha, name=str(picture))
    shown, covered = read_picture_rgba(render)
    if shown.shape != color.shape:
        ours, theirs = (f"{p.shape[1]} x {p.shape[0]}" for p in (shown, color))
        raise InputError(
            f"{render} is {ours} pixels and {picture} {theirs}: the two pictures of a key pair "
            f"need one size"
        )
    if alpha is None or covered is None:  # one alpha counts for both, as for a photograph
        alpha = covered = covered if alpha is None else alpha
    return Reference(
        picture=color, render=shown, alpha=alpha, render_alpha=covered, name=str(picture)
    )
