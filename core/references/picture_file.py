"""Facts from the header of a picture file that OpenCV does not report.

These are the orientation from EXIF, colours other than RGB, premultiplied alpha, and a file
that ends too early.
Sources: PNG (W3C, third edition), JPEG (ITU T.81), EXIF 2.32, TIFF 6.0, WebP's container.
"""

import struct
from dataclasses import dataclass

__all__ = ["PictureFacts", "picture_facts"]

_EXIF = b"Exif\0\0"
_ORIENTATION, _PHOTOMETRIC, _SAMPLES, _EXTRA = 274, 262, 277, 338
"""TIFF tags, which EXIF shares."""
_TIFF_COLORS = {5: "CMYK", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB"}
"""Values of the photometric interpretation that OpenCV decodes to wrong colours."""
_TIFF_NUMBERS = {3: "H", 4: "I"}
"""Types of TIFF fields, with their codes for struct."""
_NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)
"""Markers of JPEG between C0 and CF that are not frame headers."""


@dataclass(frozen=True, kw_only=True)
class PictureFacts:
    """The facts in a file's header."""

    kind: str
    """PNG, JPEG, WebP, TIFF or BMP."""
    orientation: int = 1
    """Orientation of EXIF that OpenCV does not apply itself, 1 (upright) to 8."""
    colors: str = "RGB"
    """RGB, which includes grey and palettes, else CMYK or another colour space."""
    premultiplied: str = "never"
    """Whether OpenCV returns premultiplied colours: never, always, or "8 bit"."""
    whole: bool = True
    """False where the file ends before the picture is complete."""


def picture_facts(data: bytes) -> PictureFacts | None:
    """Read a file's header; None if it is not PNG, JPEG, WebP, TIFF or BMP."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    return PictureFacts(kind="BMP") if data.startswith(b"BM") else None


def _png(data: bytes) -> PictureFacts:
    orientation, place = 1, 8
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name == b"eXIf":
            orientation = _orientation(data[place + 8 : place + 8 + length])
        place += 12 + length
        if name == b"IEND":
            return PictureFacts(kind="PNG", orientation=orientation, whole=place <= len(data))
    return PictureFacts(kind="PNG", whole=False)


def _jpeg(data: bytes) -> PictureFacts:
    orientation, colors, place = 1, "RGB", 2
    while place + 4 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker in (0x00, 0xFF):  # filling
            place += 1
            continue
        body = place + 4
        end = place + 2 + int.from_bytes(data[place + 2 : body], "big")
        if marker == 0xE1 and data.startswith(_EXIF, body):
            orientation = _orientation(data[body:end])
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADERS:
            colors = "CMYK" if data[body + 5 : body + 6] == b"\x04" else "RGB"
        elif marker == 0xDA:  # only the picture and the end marker follow
            whole = data.find(b"\xff\xd9", end) >= 0
            return PictureFacts(kind="JPEG", orientation=orientation, colors=colors, whole=whole)
        place = end
    return PictureFacts(kind="JPEG", whole=False)


def _webp(data: bytes) -> PictureFacts:
    orientation, place = 1, 12
    whole = int.from_bytes(data[4:8], "little") + 8 <= len(data)
    while place + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        if name == b"EXIF":
            orientation = _orientation(data[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    return PictureFacts(kind="WebP", orientation=orientation, whole=whole)


def _tiff(data: bytes) -> PictureFacts:
    tags = _tags(data)
    colors = _TIFF_COLORS.get(tags.get(_PHOTOMETRIC, 2), "RGB")
    if tags.get(_SAMPLES) == 2:
        colors = "grey with alpha"
    # type 1 is premultiplied in the file; libtiff multiplies type 2 into 8-bit colours
    premultiplied = {1: "always", 2: "8 bit"}.get(tags.get(_EXTRA, 0), "never")
    # OpenCV turns TIFF upright by itself
    return PictureFacts(kind="TIFF", colors=colors, premultiplied=premultiplied)


def _orientation(exif: bytes) -> int:
    found = _tags(exif.removeprefix(_EXIF)).get(_ORIENTATION, 1)
    return found if 1 <= found <= 8 else 1


def _tags(tiff: bytes) -> dict[int, int]:
    """Return the first number of each field of the first directory; empty if damaged."""
    order = ">" if tiff[:2] == b"MM" else "<"
    found = {}
    try:
        (place,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if kind in _TIFF_NUMBERS:
                # longer fields lie elsewhere; the fields read here have one number
                found[tag] = struct.unpack_from(f"{order}{_TIFF_NUMBERS[kind]}", tiff, entry + 8)[0]
    except struct.error:
        return {}
    return found
