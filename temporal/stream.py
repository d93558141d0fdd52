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
    antialias_picture,
    carry,
    compare,
    fuse,
    revise,
    trusted,
)
from splatmend.temporal.stabilizer.grid_offset import GridOffset, restore_with_offset
from splatmend.temporal.stabilizer.state import Memory, add_residual, look, place

__all__ = ["Stream", "warm_up"]

Box = tuple[slice, slice]
State = dict[str, NDArray[Any]]

_FUSED = (
    "antialiased", "residual", "colors", "residual_colors", "energies", "usual_flicker",
    "persistence",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Last:
    """The memory of a stream: its last frame and the answer to it."""

    frame: Frame
    """The input, copied."""
    color: NDArray[Any]
    """The colour of the answer."""
    box: Box
    """The part of the frame that was restored; `memory` has its size."""
    memory: Memory
    offset: GridOffset
    repeats: int = 0
    """Number of times in a row that the answer was repeated."""
    choice: Choice = ()
    """References that guided it."""
    settled: bool = True
    """Whether the references have finished fading in."""


class Stream:
    """Restores the frames of one source in order, with memory of the last frame.

    A stream is causal and its memory bounded: the last frame, its answer and one residual. The
    network sees one frame at a time, so the answers do not depend on how frames are grouped.
    The network's grid moves along with the picture (temporal/stabilizer/grid_offset.py).

    The memory is reset by a cut, another size, dtype or kind of alpha, another `stream_id`, and a
    step of `pts` beyond `TemporalOptions.max_gap`. A frame whose visible pixels equal the last
    one's gets the last answer, without the network. With references, the nearest of them
    guide each frame and fade into one another. A stream is not for two threads at once.

    >>> import numpy as np
    >>> stream = Stream(load_restorer("compact", device="cpu"))
    >>> frames = [Frame(color=np.zeros((64, 64, 3), np.uint8), pts=pts) for pts in (0, 40)]
    >>> [answer.pts for answer in stream.restore(frames)]
    [0, 40]
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
        """The prepared references, or None; `guide.fit` counts the frames that they fit."""
        self._temporal = temporal_options or TemporalOptions()
        self.flow: FlowEstimator = load_flow(self._temporal.flow, device=restorer.device)
        """Estimator of motion for frames that carry none."""
        self._last: _Last | None = None

    def reset(self) -> None:
        """Clear the memory; the next frame is restored by itself."""
        self._last = None

    def restore(self, frames: Sequence[Frame]) -> list[Frame]:
        """Restore frames in the order of the stream; planes other than colour pass through.

        Raises:
            InputError: the restorer's device has no estimator, or a frame does not fit.
        """
        return [self._next(frame) for frame in frames]

    def export_state(self) -> State:
        """Return a copy of the memory as arrays; empty before the first frame.

        A stream with the same restorer and options that imports it gives the same bytes.
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
            "anchor": np.array([last.offset.right, last.offset.down]),
            **pack_choice(last.choice),
            "stream_id": np.array(frame.stream_id),
        }
        return {name: array.copy() for name, array in state.items()}

    def import_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a state of `export_state`.

        Raises:
            InputError: not a state, or a state of another release.
        """
        self.reset()
        if not state:
            return
        try:
            self._last = _last_of(state, self._restore, self._restorer.device)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"this is not the state of a stream ({error!r}): pass the result of export_state"
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
        offset = GridOffset() if last is None else last.offset
        if before is not None and motion is not None and self._temporal.anchor:
            offset = offset.along(motion, before.residual, self._restorer.traits.multiple)
        guided = self._guided(frame, laid_out, last)
        # a GPU starts here and works while the picture is compared with the last one
        restored = self._pass(laid_out, offset, frame.size, guided)
        estimated = frame.motion is None
        past = None if before is None else self._look_back(before, motion, seen, estimated)
        began = last is None or (offset == GridOffset() and not last.choice)
        if past is None and not began:  # a cut resets the memory
            offset = GridOffset()
            guided = self._guided(frame, laid_out, None)
            restored = self._pass(laid_out, offset, frame.size, guided)
        picture = _pixels(restored)
        memory = add_residual(seen, picture)
        if past is not None:
            fresh, memory = memory, fuse(memory, past, self._temporal)
            revised = torch.from_numpy(revise(picture, fresh, memory)).permute(2, 0, 1)[None]
            restored = _between(revised.to(restored.device), restored, guided)
        answer = take_back(frame, laid_out, restored)
        # a network that overflows once must not spoil the rest of the stream
        sound = np.isfinite(cv2.norm(memory.residual))
        color, choice = answer.color.copy(), self._chosen(guided)
        settled = guided is None or guided.stays
        kept = _Last(own, color, box, memory, offset, choice=choice, settled=settled)
        self._last = kept if sound else None
        return answer

    def _guided(self, frame: Frame, laid_out: LaidOut, last: _Last | None) -> Guided | None:
        """Guide a picture by the references, starting from the choice for the last one."""
        if self.guide is None:
            return None
        before = () if last is None else last.choice
        return guide_frame(self.guide, frame, laid_out, self._restore, before)

    def _chosen(self, guided: Guided | None) -> Choice:
        """Count a guided frame and return its choice of references."""
        if self.guide is None or guided is None:
            return ()
        self.guide.count(guided)
        return guided.choice

    def _pass(
        self,
        laid_out: LaidOut,
        offset: GridOffset,
        size: tuple[int, int],
        guided: Guided | None,
    ) -> Tensor:
        options = self._restore.sized(self._restorer, size)
        guidance = None if guided is None else guided.guidance
        return restore_with_offset(self._restorer, laid_out.rgb, offset, options, guidance)

    def _before(self, last: _Last | None, box: Box) -> Memory | None:
        """Return the last frame's memory, placed in this box; None where it is not used."""
        if last is None or self._temporal.gain == self._temporal.input_gain == 0:
            return None
        if last.box == box:
            return last.memory
        return place(last.memory, last.box, box, ground=self._restore.matte)

    def _motion(self, frame: Frame, box: Box, before: Memory, seen: Memory) -> Plane:
        """Return backward flow (h, w, 2) of the box: the renderer's, or an estimate."""
        if frame.motion is not None:
            return _float32(frame.motion[box])
        motion = self.flow.between(before.seen, seen.seen)
        return settle(motion, before.brightness, seen.brightness)

    def _look_back(
        self, before: Memory, motion: Plane | None, seen: Memory, estimated: bool
    ) -> Past | None:
        """Compare the last memory with the current picture; None after a cut."""
        carried, between = carry(before, motion)
        if is_cut(carried.brightness, seen.brightness):
            return None
        compared = compare(carried, between, seen)
        trust = trusted(carried, compared, seen, self._temporal)
        antialiased = antialias_picture(seen, carried, compared, trust, self._temporal)
        return Past(antialiased, carried, compared, trust, estimated)

    def _follows(self, frame: Frame, last: Frame) -> bool:
        """Tell by size, kind, `stream_id` and `pts` whether a frame continues the stream."""
        kinds = [(f.size, f.color.dtype, f.alpha is None, f.alpha_kind) for f in (frame, last)]
        if kinds[0] != kinds[1] or frame.stream_id != last.stream_id:
            return False
        longest = self._temporal.max_gap
        if longest is None or frame.pts is None or last.pts is None:
            return True
        return 0 < frame.pts - last.pts <= longest

    def _repeat(self, frame: Frame, last: _Last) -> Frame:
        """Repeat the last answer; outside the alpha box, where nothing is visible, the input."""
        color = frame.color.copy()
        color[last.box] = last.color[last.box]
        seen = replace(last.frame, pts=frame.pts)
        self._last = replace(last, frame=seen, repeats=last.repeats + 1)
        return frame.with_color(color)


