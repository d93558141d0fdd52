"""A restorer with memory along one stream: the same for a file and for a live renderer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatmend.core import (
    Choice,
    Frame,
    Guide,
    InputError,
    References,
    RestoreOptions,
    Restorer,
    from_tensor,
    load_restorer,
    to_tensor,
)
from splatmend.core.references import Guided
from splatmend.core.references.choice import pack_choice, unpack_choice
from splatmend.core.restore.frames import LaidOut, as_guide, guide_frame, lay_out, take_back
from splatmend.temporal.motion.cuts import is_cut
from splatmend.temporal.motion.flow import FlowEstimator, load_flow, settle
from splatmend.temporal.planes.operations import Plane
from splatmend.temporal.stabilizer.fusion import (
    Past,
    TemporalOptions,
    carry,
    compare,
    fuse,
    revise,
    steady_picture,
    trusted,
)
from splatmend.temporal.stabilizer.grid_offset import Anchor, restore_anchored
from splatmend.temporal.stabilizer.state import Memory, add_residual, look, place

__all__ = ["Stream", "warm_up"]

Box = tuple[slice, slice]
State = dict[str, NDArray[Any]]

_FUSED = ("steadied", "residual", "colors", "residual_colors", "energies", "unrest", "lasts")


@dataclass(frozen=True, eq=False)
class _Last:
    """Everything a stream remembers: its last frame and what became of it."""

    frame: Frame
    """As it came, in copies of its own."""
    color: NDArray[Any]
    """The answer's colour."""
    box: Box
    """The part of the frame that was restored; `memory` has its size."""
    memory: Memory
    anchor: Anchor
    repeats: int = 0
    """How many times in a row the answer was given again."""
    choice: Choice = ()
    """The references that guided it."""
    settled: bool = True
    """Whether these are the best for it: they may still fade in."""


