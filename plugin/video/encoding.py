"""The choice of container, encoder, pixel format and options for the result.

target            8-bit         more bits            with alpha
.mp4 .m4v         H.264         HEVC                 refused, unless alpha may be dropped
.mov              H.264         HEVC                 ProRes 4444
.mkv              H.264         HEVC                 FFV1 (lossless)
.webm             VP9           AV1                  VP9 (8-bit)
.png .tif, %04d   RGB           16-bit RGB           RGBA
"""

import io
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.codec import Codec, find_best_pix_fmt_of_list
from av.codec.context import CodecContext, Flags
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat

from splatmend.core import InputError, VideoOutputError
from splatmend.plugin.video.source import Clip, number_pattern
from splatmend.plugin.video.yuv import ColorTags, has_alpha, is_deep

__all__ = ["CONTAINERS", "PICTURE_ENCODERS", "Encoding", "EncodingOptions", "plan_encoding"]

CONTAINERS = {
    ".m4v": "mp4",
    ".mkv": "matroska",
    ".mov": "mov",
    ".mp4": "mp4",
    ".webm": "webm",
}
PICTURE_ENCODERS = {
    ".bmp": "bmp",
    ".jpeg": "mjpeg",
    ".jpg": "mjpeg",
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "libwebp",
}
# (8-bit, deeper, alpha); None: the container cannot hold it
_DEFAULTS: dict[str, tuple[str, str, str | None]] = {
    "mp4": ("libx264", "libx265", None),
    "mov": ("libx264", "libx265", "prores_ks"),
    "matroska": ("libx264", "libx265", "ffv1"),
    "webm": ("libvpx-vp9", "libsvtav1", "libvpx-vp9"),
}
_ALIASES = {
    "av1": "libsvtav1",
    "h264": "libx264",
    "h265": "libx265",
    "hevc": "libx265",
    "prores": "prores_ks",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
}
# encoder -> (name of its quality option, default, worst)
_QUALITY = {
    "libsvtav1": ("crf", 20, 63),
    "libvpx": ("crf", 10, 63),
    "libvpx-vp9": ("crf", 24, 63),
    "libx264": ("crf", 16, 51),
    "libx264rgb": ("crf", 16, 51),
    "libx265": ("crf", 18, 51),
    "av1_nvenc": ("cq", 24, 63),
    "h264_nvenc": ("cq", 19, 51),
    "hevc_nvenc": ("cq", 21, 51),
    "av1_qsv": ("global_quality", 24, 51),
    "h264_qsv": ("global_quality", 19, 51),
    "hevc_qsv": ("global_quality", 21, 51),
}
_OPTIONS = {
    "libsvtav1": {"preset": "7"},
    "libvpx": {"deadline": "good", "cpu-used": "2", "b": "0"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "3", "row-mt": "1"},
    # without it x264's code for AVX-512 gives other bytes in each run (seen with core 165), and a
    # resumed video would differ from an uninterrupted one
    "libx264": {"preset": "medium", "x264-params": "cpu-independent=1"},
    # x265 does not print through FFmpeg's log
    "libx265": {"preset": "medium", "x265-params": "log-level=none"},
    "prores_ks": {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"},
    "av1_nvenc": {"preset": "p5", "rc": "vbr"},
    "h264_nvenc": {"preset": "p5", "rc": "vbr"},
    "hevc_nvenc": {"preset": "p5", "rc": "vbr"},
}
# deep pixels also vary with x264's threads (3 to 15 of 100 encodes)
_DEEP_OPTIONS = {"libx264": {"threads": "1"}}
_NEEDS_EVEN = frozenset({"libx264", "libx265"})


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """The user's choices; None leaves the choice to `plan_encoding`."""

    codec: str | None = None
    """An encoder's name (libx264, h264_nvenc) or a codec's (h264, hevc, vp9, av1, prores)."""
    crf: int | None = None
    """Quality on the encoder's own scale: lower is better and larger."""
    pix_fmt: str | None = None
    """FFmpeg's name of a pixel format, such as yuv420p10le."""
    drop_alpha: bool = False
    """Lay frames with alpha on white if the target cannot hold alpha."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """All settings of an encoder; equal settings give equal packets."""

    container: str | None
    """FFmpeg's muxer; None for pictures, whose packets are files."""
    encoder: str
    pix_fmt: str
    options: tuple[tuple[str, str], ...]
    size: tuple[int, int]
    time_base: Fraction
    rate: Fraction | None
    tags: ColorTags
    sample_aspect_ratio: Fraction | None
    keyframe_distance: int
    notes: tuple[str, ...] = ()
    """Losses of this choice, one line each."""

    @property
    def alpha(self) -> bool:
        """Return whether the alpha plane is written."""
        return has_alpha(self.pix_fmt)

    def configure(self, context: VideoCodecContext) -> None:
        """Set up an encoder that is not open yet."""
        context.height, context.width = self.size
        context.pix_fmt = self.pix_fmt
        context.time_base = self.time_base
        if self.rate:
            context.framerate = self.rate
        if self.sample_aspect_ratio:
            context.sample_aspect_ratio = self.sample_aspect_ratio
        self.tags.apply(context)
        if not context.codec.intra_only:
            context.gop_size = self.keyframe_distance
        if self.container:
            # headers go into the container once, not into each segment
            context.flags |= int(Flags.global_header)
        if self.container in ("mp4", "mov") and self.encoder.startswith(("libx265", "hevc")):
            context.codec_tag = "hvc1"  # the only HEVC tag that QuickTime plays
        context.options = dict(self.options)

    def open(self) -> VideoCodecContext:
        """Open an encoder for one segment.

        Raises:
            VideoOutputError: it cannot be opened with these settings; the message names others.
        """
        if self.encoder == "libsvtav1":
            # it does not log through FFmpeg and obeys only this; 1 keeps its errors
            os.environ.setdefault("SVT_LOG", "1")
        context = cast(VideoCodecContext, CodecContext.create(self.encoder, "w"))
        self.configure(context)
        try:
            context.open()
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoOutputError(
                f"the encoder {self.encoder} cannot be opened for {self.pix_fmt} at "
                f"{self.size[1]}x{self.size[0]} ({reason}): "
                f"{_working(self.container)}"
            ) from error
        return context


def plan_encoding(
    clip: Clip,
    target: Path,
    options: EncodingOptions,
    *,
    size: tuple[int, int],
    keyframe_distance: int,
) -> Encoding:
    """Choose the encoding of `clip` in `target`; `size` is the output's (height, width).

    Raises:
        VideoOutputError: the extension or encoder is unknown, or the target cannot hold alpha.
        InputError: an option does not fit the encoder.
    """
    container, pictures = _kind_of(target)
    alpha, notes = clip.alpha and not options.drop_alpha, list(clip.notes)
    encoder = pictures or _encoder_for(cast(str, container), options.codec, clip, alpha, target)
    if pictures and options.codec:
        raise InputError(f"--codec is for videos; {target.name} is written as {pictures}")
    _check_encoder(encoder, container, target)
    pix_fmt = options.pix_fmt or _pick_pix_fmt(clip, encoder, alpha, size)
    known = _formats_of(encoder)
    if known and pix_fmt not in known:
        raise InputError(f"{encoder} has no pixel format {pix_fmt!r}: use {', '.join(known)}")
    if alpha and not has_alpha(pix_fmt):
        raise VideoOutputError(_no_alpha(target, f"{encoder} with {pix_fmt}"))
    if clip.deep and not is_deep(pix_fmt):
        notes.append(f"{encoder} writes 8 bits ({pix_fmt}); the source has more")
    source = VideoFormat(clip.pix_fmt)
    tags = clip.tags.for_pixels(pix_fmt, from_rgb=source.is_rgb or source.has_palette)
    if encoder in ("mjpeg", "libwebp") and not VideoFormat(pix_fmt).is_rgb:
        # readers of these files assume BT.601 and ignore a tag
        tags = ColorTags(5, 2 if encoder == "mjpeg" else 1, tags.color_primaries, tags.color_trc)
    return Encoding(
        container=container,
        encoder=encoder,
        pix_fmt=pix_fmt,
        options=_options_for(encoder, pix_fmt, options.crf),
        size=size,
        time_base=clip.time_base,
        rate=clip.rate,
        tags=tags,
        sample_aspect_ratio=clip.sample_aspect_ratio,
        keyframe_distance=keyframe_distance,
        notes=tuple(notes),
    )


def _kind_of(target: Path) -> tuple[str | None, str | None]:
    """Return (muxer, None) for a video, (None, encoder) for pictures and folders of them."""
    suffix = target.suffix.lower()
    if target.is_dir() or not suffix:
        return None, "png"
    if suffix in PICTURE_ENCODERS:
        return None, PICTURE_ENCODERS[suffix]
    if suffix in CONTAINERS and not number_pattern(target.name):
        return CONTAINERS[suffix], None
    raise VideoOutputError(
        f"cannot write {target.name}: use one of {', '.join(sorted(CONTAINERS))}, a picture or "
        f"a numbered pattern ({', '.join(sorted(PICTURE_ENCODERS))}), or a folder name"
    )


def _encoder_for(container: str, codec: str | None, clip: Clip, alpha: bool, target: Path) -> str:
    if codec:
        return _ALIASES.get(codec, codec)
    shallow, deep, with_alpha = _DEFAULTS[container]
    if alpha:
        if with_alpha is None:
            raise VideoOutputError(_no_alpha(target, target.suffix))
        return with_alpha
    return deep if clip.deep else shallow


def _no_alpha(target: Path, what: str) -> str:
    return (
        f"the source has alpha and {what} cannot hold it: write {target.stem}.mov, "
        f"{target.stem}.webm or a PNG sequence, or add --drop-alpha"
    )


def _check_encoder(encoder: str, container: str | None, target: Path) -> None:
    try:
        known = Codec(encoder, "w")
    except ValueError as error:
        raise VideoOutputError(
            f"this FFmpeg has no encoder {encoder!r}: {_working(container)}"
        ) from error
    if known.type != "video":
        raise VideoOutputError(f"{encoder!r} is not a video encoder: {_working(container)}")
    if container and not _fits(encoder, container):
        raise VideoOutputError(
            f"{target.suffix} cannot hold the output of {encoder}: {_working(container)}"
        )


def _fits(encoder: str, container: str) -> bool:
    with av.open(io.BytesIO(), "w", format=container) as output:
        try:
            output.add_stream(encoder)
        except ValueError:
            return False
    return True


def _working(container: str | None) -> str:
    """List the encoders that open on this machine, as the end of a message."""
    working = []
    for name in sorted({*_QUALITY, "ffv1", "prores_ks"}):
        try:
            context = cast(VideoCodecContext, CodecContext.create(name, "w"))
            context.width, context.height, context.time_base = 256, 256, Fraction(1, 25)
            context.pix_fmt = _formats_of(name)[0]
            context.options = dict(_options_for(name, context.pix_fmt, None))
            context.open()
        except (av.FFmpegError, ValueError, IndexError):
            continue
        if container is None or _fits(name, container):
            working.append(name)
    return f"use one of {', '.join(working)}"


def _options_for(encoder: str, pix_fmt: str, crf: int | None) -> tuple[tuple[str, str], ...]:
    chosen = dict(_OPTIONS.get(encoder, {}))
    if is_deep(pix_fmt):
        chosen |= _DEEP_OPTIONS.get(encoder, {})
    if encoder in _QUALITY:
        name, default, worst = _QUALITY[encoder]
        if crf is not None and not 0 <= crf <= worst:
            raise InputError(f"crf must lie in [0, {worst}] for {encoder}, got {crf}")
        chosen[name] = str(default if crf is None else crf)
    elif crf is not None:
        raise InputError(f"{encoder} has no quality option: leave --crf away")
    return tuple(sorted(chosen.items()))


def _formats_of(encoder: str) -> list[str]:
    """Return the pixel formats of an encoder that live in main memory."""
    known = Codec(encoder, "w").video_formats or []
    return [f.name for f in known if f.components]


def _pick_pix_fmt(clip: Clip, encoder: str, alpha: bool, size: tuple[int, int]) -> str:
    """Return the source's own format if the encoder has it, else the one that loses least.

    RGB becomes subsampled YUV for the delivery codecs, because few players show H.264 in 4:4:4.
    """
    known = [
        f
        for f in _formats_of(encoder)
        if has_alpha(f) == alpha and not f.startswith(("gray", "ya", "mono", "pal"))
    ]
    source = VideoFormat(clip.pix_fmt)
    rgb = source.is_rgb or source.has_palette or len(source.components) < 3
    wanted = clip.pix_fmt
    if rgb and not any(VideoFormat(f).is_rgb for f in known if encoder in ("ffv1", "png")):
        wanted = f"yuv{'a' if alpha else ''}420p{'10le' if clip.deep else ''}"
    if encoder in PICTURE_ENCODERS.values() and encoder not in ("mjpeg", "libwebp"):
        wanted = f"rgb{'a64' if alpha else '48'}le" if clip.deep else ("rgba" if alpha else "rgb24")
    if encoder == "mjpeg" and not wanted.startswith("yuvj"):
        wanted = "yuvj420p"
    if encoder in ("libvpx", "libvpx-vp9") and alpha:
        return "yuva420p"  # the encoder lists 4:4:4 with alpha, but does not open with it
    if encoder in _NEEDS_EVEN and (size[0] % 2 or size[1] % 2):
        wanted = "yuv444p10le" if clip.deep else "yuv444p"
    if wanted in known or not known:
        return wanted
    best, _ = find_best_pix_fmt_of_list(known, wanted, alpha)
    return best.name if best else known[0]
