"""The restoration of a clip into a file: decode, restore and encode, overlapped."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from splatmend.core import (
    DamagedInputError,
    Frame,
    Guide,
    InputError,
    ReferenceFit,
    References,
    RestoreOptions,
    Restorer,
    Tiled,
    VideoError,
    VideoInputError,
    VideoOutputError,
    from_tensor,
    restore_frames,
    to_tensor,
)
from splatmend.core.restore.frames import as_guide
from splatmend.plugin.video.comparison import CompareMode, compare, compared_size, inset
from splatmend.plugin.video.copied_streams import Window
from splatmend.plugin.video.encoding import Encoding, EncodingOptions, plan_encoding
from splatmend.plugin.video.mux import write_pictures, write_video
from splatmend.plugin.video.pipeline import run_stages
from splatmend.plugin.video.reader import ClipReader
from splatmend.plugin.video.rotation import references_as_coded
from splatmend.plugin.video.segments import SegmentWriter, State, WorkFolder
from splatmend.plugin.video.source import PICTURE_SUFFIXES, Clip, number_pattern, open_clip
from splatmend.temporal import FlowEstimator, Stream, TemporalOptions

__all__ = ["VideoOptions", "VideoSummary", "restore_video"]


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Options for the restoration and the output of a clip.

    Raises:
        InputError: a value is out of its range.
    """

    start: Fraction = Fraction(0)
    """Seconds after the clip's start; the first frame from there becomes time 0."""
    duration: Fraction | None = None
    """Seconds after `start`; None restores the rest."""
    rate: Fraction = Fraction(25)
    """Frames a second of image sequences, which state none."""
    batch: int | None = None
    """Frames that go through the network together; None is 1 on a CPU, else 4."""
    tile: int | None = None
    """Side of the tiles in pixels, for pictures too large for memory; None does not cut."""
    restore: RestoreOptions = field(default_factory=RestoreOptions)
    """Strength, colour lock and matte."""
    references: References | None = None
    """Pictures of the person, upright, that guide every frame."""
    temporal: TemporalOptions | None = None
    """Give the restorer memory along the clip; None restores every frame alone."""
    compare: CompareMode | None = None
    """Write input and result side by side, or as a wipe."""
    compare_reference: bool = False
    """Show the first reference in the lower left corner of the input."""
    encoding: EncodingOptions = field(default_factory=EncodingOptions)
    """Codec, quality and pixel format."""
    resume: bool = False
    """Continue an interrupted run with the same options."""
    segment_frames: int = 256
    """Largest number of frames that a killed run loses; rounded up to whole batches."""

    def __post_init__(self) -> None:
        for name, value, low in (
            ("start", self.start, 0),
            ("batch", self.batch, 1),
            ("tile", self.tile, 128),
            ("segment_frames", self.segment_frames, 1),
        ):
            if value is not None and value < low:
                raise InputError(f"{name} must be at least {low}, got {value}")
        for name, value in (("duration", self.duration), ("rate", self.rate)):
            if value is not None and value <= 0:
                raise InputError(f"{name} must be more than 0, got {value}")
        if self.compare not in (None, "side", "wipe"):
            raise InputError(f"compare must be 'side' or 'wipe', got {self.compare!r}")
        if self.compare_reference and (self.compare is None or self.references is None):
            raise InputError("to show a reference give --compare (compare) and a reference too")


@dataclass(frozen=True, kw_only=True)
class VideoSummary:
    """The result of a run."""

    target: Path
    frames: int
    """Frames in the result."""
    resumed: int
    """Frames in the result that come from an earlier run."""
    seconds: float
    bytes: int
    """Size of the result."""
    warnings: tuple[str, ...]
    """Losses, and references that do not fit, one line each."""
    fit: ReferenceFit
    """Number of frames of this run that no reference fitted; `frames` is 0 without references."""


