"""The command `restore-video`: mend a clip, a sequence, a picture or a folder of clips."""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm
from tyro.constructors import PrimitiveConstructorSpec

from splatmend.core import (
    Gated,
    InputError,
    RestoreOptions,
    Restorer,
    SplatmendError,
    Tiled,
    keep_freed_memory,
    load_estimator,
    load_restorer,
)
from splatmend.core.command_line import (
    Flag,
    OmitArgPrefixes,
    Positional,
    UseAppendAction,
    arg,
    parse,
    shown,
)
from splatmend.plugin.video.comparison import CompareMode
from splatmend.plugin.video.encoding import CONTAINERS, EncodingOptions
from splatmend.plugin.video.reference_options import ReferenceOptions
from splatmend.plugin.video.restore import VideoOptions, VideoSummary
from splatmend.plugin.video.restore import restore_video as restore_clip
from splatmend.plugin.video.source import clips_in
from splatmend.plugin.video.times import seconds
from splatmend.temporal import TemporalOptions

__all__ = ["RestoreConfig", "main", "restore_video"]

_INTERRUPTED = 130  # shells report it for a process that Ctrl-C ended

_DESCRIPTION = "Restore a video frame by frame and carry everything else over unchanged."
_EPILOG = """\
examples:
  restore-video talk.mp4 mended.mp4
  restore-video talk.mp4 look.mp4 --compare wipe --start 10 --duration 5
  restore-video talk.mp4 mended.mp4 --reference photo.jpg   detail of the person's picture
  restore-video talk.mp4 mended.mp4 --temporal              no flicker
  restore-video avatar_%04d.png avatar.mov                  PNG with alpha to ProRes 4444
  restore-video talk.mp4 mended.mp4 --resume                continue after a kill or a full disk
  restore-video clips/ mended/                              every clip of a folder

exit codes: 0 done; 2 an error, one line says which and nothing under the final name changed;
3 the input was damaged and its readable part is in place; 130 interrupted.
"""


def _read_by(read: Callable[[str], Any], metavar: str) -> Any:
    """Read one word of a command line with a function that raises ValueError."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: isinstance(value, Fraction),
        str_from_instance=lambda value: [str(value)],
    )


def _rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{text!r} is not a frame rate: use 25, 29.97 or 30000/1001") from None


_Time = Annotated[Fraction, _read_by(seconds, "T")]
_Rate = Annotated[Fraction, _read_by(_rate, "FPS")]


@dataclass(frozen=True)
class _References:
    """More about pictures of the person."""

    compare_reference: Flag = False
    """With --compare: show the first reference in its corner."""


@dataclass(frozen=True)
class _Span:
    """Which part is restored. T is in seconds or h:mm:ss."""

    start: _Time = Fraction(0)
    """Time of the first frame."""
    duration: Annotated[_Time | None, shown("T")] = None
    """Time after the start; without it, all the rest."""
    rate: _Rate = Fraction(25)
    """Frames in a second of an image sequence."""


@dataclass(frozen=True)
class _Flicker:
    """How --temporal removes flicker."""

    temporal_gain: Annotated[float | None, shown("G", default="0.9")] = None
    """Share of the past in the added detail, 0 to below 1."""
    temporal_input_gain: Annotated[float | None, shown("G", default="0.8")] = None
    """Share of the past in the picture itself, 0 to below 1."""
    flow: Annotated[str | None, shown("F", default="dis-fast")] = None
    """Motion estimate: dis-fast, dis, or raft:FILE."""


@dataclass(frozen=True)
class _Encoding:
    """How the result is written."""

    codec: Annotated[str | None, shown("NAME", default="by the output's name")] = None
    """h264, hevc, vp9, av1, prores, ffv1, or an encoder such as h264_nvenc."""
    crf: Annotated[int | None, shown("Q", default="16 for H.264")] = None
    """Quality: lower is better."""
    pix_fmt: Annotated[str | None, shown("F", default="the input's, if the codec has it")] = None
    """FFmpeg's name of a pixel format, such as yuv444p."""
    drop_alpha: Flag = False
    """Lay pictures with alpha on white."""