def warm_up() -> None:
    """Compile the code of streams before their first frame.

    This takes about ten seconds once on a machine, and less than one in every later process.
    """
    y, x = np.mgrid[:32, :32]
    pictures = [np.stack([4 * x + shift, 4 * y, x + y], -1).astype(np.uint8) for shift in (0, 4)]
    Stream(load_restorer("copy", device="cpu")).restore([Frame(color=p) for p in pictures])


def _last_of(
    state: Mapping[str, NDArray[Any]], options: RestoreOptions, device: torch.device
) -> _Last:
    """Invert `Stream.export_state`; the remaining planes are computed from the frame."""
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
    offset = GridOffset(*(int(n) for n in state["anchor"]))
    choice = unpack_choice(state)
    output, box = state["output"].copy(), laid_out.box
    return _Last(frame, output, box, memory, offset, repeats, choice, bool(settled))


def _between(revised: Tensor, restored: Tensor, guided: Guided | None) -> Tensor:
    """Return the stabilised picture, but the restored one where references are trusted.

    Detail from a reference rests on an alignment that is averaged over frames; the stabiliser
    would only soften it. A key pair's detail lies on the frame's own picture, which may flicker.
    """
    if guided is None or guided.guidance.exact:
        return revised
    return torch.lerp(revised, restored, guided.guidance.confidence.to(revised.dtype))


def _looks_same(frame: Frame, last: _Last) -> bool:
    """Tell whether the visible pixels of a frame equal those of the last one."""
    pairs = [(frame.color[last.box], last.frame.color[last.box])]
    if frame.alpha is not None and last.frame.alpha is not None:
        pairs.append((frame.alpha, last.frame.alpha))
    # a few rows tell most frames apart for next to nothing
    return all(np.array_equal(a[::16], b[::16]) and np.array_equal(a, b) for a, b in pairs)


def _look(frame: Frame, laid_out: LaidOut, age: int) -> Memory:
    """Make the memory of a frame's picture; `frame` must be the stream's own copy."""
    box = laid_out.box
    opaque = frame.alpha is None and frame.color.dtype == np.uint8
    seen = frame.color if opaque else from_tensor(laid_out.rgb, np.uint8)[0]
    alpha = None if frame.alpha is None else _pixels(to_tensor([frame.alpha[box]]))
    depth = None if frame.depth is None else frame.depth[box]
    return look(seen, _pixels(laid_out.rgb), alpha=alpha, depth=depth, age=age)


def _own(frame: Frame) -> Frame:
    """Copy the kept planes: a renderer may reuse its buffers for the next frame."""
    alpha, depth = (None if p is None else p.copy() for p in (frame.alpha, frame.depth))
    return replace(frame, color=frame.color.copy(), alpha=alpha, depth=depth, motion=None)


def _pixels(picture: Tensor) -> NDArray[np.float32]:
    """Convert (1, c, h, w) on any device to (h, w, c) float32, or (h, w) where c is 1."""
    return from_tensor(picture, np.float32)[0]


def _float32(motion: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    if motion.dtype == np.float16:  # numpy converts these slowly
        return torch.from_numpy(motion.copy()).float().numpy()
    return motion.astype(np.float32, order="C")