def restore_video(
    source: str | Path,
    target: str | Path,
    restorer: Restorer,
    options: VideoOptions | None = None,
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoSummary:
    """Restore a clip, an image sequence or a picture; everything else in the file is copied.

    Every frame keeps its presentation time. The stream keeps its time base in mp4 and mov, while
    Matroska and WebM round to milliseconds. Sound, subtitles, attachments, chapters, metadata,
    rotation and colour tags are carried over. The summary's warnings name any loss. The final name
    appears, or is replaced, only when the result is whole.

    Calls `progress` on the calling thread, with the number of frames done and the expected number,
    or None.

    Raises:
        VideoInputError: nothing could be read.
        VideoOutputError: the target cannot be written; whole segments stay for `resume`.
        DamagedInputError: the result is in place, but part of the input was unreadable.
        InputError: options do not fit.
    """
    began = time.monotonic()
    options = options or VideoOptions()
    job = _prepare(Path(source), Path(target), restorer, options)
    folder = WorkFolder(job.target, _fingerprint(job), resume=options.resume)
    resumed = folder.frames
    reader = ClipReader(job.clip, start=options.start, duration=options.duration, skip=resumed)
    with _kept_if_useful(folder):
        _restore_rest(job, reader, folder, progress)
        size, warnings = _finish(job, reader, folder)
    if reader.damage:
        raise DamagedInputError(_describe_damage(job, reader, folder.frames))
    return VideoSummary(
        target=job.target,
        frames=folder.frames,
        resumed=resumed,
        seconds=time.monotonic() - began,
        bytes=size,
        warnings=(*job.encoding.notes, *warnings),
        fit=ReferenceFit() if job.guide is None else job.guide.fit,
    )


@contextmanager
def _kept_if_useful(folder: WorkFolder) -> Iterator[None]:
    """Keep the work folder after an error if `resume` can use it."""
    try:
        yield
    except BaseException as error:
        whole = f"{folder.frames} frames are whole" if folder.segments else ""
        if not whole:
            folder.discard()
        if isinstance(error, KeyboardInterrupt):
            go_on = "the same command with --resume goes on from there"
            kept = f"{whole}: {go_on}" if whole else f"nothing of {folder.target.name} is kept"
            raise KeyboardInterrupt(kept) from error
        if isinstance(error, VideoError) and whole:
            raise type(error)(f"{error}; {whole}: add --resume to go on from there") from error
        raise
    folder.discard()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """All decisions before the first frame."""

    clip: Clip
    target: Path
    restorer: Restorer
    stream: Stream | None
    """The restorer with memory, if it has one."""
    guide: Guide | None
    """The references, turned like the clip's coded frames."""
    options: VideoOptions
    encoding: Encoding
    batch: int
    segment_frames: int

    def mend(self, frames: list[Frame]) -> list[Frame]:
        """Restore one batch; call it in order, on one thread."""
        if not self.encoding.alpha and frames[0].alpha is not None:
            frames = [_on_matte(f, self.options.restore.matte) for f in frames]
        try:
            if self.stream is None:
                restored = restore_frames(
                    self.restorer, frames, self.options.restore, references=self.guide
                )
            else:
                restored = self.stream.restore(frames)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{self.restorer.device} has not enough memory for {len(frames)} frames of "
                f"{frames[0].size[1]}x{frames[0].size[0]}: use a smaller --batch, or --tile 512"
            ) from error
        if self.options.compare is None:
            return restored
        mode = self.options.compare
        if self.options.compare_reference and self.guide is not None:
            shown = self.guide.references[0].on_matte(self.options.restore.matte)[0]
            frames = [inset(frame, shown) for frame in frames]
        return [compare(a, b, mode) for a, b in zip(frames, restored, strict=True)]

    def remembered(self) -> State:
        """Return the stream's state after the batches so far; a resumed run starts with it."""
        return {} if self.stream is None else self.stream.export_state()


def _prepare(source: Path, target: Path, restorer: Restorer, options: VideoOptions) -> _Job:
    clip = open_clip(source, rate=options.rate)
    _check_places(clip, target)
    batch = options.batch or (1 if restorer.device.type == "cpu" else 4)
    # whole batches, because a network's last bits may depend on the batch size
    length = -(-options.segment_frames // batch) * batch
    encoding = plan_encoding(
        clip,
        target,
        options.encoding,
        size=compared_size(clip.size, options.compare),
        keyframe_distance=length,
    )
    encoding.open()  # to fail before the first frame if the encoder does not work
    tiled = Tiled(restorer, options.tile) if options.tile else restorer
    temporal = options.temporal
    references = references_as_coded(options.references, clip.display_matrix)
    guide = as_guide(references, options.restore)
    stream = None
    if temporal is not None:
        stream = Stream(tiled, options.restore, temporal, references=guide)
    return _Job(
        clip=clip,
        target=target,
        restorer=tiled,
        stream=stream,
        guide=guide,
        options=options,
        encoding=encoding,
        batch=batch,
        segment_frames=length,
    )


def _check_places(clip: Clip, target: Path) -> None:
    """Refuse targets that would overwrite the source or lie in no folder."""
    folder = target if target.is_dir() else target.parent
    if not folder.is_dir():
        raise VideoOutputError(f"no such folder: {folder}; make it first")
    if any(target.exists() and target.samefile(f) for f in clip.files if f.exists()):
        raise VideoOutputError(f"{target} is the source itself: choose another name")
    if clip.kind == "sequence" and folder.samefile(clip.files[0].parent):
        same = target.is_dir() or target.name == clip.source.name
        if same:
            raise VideoOutputError(f"{target} would overwrite the source: choose another folder")
    single = target.suffix.lower() in PICTURE_SUFFIXES and not number_pattern(target.name)
    if single and clip.kind != "picture" and not target.is_dir():
        raise VideoOutputError(
            f"{target.name} holds one picture: use {target.stem}_%06d{target.suffix}, or the "
            f"name of a folder"
        )


def _fingerprint(job: _Job) -> dict[str, Any]:
    """Return everything that the encoded frames depend on; equal runs may share segments."""
    files = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in job.clip.files]
    references = job.options.references
    elsewhere = ("resume", "batch", "segment_frames", "references")
    options = {name: value for name, value in vars(job.options).items() if name not in elsewhere}
    return {
        "files": hashlib.sha256(repr(files).encode()).hexdigest(),
        "options": repr(options),
        "references": None if references is None else references.fingerprint,
        "encoding": repr(job.encoding),
        "batch": job.batch,
        "segment_frames": job.segment_frames,
        "model": f"{job.restorer.traits.name} {_probe(job.restorer)}",
        "motion": None if job.stream is None else _probe_motion(job.stream.flow),
        "ffmpeg": repr(av.library_versions),
    }


