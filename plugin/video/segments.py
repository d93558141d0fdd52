"""The encoded video in independent segments on disk, so that a later run can continue.

A work folder next to the target has one file of packets for each segment. A journal names the
whole ones. Every segment starts with a fresh encoder, so a resumed run writes the same packets as
an uninterrupted one.

A packet file is a row of records: a header (presentation time, keyframe, two sizes), the packet's
bytes, and Matroska's addition to them (the alpha plane of VP9). Decoding times are not kept:
`mux` computes them from the presentation times.

The stabiliser's state after the last whole segment, if any, lies beside the packets.
"""

from __future__ import annotations  # PyAV's Packet is generic in its stub only

import hashlib
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import av
import numpy as np
from av.packet import Packet, PacketSideData
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from splatmend.core import Frame, VideoOutputError
from splatmend.plugin.video.encoding import Encoding
from splatmend.plugin.video.yuv import FrameWriter

__all__ = [
    "Segment",
    "SegmentWriter",
    "State",
    "WorkFolder",
    "as_output_error",
    "header_digest",
    "read_packets",
    "read_times",
]

State = dict[str, NDArray[Any]]
"""State of a stabiliser between two frames, from `Stream.export_state`."""

_JOURNAL = "journal.json"
_RECORD = struct.Struct("<q?II")  # pts, keyframe, size, size of the addition
_ADDITION: Literal["matroska_block_additional"] = "matroska_block_additional"


@dataclass(frozen=True)
class Segment:
    """A whole segment's entry in the journal. Times are ticks of the stream."""

    file: str
    frames: int
    first_pts: int
    reorder: int
    """Largest number of places that a packet comes early: the depth of B-frames."""
    headers: str
    """Digest of the encoder's headers, which must be the same for all segments."""
    state: str | None = None
    """File with the stabiliser's state after it; None without a stabiliser."""


class WorkFolder:
    """`.<name>.splatmend` beside the target: segments and their journal.

    `resume` keeps the segments of a run with the same `fingerprint`. Everything else in the folder
    is removed.

    Raises:
        VideoOutputError: the folder cannot be made or written.
    """

    def __init__(self, target: Path, fingerprint: dict[str, Any], *, resume: bool) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.splatmend")
        self.segments: list[Segment] = []
        self.differs: tuple[str, ...] = ()
        """Parts of the fingerprint in which the earlier run differs, so that it cannot continue."""
        self.state: State = {}
        """State of the stabiliser after the resumed segments."""
        self._fingerprint = cast(dict[str, Any], json.loads(json.dumps(fingerprint)))
        with as_output_error(self.path):
            if resume:
                self._take_up()
            if not self.segments:
                shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(exist_ok=True)
            self._write_journal()

    @property
    def frames(self) -> int:
        """Return the number of frames in whole segments."""
        return sum(s.frames for s in self.segments)

    def add(self, segment: Segment) -> None:
        """Enter a whole segment into the journal; remove the state of the one before."""
        before = self.segments[-1].state if self.segments else None
        self.segments.append(segment)
        self._write_journal()
        if before:
            (self.path / before).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the folder and all its files."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _take_up(self) -> None:
        try:
            journal = json.loads((self.path / _JOURNAL).read_text())
            found, theirs = [Segment(**s) for s in journal["segments"]], journal["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # no journal, or a foreign file
        mine = self._fingerprint
        self.differs = tuple(k for k in sorted({*mine, *theirs}) if mine.get(k) != theirs.get(k))
        if self.differs or not all((self.path / s.file).is_file() for s in found):
            return
        if found and found[-1].state:
            try:
                with (self.path / found[-1].state).open("rb") as file:
                    self.state = dict(np.load(file, allow_pickle=False))
            except (OSError, ValueError, EOFError, zipfile.BadZipFile):
                return  # without the state the rest would look different
        self.segments = found

    def _write_journal(self) -> None:
        state = {"fingerprint": self._fingerprint, "segments": [asdict(s) for s in self.segments]}
        draft = self.path / f"{_JOURNAL}.part"
        with draft.open("w") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path / _JOURNAL)


