"""A restorer with memory along one stream: the same for a file and for a live renderer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
    restore_pixels,
    to_tensor,
)
from splatmend.core.references import Guided
from splatmend.core.references.choice import pack_choice, unpack_choice
from splatmend.core.restore.frames import LaidOut, as_guide, guide_frame, lay_out, take_back
from splatmend.temporal.motion.flow import FlowEstimator, load_flow
from splatmend.temporal.options import TemporalOptions
from splatmend.temporal.stabilizer.accumulation import accumulate, begin
from splatmend.temporal.stabilizer.antialiasing import Past, antialias
from splatmend.temporal.stabilizer.memory import Look, Memory, place, split_colors
from splatmend.temporal.stabilizer.planes import half, receive, send

__all__ = ["Stream"]

Box = tuple[slice, slice]
State = dict[str, NDArray[Any]]

_CPU = torch.device("cpu")
_PLANES = (
    "antialiased", "tints", "residual", "energy", "usual_flicker", "persistence",
    "age",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Last:
    """The memory of a stream: its last frame and the answer to it."""

    frame: Frame
    """The input, copied."""
    color: NDArray[Any]
    """The colour of the answer."""
    box: Box
    """The part of the frame that was restored; the other planes have its size."""
    shown: Tensor
    """(3, h, w) on the CPU: the anti-aliased input, from which the next motion is estimated."""
    memory: Memory
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
    The planes of the memory lie where the restorer is. With a GPU each frame needs one transfer in
    and one out; references need more.

    The memory is reset by a cut, but not by a fade; by another size, dtype, kind of alpha or
    `stream_id`; and by a step of `pts` beyond `TemporalOptions.max_gap`. A frame whose visible
    pixels equal the last one's gets the last answer, without the network. With references, the
    nearest of them guide each frame and fade into one another. A stream is not for two threads at
    once.

    >>> import numpy as np
    >>> from splatmend.core import load_restorer
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
        kind = restorer.device.type
        self._home = restorer.device if kind in ("cpu", "cuda") else _CPU
        self._last: _Last | None = None

    def reset(self) -> None:
        """Clear the memory; the next frame is restored by itself."""
        self._last = None

    @torch.inference_mode()
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
        numbers = [last.repeats, pts is not None, pts or 0, premultiplied, last.settled]
        state = {
            "input": frame.color,
            **{name: plane for name, plane in planes.items() if plane is not None},
            "output": last.color,
            "shown": last.shown.numpy(),
            **{name: getattr(last.memory, name).cpu().numpy() for name in _PLANES},
            "numbers": np.array(numbers, np.int64),
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
            self._last = _last_of(state, self._restore, self._home)
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
        laid_out = lay_out(frame, self._restore, _CPU)
        if laid_out is None:  # nothing is visible, so there is nothing to remember
            self.reset()
            return frame
        before = self._before(last, laid_out.box)
        motion = None
        if before is not None:
            motion = self._motion(frame, laid_out, before[1], still=still)
        rgb, now, moved = self._sent(frame, laid_out, motion)
        past, antialiased = None, rgb
        if before is not None and moved is not None:
            past, antialiased = antialias(
                before[0], moved, rgb, now,
                gain=self._temporal.input_gain, tolerance=self._temporal.tolerance,
            )  # fmt: skip
        guided = self._guided(frame, laid_out, antialiased, last, past)
        answer = self._restored(antialiased, frame.size, guided)
        if past is None:
            memory = begin(rgb, now, answer)
        else:
            memory, answer = self._accumulated(past, antialiased, now, answer, guided)
        answer, antialiased = receive(answer, antialiased)
        result = take_back(frame, laid_out, answer[None])
        settled = guided is None or guided.stays
        self._last = _Last(
            _own(frame), result.color.copy(), laid_out.box,
            antialiased, memory,
            choice=self._chosen(guided), settled=settled,
        )  # fmt: skip
        return result

    def _sent(
        self, frame: Frame, laid_out: LaidOut, motion: NDArray[np.float32] | None
    ) -> tuple[Tensor, Look, Tensor | None]:
        """Move the picture, its planes and its motion to the restorer's device, and split it."""
        box = laid_out.box
        planes: dict[str, Tensor] = {"rgb": laid_out.rgb[0]}
        if motion is not None:
            planes["motion"] = torch.from_numpy(motion)
        if frame.alpha is not None:
            planes["alpha"] = to_tensor([frame.alpha[box]])[0]
        if frame.depth is not None:
            planes["depth"] = to_tensor([_float32(frame.depth[box])])[0]
        there = dict(zip(planes, send(*planes.values(), device=self._home), strict=True))
        brightness, tints = split_colors(there["rgb"])
        look = Look(brightness, tints, there.get("alpha"), there.get("depth"))
        return there["rgb"], look, there.get("motion")

    def _guided(
        self,
        frame: Frame,
        laid_out: LaidOut,
        antialiased: Tensor,
        last: _Last | None,
        past: Past | None,
    ) -> Guided | None:
        """Guide the anti-aliased picture by the references, going on from the last choice."""
        if self.guide is None:
            return None
        begins = last is None or (past is not None and bool(past.cut))
        before = () if begins or last is None else last.choice
        seen = replace(laid_out, rgb=antialiased[None])
        return guide_frame(self.guide, frame, seen, self._restore, before)

    def _chosen(self, guided: Guided | None) -> Choice:
        """Count a guided frame and return its choice of references."""
        if self.guide is None or guided is None:
            return ()
        self.guide.count(guided)
        return guided.choice

    def _restored(self, rgb: Tensor, size: tuple[int, int], guided: Guided | None) -> Tensor:
        """Restore a picture (3, h, w) of a frame of `size`."""
        options = self._restore.sized(self._restorer, size)
        guidance = None if guided is None else guided.guidance
        if guidance is not None:
            guidance = guidance.map(lambda plane: plane.to(self._restorer.device))
        seen = rgb[None].to(self._restorer.device)
        return restore_pixels(self._restorer, seen, options, guidance)[0].to(self._home)

    def _accumulated(
        self, past: Past, antialiased: Tensor, now: Look, restored: Tensor, guided: Guided | None
    ) -> tuple[Memory, Tensor]:
        """Average the residual with the past's, but not where references are trusted.

        Detail from a reference rests on an alignment that is averaged over frames; averaging it
        again would only soften it. A key pair's detail lies on the frame's own picture, which may
        flicker.
        """
        fresh = None
        if guided is not None and not guided.guidance.exact:
            fresh = half(guided.guidance.confidence[0].float().to(self._home))
        return accumulate(past, antialiased, now, restored, gain=self._temporal.gain, fresh=fresh)

    def _before(self, last: _Last | None, box: Box) -> tuple[Memory, Tensor] | None:
        """Return the last memory and picture, placed in this box; None where they are not used."""
        if last is None or self._temporal.gain == self._temporal.input_gain == 0:
            return None
        if last.box == box:
            return last.memory, last.shown
        return place(last.memory, last.shown, last.box, box, ground=self._restore.matte)

    def _motion(
        self, frame: Frame, laid_out: LaidOut, shown: Tensor, *, still: bool
    ) -> NDArray[np.float32]:
        """Return backward flow (h, w, 2) of the box: the renderer's, or an estimate."""
        if still:
            return np.zeros((*shown.shape[1:], 2), np.float32)
        if frame.motion is not None:
            return _float32(frame.motion[laid_out.box])
        opaque = frame.alpha is None and frame.color.dtype == np.uint8
        picture = frame.color if opaque else from_tensor(laid_out.rgb, np.uint8)[0]
        return self.flow.between(from_tensor(shown[None], np.uint8)[0], picture)

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


