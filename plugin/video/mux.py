"""Joins segments and the source's other streams into one file, which gets its final name last.

Presentation times are the source's. In mp4 and mov they keep the source's time base: the track's
time scale is its denominator. Matroska and WebM count milliseconds, so times there are rounded to
one. Other streams' packets are copied byte for byte.
"""

from __future__ import annotations  # PyAV's Packet is generic in its stub only

import heapq
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from splatmend.core import VideoOutputError
from splatmend.plugin.video.copied_streams import (
    OtherStreams,
    Window,
    add_copy,
    add_cover,
    copied_packets,
    kept_chapters,
    kept_metadata,
    sort_streams,
)
from splatmend.plugin.video.encoding import Encoding
from splatmend.plugin.video.segments import (
    WorkFolder,
    as_output_error,
    header_digest,
    read_packets,
    read_times,
)
from splatmend.plugin.video.source import Clip, fill_number, open_clip, open_container, video_stream

__all__ = ["write_pictures", "write_video"]

# keys with their own boxes in the mp4 family; other keys need the mdta form
_MP4_KEYS = frozenset(
    {"album", "album_artist", "artist", "comment", "compilation", "composer", "copyright"}
    | {"creation_time", "date", "description", "disc", "episode_id", "genre", "grouping"}
    | {"lyrics", "network", "show", "synopsis", "title", "track"}
)
# keys about the old file and not about its content; each muxer writes its own
_MUXER_KEYS = frozenset({"compatible_brands", "encoder", "major_brand", "minor_version"})


def write_video(
    clip: Clip, encoding: Encoding, folder: WorkFolder, target: Path, window: Window, last: int
) -> list[str]:
    """Mux the segments in `folder` into `target`; `last` is the last frame's duration in ticks.

    Returns a warning for each loss, one line each.

    Raises:
        VideoOutputError: the file cannot be written; `target` is unchanged.
    """
    draft = folder.path / f"whole{target.suffix}"
    try:
        with as_output_error(target), ExitStack() as opened:
            source = None
            if clip.kind == "video":
                source = opened.enter_context(open_container(clip.source))
            warnings = _mux(clip, encoding, folder, draft, window, last, source)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            warnings += _not_carried(clip, encoding, draft)
            draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)  # the segments suffice to make it again
    return warnings


def write_pictures(clip: Clip, folder: WorkFolder, target: Path) -> int:
    """Turn each packet into a file: `target` itself, a numbered pattern, or a folder.

    Returns the bytes written.

    Raises:
        VideoOutputError: a file cannot be written.
    """
    with as_output_error(target):
        drafts = folder.path / "pictures"
        drafts.mkdir(exist_ok=True)
        whole_folder = target.is_dir() or not target.suffix
        place, name = (target, "%06d.png") if whole_folder else (target.parent, target.name)
        numbered = clip.kind != "picture" or whole_folder
        names: list[str] = []
        size = 0
        for packet in _packets(folder):
            assert packet.pts is not None
            size += packet.size
            # sequences keep their numbers, also after unreadable pictures
            step = packet.pts if clip.kind == "sequence" else len(names)
            names.append(fill_number(name, clip.first_number + step) if numbered else name)
            (drafts / names[-1]).write_bytes(bytes(packet))
        place.mkdir(exist_ok=True)
        for finished in names:
            (drafts / finished).replace(place / finished)
        return size


def _packets(folder: WorkFolder) -> Iterator[Packet[Any]]:
    for segment in folder.segments:
        yield from read_packets(folder.path / segment.file)


def _mux(
    clip: Clip,
    encoding: Encoding,
    folder: WorkFolder,
    draft: Path,
    window: Window,
    last: int,
    source: InputContainer | None,
) -> list[str]:
    assert encoding.container is not None
    found = OtherStreams()
    if source is not None:
        restored = video_stream(source, clip.source)
        found = sort_streams(source, restored, encoding.container, draft.suffix)
    options = _muxer_options(encoding, found.copied, source)
    with av.open(
        f"file:{draft}", "w", format=encoding.container, container_options=options
    ) as output:
        video = _add_video(output, clip, encoding, source)
        copies = {s.index: add_copy(output, s) for s in found.copied}
        for cover in found.covers:
            add_cover(output, clip, cover)
        packets = _timed(folder, encoding.time_base, last, video)
        if source is not None:
            kept = {k: v for k, v in source.metadata.items() if k.lower() not in _MUXER_KEYS}
            output.metadata.update(kept)
            output.set_chapters(kept_chapters(source, window))
            packets = _interleaved(packets, copied_packets(source, found.copied, copies, window))
        output.start_encoding()
        _check_headers(video, folder)
        refused = _write(output, packets, video)
    damaged = [f"damaged packets of other streams were left out: {refused}"] if refused else []
    return [*found.warnings, *damaged]