@dataclass(frozen=True)
class _Network:
    """The model and its device."""

    base: Annotated[str | None, shown("DIR")] = None
    """SD-Turbo's folder for turbo, or: download."""
    device: Annotated[str, shown("NAME", default="the best there is")] = "auto"
    """cpu, cuda, cuda:1 or mps."""
    gate: Flag = False
    """Leave frames alone that look clean."""
    magnify: Annotated[int | None, shown("N", default="2 for small frames, else 1")] = None
    """Restore at N times the size."""
    color_lock: Flag = True
    """Let the model change broad colours too."""
    batch: Annotated[int | None, shown("N", default="1 on a CPU, else 4")] = None
    """Frames restored at once."""
    tile: Annotated[int | None, shown("PX")] = None
    """Cut pictures that are too large for memory into tiles of this size."""


@dataclass(frozen=True)
class _Run:
    """Interrupted runs, and progress."""

    resume: Flag = False
    """Continue an interrupted run."""
    segment_frames: Annotated[int, arg(metavar="N")] = 256
    """Frames in a segment; a run continues after the last whole one."""
    progress: Flag = False
    """Show the progress bar even where there is no terminal."""


@dataclass(frozen=True)
class RestoreConfig:
    """The arguments of `restore-video`: those that matter most, then groups of the others."""

    source: Annotated[Positional[Path], arg(metavar="INPUT")]
    """A video, shot_%04d.png, a picture, or a folder."""
    target: Annotated[Positional[Path], arg(metavar="OUTPUT")]
    """Its name says the format: a video, shot_%04d.png, a picture, or a folder."""
    reference: Annotated[
        UseAppendAction[tuple[tuple[Path, ...], ...]], shown("PICTURE [PICTURE ...]")
    ] = ()
    """Clean pictures of the same person, or folders of them; after INPUT and OUTPUT."""
    reference_clip: Annotated[str | None, shown("CLIP[@A-B]")] = None
    """A clean clip of the person, or its seconds A to B."""
    keys: Annotated[str | None, shown("RENDERS:PHOTOS")] = None
    """Key pairs: two folders, one of renders and one of how they should look."""
    temporal: Flag = False
    """Remove flicker: added detail moves along with the head."""
    compare: Annotated[CompareMode | None, shown()] = None
    """Show input and result in one picture."""
    model: Annotated[str, arg(metavar="NAME")] = "compact"
    """compact, turbo, unsharp, copy, or a checkpoint."""
    adapter: Annotated[Path | None, shown("FILE")] = None
    """compact fitted to one avatar, by fit or train-adapter."""
    strength: Annotated[float, arg(metavar="S")] = 1.0
    """0, the input, to 1, the restored frame."""
    references: OmitArgPrefixes[_References] = field(default_factory=_References)
    time: OmitArgPrefixes[_Span] = field(default_factory=_Span)
    flicker: OmitArgPrefixes[_Flicker] = field(default_factory=_Flicker)
    encoding: OmitArgPrefixes[_Encoding] = field(default_factory=_Encoding)
    model_and_device: OmitArgPrefixes[_Network] = field(default_factory=_Network)
    resuming: OmitArgPrefixes[_Run] = field(default_factory=_Run)

    def __post_init__(self) -> None:
        if not all(self.reference):
            raise InputError("--reference: expected at least one argument")

    def options(self) -> VideoOptions:
        """Read the references and gather all that a clip is restored with.

        Raises:
            InputError: an option or a reference cannot be used.
            VideoInputError: the reference clip cannot be read.
        """
        references = ReferenceOptions(
            pictures=tuple(path for paths in self.reference for path in paths),
            clip=self.reference_clip,
            keys=self.keys,
        )
        network, written = self.model_and_device, self.encoding
        return VideoOptions(
            start=self.time.start,
            duration=self.time.duration,
            rate=self.time.rate,
            batch=network.batch,
            tile=network.tile,
            restore=RestoreOptions(
                strength=self.strength, color_lock=network.color_lock, magnify=network.magnify
            ),
            references=references.read(),
            temporal=self._temporal(),
            compare=self.compare,
            compare_reference=self.references.compare_reference,
            encoding=EncodingOptions(
                codec=written.codec,
                crf=written.crf,
                pix_fmt=written.pix_fmt,
                drop_alpha=written.drop_alpha,
            ),
            resume=self.resuming.resume,
            segment_frames=self.resuming.segment_frames,
        )

    def _temporal(self) -> TemporalOptions | None:
        knobs: dict[str, Any] = {
            "gain": self.flicker.temporal_gain,
            "input_gain": self.flicker.temporal_input_gain,
            "flow": self.flicker.flow,
        }
        chosen = {name: value for name, value in knobs.items() if value is not None}
        if self.temporal:
            return TemporalOptions(**chosen)
        if chosen:
            raise InputError("--temporal-gain, --temporal-input-gain and --flow need --temporal")
        return None


