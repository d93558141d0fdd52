"""A client's references: the name of a set that the server has, or pictures that it sends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.errors import InputError
from splatmend.core.references import References
from splatmend.core.references.reading import PICTURE_SUFFIXES, read_references
from splatmend.plugin.protocol.messages import (
    ErrorReply,
    Message,
    ReferencePicture,
    UseReferences,
    Welcome,
)
from splatmend.plugin.protocol.upload_limits import UploadLimits

__all__ = [
    "ClientReferences",
    "GivenReferences",
    "Offer",
    "client_references",
    "named_references",
]

_QUALITY = 95


@dataclass(frozen=True, eq=False)
class ClientReferences:
    """References of a client: the name of a set, an upload, or neither."""

    name: str = ""
    """Name of one of the server's sets."""
    upload: UseReferences | None = None

    def message(self, welcome: Welcome) -> UseReferences | None:
        """Return the message to send after a welcome, if any.

        Raises:
            InputError: the server cannot use these references.
        """
        if self.name and welcome.references != self.name:
            raise InputError("the server is too old to have sets of references: update it")
        if self.upload is None:
            return None
        count, most = len(self.upload.pictures), welcome.max_references
        if count > most:
            raise InputError(
                f"the server takes {f'at most {most}' if most else 'no'} reference pictures, got "
                f"{count}: " + ("give fewer, or " if most else "") + "name one of its sets"
            )
        if len(self.upload.data[0]) > welcome.max_part_bytes:
            raise InputError(
                f"the server takes at most {welcome.max_part_bytes} bytes at once, the references "
                f"have {len(self.upload.data[0])}: give fewer or smaller ones"
            )
        return replace(self.upload, session=welcome.session)


GivenReferences = str | Path | Sequence[str | Path] | References | ClientReferences
"""A set's name; a picture, a folder, or several of these; references, plain or packed."""


class Offer:
    """State of a session's own references; for the client's thread alone."""

    def __init__(self, references: ClientReferences) -> None:
        self._references = references
        self.due: UseReferences | None = None
        """Message to send as soon as there is room."""
        self.is_open = False
        """Whether the server's answer is outstanding."""
        self.in_use = 0
        """Number of references that the server uses."""

    def begin(self, welcome: Welcome) -> str:
        """Begin a session; return an error text, empty if all is well."""
        self.end()
        try:
            self.due = self._references.message(welcome)
        except InputError as error:
            return str(error)
        self.is_open = self.due is not None
        return ""

    def hear(self, message: Message) -> None:
        """Take a message of the server, which may be the answer."""
        if isinstance(message, UseReferences):
            self.end(message.count or 0)
        elif isinstance(message, ErrorReply) and message.id is None and self.is_open:
            self.end()

    def end(self, in_use: int = 0) -> None:
        """End the offer, after an answer or with the session."""
        self.due, self.is_open, self.in_use = None, False, in_use


def client_references(given: GivenReferences | None) -> ClientReferences:
    """Read and pack references to send them to a server.

    A text is the name of one of the server's sets. Pictures are sent without loss if they fit, else
    as JPEG.

    Raises:
        InputError: a picture cannot be read, or the pictures are too many or too large.
    """
    if given is None:
        return ClientReferences()
    if isinstance(given, ClientReferences):
        return given
    if isinstance(given, str):
        return ClientReferences(name=given)
    if not isinstance(given, References):
        given = read_references(
            given if isinstance(given, Path) else [Path(path) for path in given]
        )
    return ClientReferences(upload=_packed(given))


def named_references(words: Sequence[str]) -> ClientReferences | None:
    """Read and pack the references of a command line: pictures and folders, or a set's name.

    A single word is a set's name unless a file of that name exists, or it is clearly a path: it
    contains a / or has a picture's suffix.

    Raises:
        InputError: a picture cannot be read, or the pictures are too many or too large.
    """
    if not words:
        return None
    first = Path(words[0])
    is_path = first.exists() or first.name != words[0] or first.suffix.lower() in PICTURE_SUFFIXES
    if len(words) == 1 and not is_path:
        return ClientReferences(name=words[0])
    return client_references([Path(word) for word in words])


def _packed(references: References) -> UseReferences:
    most = UploadLimits().bytes
    for lossless in (True, False):
        pictures: list[ReferencePicture] = []
        whole = bytearray()
        for picture, alpha in _planes(references):
            jpeg = not lossless and alpha is None and references.kind == "pictures"
            data = _file(picture, alpha, jpeg=jpeg)
            pictures.append(ReferencePicture(fmt="jpeg" if jpeg else "png", bytes=len(data)))
            whole += data.data
            if len(whole) > most:
                break
        else:
            return UseReferences(
                kind=references.kind, pictures=tuple(pictures), data=(bytes(whole),)
            )
    raise InputError(
        f"{len(references)} references take more than the {most >> 20} MiB that can be sent to a "
        f"server: give fewer or smaller ones, or put them into a folder of its --references"
    )


def _planes(
    references: References,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8] | None]]:
    """Yield pictures and their alpha in the order of the message."""
    for reference in references:
        if reference.render is not None:
            yield reference.render, reference.render_alpha
        yield reference.picture, reference.alpha


def _file(
    picture: NDArray[np.uint8], alpha: NDArray[np.uint8] | None, *, jpeg: bool
) -> NDArray[np.uint8]:
    """Encode a picture (h, w, 3) and its alpha (h, w) as a PNG or JPEG file."""
    if alpha is not None:
        picture = np.dstack((picture, alpha))
    order = cv2.COLOR_RGB2BGR if alpha is None else cv2.COLOR_RGBA2BGRA
    suffix, options = (".jpg", (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)) if jpeg else (".png", ())
    return np.asarray(cv2.imencode(suffix, cv2.cvtColor(picture, order), options)[1])
