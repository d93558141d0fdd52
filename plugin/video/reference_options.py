"""References as a command is told of them: pictures, a part of a clip, or key pairs."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatmend.core import Frame, InputError, Reference, References, from_tensor, to_tensor
from splatmend.core.references.reading import read_pairs, read_references
from splatmend.plugin.video.reader import ClipReader
from splatmend.plugin.video.rotation import upright
from splatmend.plugin.video.source import Clip, open_clip
from splatmend.plugin.video.times import seconds

__all__ = ["MOST_OF_A_CLIP", "ReferenceOptions", "read_clip_references"]

MOST_OF_A_CLIP = 64
"""References that are taken from one clip."""
_NEAR = Fraction(1)
"""Seconds between two of them from which seeking is quicker than reading all in between."""
_RANGE = re.compile(r"(.+)@([^@]*)")


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """Where pictures of the person come from: one of these, or none.

    Raises:
        InputError: more than one of them.
    """

    pictures: tuple[Path, ...] = ()
    """Pictures, and folders of pictures."""
    clip: str | None = None
    """A clip of the person; clip.mp4@2-7 takes its seconds 2 to 7."""
    keys: str | None = None
    """Key pairs: renders/:photos/, or a folder with renders/ and photos/ in it."""

    def __post_init__(self) -> None:
        named = {
            "--reference": bool(self.pictures),
            "--reference-clip": self.clip is not None,
            "--keys": self.keys is not None,
        }
        given = [name for name, is_given in named.items() if is_given]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} cannot be mixed: give one of them")

    def read(self) -> References | None:
        """Read what is named; None where nothing is.

        Raises:
            InputError: something cannot be used.
            VideoInputError: the clip cannot be read.
        """
        if self.pictures:
            return read_references(self.pictures)
        if self.clip is not None:
            return _clip_references(self.clip)
        return None if self.keys is None else _key_pairs(self.keys)


def read_clip_references(
    path: str | Path, *, start: Fraction = Fraction(0), end: Fraction | None = None
) -> References:
    """Take up to 64 frames, evenly spaced, from a clip or a part of it; `end` is exclusive.

    Times are in seconds after the clip's start. Frames are turned upright as players do it.
    Frames without any content, such as the black ones of a fade, are left out.

    Raises:
        InputError: no frame between these times, or none that can be a reference.
        VideoInputError: the clip cannot be read.
    """
    if end is not None and end <= start:
        raise InputError(
            f"a part of a clip ends after it starts, got {_said(start)} to {_said(end)} s"
        )
    clip = open_clip(path)
    return References(_usable(clip, start, end))


def _clip_references(text: str) -> References:
    """Read clip.mp4 or clip.mp4@START-END."""
    match = _RANGE.fullmatch(text)
    if match is None or Path(text).exists():
        return read_clip_references(text)
    first, dash, last = match[2].partition("-")
    if not dash or not (first or last):
        raise InputError(
            f"{match[2]!r} is no part of a clip: use {match[1]}@2-7 or {match[1]}@0:02-0:07"
        )
    start = seconds(first) if first else Fraction(0)
    return read_clip_references(match[1], start=start, end=seconds(last) if last else None)


def _key_pairs(text: str) -> References:
    """Read RENDERS:PHOTOS, or one folder that holds both."""
    if Path(text).is_dir():
        references = read_references(Path(text))
        if references.kind != "pairs":
            raise InputError(
                f"{text} holds no key pairs: name a folder with renders/ and photos/ in it, or "
                f"two folders as renders/:photos/"
            )
        return references
    # a colon may also be part of a name
    parts = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == ":"]
    parts = [(renders, photos) for renders, photos in parts if renders and photos]
    if not parts:
        raise InputError(
            f"--keys needs two folders as renders/:photos/, got {text!r}: pictures of one name "
            f"are a pair"
        )
    there = [pair for pair in parts if all(Path(folder).is_dir() for folder in pair)]
    return read_pairs(*(there or parts)[0])


def _usable(clip: Clip, start: Fraction, end: Fraction | None) -> Iterator[Reference]:
    """Those of the frames that show something; at least one."""
    seen = used = 0
    refused: InputError | None = None
    for frame in _spread(clip, start, end):
        seen += 1
        try:
            reference = _reference(frame, clip)
        except InputError as error:
            refused = error
            continue
        used += 1
        yield reference
    if not seen:
        until = "" if end is None else f" to {_said(end)} s"
        raise InputError(
            f"{clip.source} has no frame from {_said(start)} s{until}: name another part of it"
        )
    if not used and refused is not None:
        raise refused


def _spread(clip: Clip, start: Fraction, end: Fraction | None) -> Iterator[Frame]:
    """Up to 64 frames between two times, evenly spaced."""
    length = _length(clip, start, end)
    step = None if length is None else length / MOST_OF_A_CLIP
    if clip.kind == "video" and step is not None and step > _NEAR:
        for index in range(MOST_OF_A_CLIP):
            # the frame in the middle of each part; the next in it where that one is damaged
            reader = ClipReader(clip, start=start + (index + Fraction(1, 2)) * step, duration=step)
            yield from (frame for frame in (next(iter(reader), None),) if frame is not None)
        return
    duration = None if end is None else end - start
    count = sum(1 for _ in ClipReader(clip, start=start, duration=duration, skip=sys.maxsize))
    every = -(-count // MOST_OF_A_CLIP)
    reader = ClipReader(clip, start=start, duration=duration, every=every)
    yield from (frame for frame in reader if frame is not None)


def _length(clip: Clip, start: Fraction, end: Fraction | None) -> Fraction | None:
    """Seconds between two times as far as the clip goes; None where it does not say."""
    if not clip.stated_frames or not clip.rate:
        return None
    stated = clip.stated_frames / clip.rate
    return max(Fraction(0), (stated if end is None else min(end, stated)) - start)


def _reference(frame: Frame, clip: Clip) -> Reference:
    """A frame as a reference, upright, with 8 bits."""
    alpha = None if frame.alpha is None else _eight_bits(frame.alpha)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    return Reference(
        picture=upright(_eight_bits(frame.color), clip.display_matrix),
        alpha=None if alpha is None else upright(alpha, clip.display_matrix),
        name=f"a frame of {clip.source}",
    )


def _eight_bits(plane: NDArray[Any]) -> NDArray[np.uint8]:
    if plane.dtype == np.uint8:
        return np.asarray(plane, np.uint8)
    return np.asarray(from_tensor(to_tensor([plane]), np.uint8)[0], np.uint8)


def _said(time: Fraction) -> str:
    return f"{float(time):g}"
