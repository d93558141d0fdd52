"""The outer layer of SMP/1: limits, and messages as bytes on carriers without parts.

A message is a JSON header and the raw planes that it describes. ZeroMQ carries them as the
parts `SMP1, header, plane, ...`. TCP and WebSocket carry

    "SMP1"   u32 count   u32 length[count]   header   plane ...        (little-endian)

where count includes the header. One binary WebSocket message holds exactly one of these. On TCP
they follow each other. `docs/protocol.md` is the specification.
"""

import struct
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from splatmend.core.errors import InputError

__all__ = [
    "MAGIC",
    "Buffer",
    "ErrorCode",
    "Limits",
    "ProtocolError",
    "join",
    "reading",
    "receive",
    "split",
]

MAGIC = b"SMP1"

Buffer = bytes | bytearray | memoryview
ErrorCode = str
"""One of `splatmend.plugin.protocol.messages.ERROR_CODES`."""


class ProtocolError(InputError):
    """A message that cannot be used; the receiver answers it with an error.

    Attributes:
        code: the `code` of the error message that answers it.
        id: of the message's frame, if it could be read.
    """

    def __init__(self, code: ErrorCode, text: str, *, id: int | None = None) -> None:  # noqa: A002
        super().__init__(text)
        self.code = code
        self.id = id


@dataclass(frozen=True)
class Limits:
    """Largest sizes that one side of a connection accepts; checked before memory is taken."""

    header_bytes: int = 1 << 16
    part_bytes: int = 64 << 20
    message_bytes: int = 128 << 20
    planes: int = 5
    side: int = 4096
    """Pixels; longest side of a frame."""

    def check_count(self, parts: int) -> None:
        """Check the number of parts of a message.

        Raises:
            ProtocolError: the message has no parts, or too many.
        """
        if not 1 <= parts <= 1 + self.planes:
            raise ProtocolError(
                "bad_header",
                f"a message has a header and at most {self.planes} planes, got {parts} parts",
            )

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Check the sizes of header and planes, in bytes.

        Raises:
            ProtocolError: the parts are too many or too large.
        """
        self.check_count(len(lengths))
        if lengths[0] > self.header_bytes:
            raise ProtocolError(
                "too_large",
                f"a header has at most {self.header_bytes} bytes, got {lengths[0]}",
            )
        if max(lengths) > self.part_bytes or sum(lengths) > self.message_bytes:
            raise ProtocolError(
                "too_large",
                f"a plane has at most {self.part_bytes} bytes and a message {self.message_bytes}, "
                f"got {max(lengths)} and {sum(lengths)}: send smaller frames, or raise the "
                f"server's limits",
            )


def join(parts: Sequence[Buffer]) -> list[Buffer]:
    """Return header and planes as buffers in a row for a byte carrier; nothing is copied."""
    lengths = [len(part) for part in parts]
    return [MAGIC + struct.pack(f"<{len(parts) + 1}I", len(parts), *lengths), *parts]


def reading(limits: Limits) -> Generator[int, Buffer, list[Buffer]]:
    """Read one message from any source of bytes.

    Yields the number of bytes that it wants, and is sent exactly those. Returns header and planes.
    It checks announced sizes before it asks for the bytes.

    Raises:
        ProtocolError: the bytes are not SMP/1, or are larger than `limits` allow. The stream is
            then out of step: close it.
    """
    head = bytes((yield 8))
    if head[:4] != MAGIC:
        raise ProtocolError("bad_header", f"a message starts with {MAGIC!r}, got {head[:4]!r}")
    (count,) = struct.unpack_from("<I", head, 4)
    limits.check_count(count)
    lengths = struct.unpack(f"<{count}I", (yield 4 * count))
    limits.check_lengths(lengths)
    parts: list[Buffer] = []
    for length in lengths:
        parts.append((yield length) if length else b"")
    return parts


def receive(read: Callable[[int], Buffer], limits: Limits) -> list[Buffer]:
    """Drive `reading` with a function that returns exactly the wanted number of bytes.

    Raises:
        ProtocolError: as `reading`.
    """
    reader = reading(limits)
    wanted = next(reader)
    while True:
        try:
            wanted = reader.send(read(wanted))
        except StopIteration as end:
            parts: list[Buffer] = end.value
            return parts


def split(message: Buffer, limits: Limits) -> list[Buffer]:
    """Split one whole message into header and planes, as views into it.

    Raises:
        ProtocolError: the message is not SMP/1, is too large or cut short, or has bytes left over.
    """
    view = memoryview(message)
    at = 0

    def read(count: int) -> Buffer:
        nonlocal at
        at += count
        if at > len(view):
            raise ProtocolError(
                "size_mismatch", f"the message ends after {len(view)} bytes, {at} were announced"
            )
        return view[at - count : at]

    parts = receive(read, limits)
    if at != len(view):
        raise ProtocolError(
            "size_mismatch", f"{len(view) - at} bytes follow the {at} that were announced"
        )
    return parts
