"""Clips for the tests, made here with PyAV: small, seeded, with known contents.

And a stack for servers and clients, which must leave no thread behind.
"""

import functools
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from splatmend.core import load_restorer

CHAPTERS: list[Any] = [
    {"id": n, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": t}}
    for n, start, end, t in ((1, 0, 400, "A"), (2, 400, 900, "B"))
]
TEXTS = [(100, 400, "one"), (500, 700, "two")]


def picture(index: int, size: tuple[int, int], depth: int = 8, channels: int = 3) -> Any:
    """Make a smooth moving pattern (h, w, channels) that spans most of the range."""
    rng = np.random.default_rng(7)
    field = cv2.resize(rng.random((6, 9, channels)).astype(np.float32), size[::-1])
    field = np.roll(field, 2 * index, axis=1)
    field = cv2.GaussianBlur(field, (0, 0), 2).reshape(*size, channels)
    top = (1 << depth) - 1
    return (field * 0.8 * top + 0.1 * top).round().astype(np.uint8 if depth == 8 else np.uint16)


@dataclass
class Contents:
    """The contents of a file, read without splatmend."""

    pts: list[int]
    time_base: Fraction
    frames: list[Any]
    formats: set[str]
    dts: list[int]
    packets: list[bytes]
    others: dict[str, list[tuple[bytes, Fraction, Fraction]]]
    metadata: dict[str, str]
    chapters: list[Any]
    rotation: int
    tags: tuple[int, int, int, int]
    aspect: Fraction | None
    streams: list[str]

    @property
    def times(self) -> list[Fraction]:
        return [p * self.time_base for p in self.pts]


def planes(frame: Any) -> list[Any]:
    deep = any(c.bits > 8 for c in frame.format.components)
    dtype = np.uint16 if deep else np.uint8
    return [
        np.frombuffer(p, dtype).reshape(p.height, -1)[:, : p.width].astype(int)
        for p in frame.planes
    ]


def read_contents(path: Path) -> Contents:
    packets: dict[int, list[Any]] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size:
                packets.setdefault(packet.stream_index, []).append(packet)
        streams = [
            f"{s.type}:{getattr(s.codec_context, 'name', s.name)}" for s in container.streams
        ]
        video = container.streams.video[0]
        others = {
            name: [
                (bytes(p), (p.pts or 0) * p.time_base, (p.dts or 0) * p.time_base)
                for p in packets.get(stream.index, [])
            ]
            for stream, name in zip(container.streams, streams, strict=True)
            if stream.index != video.index
        }
        frames = decode(path, with_alpha=video.metadata.get("alpha_mode") == "1")
        last = frames[-1]
        return Contents(
            pts=[f.pts for f in frames],
            time_base=video.time_base,
            frames=[planes(f) for f in frames],
            formats={f.format.name for f in frames},
            dts=[p.dts for p in packets[video.index]],
            packets=[bytes(p) for p in packets[video.index]],
            others=others,
            metadata=dict(container.metadata),
            chapters=container.chapters(),
            rotation=last.rotation,
            tags=(last.colorspace, last.color_range, last.color_primaries, last.color_trc),
            aspect=video.sample_aspect_ratio,
            streams=streams,
        )


def decode(path: Path, *, with_alpha: bool) -> list[Any]:
    frames = []
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        decoder: Any = video.codec_context
        if with_alpha:
            decoder = av.Codec("libvpx-vp9", "r").create("video")
        for packet in container.demux(video):
            frames += decoder.decode(packet if packet.size else None)
    return frames


def write_clip(
    path: Path,
    *,
    frames: int = 24,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pix_fmt: str = "yuv444p",
    options: dict[str, str] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    rate: Fraction = Fraction(25),
    pts: list[int] | None = None,
    tags: tuple[int, int, int, int] = (1, 1, 1, 1),
    rotation: int = 0,
    aspect: Fraction | None = None,
    audio: bool = False,
    audio_start: int = 0,
    subtitles: str | None = None,
    chapters: bool = False,
    metadata: dict[str, str] | None = None,
    timecode: str = "",
    faststart: bool = False,
) -> Path:
    """Encode `picture(i)` for i below `frames`; `pts` are ticks of `time_base`."""
    tick = int(1 / (rate * time_base))
    stamps = pts or [i * tick for i in range(frames)]
    if options is None:
        options = {"qp": "0", "preset": "ultrafast"} if codec == "libx264" else {}
    muxer = _muxer(path, time_base, faststart=faststart)
    with av.open(str(path), "w", container_options=muxer) as output:
        video = output.add_stream(codec, rate, options=options)
        video.height, video.width = size
        video.pix_fmt, video.time_base = pix_fmt, time_base
        context = video.codec_context
        context.time_base, context.sample_aspect_ratio = time_base, aspect or Fraction(0)
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = tags
        if rotation:
            video.set_display_rotation(rotation)
        if timecode:
            video.metadata["timecode"] = timecode
        sound = _sound(output, len(stamps) / rate, audio_start, path) if audio else []
        texts = _texts(output, subtitles) if subtitles else []
        output.set_chapters(CHAPTERS if chapters else [])
        output.metadata.update(metadata or {})
        output.mux(texts)
        for index, stamp in enumerate(stamps):
            frame = _frame(index, size, pix_fmt, tags)
            frame.pts, frame.time_base = stamp, time_base
            output.mux(video.encode(frame))
            while sound and sound[0].pts * sound[0].time_base <= stamp * time_base:
                output.mux(sound.pop(0))
        output.mux(video.encode(None))
        output.mux(sound)
    return path


def _muxer(path: Path, time_base: Fraction, *, faststart: bool) -> dict[str, str]:
    """Options of the container that keep times and metadata as they are given."""
    if path.suffix not in (".mp4", ".mov"):
        return {}
    scale = str(time_base.denominator)
    flags = "+faststart" if faststart else "+use_metadata_tags"
    return {"video_track_timescale": scale, "movie_timescale": scale, "movflags": flags}


def _frame(index: int, size: tuple[int, int], pix_fmt: str, tags: tuple[int, ...]) -> Any:
    components = av.VideoFormat(pix_fmt).components
    depth = 16 if any(c.bits > 8 for c in components) else 8
    channels = 4 if any(c.is_alpha for c in components) else 3
    name = {(8, 3): "rgb24", (8, 4): "rgba", (16, 3): "rgb48le", (16, 4): "rgba64le"}
    source = av.VideoFrame.from_ndarray(
        picture(index, size, depth, channels), name[depth, channels]
    )
    matrix = 1 if tags[0] == 2 else tags[0]
    frame = source.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=tags[1] or 1)
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = tags
    return frame