class Stream:
    """Restores the frames of one source in order, each with what the last one left.

    Causal, and bounded: it keeps the last frame, its answer and one residual. The network
    sees one frame at a time, so that the answers depend on the frames alone and not on how
    they were grouped; its grid goes along with what it restores
    (temporal/stabilizer/grid_offset.py). Starts anew on a cut, another size, dtype or kind of
    alpha, another `stream_id`, and a step of `pts` beyond `TemporalOptions.max_gap`.

    A frame whose visible picture is byte for byte the last one gets the last answer,
    without the network. Not for two threads at once.

    With references each frame is guided by the nearest of them; they fade into one another.
    """

    def __init__(
        self,
        restorer: Restorer,
        restore_options: RestoreOptions | None = None,
        temporal_options: TemporalOptions | None = None,
        *,
        references: References | Guide | None = None,
    ) -> None:
        self._restorer = restorer
        self._restore = restore_options or RestoreOptions()
        self.guide = as_guide(references, self._restore)
        """The references, prepared; `guide.fit` says in how many frames they fit. None: none."""
        self._temporal = temporal_options or TemporalOptions()
        self.flow: FlowEstimator = load_flow(self._temporal.flow, device=restorer.device)
        """Finds the motion of frames that bring none."""
        self._last: _Last | None = None

    def reset(self) -> None:
        """Forget everything; the next frame is restored as a frame alone."""
        self._last = None

    def restore(self, frames: Sequence[Frame]) -> list[Frame]:
        """Restore frames in the order of the stream; every plane but colour is passed through.

        Raises:
            InputError: the restorer's device has no estimator, or a frame does not fit.
        """
        return [self._next(frame) for frame in frames]

    def export_state(self) -> State:
        """The memory as arrays that belong to the caller; empty before the first frame.

        A stream with the same restorer and options that imports it goes on to the same bytes.
        """
        last = self._last
        if last is None:
            return {}
        frame, pts = last.frame, last.frame.pts
        planes = {"alpha": frame.alpha, "depth": frame.depth}
        premultiplied = frame.alpha_kind == "premultiplied"
        flags = (pts is not None, pts or 0, premultiplied, last.settled)
        numbers = [last.memory.age, last.repeats, *flags]
        state = {
            "input": frame.color,
            **{name: plane for name, plane in planes.items() if plane is not None},
            "output": last.color,
            **{name: getattr(last.memory, name) for name in _FUSED},
            "numbers": np.array(numbers, np.int64),
            "anchor": np.array([last.anchor.right, last.anchor.down]),
            **pack_choice(last.choice),
            "stream_id": np.array(frame.stream_id),
        }
        return {name: array.copy() for name, array in state.items()}

    def import_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up what `export_state` gave.

        Raises:
            InputError: it is not a state, or not of this release.
        """
        self.reset()
        if not state:
            return
        try:
            self._last = _last_of(state, self._restore, self._restorer.device)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"this is no state of a stream ({error!r}): pass what export_state returned"
            ) from error

    def _next(self, frame: Frame) -> Frame:
        if self._restore.strength == 0:
            return frame
        last = self._last
        if last is not None and not self._follows(frame, last.frame):
            last = None
        still = last is not None and _looks_same(frame, last)
        settled = last is not None and last.settled
        if last is not None and still and settled and last.repeats + 1 < self._temporal.refresh:
            return self._repeat(frame, last)
        laid_out = lay_out(frame, self._restore, self._restorer.device)
        if laid_out is None:  # nothing is visible, so there is nothing to remember
            self.reset()
            return frame
        own, age = _own(frame), 0 if last is None else last.memory.age + 1
        box, seen = laid_out.box, _look(own, laid_out, age)
        before = self._before(last, box)
        motion = None if before is None or still else self._motion(frame, box, before, seen)
        anchor = Anchor() if last is None else last.anchor
        if before is not None and motion is not None and self._temporal.anchor:
            anchor = anchor.along(motion, before.residual, self._restorer.traits.multiple)
        guided = self._guided(frame, laid_out, last)
        # a GPU is only told to begin here, and works while the picture is compared with the last
        restored = self._pass(laid_out, anchor, frame.size, guided)
        estimated = frame.motion is None
        past = None if before is None else self._look_back(before, motion, seen, estimated)
        began = last is None or (anchor == Anchor() and not last.choice)
        if past is None and not began:  # a cut, where all begins anew
            anchor = Anchor()
            guided = self._guided(frame, laid_out, None)
            restored = self._pass(laid_out, anchor, frame.size, guided)
        picture = _pixels(restored)
        memory = add_residual(seen, picture)
        if past is not None:
            fresh, memory = memory, fuse(memory, past, self._temporal)
            revised = torch.from_numpy(revise(picture, fresh, memory))
            restored = revised.permute(2, 0, 1)[None].to(restored.device)
        answer = take_back(frame, laid_out, restored)
        # a network that overflows once must not spoil the rest of the stream
        sound = np.isfinite(cv2.norm(memory.residual))
        color, choice = answer.color.copy(), self._chosen(guided)
        settled = guided is None or guided.stays
        kept = _Last(own, color, box, memory, anchor, choice=choice, settled=settled)
        self._last = kept if sound else None
        return answer

    def _guided(self, frame: Frame, laid_out: LaidOut, last: _Last | None) -> Guided | None:
        """What the references say about a picture, going on from those of the last one."""
        if self.guide is None:
            return None
        before = () if last is None else last.choice
        return guide_frame(self.guide, frame, laid_out, self._restore, before)

    def _chosen(self, guided: Guided | None) -> Choice:
        """Count what a frame was restored with, and go on from there."""
        if self.guide is None or guided is None:
            return ()
        self.guide.count(guided)
        return guided.choice

    def _pass(
        self,
        laid_out: LaidOut,
        anchor: Anchor,
        size: tuple[int, int],
        guided: Guided | None,
    ) -> Tensor:
        options = self._restore.sized(self._restorer, size)
        guidance = None if guided is None else guided.guidance
        return restore_anchored(self._restorer, laid_out.rgb, anchor, options, guidance)

    def _before(self, last: _Last | None, box: Box) -> Memory | None:
        """What the last frame left, as one of this box; None where nothing is to be kept."""
        if last is None or self._temporal.gain == self._temporal.input_gain == 0:
            return None
        if last.box == box:
            return last.memory
        return place(last.memory, last.box, box, ground=self._restore.matte)

    def _motion(self, frame: Frame, box: Box, before: Memory, seen: Memory) -> Plane:
        """Backward flow (h, w, 2) of the box: the renderer's, else estimated."""
        if frame.motion is not None:
            return _float32(frame.motion[box])
        motion = self.flow.between(before.seen, seen.seen)
        return settle(motion, before.brightness, seen.brightness)

    def _look_back(
        self, before: Memory, motion: Plane | None, seen: Memory, estimated: bool
    ) -> Past | None:
        """What `before` says about the picture that is `seen` now; None after a cut."""
        carried, between = carry(before, motion)
        if is_cut(carried.brightness, seen.brightness):
            return None
        compared = compare(carried, between, seen)
        trust = trusted(carried, compared, seen, self._temporal)
        steadied = steady_picture(seen, carried, compared, trust, self._temporal)
        return Past(steadied, carried, compared, trust, estimated)

    def _follows(self, frame: Frame, last: Frame) -> bool:
        """Whether a frame can be the next one, as far as its labels say."""
        kinds = [(f.size, f.color.dtype, f.alpha is None, f.alpha_kind) for f in (frame, last)]
        if kinds[0] != kinds[1] or frame.stream_id != last.stream_id:
            return False
        longest = self._temporal.max_gap
        if longest is None or frame.pts is None or last.pts is None:
            return True
        return 0 < frame.pts - last.pts <= longest

    def _repeat(self, frame: Frame, last: _Last) -> Frame:
        """The last answer again; beyond the alpha box, where nothing is visible, the input."""
        color = frame.color.copy()
        color[last.box] = last.color[last.box]
        seen = replace(last.frame, pts=frame.pts)
        self._last = replace(last, frame=seen, repeats=last.repeats + 1)
        return frame.with_color(color)


