"""From references and a frame to guidance: choose the nearest, place, align, carry.

Light comes from the frame, detail from the reference: a picture is relit by the ratio of both
local means before its difference to the frame is carried. Of a key pair the difference between
truth and render is carried as it is.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core.errors import InputError
from splatmend.core.guidance import Guidance
from splatmend.core.pixels import to_tensor
from splatmend.core.references.alignment import Contrast, Course, align, local_contrast, sample
from splatmend.core.references.choice import Choice, Pick, choose
from splatmend.core.references.collection import References
from splatmend.core.references.fit import ReferenceFit, is_fitting
from splatmend.core.references.ground import Matte, plain_ground
from splatmend.core.references.placement import (
    Part,
    Placement,
    Thumbnail,
    place_reference,
    seen_through,
)

__all__ = ["Guide", "Guided"]

Plane = NDArray[np.float32]
Picture = NDArray[np.uint8]

_LIGHT_CELL, _LIGHT_REACH = 8, 1.25
"""Light is the mean of cells of 8 x 8 pixels, blurred by that many cells."""
_DARK = 8.0
"""Levels added to both means: the ratio of two blacks is 1."""
_RELIGHT = 3.0
"""A reference is made at most so many times brighter or darker."""
_APART = 12.0
"""Levels by which a key's render and the frame may differ where the key is trusted to 1/e."""
_STALE = 0.5
"""Share of its best mean confidence below which a reference is sought anew on the frame."""
_PATIENCE = 24
"""Frames of a stream after which a reference that was not found is sought again."""
_ALIKE = 0.85
"""Likeness of the nearest reference from which a frame is compared with the others as it is."""
_ROUNDS = 2
"""How often the nearest reference is placed to find a nearer one."""
_GROUNDS = 2
"""Grounds for which thumbnails are at hand."""
_CACHED = 4
"""Placed references at hand, for frames of one size: those of a stream change slowly."""


@dataclass(frozen=True, eq=False)
class Guided:
    """Guidance for one picture, and how it was chosen: the next frame of a stream goes on."""

    guidance: Guidance
    choice: Choice
    stays: bool
    """Whether the same picture again would be guided alike, going on from this choice."""
    fits: bool
    """Whether any reference fits the picture, or its subject where that is known."""


@dataclass(frozen=True, eq=False)
class _Placed:
    """A reference laid on the frame by its placement, all planes of the frame's size."""

    picture: Picture
    contrast: Contrast
    """Of the picture, or of a key's render."""
    residual: Plane | None
    """Truth - render of a key pair in levels, (h, w, 3)."""
    render: Picture | None
    covered: Plane
    """(h, w), 0 where the frame reaches beyond the reference."""

    @cached_property
    def view(self) -> Tensor:
        """Return the picture as (1, 3, h, w) in [0, 1]; a stream asks for it often."""
        return to_tensor([self.picture])