def _sound(output: Any, seconds: Fraction, start: int, path: Path) -> list[Any]:
    codec = "libopus" if path.suffix == ".webm" else "aac"
    stream = output.add_stream(codec, 48000)
    packets = []
    count = int(seconds * 48000) // 1024 * 1024
    wave = (np.sin(np.arange(count) / 20) * 0.3).astype(np.float32)
    resampler = av.AudioResampler(stream.codec_context.format.name, "stereo", 48000, 960)
    for at in range(0, count, 1024):
        block = np.tile(wave[at : at + 1024], (2, 1))
        frame = av.AudioFrame.from_ndarray(block, "fltp", "stereo")
        frame.sample_rate, frame.pts = 48000, at + start
        frame.time_base = Fraction(1, 48000)
        if codec == "aac":
            packets += stream.encode(frame)
        else:
            for piece in resampler.resample(frame):
                packets += stream.encode(piece)
    return packets + stream.encode(None)


def _texts(output: Any, codec: str) -> list[Any]:
    stream = output.add_mux_stream(codec)
    stream.time_base = Fraction(1, 1000)
    packets = []
    for start, end, text in TEXTS:
        body = text.encode()
        packet = av.Packet(len(body).to_bytes(2, "big") + body if codec == "mov_text" else body)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = start
        packet.duration = end - start
        packets.append(packet)
    return packets


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as everything:
        yield everything
    assert not [t.name for t in threading.enumerate() if t.name.startswith("smp-")]


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Switch the garbage collector off: an exception raised in its callback would be lost."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Give `make_clip("a.mp4", frames=24, ...)`, which writes a clip, see `write_clip`."""
    return lambda name, **options: write_clip(tmp_path / name, **options)


@pytest.fixture
def contents() -> Callable[[Path], Contents]:
    """Give `contents(path)`: the contents of a file, read without splatmend."""
    return read_contents


@pytest.fixture
def make_picture() -> Callable[..., Any]:
    """Give `make_picture(index, (h, w), depth, channels)`, which makes the clips' pattern."""
    return picture


@pytest.fixture(scope="session")
def copy() -> Any:
    """Load the restorer that returns its input."""
    return load_restorer("copy", device="cpu")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Serve the pages of a folder; return the folder and their origin."""
    folder = tmp_path_factory.mktemp("site")

    class Quiet(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Cache-Control", "no-store")  # pages change within a second
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            return

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def put(site: tuple[Path, str]) -> Callable[..., str]:
    """Give `put("page.html", head)`, which returns the address of a page with `head` at its top."""
    from chromium import HERE

    folder, origin = site

    def run(name: str, head: str) -> str:
        text = (HERE / name).read_text()
        (folder / name).write_text(text.replace("<title>", head + "\n<title>"))
        return f"{origin}/{name}"

    return run


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Open a page of Chromium; skip the test without Chromium."""
    from chromium import Browser, installed

    program = installed("chromium")
    with closing(Browser(program, tmp_path_factory.mktemp("profile"))) as made:
        yield made