def warm_up() -> None:
    """Compile what streams are made of now, and not while their first frames wait.

    Takes some ten seconds once on a machine, and less than one in every later process.
    """
    y, x = np.mgrid[:32, :32]
    pictures = [np.stack([4 * x + shift, 4 * y, x + y], -1).astype(np.uint8) for shift in (0, 4)]
    Stream(load_restorer("copy", device="cpu")).restore([Frame(color=p) for p in pictures])


def _last_of(
    state: Mapping[str, NDArray[Any]], options: RestoreOptions, device: torch.device
) -> _Last:
    """The inverse of `Stream.export_state`; what is missing there follows from the frame."""
    age, repeats, has_pts, pts, premultiplied, settled = (int(n) for n in state["numbers"])
    frame = Frame(
        color=state["input"].copy(),
        alpha=state["alpha"].copy() if "alpha" in state else None,
        alpha_kind="premultiplied" if premultiplied else "straight",
        depth=state["depth"].copy() if "depth" in state else None,
        pts=pts if has_pts else None,
        stream_id=str(state["stream_id"]),
    )
    laid_out = lay_out(frame, options, device)
    if laid_out is None:
        raise ValueError("nothing visible")
    memory = _look(frame, laid_out, age)
    fused: dict[str, Any] = {name: state[name].copy() for name in _FUSED}
    if any(plane.shape != getattr(memory, name).shape for name, plane in fused.items()):
        raise ValueError("planes of several sizes")
    memory = replace(memory, **fused)
    anchor = Anchor(*(int(n) for n in state["anchor"]))
    choice = unpack_choice(state)
    output, box = state["output"].copy(), laid_out.box
    return _Last(frame, output, box, memory, anchor, repeats, choice, bool(settled))


def _looks_same(frame: Frame, last: _Last) -> bool:
    """Whether what is visible of a frame is byte for byte what the last one showed."""
    pairs = [(frame.color[last.box], last.frame.color[last.box])]
    if frame.alpha is not None and last.frame.alpha is not None:
        pairs.append((frame.alpha, last.frame.alpha))
    # a few rows tell most frames apart for next to nothing
    return all(np.array_equal(a[::16], b[::16]) and np.array_equal(a, b) for a, b in pairs)


def _look(frame: Frame, laid_out: LaidOut, age: int) -> Memory:
    """What the picture of a frame leaves to the next; `frame` belongs to the stream."""
    box = laid_out.box
    opaque = frame.alpha is None and frame.color.dtype == np.uint8
    seen = frame.color if opaque else from_tensor(laid_out.rgb, np.uint8)[0]
    alpha = None if frame.alpha is None else _pixels(to_tensor([frame.alpha[box]]))
    depth = None if frame.depth is None else frame.depth[box]
    return look(seen, _pixels(laid_out.rgb), alpha=alpha, depth=depth, age=age)


def _own(frame: Frame) -> Frame:
    """Copies of the planes that are kept: a renderer may write its next frame into the same."""
    alpha, depth = (None if p is None else p.copy() for p in (frame.alpha, frame.depth))
    return replace(frame, color=frame.color.copy(), alpha=alpha, depth=depth, motion=None)


def _pixels(picture: Tensor) -> NDArray[np.float32]:
    """(1, c, h, w) on any device -> (h, w, c) float32; (h, w) where c is 1."""
    return from_tensor(picture, np.float32)[0]


def _float32(motion: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    if motion.dtype == np.float16:  # numpy itself is slow at these
        return torch.from_numpy(motion.copy()).float().numpy()
    return motion.astype(np.float32, order="C")
