"""`splatmend measure`: measure how steady clips are, in one table.

splatmend measure per_frame.mp4 temporal.mp4 --input shot.mp4

splatmend measure before=a.mp4 after=b/ --reference whole/ --seams 256 512

Everything is measured against the reference where there is one, else against the input,
whose motion all clips share. Writes measures.json and measures.md. With matplotlib, an
extra (pip install 'splatmend[plot]'), it also writes measures.png.
"""

import json
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from splatmend.core import Frame, InputError, ModelError, to_tensor
from splatmend.core.command_line import OmitArgPrefixes, Positional, arg, parse, shown
from splatmend.core.perceptual.lpips import Lpips, load_lpips
from splatmend.plugin.tools.measure_report import draw_plot, markdown_table
from splatmend.plugin.video.reader import ClipReader
from splatmend.plugin.video.source import open_clip
from splatmend.temporal.measures.clip_measures import ClipMeasures, MeasureOptions, TemporalMeasures
from splatmend.temporal.measures.face_jitter import DlibFaces
from splatmend.temporal.motion.flow import load_flow

__all__ = ["MeasureConfig", "main", "measure"]


@dataclass(frozen=True)
class Measures:
    """The measures, and the models behind them."""

    flow: Annotated[str, arg(metavar="NAME")] = "dis"
    """The estimator of motion: dis, dis-fast, or raft:FILE with torchvision's weights."""
    strides: Annotated[tuple[int, ...], arg(metavar="N [N ...]")] = (1, 2, 5, 10)
    """Frames between the pictures that tLPIPS and tOF compare."""
    seams: Annotated[tuple[int, ...], shown("N [N ...]")] = ()
    """Frames, counted from 0, with which a new segment began: where a run was resumed."""
    lpips: bool = True
    """LPIPS and tLPIPS (AlexNet)."""
    lpips_weights: Annotated[Path | None, shown("DIR")] = None
    """Folder with the LPIPS backbones; without it they are downloaded."""
    faces: bool = True
    """Identity and landmarks (pip install 'splatmend[faces]')."""


@dataclass(frozen=True)
class MeasureConfig:
    """The clips to measure and the clip to compare them with."""

    outputs: Annotated[Positional[tuple[str, ...]], arg(metavar="CLIP [CLIP ...]")]
    """Clips as restore-video takes them (video, folder, shot_%04d.png); "name=clip" names one."""
    reference: Annotated[Path | None, shown("CLIP")] = None
    """The truth: a clip as they should look."""
    input: Annotated[Path | None, shown("CLIP")] = None
    """The clip they were made from; measured beside them."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/measure")
    """Receives measures.json, measures.md and measures.png."""
    start: Annotated[float, arg(metavar="S")] = 0.0
    """Seconds of all clips to leave out."""
    duration: Annotated[float | None, shown("S", default="all the rest")] = None
    """Seconds to measure."""
    crop: Annotated[
        tuple[int, int, int, int] | None, shown("LEFT TOP RIGHT BOTTOM", default="the frame")
    ] = None
    """Part that is measured, in pixels: plain ground dilutes every mean."""
    motion: Annotated[Path | None, shown("DIR")] = None
    """Folder with the exact motion, as `splatmend render --planes` writes it; else estimated."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """Device for LPIPS and RAFT."""
    measures: OmitArgPrefixes[Measures] = field(default_factory=Measures)

    def __post_init__(self) -> None:
        if not self.outputs:
            raise InputError("nothing to measure: name at least one clip")
        if self.crop and not (
            0 <= self.crop[0] < self.crop[2] and 0 <= self.crop[1] < self.crop[3]
        ):
            raise InputError(f"crop must be left < right and top < bottom, got {self.crop}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend measure ...`; the caller reports errors."""
    config = parse(MeasureConfig, arguments, prog="splatmend measure", description=__doc__ or "")
    measure(config)


def measure(config: MeasureConfig) -> dict[str, ClipMeasures]:
    """Measure all clips, write the report, return {name: measures}.

    Raises:
        InputError: clips of several sizes, no frames, or a clip named twice.
        VideoInputError: a clip that cannot be read.
    """
    clips = _named(config)
    guide = next((name for name in ("reference", "input") if name in clips), None)
    meter = TemporalMeasures(
        list(clips),
        flow=load_flow(config.measures.flow, device=config.device),
        guide=guide,
        truth=guide == "reference",
        options=MeasureOptions(strides=config.measures.strides, seams=config.measures.seams),
        perceptual=_lpips(config),
        faces=_faces(config),
    )
    frames = _feed(meter, clips, config)
    measures = meter.result()
    config.out.mkdir(parents=True, exist_ok=True)
    table = markdown_table(measures, strides=config.measures.strides, guide=guide)
    report = {
        "frames": frames,
        "guide": guide,
        "clips": {name: str(path) for name, path in clips.items()},
        "measures": {name: asdict(m) for name, m in measures.items()},
    }
    (config.out / "measures.json").write_text(json.dumps(report, indent=1) + "\n")
    (config.out / "measures.md").write_text(table)
    try:
        plot = draw_plot(measures, guide=guide, seams=config.measures.seams)
        cv2.imwrite(str(config.out / "measures.png"), plot[..., ::-1])
    except ModuleNotFoundError as error:
        _say(f"the plot is left out: {error.name} is not installed (pip install 'splatmend[plot]')")
    sys.stdout.write(f"{table}\n{frames} frames; written to {config.out}\n")
    return measures


