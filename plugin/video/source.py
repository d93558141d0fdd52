"""A source: its pictures, its clock, its file's tags of colour and display.

A source is a file that FFmpeg reads, a numbered pattern (`shot_%04d.png`), a folder of pictures
(a sequence, sorted by name) or a single picture.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from splatmend.core import VideoInputError
from splatmend.plugin.video.yuv import ColorTags, has_alpha, is_deep

__all__ = [
    "CLIP_SUFFIXES",
    "PICTURE_SUFFIXES",
    "Clip",
    "carries_vp9_alpha",
    "clips_in",
    "demux_past_errors",
    "fill_number",
    "number_pattern",
    "open_clip",
    "open_container",
    "video_stream",
]

PICTURE_SUFFIXES = frozenset({".bmp", ".exr", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CLIP_SUFFIXES = frozenset(
    {".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".nut", ".ogv", ".ts", ".webm", ".wmv", ".y4m"}
)
_DISPLAY_MATRIX = SideDataType.DISPLAYMATRIX
_HDR = (SideDataType.MASTERING_DISPLAY_METADATA, SideDataType.CONTENT_LIGHT_LEVEL)
_PATTERN = re.compile(r"%(?:0(\d+))?d")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A probed source, of which one picture was decoded. Times are exact, in seconds or ticks."""

    source: Path
    kind: Literal["video", "sequence", "picture"]
    files: tuple[Path, ...]
    """The pictures, in order; for a video the file itself."""
    first_number: int
    """Number of the first picture of a numbered sequence, else 1."""
    size: tuple[int, int]
    """(height, width) as coded, before `display_matrix`."""
    pix_fmt: str
    alpha: bool
    deep: bool
    """More than 8 bits a component: frames are uint16."""
    tags: ColorTags
    sample_aspect_ratio: Fraction | None
    display_matrix: tuple[int, ...] | None
    """Nine integers in FFmpeg's AV_PKT_DATA_DISPLAYMATRIX layout; None if upright."""
    time_base: Fraction
    rate: Fraction | None
    """Average frame rate; None if unknown."""
    start: Fraction
    """Time of the container's first packet, from which --start counts."""
    stated_frames: int | None
    """Number of frames from the file's header or its duration; for progress bars only."""
    notes: tuple[str, ...] = ()
    """Properties of the source that no container carries over, one line each."""
    other_streams: tuple[str, ...] = ()
    """Streams that are lost when only pictures are written, one line each."""


def open_clip(source: str | Path, *, rate: Fraction = Fraction(25)) -> Clip:
    """Probe `source`; `rate` is for image sequences, which state none.

    Raises:
        VideoInputError: the file is missing, has no video stream, or no picture can be decoded.
    """
    path = Path(source)
    if path.is_dir():
        return _open_sequence(path, _pictures_in(path), rate)
    if not path.exists() and _PATTERN.search(path.name):
        return _open_sequence(path, _matching(path), rate)
    if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
        return _open_sequence(path, [path], rate)
    return _open_video(path)


def open_container(path: Path) -> InputContainer:
    """Open one file, video or picture; the caller closes it.

    Raises:
        VideoInputError: the file is missing, unreadable, or unknown to FFmpeg.
    """
    if not path.exists():
        raise VideoInputError(f"no such file: {path}")
    try:
        if path.suffix.lower() in PICTURE_SUFFIXES:
            # from memory, because FFmpeg takes a "%" in the name as a pattern
            return av.open(io.BytesIO(path.read_bytes()), "r")
        # with "file:" FFmpeg does not take a colon in the name as a protocol
        return av.open(f"file:{path}", "r", metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoInputError(
            f"{path} cannot be read ({error.strerror}): it is not a video, or it is "
            f"damaged in its header"
        ) from error
    except OSError as error:
        raise VideoInputError(f"{path} cannot be read: {error.strerror}") from error


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the stream to restore: FFmpeg's best, never a cover picture.

    Raises:
        VideoInputError: the file has no such stream.
    """
    best = container.streams.best("video")
    cover = best is not None and best.disposition & Disposition.attached_pic
    if not isinstance(best, VideoStream) or cover:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoInputError(f"{path} has no video stream, only {kinds}")
    if best.codec_context is None:
        raise VideoInputError(f"{path} holds video in a codec that this FFmpeg cannot decode")
    return best


def demux_past_errors(
    container: InputContainer, streams: Sequence[Stream], failed: Callable[[bool], None]
) -> "Iterator[Packet[Any]]":
    """Yield packets of some streams, past unreadable ones.

    Calls `failed` for each error, with True for the last one. The last error follows another one
    without a packet in between; after it, reading stops.
    """
    while True:
        progressed = False
        try:
            for packet in container.demux(list(streams)):
                progressed = True
                yield packet
        except av.FFmpegError:
            failed(not progressed)
            if progressed:
                continue
        return


def number_pattern(name: str) -> bool:
    """Return whether a file name is a numbered pattern such as `shot_%04d.png`."""
    return _PATTERN.search(name) is not None


def fill_number(name: str, number: int) -> str:
    """Return the name of one picture of a numbered pattern."""
    return _PATTERN.sub(lambda match: f"{number:0{int(match[1] or 1)}d}", name, count=1)


def clips_in(folder: Path) -> list[Path]:
    """List the videos of a folder by name; empty if it has none."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in CLIP_SUFFIXES)


def _pictures_in(folder: Path) -> list[Path]:
    found = sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in PICTURE_SUFFIXES
    )
    if not found:
        raise VideoInputError(
            f"{folder} holds neither clips nor pictures: name a file or a folder with "
            f"{', '.join(sorted(PICTURE_SUFFIXES))} or videos in it"
        )
    return found


