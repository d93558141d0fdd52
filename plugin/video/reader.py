"""Reads the frames of a clip, past damaged parts."""

from __future__ import annotations  # PyAV's Packet is generic in its stub only

from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
from av.codec import Codec
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from splatmend.core import Frame, VideoInputError
from splatmend.plugin.video.source import (
    Clip,
    carries_vp9_alpha,
    demux_past_errors,
    open_container,
    video_stream,
)
from splatmend.plugin.video.yuv import FrameReader

__all__ = ["ClipReader", "Damage"]

# A file that ends this much before its stated end was cut off; headers round by less.
_MISSING_SECONDS = Fraction(1, 4)
_SLACK = Fraction(1, 500_000)  # container start times are rounded to microseconds
_Pictures = Generator[tuple[av.VideoFrame, int], None, None]


@dataclass
class Damage:
    """Unreadable parts of a clip; a running `ClipReader` fills it."""

    packets: int = 0
    """Packets (pictures of a sequence) that could not be decoded and were left out."""
    frames: int = 0
    """Frames that the demuxer or the decoder marked as corrupt; they are kept."""
    cut_off: bool = False
    """The file ended, or could not be read on, before its stated end."""

    def __bool__(self) -> bool:
        return bool(self.packets or self.frames or self.cut_off)


class ClipReader:
    """Iterates once over the frames of a clip, in display order.

    Frames keep the stream's ticks as `pts`. `start` (seconds after the clip's start) leaves out
    earlier frames, and the first frame kept becomes time 0. `duration` ends the clip that many
    seconds after `start`. Pictures without a usable time stamp follow the one before by a frame's
    duration.

    The first `skip` frames are decoded but given as None: cheap, and the same in every run. Of the
    others each `every`-th, from the first on, is given as a frame, and the rest as None.
    """

    def __init__(
        self,
        clip: Clip,
        *,
        start: Fraction = Fraction(0),
        duration: Fraction | None = None,
        skip: int = 0,
        every: int = 1,
    ) -> None:
        self._clip = clip
        self._start = start
        self._end = None if duration is None else start + duration
        self._skip, self._every = skip, every
        self._convert = FrameReader(clip.tags, clip.size, deep=clip.deep, alpha=clip.alpha)
        self._last_pts: int | None = None
        self._tick = max(1, round(1 / (clip.rate * clip.time_base))) if clip.rate else 1
        self.damage = Damage()
        self.origin = Fraction(0)
        """Source time in seconds at time 0 of the frames; known after the first frame."""
        self.last_duration = self._tick
        """Duration of the last frame given, in ticks."""
        self.end_time = Fraction(0)
        """End of the last frame given, in seconds of the source."""

    def __iter__(self) -> Iterator[Frame | None]:
        pictures = self._video() if self._clip.kind == "video" else self._sequence()
        count = 0
        shift = 0
        with closing(pictures):
            for picture, stamp in pictures:
                time = stamp * self._clip.time_base - self._clip.start
                if self._start and time < self._start - _SLACK:
                    continue
                if self._end is not None and time >= self._end - _SLACK:
                    return
                if count == 0 and self._start:
                    shift = stamp
                    self.origin = stamp * self._clip.time_base
                self.damage.frames += picture.is_corrupt
                self.last_duration = picture.duration or self._tick
                self.end_time = (stamp + self.last_duration) * self._clip.time_base
                count += 1
                name = self._clip.source.name
                past = count - 1 - self._skip
                wanted = past >= 0 and past % self._every == 0
                yield self._convert.read(picture, stamp - shift, name) if wanted else None

    def _sequence(self) -> _Pictures:
        for index, path in enumerate(self._clip.files):
            try:
                with open_container(path) as container:
                    stream = video_stream(container, path)
                    picture = next(iter(container.decode(stream)))
            except (av.FFmpegError, VideoInputError, StopIteration):
                self.damage.packets += 1
                continue
            picture.duration = 1  # the picture demuxer's own clock is not the sequence's
            yield picture, index

    def _video(self) -> _Pictures:
        if self._start:
            # some demuxers seek elsewhere: use the result only if it starts early enough
            pictures = self._decode(seek=True)
            first = next(pictures, None)
            if first and first[1] * self._clip.time_base <= self._clip.start + self._start:
                yield first
                yield from pictures
                return
            pictures.close()
            self.damage, self._last_pts = Damage(), None
        yield from self._decode(seek=False)

    def _decode(self, *, seek: bool) -> _Pictures:
        path = self._clip.source
        with open_container(path) as container:
            stream = video_stream(container, path)
            # Frame threads report a broken packet late and lose the good frames around it.
            stream.thread_type = "SLICE"
            decoder = _decoder(stream)
            if seek:
                target = (self._clip.start + self._start) / self._clip.time_base
                with suppress(av.FFmpegError):  # without an index: read from the beginning
                    container.seek(int(target), stream=stream)
            for packet in self._packets(container, stream):
                try:
                    pictures = decoder.decode(packet)
                except av.FFmpegError:
                    self.damage.packets += 1
                    continue
                # a demuxer notices gaps that a decoder cannot, such as MPEG-TS's lost packets
                self.damage.frames += packet is not None and packet.is_corrupt
                for picture in pictures:
                    yield picture, self._stamp(picture)

    def _packets(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[Packet[VideoStream] | None]:
        """Yield the stream's packets and a last None; note if the file ends too early.

        Reads all streams, because only the longest tells where the file should end.
        """
        expected = len(stream.index_entries) if "mov" in container.format.name else 0
        seen, last = 0, Fraction(0)
        for packet in demux_past_errors(container, list(container.streams), self._read_failed):
            if packet.pts is not None and packet.time_base:
                ticks = packet.pts + (packet.duration or 0)
                last = max(last, ticks * packet.time_base)
            if packet.stream_index == stream.index and packet.size:
                seen += 1
                yield cast("Packet[VideoStream]", packet)
        stated = Fraction((container.start_time or 0) + (container.duration or 0), av.time_base)
        missing = bool(container.duration) and last + _MISSING_SECONDS < stated
        if missing or (not self._start and seen < expected):
            self.damage.cut_off = True
        yield None

    def _read_failed(self, last: bool) -> None:
        if last:
            self.damage.cut_off = True
        else:
            self.damage.packets += 1

    def _stamp(self, picture: av.VideoFrame) -> int:
        """Return the picture's own time in ticks, or the next plausible one; never one twice."""
        pts = picture.pts if picture.pts is not None else picture.dts
        if pts is None:
            pts = 0 if self._last_pts is None else self._last_pts + self._tick
        if self._last_pts is not None and pts <= self._last_pts:
            pts = self._last_pts + 1
        self._last_pts = pts
        return pts


def _decoder(stream: VideoStream) -> VideoCodecContext:
    if not carries_vp9_alpha(stream):
        return stream.codec_context
    # FFmpeg's own VP9 decoder ignores the alpha plane; libvpx reads it
    decoder = Codec("libvpx-vp9", "r").create("video")
    decoder.extradata = stream.codec_context.extradata
    return decoder