def restore_video(arguments: Sequence[str] | None = None, *, program: str = "restore-video") -> int:
    """Run `restore-video INPUT OUTPUT`; return the exit code."""
    keep_freed_memory()
    try:
        return _restore(
            _parsed(list(sys.argv[1:] if arguments is None else arguments), program), program
        )
    except SplatmendError as error:
        return _fail(error, program)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rest is clean-up
        _say(f"{program}: interrupted; {stop}" if stop.args else f"{program}: interrupted")
        return _INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `splatmend restore-video INPUT OUTPUT`; return the exit code."""
    return restore_video(arguments, program="splatmend restore-video")


def _parsed(given: list[str], program: str) -> RestoreConfig:
    try:
        return parse(RestoreConfig, given, prog=program, description=_DESCRIPTION, epilog=_EPILOG)
    except InputError as error:
        if "--reference" in given and "arguments are required" in str(error):
            raise InputError(f"{error}; INPUT and OUTPUT go before --reference") from None
        raise


def _restore(config: RestoreConfig, program: str) -> int:
    options = config.options()
    network = config.model_and_device
    restorer = load_restorer(
        config.model, device=network.device, base=network.base, adapter=config.adapter
    )
    source, target = config.source, config.target
    pairs = [(source, target)]
    if source.is_dir() and (clips := clips_in(source)):
        pairs = _folder_pairs(clips, target)
    if network.gate:  # around the tiles: a frame is judged as a whole
        whole = restorer if network.tile is None else Tiled(restorer, network.tile)
        restorer = Gated(whole, load_estimator(device=restorer.device))
        options = replace(options, tile=None)
    worst = 0
    for clip, result in pairs:
        try:
            _restore_one(
                clip, result, restorer, options, show=config.resuming.progress, program=program
            )
        except SplatmendError as error:
            worst = max(worst, _fail(error, program))
    return worst


def _folder_pairs(clips: list[Path], target: Path) -> list[tuple[Path, Path]]:
    """Pair each clip with its place in the target folder; make the folder if need be."""
    if target.suffix and not target.is_dir():
        raise InputError(f"a folder of clips needs a folder to go to, got {target}")
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {target}: {error.strerror}") from error
    taken: set[str] = set()
    pairs = []
    for clip in clips:
        keeps = clip.suffix.lower() in CONTAINERS
        name = clip.name if keeps else f"{clip.stem}.mp4"
        if name in taken:
            name = f"{clip.name}.mp4"
        taken.add(name)
        pairs.append((clip, target / name))
    return pairs


def _restore_one(
    source: Path,
    target: Path,
    restorer: Restorer,
    options: VideoOptions,
    *,
    show: bool,
    program: str,
) -> None:
    began = time.monotonic()
    # without a terminal a bar would fill logs with its own past
    hidden = not (show or sys.stderr.isatty())
    with tqdm(desc=source.name, unit=" frames", disable=hidden, dynamic_ncols=True) as bar:

        def progress(done: int, expected: int | None) -> None:
            if bar.total is None:
                bar.total = expected
                bar.initial = bar.n = 0
            bar.update(done - bar.n)

        summary = restore_clip(source, target, restorer, options, progress=progress)
    for warning in summary.warnings:
        _say(f"{program}: warning: {warning}")
    line = _summary_line(summary, restorer, options, time.monotonic() - began)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _summary_line(
    summary: VideoSummary, restorer: Restorer, options: VideoOptions, took: float
) -> str:
    new = summary.frames - summary.resumed
    resumed = f" ({summary.resumed or 'none'} of them from before)" if options.resume else ""
    size = float(summary.bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return (
        f"{summary.frames} frames{resumed} in {took:.1f} s, {new / max(took, 1e-9):.1f} fps, "
        f"{restorer.traits.name} on {restorer.device}{_guided_by(options)}: {summary.target}, "
        f"{size:.3g} {unit}"
    )


def _guided_by(options: VideoOptions) -> str:
    if options.references is None:
        return ""
    count = len(options.references)
    one = "reference" if options.references.kind == "pictures" else "key pair"
    return f", guided by {count} {one}{'' if count == 1 else 's'}"


def _fail(error: SplatmendError, program: str) -> int:
    one_line = " ".join(str(error).split())
    _say(f"{program}: error: {one_line}")
    return error.exit_code


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(restore_video())