def _probe(restorer: Restorer) -> str:
    """Return a digest of a fixed picture's restoration, which tells weights and precision apart."""
    levels = np.arange(64 * 64 * 3, dtype=np.uint32) * 2654435761 >> 24
    picture = levels.astype(np.uint8).reshape(64, 64, 3)
    result = restorer(to_tensor([picture], restorer.device))
    return hashlib.sha256(from_tensor(result, np.float32)[0].tobytes()).hexdigest()[:16]


def _probe_motion(flow: FlowEstimator) -> str:
    """Return a digest of the motion found in a fixed shift, and the library's version."""
    levels = np.arange(128 * 128 * 3, dtype=np.uint32) // 5 * 2654435761 >> 24
    picture: Any = cv2.blur(levels.astype(np.uint8).reshape(128, 128, 3), (9, 9))
    found = flow.between(picture, np.roll(picture, 3, 1))
    return f"opencv {cv2.__version__} {hashlib.sha256(found.tobytes()).hexdigest()[:16]}"


def _restore_rest(
    job: _Job,
    reader: ClipReader,
    folder: WorkFolder,
    progress: Callable[[int, int | None], None] | None,
) -> None:
    """Restore and encode the frames that no earlier run did, from that run's stream state."""
    if job.stream is not None:
        job.stream.import_state(folder.state)
    expected = _expected_frames(job)
    run_stages(
        reader,
        job.mend,
        job.remembered,
        SegmentWriter(folder, job.encoding, job.segment_frames),
        batch=job.batch,
        progress=lambda done: progress(done, expected) if progress else None,
    )


def _finish(job: _Job, reader: ClipReader, folder: WorkFolder) -> tuple[int, list[str]]:
    """Join the segments under the final name; return the bytes written and warnings."""
    if not folder.segments:
        if job.options.start:
            raise VideoInputError(f"{job.clip.source} has no frame from {job.options.start} s on")
        raise VideoInputError(f"no frame of {job.clip.source} could be decoded")
    warnings = []
    if job.guide is not None and job.guide.complaint:
        warnings.append(job.guide.complaint)
    if folder.differs:
        differs = ", ".join(folder.differs)
        warnings.append(f"the earlier run could not be taken up: other {differs}")
    if job.encoding.container is None:
        size = write_pictures(job.clip, folder, job.target)
        if job.clip.display_matrix:
            warnings.append("the source's rotation is left out: pictures are written as coded")
        return size, warnings + list(job.clip.other_streams)
    end = None
    if job.options.duration is not None:
        end = job.clip.start + job.options.start + job.options.duration
    window = Window(reader.origin, end, trimmed=bool(job.options.start))
    warnings += write_video(
        job.clip, job.encoding, folder, job.target, window, reader.last_duration
    )
    return job.target.stat().st_size, warnings


def _on_matte(frame: Frame, matte: tuple[float, float, float]) -> Frame:
    """Return the frame without alpha, on a plain background (RGB in [0, 1])."""
    assert frame.alpha is not None
    top = float(np.iinfo(frame.color.dtype).max)
    alpha = (frame.alpha / top).astype(np.float32)[..., None]
    laid = frame.color * alpha + np.float32(top) * np.asarray(matte, np.float32) * (1 - alpha)
    color = np.rint(laid).astype(frame.color.dtype)
    return Frame(color=color, pts=frame.pts, stream_id=frame.stream_id)


def _expected_frames(job: _Job) -> int | None:
    total, rate, options = job.clip.stated_frames, job.clip.rate, job.options
    if rate and options.duration is not None:
        asked = math.ceil(options.duration * rate)
        total = asked if total is None else min(total, asked)
    elif total is not None and rate:
        total = max(1, total - math.floor(options.start * rate))
    return total


def _describe_damage(job: _Job, reader: ClipReader, frames: int) -> str:
    damage, parts = reader.damage, []
    if damage.cut_off:
        parts.append(f"it ends at {float(reader.end_time):.3f} s, before its stated end")
    if damage.packets:
        unit = "packets" if job.clip.kind == "video" else "pictures"
        parts.append(f"{unit} left out because they could not be decoded: {damage.packets}")
    if damage.frames:
        parts.append(f"frames that are marked as corrupt: {damage.frames}")
    return (
        f"{job.clip.source} is damaged: {'; '.join(parts)}; what could be read is in "
        f"{job.target}: {frames} frames"
    )