def _named(config: MeasureConfig) -> dict[str, Path]:
    """Collect the clips by the name of their column: input, outputs, reference."""
    clips: dict[str, Path] = {}
    if config.input is not None:
        clips["input"] = config.input
    for given in config.outputs:
        name, equals, path = given.partition("=")
        if not equals or Path(given).exists():
            name, path = Path(given).stem, given
        if name in clips or name in ("", "reference"):
            raise InputError(f"two clips are called {name!r}: name them, as in before={path}")
        clips[name] = Path(path)
    if config.reference is not None:
        clips["reference"] = config.reference
    return clips


def _lpips(config: MeasureConfig) -> Lpips | None:
    if not config.measures.lpips:
        return None
    try:
        return load_lpips("alex", config.measures.lpips_weights, config.device)
    except ModuleNotFoundError as error:
        _say(f"LPIPS is left out: {error.name} is not installed (pip install 'splatmend[train]')")
    except OSError as error:  # no network
        _say(f"LPIPS is left out: its backbone cannot be had ({error}); see --lpips-weights")
    return None


def _faces(config: MeasureConfig) -> DlibFaces | None:
    if not config.measures.faces:
        return None
    try:
        return DlibFaces()
    except ModelError as error:
        _say(f"identity and landmarks are left out: {error}")
    return None


def _feed(meter: TemporalMeasures, clips: Mapping[str, Path], config: MeasureConfig) -> int:
    """Feed every frame that all clips have into the meter; return their number."""
    motions = _motions(config)
    count = 0
    with ExitStack() as stack:
        streams = {
            name: stack.enter_context(closing(_pictures(path, config)))
            for name, path in clips.items()
        }
        bar = stack.enter_context(
            tqdm(desc="measure", unit=" frames", disable=not sys.stderr.isatty())
        )
        while True:
            shown = {name: next(stream, None) for name, stream in streams.items()}
            ended = [name for name, picture in shown.items() if picture is None]
            if ended:
                break
            flow = next(motions, None) if count else None
            meter.add(
                {n: p.to(config.device) for n, p in shown.items() if p is not None}, flow=flow
            )
            count += 1
            bar.update()
    if not count:
        raise InputError(f"{', '.join(ended)}: no frame in the time asked for")
    if len(ended) < len(clips):
        longer = ", ".join(name for name in clips if name not in ended)
        _say(f"{longer}: only the first {count} frames are measured, {ended[0]} has no more")
    return count


def _pictures(path: Path, config: MeasureConfig) -> Generator[Tensor, None, None]:
    """Read the frames of a clip on white, (3, h, w) in [0, 1]."""
    duration = None if config.duration is None else Fraction(config.duration)
    reader = ClipReader(open_clip(path), start=Fraction(config.start), duration=duration)
    area: Any = np.s_[:]
    for frame in reader:
        assert frame is not None
        if config.crop:
            left, top, right, bottom = config.crop
            area = np.s_[top:bottom, left:right]
            if right > frame.size[1] or bottom > frame.size[0]:
                height, width = frame.size
                raise InputError(
                    f"crop {config.crop} leaves the frames of {path}: {width}x{height}"
                )
        yield _on_white(frame, area)


def _on_white(frame: Frame, area: Any) -> Tensor:
    color = to_tensor([frame.color[area]])[0]
    if frame.alpha is None:
        return color
    alpha = to_tensor([frame.alpha[area]])[0]
    return (color if frame.alpha_kind == "premultiplied" else color * alpha) + 1 - alpha


def _motions(config: MeasureConfig) -> Iterator[Tensor]:
    """Read the exact motion of the guide from its second frame on, (2, h, w) in pixels."""
    if config.motion is None:
        return
    files = sorted(config.motion.glob("*.npz"))
    if not files:
        raise InputError(f"{config.motion} holds no .npz: render with --planes")
    for file in files:
        with np.load(file) as planes:
            if "motion" not in planes:  # the first frame has none
                continue
            flow = cast("NDArray[np.floating[Any]]", planes["motion"]).astype(np.float32)
        if config.crop:
            left, top, right, bottom = config.crop
            flow = flow[:, top:bottom, left:right]
        yield torch.from_numpy(flow)


def _say(line: str) -> None:
    sys.stderr.write(f"measure: {line}\n")


if __name__ == "__main__":
    main()