def _last_of(
    state: Mapping[str, NDArray[Any]], options: RestoreOptions, device: torch.device
) -> _Last:
    """Invert `Stream.export_state`; the remaining planes are computed from the frame."""
    repeats, has_pts, pts, premultiplied, settled = (int(n) for n in state["numbers"])
    frame = Frame(
        color=state["input"].copy(),
        alpha=state["alpha"].copy() if "alpha" in state else None,
        alpha_kind="premultiplied" if premultiplied else "straight",
        depth=state["depth"].copy() if "depth" in state else None,
        pts=pts if has_pts else None,
        stream_id=str(state["stream_id"]),
    )
    laid_out = lay_out(frame, options, _CPU)
    if laid_out is None:
        raise ValueError("nothing visible")
    box = laid_out.box
    alpha = None if frame.alpha is None else to_tensor([frame.alpha[box]])[0].to(device)
    depth = None if frame.depth is None else to_tensor([_float32(frame.depth[box])])[0].to(device)
    rgb = laid_out.rgb[0].to(device)
    look = Look(*split_colors(rgb), alpha, depth)
    expected = begin(rgb, look, rgb)
    planes = {name: torch.from_numpy(np.array(state[name])).to(device) for name in _PLANES}
    shown = torch.from_numpy(np.array(state["shown"]))
    sizes = [plane.shape == getattr(expected, name).shape for name, plane in planes.items()]
    if shown.shape != rgb.shape or not all(sizes):
        raise ValueError("planes of several sizes")
    return _Last(
        frame, state["output"].copy(), box, shown,
        Memory(look, **planes),
        repeats, unpack_choice(state), bool(settled),
    )  # fmt: skip


def _looks_same(frame: Frame, last: _Last) -> bool:
    """Tell whether the visible pixels of a frame equal those of the last one."""
    pairs = [(frame.color[last.box], last.frame.color[last.box])]
    if frame.alpha is not None and last.frame.alpha is not None:
        pairs.append((frame.alpha, last.frame.alpha))
    # a few rows tell most frames apart for next to nothing
    return all(np.array_equal(a[::16], b[::16]) and np.array_equal(a, b) for a, b in pairs)


def _own(frame: Frame) -> Frame:
    """Copy the kept planes: a renderer may reuse its buffers for the next frame."""
    alpha, depth = (None if p is None else p.copy() for p in (frame.alpha, frame.depth))
    return replace(frame, color=frame.color.copy(), alpha=alpha, depth=depth, motion=None)


def _float32(motion: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    if motion.dtype == np.float16:  # numpy converts these slowly
        return torch.from_numpy(motion.copy()).float().numpy()
    return motion.astype(np.float32, order="C")