@dataclass(frozen=True, eq=False)
class _Proposal:
    """The change that one reference proposes for a frame."""

    change: Plane
    confidence: Plane
    view: Picture
    course: Course


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame as the steps of `Guide.guide` need it."""

    picture: Picture
    thumbnail: Thumbnail
    contrast: Contrast
    subject: tuple[slice, slice] | None
    ground: Matte
    """The colour behind references with alpha."""
    placements: dict[int, Placement | None] = field(default_factory=dict)
    """Where references lie on it, as far as that was asked."""

    @property
    def part(self) -> Part | None:
        """Shrink the subject, where it is known."""
        if self.subject is None:
            return None
        rows, columns = self.subject
        shown = np.ascontiguousarray(self.picture[rows, columns])
        return Part(Thumbnail.of(shown), columns.start, rows.start)


class Guide:
    """Turns a set of references into guidance for frames of any size.

    Its state between calls (thumbnails, placed references) only saves time: the same frame,
    references and earlier choice give the same bytes. Not for two threads at once: each gets a
    `twin`. And it counts in how many frames its references fit.
    """

    def __init__(
        self,
        references: References,
        *,
        blend: int = 2,
        matte: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """Prepare a set; `blend` is how many of it are mixed for a frame.

        References with alpha are laid on the ground of each opaque frame, where that is plain, and
        on the matte, RGB in [0, 1], elsewhere.

        Raises:
            InputError: blend below 1.
        """
        if blend < 1:
            raise InputError(f"blend must be at least 1 reference, got {blend}")
        self.references = references
        self._blend, self._matte = blend, tuple(matte)
        self._laid: dict[Matte, list[Thumbnail]] = {}
        self._thumbnails(self._matte)
        self._placed: dict[tuple[int, Matte, bytes, tuple[int, int]], _Placed] = {}
        self.fit = ReferenceFit()
        """Of the frames that `restore_frames` and streams have restored with this guide."""

    def guide(
        self,
        picture: Picture,
        before: Choice = (),
        *,
        subject: tuple[slice, slice] | None = None,
    ) -> Guided:
        """Find the guidance of the references for a picture (h, w, 3) of uint8.

        `subject` are the rows and columns that show the person, if they are known.
        `before` is the choice of the last frame of a stream: its references fade out and others
        fade in over some frames, so that nothing pops.
        """
        frame = self._look(picture, subject)
        framed = self._framed(frame, before)
        choice, stays = choose(self._thumbnails(frame.ground), framed, before, count=self._blend)
        known = {pick.index: pick for pick in before}
        found = [
            self._follow(Pick(index, weight, None), known.get(index), frame)
            for index, weight in choice
        ]
        picks = tuple(pick for pick, _ in found)
        seen = [(pick.weight, proposal) for pick, proposal in found if proposal is not None]
        change, confidence = _mix(
            [(weight, p.change, p.confidence) for weight, p in seen], picture.shape[:2]
        )
        exact = self.references.kind == "pairs"
        view = to_tensor([max(seen, key=itemgetter(0))[1].view]) if seen else None
        guidance = Guidance(to_tensor([change]), to_tensor([confidence]), exact, view)
        return Guided(guidance, picks, stays, is_fitting(confidence, subject))

    def _look(self, picture: Picture, subject: tuple[slice, slice] | None) -> "_Frame":
        ground = None
        if subject is None and self.references.transparent:
            ground = plain_ground(picture)
        contrast, thumbnail = local_contrast(picture), Thumbnail.of(picture)
        return _Frame(picture, thumbnail, contrast, subject, ground or self._matte)

    def _framed(self, frame: "_Frame", before: Choice) -> Thumbnail:
        """Cut the frame as references show the person, so that the nearest of them can be told.

        A frame that resembles one of them stays as it is. Others are cut by the placement of the
        reference in use, or else of the one that seems nearest.
        """
        thumbnails = self._thumbnails(frame.ground)
        if max(frame.thumbnail.likeness(other) for other in thumbnails) >= _ALIKE:
            return frame.thumbnail
        placed = [pick for pick in before if pick.placement is not None]
        if placed:
            best = max(placed, key=lambda pick: pick.weight)
            return self._cut(frame, best.index, best.placement)
        framed, index = frame.thumbnail, -1
        for _ in range(_ROUNDS if len(thumbnails) > 1 else 0):
            last = index
            ((index, _),), _ = choose(thumbnails, framed, (), count=1)
            if index == last:
                break
            framed = self._cut(frame, index, self._found(index, frame))
        return framed

    def _cut(self, frame: "_Frame", index: int, placement: Placement | None) -> Thumbnail:
        """Cut the frame as one reference shows the person, if it could be placed."""
        size = self._thumbnails(frame.ground)[index].size
        as_it_is = size == frame.contrast.size
        if placement is None or (as_it_is and np.array_equal(placement.matrix, np.eye(2, 3))):
            return frame.thumbnail
        return seen_through(frame.picture, placement, size)

    def _found(self, index: int, frame: "_Frame") -> Placement | None:
        """Place a reference on a frame, once."""
        if index not in frame.placements:
            thumbnail = self._thumbnails(frame.ground)[index]
            frame.placements[index] = place_reference(frame.thumbnail, thumbnail, part=frame.part)
        return frame.placements[index]

    def _thumbnails(self, ground: Matte) -> list[Thumbnail]:
        """Shrink all references as a renderer shows them on a ground."""
        if ground not in self._laid:
            while len(self._laid) >= _GROUNDS:
                del self._laid[next(iter(self._laid))]
            self._laid[ground] = [Thumbnail.of(_shown(r.on_matte(ground))) for r in self.references]
        return self._laid[ground]

    def _follow(
        self,
        pick: Pick,
        before: Pick | None,
        frame: "_Frame",
    ) -> tuple[Pick, "_Proposal | None"]:
        """Propose the change of one reference, from its last place on the frame if it fits."""
        if before is not None and before.placement is not None:
            proposal = self._propose(pick.index, before.placement, frame, before.course)
            trust = float(proposal.confidence.mean())
            if trust >= _STALE * before.trust:
                trust, course = max(trust, before.trust), proposal.course
                pick = replace(pick, placement=before.placement, trust=trust, course=course)
                return pick, proposal
        elif before is not None and before.trust >= 0:  # sought in vain: not in every frame again
            return replace(pick, trust=before.trust - 1), None
        placement = self._found(pick.index, frame)
        if placement is None:
            return replace(pick, trust=float(_PATIENCE)), None
        proposal = self._propose(pick.index, placement, frame)
        trust = float(proposal.confidence.mean())
        pick = replace(pick, placement=placement, trust=trust, course=proposal.course)
        return pick, proposal

    def _propose(
        self, index: int, placement: Placement, frame: "_Frame", before: Course | None = None
    ) -> "_Proposal":
        placed = self._place(index, placement, frame)
        return _propose(frame, placed, before)

    def twin(self) -> "Guide":
        """Return a guide of the same set for another stream; pictures and thumbnails are shared."""
        twin = copy(self)
        twin._laid, twin._placed, twin.fit = dict(self._laid), {}, ReferenceFit()
        return twin

    @property
    def complaint(self) -> str | None:
        """Return one line if no reference fitted most frames so far; None if all is well."""
        return self.fit.complaint(self.references.kind)

    def count(self, guided: Guided) -> None:
        """Count a frame that was restored with this guidance."""
        self.fit = self.fit.with_frame(fits=guided.fits)

    def _place(self, index: int, placement: Placement, frame: "_Frame") -> _Placed:
        size, ground = frame.contrast.size, frame.ground
        name = (index, ground, placement.matrix.tobytes(), size)
        if name not in self._placed:
            while len(self._placed) >= _CACHED:
                del self._placed[next(iter(self._placed))]
            picture, render = self.references[index].on_matte(ground)
            self._placed[name] = _lay(picture, render, placement, size)
        return self._placed[name]


def _shown(pair: tuple[Picture, Picture | None]) -> Picture:
    """Return the view that a renderer gives: the render of a key pair, else the picture."""
    picture, render = pair
    return picture if render is None else render


def _lay(
    picture: Picture, render: Picture | None, placement: Placement, size: tuple[int, int]
) -> _Placed:
    matrix, shrink = placement.matrix, placement.scale

    def warped(plane: NDArray[np.generic]) -> Plane:
        smooth: Any = plane.astype(np.float32)
        if shrink > 1:  # as soft as the frame's pixels are large
            smooth = cv2.GaussianBlur(smooth, (0, 0), 0.5 * (shrink**2 - 1) ** 0.5)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        border = cv2.BORDER_REPLICATE
        return np.asarray(
            cv2.warpAffine(smooth, matrix, size[::-1], flags=flags, borderMode=border)
        )

    same = np.array_equal(matrix, np.eye(2, 3)) and picture.shape[:2] == size
    bounds = np.ones(picture.shape[:2], np.float32)
    covered: Any = cv2.warpAffine(
        bounds, matrix, size[::-1], flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    laid, shown, residual = picture, render, None
    if not same:
        laid = _rounded(warped(picture))
        shown = None if render is None else _rounded(warped(render))
    if render is not None:
        difference = picture.astype(np.float32) - render
        residual = difference if same else warped(difference)
    return _Placed(laid, local_contrast(_shown((laid, shown))), residual, shown, covered)


def _rounded(plane: Plane) -> Picture:
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)


def _propose(frame: _Frame, placed: _Placed, before: Course | None) -> _Proposal:
    """Propose the change of one reference, from the alignment of the frame before."""
    picture, fine = frame.picture, placed.render is not None
    alignment = align(frame.contrast, placed.contrast, before, fine=fine)
    flow, confidence, course = alignment.flow, alignment.confidence, alignment.course
    if not placed.covered.all():
        confidence = confidence * sample(placed.covered, flow, cubic=False)
    if placed.residual is None or placed.render is None:
        relit: Any = _relit(sample(placed.picture, flow), picture)
        ours: Any = picture * np.float32(1 / 255)
        change = np.asarray(cv2.subtract(relit, ours, dst=relit))
        return _Proposal(change, confidence, placed.picture, course)
    apart: Any = np.abs(sample(placed.render, flow).astype(np.float32) - picture).mean(2)
    apart = np.asarray(cv2.GaussianBlur(apart, (0, 0), 1.5), np.float32)
    trust: Any = np.exp(apart * apart / np.float32(-(_APART**2)))
    change = np.asarray(sample(placed.residual, flow) / np.float32(255), np.float32)
    confidence = np.asarray(confidence * trust, np.float32)
    return _Proposal(change, confidence, placed.picture, course)


def _relit(reference: Picture, picture: Picture) -> Plane:
    """Relight the reference (h, w, 3) as the picture is lit, of [0, 1]."""
    height, width = picture.shape[:2]
    cells = tuple(max(side // _LIGHT_CELL, 1) for side in (width, height))
    ours, theirs = (
        cv2.GaussianBlur(
            cv2.resize(p, cells, interpolation=cv2.INTER_AREA).astype(np.float32),
            (0, 0),
            _LIGHT_REACH,
        )
        for p in (picture, reference)
    )
    ratio: Any = np.clip((ours + _DARK) / (theirs + _DARK), 1 / _RELIGHT, _RELIGHT)
    ratio /= np.float32(255)
    ratio = cv2.resize(ratio, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.multiply(ratio, reference, dtype=cv2.CV_32F))


def _mix(
    proposals: Sequence[tuple[float, Plane, Plane]], size: tuple[int, int]
) -> tuple[Plane, Plane]:
    """Average changes and confidences, each counted by its weight and its confidence."""
    if not proposals:
        return np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    if len(proposals) == 1:
        return proposals[0][1:]
    change = np.zeros((*size, 3), np.float32)
    confidence, total = np.zeros(size, np.float32), np.full(size, 1e-6, np.float32)
    for weight, proposed, trust in proposals:
        counts = np.float32(weight) * trust
        change += counts[..., None] * proposed
        confidence += counts * trust
        total += counts
    return change / total[..., None], confidence / total
