"""The inputs of `splatmend prepare`: pictures, folders and clips, item by item.

An item's name does not depend on the location of its folder, so the same data give the same
pairs on every machine.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.errors import InputError
from splatmend.training.data.portraits import Split

__all__ = ["Item", "Skipped", "find_items", "hash_share", "read_item"]

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_CLIPS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg"})


@dataclass(frozen=True)
class Item:
    """One picture, or one frame of a clip."""

    key: str
    """Folder and file (and time stamp): unique, and independent of the folder's location."""
    path: Path
    identity: str
    split: Split | None = None
    """The split in the folder's manifest.json; None leaves it to the identity's hash."""
    native_scale: float = 1.0
    """Native pixels over stored pixels; below 1 the picture was enlarged."""
    pts: int | None = None
    """Time stamp of a clip's frame, in ticks of its stream."""

    @property
    def stem(self) -> str:
        """Return the stem of file names for this item."""
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9_]+', '-', self.key)[-64:]}-{digest}"


@dataclass(frozen=True)
class Skipped:
    """A skipped input and the reason."""

    key: str
    reason: str


def hash_share(text: str) -> float:
    """Hash a text to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def find_items(
    paths: Sequence[Path], *, clip_frames: int, skip_sets: Sequence[str] = ()
) -> tuple[list[Item], list[Skipped]]:
    """List every picture, and `clip_frames` evenly spaced frames of every clip.

    A manifest.json in a folder, a list of {file} with optional split, identity, set and scale,
    names its files. Any other folder is read with all of its subfolders.

    Raises:
        InputError: a path is missing or of an unknown kind, or a manifest.json is bad.
    """
    items: list[Item] = []
    skipped: list[Skipped] = []
    labels: dict[Path, str] = {}
    seen: set[Path] = set()
    for given in paths:
        root = given.resolve() if given.is_dir() else given.resolve().parent
        label = labels.setdefault(root, _label(root, labels))
        for path, entry in _listed(given, root):
            if path in seen or entry.get("set") in skip_sets:
                continue
            seen.add(path)
            key = f"{label}/{path.relative_to(root).as_posix()}"
            identity = entry.get("identity", path.relative_to(root).with_suffix("").as_posix())
            item = Item(
                key=key,
                path=path,
                identity=f"{label}/{identity}",
                split=entry.get("split"),
                native_scale=float(entry.get("scale", 1.0)),
            )
            if path.suffix.lower() in _CLIPS:
                try:
                    items += _frames(item, clip_frames)
                except InputError as error:
                    skipped.append(Skipped(key, str(error)))
            else:
                items.append(item)
    return items, skipped


def _label(root: Path, labels: dict[Path, str]) -> str:
    """Label a folder by its name; a second folder of that name is name~2."""
    taken = sum(other.name == root.name for other in labels if other != root)
    return root.name if not taken else f"{root.name}~{taken + 1}"


def _listed(given: Path, root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield every file of a path with its entry of a manifest.json."""
    if given.is_file():
        if given.suffix.lower() not in _PICTURES | _CLIPS:
            raise InputError(
                f"{given} is neither a picture nor a clip: give "
                f"{', '.join(sorted(_PICTURES | _CLIPS))}, or a folder"
            )
        entry = {e["file"]: e for e in _manifest(root)}.get(given.name, {})
        yield given.resolve(), entry
    elif not given.is_dir():
        raise InputError(f"no file or folder {given}")
    elif entries := _manifest(root):
        for entry in entries:
            yield root / entry["file"], entry
    else:
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in _PICTURES | _CLIPS and path.is_file():
                yield path, {}


def _manifest(root: Path) -> list[dict[str, Any]]:
    """Read the entries of root/manifest.json; none if there is no such file."""
    path = root / "manifest.json"
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise InputError(f"{path} must be a list of objects with a file each")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            raise InputError(f"{path}, entry {number}: an object with a file is needed")
        if entry.get("split", "train") not in get_args(Split):
            raise InputError(
                f"{path}, entry {number}: split must be one of {', '.join(get_args(Split))}, "
                f"got {entry['split']!r}"
            )
        if not isinstance(scale := entry.get("scale", 1.0), int | float) or scale <= 0:
            raise InputError(f"{path}, entry {number}: scale must be above 0, got {scale!r}")
    return entries


def _frames(clip: Item, count: int) -> list[Item]:
    """List evenly spaced frames of a clip by the time stamps of its packets, without decoding."""
    try:
        with av.open(str(clip.path)) as container:
            if not container.streams.video:
                raise InputError(f"{clip.path} has no video stream")
            packets = container.demux(container.streams.video[0])
            stamps = sorted({packet.pts for packet in packets if packet.pts is not None})
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{clip.path} cannot be read: {error}") from error
    if not stamps:
        raise InputError(f"{clip.path} has no frame with a time stamp")
    # the middles of equal parts: first and last frames are often black
    places = ((np.arange(count) + 0.5) / count * len(stamps)).astype(int)
    return [
        Item(f"{clip.key}@{pts}", clip.path, clip.identity, clip.split, clip.native_scale, pts)
        for pts in sorted({stamps[place] for place in places})
    ]


def read_item(item: Item) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Read upright RGB (h, w, 3), and alpha (h, w) if the file has one.

    Raises:
        InputError: it cannot be decoded.
    """
    if item.pts is not None:
        return _decode_frame(item), None
    stored = _read_picture(item.path, cv2.IMREAD_UNCHANGED)
    if stored.ndim == 3 and stored.shape[2] == 4:
        deep = stored.dtype == np.uint16
        eight = (stored / 257 if deep else stored).round().astype(np.uint8)
        return np.ascontiguousarray(eight[..., 2::-1]), np.ascontiguousarray(eight[..., 3])
    # read again: only this mode applies the EXIF rotation and gives 8 bits
    return np.ascontiguousarray(_read_picture(item.path, cv2.IMREAD_COLOR)[..., ::-1]), None


def _read_picture(path: Path, mode: int) -> NDArray[np.uint8]:
    try:
        stored = cv2.imread(str(path), mode)
    except cv2.error as error:  # an absurd size
        raise InputError(f"{path} cannot be read: {error.err}") from error
    if stored is None:
        raise InputError(f"{path} is not a picture that OpenCV can read")
    return np.asarray(stored)


def _decode_frame(item: Item) -> NDArray[np.uint8]:
    try:
        with av.open(str(item.path)) as container:
            stream = container.streams.video[0]
            container.seek(item.pts or 0, stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts is not None and item.pts is not None and frame.pts >= item.pts:
                    upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    return np.ascontiguousarray(upright, np.uint8)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{item.path} cannot be decoded at {item.pts}: {error}") from error
    raise InputError(f"{item.path} has no frame at {item.pts} any more: it is damaged")
