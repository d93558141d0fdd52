"""The commands `restore-video` and `splatmend`."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from splatmend.core import (
    Gated,
    InputError,
    RestoreOptions,
    Restorer,
    SplatmendError,
    Tiled,
    available_restorers,
    keep_freed_memory,
    load_estimator,
    load_restorer,
)
from splatmend.plugin.video.encoding import CONTAINERS, EncodingOptions
from splatmend.plugin.video.reference_options import ReferenceOptions
from splatmend.plugin.video.restore import VideoOptions, VideoSummary
from splatmend.plugin.video.restore import restore_video as restore_clip
from splatmend.plugin.video.source import clips_in
from splatmend.plugin.video.times import seconds
from splatmend.temporal import TemporalOptions

__all__ = ["main", "restore_video"]

_INTERRUPTED = 130  # what shells report for a process that Ctrl-C ended
_COMMANDS = "splatmend.commands"

_EPILOG = """\
examples:
  restore-video talk.mp4 mended.mp4
  restore-video talk.mp4 look.mp4 --compare wipe --start 10 --duration 5
  restore-video talk.mp4 mended.mp4 --reference photo.jpg
                                                    detail of the same person's picture
  restore-video talk.mp4 mended.mp4 --temporal      detail moves with the head, no boiling
  restore-video avatar_%04d.png avatar.mov          PNG with alpha to ProRes 4444
  restore-video talk.mp4 mended.mp4 --resume        go on after a kill or a full disk
  restore-video clips/ mended/                      every clip of a folder