def _write(output: OutputContainer, packets: Iterator[Packet[Any]], video: VideoStream) -> int:
    """Write packets; return the number of other streams' packets refused as damaged."""
    refused = 0
    for packet in packets:
        try:
            output.mux_one(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError):
            if packet.stream_index == video.index:
                raise
            refused += 1
    return refused


def _muxer_options(
    encoding: Encoding, others: Sequence[Stream], source: InputContainer | None
) -> dict[str, str]:
    if encoding.container not in ("mp4", "mov"):
        return {}
    ticks = encoding.time_base.denominator
    # edit lists count in the movie's time scale: with the default of 1000, a start between two
    # milliseconds would shift the video against the sound
    movie = math.lcm(ticks, *(s.time_base.denominator for s in others if s.time_base))
    options = {
        "video_track_timescale": str(ticks),
        "movie_timescale": str(movie if movie < 2**31 else ticks),
    }
    if source is not None and source.metadata.keys() - _MP4_KEYS - _MUXER_KEYS:
        options["movflags"] = "+use_metadata_tags"
    return options


def _add_video(
    output: OutputContainer, clip: Clip, encoding: Encoding, source: InputContainer | None
) -> VideoStream:
    """Add the stream for the segments' packets.

    Its encoder is opened like those of the segments and gets no frames. So the muxer takes the same
    headers, colour tags and aspect ratio from it.
    """
    stream = output.add_stream(encoding.encoder, encoding.rate)
    assert isinstance(stream, VideoStream)
    encoding.configure(stream.codec_context)
    stream.time_base = encoding.time_base
    if clip.display_matrix:
        stream.set_display_matrix(clip.display_matrix)
    if source is not None:
        original = video_stream(source, clip.source)
        stream.disposition = original.disposition
        stream.metadata.update(kept_metadata(original))
    return stream


def _check_headers(video: VideoStream, folder: WorkFolder) -> None:
    mine = header_digest(video.codec_context)
    if any(s.headers != mine for s in folder.segments):
        raise VideoOutputError(
            f"the encoder {video.codec_context.name} writes other headers each time it is "
            f"opened, so its segments cannot be joined: use another --codec"
        )


def _timed(
    folder: WorkFolder, time_base: Fraction, last: int, video: VideoStream
) -> Iterator[Packet[Any]]:
    """Yield the segments' packets with decoding times and durations.

    An encoder knows only its own segment, so its decoding times may overlap the segment before.
    Here they are the sorted presentation times of the whole stream, delayed by the deepest
    reordering. They rise in every step and are never after the presentation. Presentation times
    do not change.
    """
    depth = max(s.reorder for s in folder.segments)
    first = sorted(read_times(folder.path / folder.segments[0].file))
    step = first[1] - first[0] if len(first) > 1 else last
    sorted_times = (t for s in folder.segments for t in sorted(read_times(folder.path / s.file)))
    decoding = chain((first[0] - (depth - i) * step for i in range(depth)), sorted_times)
    for place, segment in enumerate(folder.segments, start=1):
        times = sorted(read_times(folder.path / segment.file))
        following = folder.segments[place : place + 1]
        times.append(following[0].first_pts if following else times[-1] + last)
        durations = {a: b - a for a, b in pairwise(times)}
        for packet in read_packets(folder.path / segment.file):
            assert packet.pts is not None
            packet.dts = next(decoding)
            packet.duration = durations[packet.pts]
            packet.time_base, packet.stream = time_base, video
            yield packet


def _interleaved(*streams: Iterator[Packet[Any]]) -> Iterator[Packet[Any]]:
    """Merge packets by decoding time, so that the muxer holds none of them for long."""

    def time(packet: Packet[Any]) -> float:
        ticks = packet.dts if packet.dts is not None else packet.pts
        return -math.inf if ticks is None else float(ticks * packet.time_base)

    return heapq.merge(*streams, key=time)


def _not_carried(clip: Clip, encoding: Encoding, draft: Path) -> list[str]:
    """List losses in the container, found by a look at the written file."""
    written = open_clip(draft)
    warnings = []
    if written.display_matrix != clip.display_matrix:
        warnings.append(f"{draft.suffix} cannot hold the source's rotation; it was left out")
    wanted, got = clip.sample_aspect_ratio or 1, written.sample_aspect_ratio or 1
    if wanted != got:
        warnings.append(f"{draft.suffix} lost the pixel aspect ratio {wanted}: it reads as {got}")
    if written.tags != encoding.tags:
        warnings.append(f"{draft.suffix} lost colour tags: {encoding.tags} reads as {written.tags}")
    return warnings
