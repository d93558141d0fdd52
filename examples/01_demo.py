"""An end-to-end demo: a portrait becomes a splatted clip with sound, and compact restores it.

compact runs twice: alone, and with the clip's first clean frame as reference.

    make demo            (or: python examples/01_demo.py --out demo)

It leaves in demo/:
    splatted.mp4   the input: 48 frames of a moving portrait made of 2-D Gaussians, with sound
    mended.mp4     the output of restore-video
    reference.png  the first frame as it should look
    guided.mp4     the output of restore-video with that reference
    compare.png    splatted, mended, guided and true, whole and the face close up
    compare.webp   the face in motion: splatted, mended, guided and true
    figures.json   PSNR, SSIM and sharpness against the truth, and speed
"""

import json
import math
import sys
from argparse import ArgumentParser
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from splatmend.core import from_tensor, load_restorer, read_references, to_tensor
from splatmend.plugin import VideoOptions, restore_video
from splatmend.training import CameraPath, SplatOptions, splat_clip

Picture = NDArray[np.uint8]
RATE, SOUND_RATE = 24, 48_000
FOCUS = (226, 163)  # the middle of the head, in pixels of the photograph
DAMAGE = SplatOptions(
    spacing=2.6, detail=1.1, spread=0.65, hardness=0.6, anisotropy=0.4
)  # about as coarse as a head avatar of 10,000 Gaussians


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--side", type=int, default=512, help="pixels of a frame's side")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    say("1/4 splatting a moving portrait (scikit-image's astronaut, NASA, public domain)")
    splatted, truth = render(arguments.frames, arguments.side)
    write_clip(out / "splatted.mp4", splatted)
    cv2.imwrite(str(out / "reference.png"), truth[0][..., ::-1])

    say("2/4 mending it: restore-video splatted.mp4 mended.mp4")
    restorer = load_restorer("compact")
    summary = restore_video(out / "splatted.mp4", out / "mended.mp4", restorer, VideoOptions())
    say("2/4 again: restore-video splatted.mp4 guided.mp4 --reference reference.png")
    guided = VideoOptions(references=read_references(out / "reference.png"))
    restore_video(out / "splatted.mp4", out / "guided.mp4", restorer, guided)

    say("3/4 measuring all against the truth")
    names = ("splatted", "mended", "guided")
    clips = {name: read_clip(out / f"{name}.mp4") for name in names}
    figures = {
        **{name: measure(clip, truth) for name, clip in clips.items()},
        "frames": len(clips["mended"]),
        "frames_per_second": round(summary.frames / summary.seconds, 1),
        "sound_packets_equal": sound(out / "splatted.mp4") == sound(out / "mended.mp4"),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")

    say("4/4 a picture of it")
    middle = arguments.frames // 3
    shown = {name: clip[middle] for name, clip in clips.items()} | {"true": truth[middle]}
    cv2.imwrite(str(out / "compare.png"), side_by_side(shown))
    write_moving(out / "compare.webp", {**clips, "true": truth})
    for name in names:
        row = " ".join(f"{k} {v:.3f}" for k, v in figures[name].items())
        say(f"{name:>9}: {row}")
    say(f"{figures['frames_per_second']} frames/s on {restorer.device}; look at {out}/compare.png")


def say(text: str) -> None:
    sys.stdout.write(f"demo: {text}\n")
    sys.stdout.flush()


def render(frames: int, side: int) -> tuple[list[Picture], list[Picture]]:
    path = CameraPath(FOCUS, zoom=1.75 * side / 512)
    clip = splat_clip(to_tensor([astronaut()]), path, DAMAGE, frames=frames, side=side)
    pairs = [(from_tensor(d, np.uint8)[0], from_tensor(c, np.uint8)[0]) for d, c in clip]
    return [d for d, _ in pairs], [c for _, c in pairs]


def write_clip(path: Path, frames: list[Picture]) -> None:
    """Write H.264 with a two-note chime in AAC."""
    with av.open(str(path), "w") as container:
        # x264's AVX-512 code varies from run to run (see plugin/video/encoding.py)
        options = {"crf": "10", "x264-params": "cpu-independent=1"}
        video = container.add_stream("libx264", rate=RATE, options=options)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        seconds = np.arange(len(frames) * SOUND_RATE // RATE) / SOUND_RATE
        pitch = np.where(seconds % 1 < 0.5, 523.25, 659.25)
        wave = 0.2 * np.sin(2 * math.pi * pitch * seconds) * np.exp(-4 * (seconds % 0.5))
        sound = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
        sound.sample_rate, sound.pts, sound.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def read_clip(path: Path) -> list[Picture]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def sound(path: Path) -> list[tuple[int | None, bytes]]:
    with av.open(str(path)) as container:
        return [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size]


def measure(frames: list[Picture], truth: list[Picture]) -> dict[str, float]:
    """Measure means over the clip; sharpness is the mean gradient over that of the truth."""
    pairs = list(zip(truth, frames, strict=True))
    return {
        "psnr": float(np.mean([peak_signal_noise_ratio(t, f) for t, f in pairs])),
        "ssim": float(np.mean([structural_similarity(t, f, channel_axis=2) for t, f in pairs])),
        "sharpness": float(np.mean([detail(f) / detail(t) for t, f in pairs])),
    }


def detail(picture: Picture) -> float:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.hypot(cv2.Sobel(gray, -1, 1, 0), cv2.Sobel(gray, -1, 0, 1)).mean())


def side_by_side(pictures: dict[str, Picture]) -> Picture:
    """Show each picture with its name, and below it the face twice as large (BGR)."""
    columns = []
    for name, picture in pictures.items():
        side = len(picture)
        face = picture[side // 5 : side // 5 + side * 3 // 8, side // 4 : 3 * side // 4]
        close = cv2.resize(face, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        columns.append(named(np.vstack([picture, close])[..., ::-1].copy(), name))
    return np.hstack(columns)


def write_moving(path: Path, clips: dict[str, list[Picture]]) -> None:
    """Show every second frame of the faces, there and back, as an animated WebP."""
    names = {"mended": "compact", "guided": "compact + 1 reference", "true": "truth"}
    frames = []
    for pictures in zip(*(clip[::2] for clip in clips.values()), strict=True):
        side = len(pictures[0])
        crop = np.s_[side // 8 : side * 5 // 8, side // 4 : side * 11 // 16]
        faces = (
            named(p[crop][..., ::-1].copy(), names.get(n, n))
            for n, p in zip(clips, pictures, strict=True)
        )
        frames.append(np.hstack(list(faces)))
    moving = cv2.Animation()
    moving.frames = frames + frames[-2:0:-1]
    moving.durations = [2000 // RATE] * len(moving.frames)
    cv2.imwriteanimation(str(path), moving, [cv2.IMWRITE_WEBP_QUALITY, 80])


def named(picture: Picture, name: str) -> Picture:
    """Write a name on a dark band along the upper border (BGR)."""
    picture[:28] //= 3
    cv2.putText(
        picture, name, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA
    )
    return picture


if __name__ == "__main__":
    main()