exit codes: 0 done, 2 an error (one line says which; nothing under the final name changed),
3 the input was damaged and what could be read is in place, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """`splatmend <command> ...`: run a command that some folder of the package registered."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {point.name: point for point in entry_points(group=_COMMANDS)}
    if given and given[0] in commands:
        keep_freed_memory()
        try:
            command: Callable[[Sequence[str]], int | None] = commands[given[0]].load()
            return command(given[1:]) or 0
        except ModuleNotFoundError as error:
            missing = f"it needs {error.name}, which is not installed"
            way_out = "pip install 'splatmend[train,turbo]' brings all that the commands use"
            return _fail(InputError(f"{missing}: {way_out}"), f"splatmend {given[0]}")
        except SplatmendError as error:
            return _fail(error, f"splatmend {given[0]}")
        except KeyboardInterrupt:
            _say(f"splatmend {given[0]}: interrupted")
            return _INTERRUPTED
    listing = "".join(f"  {name}\n" for name in sorted(commands))
    usage = f"usage: splatmend <command> ...\n\ncommands (each knows --help):\n{listing}"
    if given and given[0] in ("-h", "--help"):
        sys.stdout.write(usage)
        return 0
    if given:
        sys.stderr.write(f"splatmend: error: no command {given[0]!r}\n")
    sys.stderr.write(usage)
    return 2


def restore_video(arguments: Sequence[str] | None = None) -> int:
    """`restore-video in out`: mend a clip, a sequence, a picture or a folder of clips."""
    keep_freed_memory()
    try:
        return _restore(_parsed(list(sys.argv[1:] if arguments is None else arguments)))
    except SplatmendError as error:
        return _fail(error)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rest is clean-up
        _say(f"restore-video: interrupted; {stop}" if stop.args else "restore-video: interrupted")
        return _INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Reports a bad option as the one line that every other error is."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see restore-video --help")


def _parsed(given: list[str]) -> argparse.Namespace:
    try:
        return _parser().parse_args(given)
    except InputError as error:
        if "--reference" in given and "arguments are required" in str(error):
            raise InputError(f"{error}; in and out go before --reference") from None
        raise


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="restore-video",
        description="Mend a video frame by frame and carry everything else over unchanged.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="in", help="video, shot_%%04d.png, picture, or a folder")
    add("target", type=Path, metavar="out", help="its name says what is written; see examples")
    what = parser.add_argument_group("what is restored")
    add = what.add_argument
    add("--start", type=_seconds, default=Fraction(0), metavar="T", help="seconds or h:mm:ss")
    add("--duration", type=_seconds, metavar="T", help="seconds or h:mm:ss after the start")
    add("--rate", type=_rate, default=Fraction(25), help="of image sequences (default: 25)")
    _add_references(parser)
    how = parser.add_argument_group("how it is restored")
    add = how.add_argument
    names = ", ".join(available_restorers())
    add("--model", default="compact", help=f"{names}, turbo, or a checkpoint (default: compact)")
    add("--adapter", type=Path, metavar="FILE", help="compact fitted to one avatar (train --rank)")
    add("--base", metavar="DIR", help="SD-Turbo's folder for turbo, or: download")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    add("--strength", type=float, default=1.0, metavar="S", help="0, the input, to 1 (default)")
    add("--gate", action="store_true", help="leave frames alone that look clean")
    add(
        "--magnify",
        type=int,
        metavar="N",
        help="restore N times as large (small frames: 2, else 1)",
    )
    add("--no-color-lock", action="store_true", help="let the model change broad colours too")
    add("--temporal", action="store_true", help="steady what is restored from frame to frame")
    add("--temporal-gain", type=float, metavar="G", help="its memory, 0 to below 1 (default: 0.95)")
    add("--temporal-input-gain", type=float, metavar="G", help="the picture's own (default: 0.8)")
    add("--flow", metavar="F", help="its motion: dis-fast (default), dis, or raft:FILE")
    add("--batch", type=int, metavar="N", help="frames at once (default: 1 on a CPU, else 4)")
    add("--tile", type=int, metavar="PX", help="cut pictures too large for memory into tiles")
    written = parser.add_argument_group("how it is written")
    add = written.add_argument
    add("--compare", choices=["side", "wipe"], help="input and result in one picture")
    add("--compare-reference", action="store_true", help="show the first reference in its corner")
    add("--codec", help="h264, hevc, vp9, av1, prores, ffv1, or an encoder such as h264_nvenc")
    add("--crf", type=int, metavar="Q", help="quality: lower is better (default: 16 for H.264)")
    add("--pix-fmt", metavar="F", help="FFmpeg's name, such as yuv444p")
    add("--drop-alpha", action="store_true", help="lay pictures with alpha on white")
    add("--resume", action="store_true", help="take up what an interrupted run left")
    add("--segment-frames", type=int, default=256, metavar="N", help=argparse.SUPPRESS)
    add("--progress", action="store_true", help="show the bar even if this is no terminal")
    return parser


def _add_references(parser: argparse.ArgumentParser) -> None:
    person = parser.add_argument_group("what it is restored from")
    add = person.add_argument
    add(
        "--reference",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PICTURE",
        help="clean pictures of the same person, or folders of them; after in and out",
    )
    add("--reference-clip", metavar="CLIP[@A-B]", help="a clean clip, or its seconds A to B")
    add("--keys", metavar="RENDERS:PHOTOS", help="two folders: renders, and how they should look")


def _seconds(text: str) -> Fraction:
    try:
        return seconds(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no frame rate: use 25, 29.97 or 30000/1001"
        ) from None


def _temporal(given: argparse.Namespace) -> TemporalOptions | None:
    knobs = {
        "gain": given.temporal_gain,
        "input_gain": given.temporal_input_gain,
        "flow": given.flow,
    }
    chosen = {name: value for name, value in knobs.items() if value is not None}
    if given.temporal:
        return TemporalOptions(**chosen)
    if chosen:
        raise InputError("--temporal-gain, --temporal-input-gain and --flow need --temporal")
    return None


def _restore(given: argparse.Namespace) -> int:
    options = _options(given)
    restorer = load_restorer(
        given.model, device=given.device, base=given.base, adapter=given.adapter
    )
    source, target = given.source, given.target
    pairs = [(source, target)]
    if source.is_dir() and (clips := clips_in(source)):
        pairs = _folder_pairs(clips, target)
    if given.gate:  # around the tiles: a frame is judged as a whole
        whole = restorer if given.tile is None else Tiled(restorer, given.tile)
        restorer = Gated(whole, load_estimator(device=restorer.device))
        options = replace(options, tile=None)
    worst = 0
    for clip, result in pairs:
        try:
            _restore_one(clip, result, restorer, options, show=given.progress)
        except SplatmendError as error:
            worst = max(worst, _fail(error))
    return worst


def _options(given: argparse.Namespace) -> VideoOptions:
    references = ReferenceOptions(
        pictures=tuple(given.reference), clip=given.reference_clip, keys=given.keys
    )
    return VideoOptions(
        start=given.start,
        duration=given.duration,
        rate=given.rate,
        batch=given.batch,
        tile=given.tile,
        restore=RestoreOptions(
            strength=given.strength, color_lock=not given.no_color_lock, magnify=given.magnify
        ),
        references=references.read(),
        temporal=_temporal(given),
        compare=given.compare,
        compare_reference=given.compare_reference,
        encoding=EncodingOptions(
            codec=given.codec,
            crf=given.crf,
            pix_fmt=given.pix_fmt,
            drop_alpha=given.drop_alpha,
        ),
        resume=given.resume,
        segment_frames=given.segment_frames,
    )


def _folder_pairs(clips: list[Path], target: Path) -> list[tuple[Path, Path]]:
    """Each clip with its place in the target folder, which is made if need be."""
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
    source: Path, target: Path, restorer: Restorer, options: VideoOptions, *, show: bool
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
        _say(f"restore-video: warning: {warning}")
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


def _fail(error: SplatmendError, program: str = "restore-video") -> int:
    one_line = " ".join(str(error).split())
    _say(f"{program}: error: {one_line}")
    return error.exit_code


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(restore_video())
