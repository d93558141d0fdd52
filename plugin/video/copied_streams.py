"""The streams beside the restored one: the choice for a container, and their packets."""

from __future__ import annotations  # PyAV's Packet is generic in its stub only

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from splatmend.plugin.video.source import Clip, demux_past_errors, open_container

__all__ = [
    "OtherStreams",
    "Window",
    "add_copy",
    "add_cover",
    "copied_packets",
    "kept_chapters",
    "kept_metadata",
    "sort_streams",
]

# keys about the old packets only, or that the muxer writes anew
_STALE_KEYS = ("alpha_mode", "encoder", "BPS", "DURATION", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES")
_INTERLEAVE_SECONDS = 10  # packets of one file lie closer together than this


@dataclass(frozen=True)
class Window:
    """The part of the source to keep, in seconds of the source's own clock."""

    origin: Fraction
    """Source time that becomes time 0; `trimmed` leaves out other streams' packets before it."""
    end: Fraction | None
    """End of the part; packets that start here or later are left out."""
    trimmed: bool

    def holds(self, time: Fraction) -> bool:
        """Return whether a packet that starts at `time` is kept."""
        early = self.trimmed and time < self.origin
        return not early and (self.end is None or time < self.end)


@dataclass(frozen=True)
class OtherStreams:
    """The streams beside the restored one, by treatment."""

    copied: tuple[Stream, ...] = ()
    covers: tuple[Stream, ...] = ()
    """Pictures that become attachments."""
    warnings: tuple[str, ...] = ()
    """Streams that the container cannot hold, one line each."""


def sort_streams(
    source: InputContainer, restored: Stream, container: str, suffix: str
) -> OtherStreams:
    """Sort the streams of a source by whether a container can hold them."""
    copied, covers, warnings = [], [], []
    for stream in source.streams:
        if stream.index == restored.index or _is_rewritten(stream, restored):
            continue
        if _holds(container, stream):
            copied.append(stream)
        elif _is_cover(stream) and container == "matroska":
            covers.append(stream)
        else:
            warnings.append(_dropped(stream, suffix))
    return OtherStreams(tuple(copied), tuple(covers), tuple(warnings))


def _is_rewritten(stream: Stream, restored: Stream) -> bool:
    """Return whether the muxer writes the stream's content from another source.

    True for the text track behind mp4's chapters, which its demuxer discards, and for a timecode
    track, which the muxer makes from the video's metadata.
    """
    timecode = stream.type == "data" and "timecode" in stream.metadata
    return stream.discard == Discard.all or (timecode and "timecode" in restored.metadata)


def _holds(container: str, stream: Stream) -> bool:
    """Return whether the muxer takes the stream: tries one that writes into memory."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            add_copy(trial, stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _dropped(stream: Stream, suffix: str) -> str:
    codec = stream.codec_context.name if stream.codec_context else stream.name or "unknown codec"
    return f"stream {stream.index} ({stream.type}, {codec}) is left out: {suffix} cannot hold it"


def add_copy(output: OutputContainer, stream: Stream) -> Stream:
    """Make a stream for the unchanged packets of another.

    Raises:
        ValueError: the container has no place for its codec.
    """
    copy = output.add_stream_from_template(stream, opaque=True)
    copy.disposition = stream.disposition
    copy.metadata.update(
        dict(stream.metadata) if stream.type == "attachment" else kept_metadata(stream)
    )
    return copy


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def add_cover(output: OutputContainer, clip: Clip, cover: Stream) -> None:
    """Attach a cover picture: an attachment in Matroska, a stream in mp4."""
    kind = {"mjpeg": "jpeg"}.get(cover.codec_context.name, cover.codec_context.name)
    name = cover.metadata.get("filename", f"cover.{kind}")
    with open_container(clip.source) as source:
        for packet in source.demux(source.streams[cover.index]):
            if packet.size:
                output.add_attachment(name, f"image/{kind}", bytes(packet))
                return


def kept_metadata(stream: Stream) -> dict[str, str]:
    """Return a stream's metadata without keys about its old packets."""
    keys = [k for k in stream.metadata if not k.startswith(("_STATISTICS", *_STALE_KEYS))]
    return {k: stream.metadata[k] for k in keys}


def kept_chapters(source: InputContainer, window: Window) -> list[Any]:
    """Return the source's chapters, cut to the window and counted from its start."""
    kept: list[Any] = []
    for chapter in source.chapters():
        tick = chapter["time_base"]
        if not tick:
            continue
        start, end = chapter["start"], chapter["end"]
        if window.trimmed:
            first = round(window.origin / tick)
            start, end = max(start, first) - first, end - first
        if window.end is not None:
            end = min(end, round((window.end - window.origin) / tick))
        if start < end:
            kept.append(chapter | {"start": start, "end": end})
    return kept


def copied_packets(
    source: InputContainer, others: Sequence[Stream], copies: dict[int, Stream], window: Window
) -> Iterator[Packet[Any]]:
    """Yield the readable packets of the other streams, cut to the window."""
    if not others:
        return
    for stream in source.streams:
        if stream.index not in copies:
            stream.discard = Discard.all
    for packet in _readable(source, others):
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is not None:
            time = ticks * packet.time_base
            if window.end is not None and time > window.end + _INTERLEAVE_SECONDS:
                return
            if not window.holds(time):
                continue
        if window.trimmed:
            shift = round(window.origin / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = copies[packet.stream_index]
        yield packet


def _readable(source: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet[Any]]:
    """Yield packets, past unreadable ones."""

    def failed(_last: bool) -> None:
        """Do nothing: the reader of the video meets the same errors and reports them."""

    for packet in demux_past_errors(source, streams, failed):
        # demux ends with one empty packet for each stream; the mp4 muxer itself writes the empty
        # texts that end each subtitle
        text = packet.stream.codec_context and packet.stream.codec_context.name == "mov_text"
        if (packet.size or packet.pts is not None) and not (text and packet.size == 2):
            yield packet
