"""References: clean pictures of a person, or key pairs of a render and its truth."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from splatmend.core.errors import InputError

__all__ = ["LEAST_SIDE", "LONGEST_SIDE", "MOST_IN_MEMORY", "Reference", "References"]

Picture = NDArray[np.uint8]
Kind = Literal["pictures", "pairs"]

LEAST_SIDE = 32
"""Least side in pixels; a smaller picture has no detail to transfer."""
LONGEST_SIDE = 2048
"""Longest side in pixels; larger references are shrunk, as no frame needs more of a face."""
MOST_IN_MEMORY = 1000
"""Largest number of references in a set."""
_PLAIN = 2.0
"""Standard deviation in levels of 255 below which a picture counts as plain."""
_BUDGET = 192 << 20
"""Bytes of uncompressed pictures in a set; the rest is kept compressed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """One clean picture of the person; with a render it is a key pair.

    Raises:
        InputError: a picture of another shape or dtype, of one plain colour, or too small.
    """

    picture: Picture
    """(h, w, 3) RGB: the true look of this view."""
    render: Picture | None = None
    """(h, w, 3) RGB: the renderer's picture of this view; None where there is no render."""
    alpha: NDArray[np.uint8] | None = None
    """(h, w): coverage of the picture; its colours are straight, not premultiplied."""
    render_alpha: NDArray[np.uint8] | None = None
    """(h, w): coverage of the render; None where it equals that of the picture. Light avatars let
    the ground through, so the two may differ even inside the head."""
    name: str = ""
    """Source of the picture, for messages."""

    def __post_init__(self) -> None:
        what = self.name or "a reference"
        for kind, picture in (("picture", self.picture), ("render", self.render)):
            if picture is not None:
                _check_picture(picture, f"{what} ({kind})" if self.render is not None else what)
        size = self.picture.shape[:2]
        if self.render is not None and self.render.shape[:2] != size:
            raise InputError(
                f"{what}: render and truth of a key pair must have one size, got "
                f"{self.render.shape[:2]} and {size}"
            )
        for alpha in (self.alpha, self.render_alpha):
            if alpha is not None and (alpha.shape != size or alpha.dtype != np.uint8):
                raise InputError(
                    f"{what}: alpha must be uint8 {size} like the picture, got {alpha.dtype} "
                    f"{alpha.shape}"
                )

    @property
    def nbytes(self) -> int:
        """Return the bytes of all planes."""
        return sum(plane.nbytes for plane in self.planes if plane is not None)

    @property
    def planes(self) -> tuple[NDArray[np.uint8] | None, ...]:
        """Return picture, render, alpha and render_alpha."""
        return self.picture, self.render, self.alpha, self.render_alpha

    def on_matte(self, matte: Sequence[float]) -> tuple[Picture, Picture | None]:
        """Put picture and render on a matte, RGB in [0, 1], and return both opaque."""
        own = self.alpha if self.render_alpha is None else self.render_alpha
        render = None if self.render is None else _laid(self.render, own, matte)
        return _laid(self.picture, self.alpha, matte), render


class References:
    """An immutable set of references of one kind: pictures, or key pairs.

    Up to 192 MB of pictures stay uncompressed. The rest is lossless PNG in memory, decoded on
    demand: 1,000 references of 512 x 512 take about 500 MB.

    >>> import numpy as np
    >>> picture = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    >>> References([Reference(picture=picture)])
    References(1 pictures, 0.0 MB)

    Raises:
        InputError: no reference, too many, or pictures mixed with key pairs.
    """

    def __init__(self, references: Iterable[Reference]) -> None:
        digest = hashlib.sha256()
        self._entries: list[Reference | _Packed] = []
        kinds: set[Kind] = set()
        used, transparent = 0, False
        for reference in references:
            reference = _shrunk(reference)
            if len(self._entries) == MOST_IN_MEMORY:
                raise InputError(
                    f"a set takes at most {MOST_IN_MEMORY} references: leave some out, for "
                    f"instance every second one"
                )
            kinds.add("pictures" if reference.render is None else "pairs")
            transparent |= reference.alpha is not None
            _digest(digest, reference)
            used += reference.nbytes
            self._entries.append(reference if used <= _BUDGET else _Packed(reference))
        if not self._entries:
            raise InputError("no reference was given: name at least one picture of the person")
        if len(kinds) > 1:
            raise InputError(
                "pictures and key pairs cannot be mixed in one set: give renders for all of the "
                "pictures, or for none"
            )
        self.kind: Kind = kinds.pop()
        """Whether the set holds pictures or key pairs."""
        self.transparent: bool = transparent
        """Whether any picture has alpha, so that its look depends on the ground."""
        self.fingerprint: str = digest.hexdigest()[:16]
        """Digest of all planes in order, 16 hexadecimal digits."""

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Reference:
        entry = self._entries[index]
        return entry if isinstance(entry, Reference) else entry.unpack()

    def __iter__(self) -> Iterator[Reference]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"References({len(self)} {self.kind}, {self.nbytes / 1e6:.1f} MB)"

    @property
    def nbytes(self) -> int:
        """Return the bytes of memory that the set takes."""
        return sum(entry.nbytes for entry in self._entries)


class _Packed:
    """A reference as PNG in memory."""

    def __init__(self, reference: Reference) -> None:
        self._name = reference.name
        names = ("picture", "render", "alpha", "render_alpha")
        self._planes = {
            name: cv2.imencode(".png", plane)[1]
            for name, plane in zip(names, reference.planes, strict=True)
            if plane is not None
        }

    @property
    def nbytes(self) -> int:
        return sum(plane.nbytes for plane in self._planes.values())

    def unpack(self) -> Reference:
        planes: dict[str, Any] = {
            name: cv2.imdecode(plane, cv2.IMREAD_UNCHANGED) for name, plane in self._planes.items()
        }
        return Reference(**planes, name=self._name)


def _check_picture(picture: NDArray[Any], what: str) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise InputError(f"{what} must be uint8 RGB (h, w, 3), got {picture.dtype} {picture.shape}")
    if min(picture.shape[:2]) < LEAST_SIDE:
        height, width = picture.shape[:2]
        raise InputError(
            f"{what} is {width} x {height} pixels, a reference needs at least {LEAST_SIDE} a side"
        )
    if float(cv2.meanStdDev(picture)[1].max()) < _PLAIN:
        raise InputError(f"{what} shows nothing, it is one plain colour: give a picture of a face")


def _laid(picture: Picture, alpha: NDArray[np.uint8] | None, matte: Sequence[float]) -> Picture:
    if alpha is None:
        return picture
    share = alpha.astype(np.float32)[..., None] / 255
    ground = np.asarray(matte, np.float32) * 255 * (1 - share)
    return np.asarray(np.rint(picture * share + ground), np.uint8)


def _shrunk(reference: Reference) -> Reference:
    longest = max(reference.picture.shape[:2])
    if longest <= LONGEST_SIDE:
        return reference
    height, width = (
        max(round(side * LONGEST_SIDE / longest), LEAST_SIDE)
        for side in reference.picture.shape[:2]
    )

    def small(plane: NDArray[np.uint8] | None) -> Any:
        if plane is None:
            return None
        return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)

    return Reference(
        picture=small(reference.picture),
        render=small(reference.render),
        alpha=small(reference.alpha),
        render_alpha=small(reference.render_alpha),
        name=reference.name,
    )


def _digest(digest: Any, reference: Reference) -> None:
    for plane in reference.planes:
        digest.update(b"-" if plane is None else repr(plane.shape).encode())
        if plane is not None:
            digest.update(np.ascontiguousarray(plane).data)