def _matching(pattern: Path) -> list[Path]:
    """List the files that match a numbered pattern, by number."""
    match = _PATTERN.search(pattern.name)
    assert match is not None
    digits = rf"\d{{{match[1]}}}" if match[1] else r"\d+"
    before, after = pattern.name[: match.start()], pattern.name[match.end() :]
    wanted = re.compile(rf"{re.escape(before)}({digits}){re.escape(after)}")
    folder = pattern.parent
    if not folder.is_dir():
        raise VideoInputError(f"no such folder: {folder}")
    found = [(m, p) for p in folder.iterdir() if (m := wanted.fullmatch(p.name))]
    if not found:
        raise VideoInputError(f"no file in {folder} is called like {pattern.name}")
    return [path for _, path in sorted(found, key=lambda pair: int(pair[0][1]))]


def _open_sequence(source: Path, files: list[Path], rate: Fraction) -> Clip:
    single = files == [source]
    for file in files:  # the first readable one describes all
        with open_container(file) as container:
            stream = video_stream(container, file)
            picture = next(_decoded(container, stream), None)
            if picture is None:
                continue
            number = re.search(r"(\d+)$", files[0].stem)
            return Clip(
                source=source,
                kind="picture" if single else "sequence",
                files=tuple(files),
                first_number=int(number[1]) if number and not single else 1,
                time_base=1 / rate,
                rate=rate,
                start=Fraction(0),
                stated_frames=len(files),
                **_look(picture, stream),
            )
    raise VideoInputError(f"{source} holds no picture that can be decoded")


def _open_video(path: Path) -> Clip:
    with open_container(path) as container:
        stream = video_stream(container, path)
        picture = next(_decoded(container, stream), None)
        if picture is None:
            raise VideoInputError(f"{path} has a video stream, but no frame can be decoded")
        time_base = stream.time_base
        if not time_base:
            raise VideoInputError(f"{path} states no time base for its video")
        rate = stream.average_rate or stream.guessed_rate
        frames = stream.frames or None
        if frames is None and rate and container.duration:
            frames = round(container.duration * rate / av.time_base)
        return Clip(
            source=path,
            kind="video",
            files=(path,),
            first_number=1,
            time_base=time_base,
            rate=rate,
            start=Fraction(container.start_time or 0, av.time_base),
            stated_frames=frames,
            notes=_notes(picture),
            other_streams=tuple(
                f"stream {s.index} ({s.type}) is left out: pictures hold none"
                for s in container.streams
                if s.index != stream.index
            ),
            **_look(picture, stream),
        )


def carries_vp9_alpha(stream: VideoStream) -> bool:
    """Return whether alpha lies beside the packets, where FFmpeg's own decoder ignores it."""
    return stream.codec_context.name == "vp9" and stream.metadata.get("alpha_mode") == "1"


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Yield frames of a stream, past packets that cannot be decoded."""
    try:
        for packet in container.demux(stream):
            try:
                yield from stream.decode(packet)
            except av.FFmpegError:
                continue
    except av.FFmpegError:
        return


def _look(picture: av.VideoFrame, stream: VideoStream) -> dict[str, Any]:
    """Return the fields of a `Clip` that come from a decoded picture."""
    context = stream.codec_context
    vp9_alpha = carries_vp9_alpha(stream)
    matrix = next((d for d in _side_data(picture) if d.type is _DISPLAY_MATRIX), None)
    upright = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    turned = None if matrix is None else tuple(np.frombuffer(bytes(matrix), np.int32).tolist())
    # the decoder may know a tag that the container lacks, or the reverse
    known = [
        mine if mine != unspecified else theirs
        for mine, theirs, unspecified in (
            (picture.colorspace, context.colorspace, 2),
            (picture.color_range, context.color_range, 0),
            (picture.color_primaries, context.color_primaries, 2),
            (picture.color_trc, context.color_trc, 2),
        )
    ]
    return {
        "size": (picture.height, picture.width),
        "pix_fmt": "yuva420p" if vp9_alpha else picture.format.name,
        "alpha": vp9_alpha or _sees_through(picture),
        "deep": is_deep(picture.format.name),
        "tags": ColorTags(*known),
        "sample_aspect_ratio": stream.sample_aspect_ratio or None,
        "display_matrix": None if turned == upright else turned,
    }


def _side_data(picture: av.VideoFrame) -> list[SideData]:
    return list(cast(Any, picture.side_data))  # its stub says it is a dictionary


def _sees_through(picture: av.VideoFrame) -> bool:
    """Return whether the stream has alpha; for a palette, look at its colours."""
    if not picture.format.has_palette:
        return has_alpha(picture.format.name)
    return bool(picture.to_ndarray(format="rgba")[..., 3].min() < 255)


def _notes(picture: av.VideoFrame) -> tuple[str, ...]:
    notes = []
    if picture.interlaced_frame:
        notes.append("the source is interlaced; its frames are restored and written as progressive")
    if any(d.type in _HDR for d in _side_data(picture)):
        notes.append("HDR mastering metadata is not carried over; colour tags and depth are")
    return tuple(notes)