class SegmentWriter:
    """Encodes frames into segments of `length` frames; the last may be shorter."""

    def __init__(self, folder: WorkFolder, encoding: Encoding, length: int) -> None:
        self.length = length
        self._folder = folder
        self._encoding = encoding
        self._convert = FrameWriter(encoding.tags, encoding.pix_fmt, encoding.size[0])
        self._encoder: VideoCodecContext | None = None
        self._file: BinaryIO | None = None
        self._times: list[int] = []  # in the order of the packets
        self._count = 0

    @property
    def frames(self) -> int:
        """Return the number of frames in whole segments, of this run and earlier ones."""
        return self._folder.frames

    def write(self, frame: Frame, state: State | None = None) -> None:
        """Encode one frame; `state` is kept with the segment if it ends with this frame.

        Raises:
            VideoOutputError: the encoder failed or the disk is full.
        """
        with as_output_error(self._folder.path):
            if self._encoder is None:
                self._encoder = self._encoding.open()
                self._file = self._draft.open("wb")
            picture = self._convert.write(frame)
            picture.time_base = self._encoding.time_base
            self._store(self._encoder.encode(picture))
            self._count += 1
            if self._count == self.length:
                self._finish_segment(state or {})

    def finish(self) -> None:
        """Close the last segment, which may be short."""
        with as_output_error(self._folder.path):
            if self._encoder is not None:
                self._finish_segment({})

    def close(self) -> None:
        """Give up an unfinished segment; safe to call at any time."""
        if self._file is not None:
            with suppress(OSError):  # a full disk, already reported, fails here again
                self._file.close()
            self._draft.unlink(missing_ok=True)
        self._encoder = self._file = None

    @property
    def _draft(self) -> Path:
        return self._folder.path / f"{len(self._folder.segments):06d}.part"

    def _store(self, packets: list[Packet[Any]]) -> None:
        assert self._file is not None
        for packet in packets:
            assert packet.pts is not None
            addition = bytes(packet.get_sidedata(_ADDITION))
            head = (packet.pts, packet.is_keyframe, packet.size, len(addition))
            self._file.write(_RECORD.pack(*head))
            self._file.write(bytes(packet))
            self._file.write(addition)
            self._times.append(packet.pts)

    def _finish_segment(self, state: State) -> None:
        assert self._encoder is not None
        assert self._file is not None
        self._store(self._encoder.encode(None))
        headers = header_digest(self._encoder)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        rank = {pts: place for place, pts in enumerate(sorted(self._times))}
        if len(rank) != self._count:
            raise VideoOutputError(
                f"the encoder {self._encoding.encoder} gave {len(rank)} packets for "
                f"{self._count} frames: use another --codec"
            )
        segment = Segment(
            file=f"{len(self._folder.segments):06d}.packets",
            frames=self._count,
            first_pts=min(self._times),
            reorder=max(place - rank[pts] for place, pts in enumerate(self._times)),
            headers=headers,
            state=self._write_state(state) if state else None,
        )
        self._draft.replace(self._folder.path / segment.file)
        self._encoder, self._file, self._times, self._count = None, None, [], 0
        self._folder.add(segment)

    def _write_state(self, state: State) -> str:
        name = f"{len(self._folder.segments):06d}.npz"
        with (self._folder.path / name).open("wb") as file:
            np.savez(file, allow_pickle=False, **state)
            file.flush()
            os.fsync(file.fileno())
        return name


def header_digest(encoder: VideoCodecContext) -> str:
    """Return a digest of an open encoder's data for the container's header."""
    return hashlib.sha256(encoder.extradata or b"").hexdigest()[:16]


def read_times(path: Path) -> Iterator[int]:
    """Yield the presentation times of a segment in decoding order, without its packets."""
    with path.open("rb") as file:
        while head := file.read(_RECORD.size):
            pts, _, *sizes = _RECORD.unpack(head)
            file.seek(sum(sizes), os.SEEK_CUR)
            yield pts


def read_packets(path: Path) -> Iterator[Packet[Any]]:
    """Yield the packets of a segment in decoding order; `pts` is set, `dts` is not."""
    with path.open("rb") as file:
        while head := file.read(_RECORD.size):
            pts, keyframe, size, added = _RECORD.unpack(head)
            packet: Packet[Any] = Packet(file.read(size))
            packet.pts, packet.is_keyframe = pts, keyframe
            if added:
                kind = av.packet.packet_sidedata_type_from_literal(_ADDITION)
                addition = cast(Any, PacketSideData)(kind, added)  # not in its stub
                addition.update(file.read(added))
                packet.set_sidedata(addition)
            yield packet


class as_output_error:  # noqa: N801 (reads as a function, like contextlib.suppress)
    """Turns write errors of the system or FFmpeg into a `VideoOutputError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, av.FFmpegError)):
            raise VideoOutputError(
                f"cannot write {self._path}: {error.strerror or error}"
            ) from error
