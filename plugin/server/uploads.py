"""References that a client sends: sizes are checked at once, decoding happens on another thread.

Carriers' threads only look at headers. One more thread decodes and prepares one upload after the
other, so neither carriers nor workers wait. The memory of all sessions together is bounded.
"""

import logging
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from splatmend.core.errors import InputError
from splatmend.core.references import Guide, Reference, References
from splatmend.core.references.reading import decode_picture_rgba
from splatmend.plugin.protocol.framing import Buffer, ProtocolError
from splatmend.plugin.protocol.messages import PICTURE_FORMATS, ReferencePicture, UseReferences
from splatmend.plugin.protocol.upload_limits import UploadLimits

__all__ = ["Uploads", "picture_size"]

_Plane = NDArray[np.uint8]

_log = logging.getLogger(__name__)

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_SEGMENTS = 1000
"""Segments of a JPEG before its frame header; photographs have about ten."""
_NO_LENGTH = (0x01, *range(0xD0, 0xD9))
_NO_FRAME = (0xC4, 0xC8, 0xCC)


class Uploads:
    """Prepares the references that clients send."""

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._pending = 0
        """Bytes that waiting uploads take or will take."""
        self._held: WeakSet[References] = WeakSet()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="smp-references")

    def submit(
        self,
        message: UseReferences,
        use: Callable[[Guide], None],
        refuse: Callable[[ProtocolError], None],
    ) -> None:
        """Check sizes at once; call `use` or `refuse` later, on another thread.

        Raises:
            ProtocolError: the pictures are too many or too large, a size cannot be read, or there
                is no memory left.
        """
        bytes_needed = _check(message, self.limits)
        with self._lock:
            held = self._pending + sum(references.nbytes for references in self._held)
            if held + bytes_needed > self.limits.memory:
                raise ProtocolError(
                    "busy",
                    f"clients' references hold {held >> 20} of {self.limits.memory >> 20} MiB: "
                    f"send smaller pictures, or try later",
                )
            self._pending += bytes_needed
        self._pool.submit(self._prepare, message, bytes_needed, use, refuse)

    def stop(self) -> None:
        """Finish the upload at work, forget waiting ones, end the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _prepare(
        self,
        message: UseReferences,
        bytes_needed: int,
        use: Callable[[Guide], None],
        refuse: Callable[[ProtocolError], None],
    ) -> None:
        # memory is free for the next upload before the client gets its answer
        try:
            references = _decode_all(message)
            guide = Guide(references)
        except Exception as error:
            self._release(bytes_needed, None)
            refuse(_refusal(error))
        else:
            self._release(bytes_needed, references)
            use(guide)

    def _release(self, bytes_needed: int, prepared: References | None) -> None:
        with self._lock:
            self._pending -= bytes_needed
            if prepared is not None:
                self._held.add(prepared)


def _refusal(error: Exception) -> ProtocolError:
    """Make the answer to references that could not be prepared."""
    if isinstance(error, ProtocolError):
        return error
    if isinstance(error, InputError):
        return ProtocolError("unsupported", str(error))
    _log.error("references could not be prepared", exc_info=error)
    return ProtocolError("internal", f"{type(error).__name__}: {error}")


def picture_size(data: Buffer, fmt: str) -> tuple[int, int]:
    """Read width and height of a PNG or JPEG from its header, without decoding.

    Raises:
        ProtocolError: the data are not such a file.
    """
    try:
        size = _png_size(data) if fmt == "png" else _jpeg_size(data)
    except (LookupError, ValueError, struct.error):  # the data end too early
        size = None
    if size is None or min(size) < 1:
        raise ProtocolError("unsupported", f"it is no {fmt}, or its header is damaged")
    return size


def _png_size(data: Buffer) -> tuple[int, int] | None:
    if bytes(data[:8]) != _PNG or bytes(data[12:16]) != b"IHDR":
        return None
    width, height = struct.unpack_from(">2I", data, 16)
    return width, height


def _jpeg_size(data: Buffer) -> tuple[int, int] | None:
    """Read the size from the first frame header, found as libjpeg finds it."""
    data = bytes(data)
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    for _ in range(_MOST_SEGMENTS):
        at = data.index(b"\xff", at)
        while data[at] == 0xFF:
            at += 1
        marker, at = data[at], at + 1
        if marker == 0 or marker in _NO_LENGTH:
            continue
        if marker in (0xD9, 0xDA):  # the picture ends, or begins, without a frame header
            return None
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack_from(">2H", data, at + 3)
            return width, height
        (length,) = struct.unpack_from(">H", data, at)
        at += max(length, 2)
    return None


def _check(message: UseReferences, limits: UploadLimits) -> int:
    """Check an upload and return the bytes of memory that it takes, as sent and decoded.

    Raises:
        ProtocolError: the upload is beyond the limits.
    """
    count, total = len(message.pictures), sum(map(len, message.data))
    if not limits.pictures:
        raise ProtocolError(
            "unsupported",
            "this server takes no references from clients; a hello may name one of its sets",
        )
    if count > limits.pictures:
        raise ProtocolError(
            "too_large",
            f"at most {limits.pictures} reference pictures are taken, got {count}: send fewer",
        )
    if total > limits.bytes:
        raise ProtocolError(
            "too_large",
            f"references may have {limits.bytes >> 20} MiB in all, got {total / 2**20:.1f}: send "
            f"fewer, smaller or more compressed ones",
        )
    decoded = 0
    for number, (picture, data) in enumerate(_with_bytes(message), 1):
        width, height = picture.width, picture.height
        if not PICTURE_FORMATS[picture.fmt]:
            try:
                width, height = picture_size(data, picture.fmt)
            except ProtocolError as error:
                raise ProtocolError(error.code, f"{_nth(number, count)}: {error}") from error
        if max(width, height) > limits.side:
            raise ProtocolError(
                "too_large",
                f"{_nth(number, count)} has {width} x {height} pixels, references have at most "
                f"{limits.side} a side: shrink it",
            )
        decoded += 4 * width * height
    return total + decoded


def _decode_all(message: UseReferences) -> References:
    count = len(message.pictures)
    decoded = [
        (*_decode(described, data, _nth(number, count)), _nth(number, count))
        for number, (described, data) in enumerate(_with_bytes(message), 1)
    ]
    if message.kind == "pairs":
        pairs = zip(decoded[::2], decoded[1::2], strict=True)
        return References(
            Reference(picture=truth, render=render, alpha=alpha, render_alpha=own, name=name)
            for (render, own, _), (truth, alpha, name) in pairs
        )
    return References(
        Reference(picture=picture, alpha=alpha, name=name) for picture, alpha, name in decoded
    )


def _with_bytes(message: UseReferences) -> list[tuple[ReferencePicture, memoryview]]:
    whole, at = memoryview(message.data[0]), 0
    found = []
    for picture in message.pictures:
        found.append((picture, whole[at : at + picture.bytes]))
        at += picture.bytes
    return found


def _decode(picture: ReferencePicture, data: memoryview, name: str) -> tuple[_Plane, _Plane | None]:
    """Decode colour (h, w, 3) and alpha (h, w), as copies."""
    channels = PICTURE_FORMATS[picture.fmt]
    if not channels:
        return decode_picture_rgba(bytes(data), name)
    whole = np.frombuffer(data, np.uint8).reshape(picture.height, picture.width, channels)
    return whole[..., :3].copy(), whole[..., 3].copy() if channels == 4 else None


def _nth(number: int, count: int) -> str:
    return f"reference picture {number} of {count}"
