"""Conversion of decoded pictures to `Frame` and back: matrix, range, depth and alpha.

Both directions use the matrix and range that the file states. Without them the players' convention
holds: limited range, BT.709 from 720 lines up, BT.601 below. So pixels that are not restored come
back within rounding.
"""

from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np
from av.video.format import VideoFormat
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from splatmend.core import Frame

__all__ = ["ColorTags", "FrameReader", "FrameWriter", "has_alpha", "is_deep", "is_full_range"]

# Chroma is interpolated at full resolution and rounded rather than truncated:
# swscale's faster paths cost 10 to 17 levels on fine chroma.
_SCALER = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED, AVCOL_PRI_UNSPECIFIED, AVCOL_TRC_UNSPECIFIED
_RGB = 0  # AVCOL_SPC_RGB
# AVColorSpace -> swscale's matrix; other matrices (YCgCo, ICtCp, constant luminance) count as the
# default in both directions
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
_AVCOL_OF = {
    Colorspace.ITU709: 1,
    Colorspace.FCC: 4,
    Colorspace.ITU601: 6,
    Colorspace.SMPTE240M: 7,
    Colorspace.BT2020: 9,
}


@dataclass(frozen=True)
class ColorTags:
    """FFmpeg's four colour tags from the file; 2 (range: 0) is unspecified."""

    colorspace: int = _UNSPECIFIED
    color_range: int = 0
    color_primaries: int = _UNSPECIFIED
    color_trc: int = _UNSPECIFIED

    def matrix(self, height: int) -> Colorspace:
        """Return the matrix to compute with; a default if the file states none."""
        convention = Colorspace.ITU709 if height >= 720 else Colorspace.ITU601
        return _MATRICES.get(self.colorspace, convention)

    def apply(self, to: Any) -> None:
        """Write the tags into a frame or a codec context."""
        to.colorspace = self.colorspace
        to.color_range = self.color_range
        to.color_primaries = self.color_primaries
        to.color_trc = self.color_trc

    def for_pixels(self, pix_fmt: str, *, from_rgb: bool) -> "ColorTags":
        """Return the tags that fit another pixel format.

        RGB has no matrix. YUV made from RGB must state a matrix and a range: BT.709 and limited,
        unless the format itself is full range.
        """
        if VideoFormat(pix_fmt).is_rgb:
            return ColorTags(_RGB, int(ColorRange.JPEG), self.color_primaries, self.color_trc)
        full = is_full_range(pix_fmt)
        if from_rgb or self.colorspace == _RGB:
            wanted = ColorRange.JPEG if full else ColorRange.MPEG
            return ColorTags(1, int(wanted), self.color_primaries, self.color_trc)
        if full:
            return ColorTags(
                self.colorspace, int(ColorRange.JPEG), self.color_primaries, self.color_trc
            )
        return self


def is_full_range(pix_fmt: str) -> bool:
    """Return whether the format's name alone means full-range YUV."""
    return pix_fmt.startswith("yuvj")


def has_alpha(pix_fmt: str) -> bool:
    """Return whether the format may carry alpha; palettes may."""
    known = VideoFormat(pix_fmt)
    return known.has_palette or any(c.is_alpha for c in known.components)


def is_deep(pix_fmt: str) -> bool:
    """Return whether a component has more than 8 bits."""
    return any(c.bits > 8 for c in VideoFormat(pix_fmt).components)


class FrameReader:
    """Turns decoded pictures into frames of one size; keep one per stream and thread."""

    def __init__(self, tags: ColorTags, size: tuple[int, int], *, deep: bool, alpha: bool) -> None:
        self._tags = tags
        self._size = size  # (height, width); a stream that changes size is scaled to its first
        self._alpha = alpha
        self._dtype = np.dtype(np.uint16 if deep else np.uint8)
        # planar output is four times as fast in swscale as packed; merging costs 0.1 ms
        self._format = f"gbr{'ap' if alpha else 'p'}{'16le' if deep else ''}"
        self._scaler = VideoReformatter()

    def read(self, picture: av.VideoFrame, pts: int, stream_id: str) -> Frame:
        """Convert one picture; uint16 if the stream has more than 8 bits."""
        full = is_full_range(picture.format.name) or self._tags.color_range == ColorRange.JPEG
        picture.colorspace = _AVCOL_OF[self._tags.matrix(self._size[0])]
        picture.color_range = int(ColorRange.JPEG if full else ColorRange.MPEG)
        planar = self._scaler.reformat(
            picture,
            width=self._size[1],
            height=self._size[0],
            format=self._format,
            interpolation=_SCALER,
            threads=1,
        )
        green, blue, red, *alpha = (self._plane(p) for p in planar.planes)
        return Frame(
            color=cv2.merge([red, green, blue]),
            alpha=alpha[0].copy() if alpha else None,
            pts=pts,
            stream_id=stream_id,
        )

    def _plane(self, plane: Any) -> NDArray[Any]:
        rows = np.frombuffer(plane, self._dtype).reshape(plane.height, -1)
        return rows[:, : plane.width]


class FrameWriter:
    """Turns frames into pictures of one pixel format; keep one per stream and thread."""

    def __init__(self, tags: ColorTags, pix_fmt: str, height: int) -> None:
        self._tags = tags
        self._pix_fmt = pix_fmt
        self._matrix = tags.matrix(height)
        self._range = ColorRange.JPEG if tags.color_range == ColorRange.JPEG else ColorRange.MPEG
        self._alpha = has_alpha(pix_fmt)
        self._scaler = VideoReformatter()

    def write(self, frame: Frame) -> av.VideoFrame:
        """Convert one frame; write an alpha plane if the pixel format has one."""
        packed, name = frame.color, "rgb48le" if frame.color.dtype == np.uint16 else "rgb24"
        if self._alpha:
            top = np.iinfo(packed.dtype).max
            alpha = np.full(frame.size, top, packed.dtype) if frame.alpha is None else frame.alpha
            packed = cv2.merge([*cv2.split(packed), alpha])
            name = "rgba64le" if packed.dtype == np.uint16 else "rgba"
        picture = self._scaler.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(packed), name),
            format=self._pix_fmt,
            dst_colorspace=self._matrix,
            dst_color_range=self._range,
            interpolation=_SCALER,
            threads=1,
        )
        self._tags.apply(picture)
        picture.pts = frame.pts
        return picture
