"""A frame between a render thread and the client's own thread, and the frame shown for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatmend.core.frame import Frame
from splatmend.plugin.protocol.frames import to_planes
from splatmend.plugin.protocol.framing import Buffer
from splatmend.plugin.protocol.messages import Camera, FrameRequest
from splatmend.plugin.protocol.plane_formats import Plane

__all__ = ["Request", "Shown", "request_of"]


@dataclass(frozen=True)
class Shown:
    """A frame to show, and the outcome of its restoration."""

    frame: Frame
    """Restored, or the frame that was given."""
    restored: bool
    id: int
    age_ms: float = 0.0
    """Time since the client was given the frame that is shown."""
    why: str = ""
    """Reason for a raw frame: down, bypass, waiting, late, old, busy, unchanged, unreadable or
    closed, or the server's reason or error code."""


@dataclass(eq=False)
class Request:
    """A frame on its way to the server; times are those of `time.monotonic`."""

    id: int
    frame: Frame
    """The frame to send; the answer takes its other planes from it."""
    given: Frame
    planes: tuple[Plane, ...]
    data: tuple[Buffer, ...]
    cut_id: int
    """Id of the newest frame that began a new scene."""
    camera: Camera | None
    made: float
    deadline: float | None
    sent: float = 0.0
    missed: bool = False
    answers: "SimpleQueue[Shown]" = field(default_factory=SimpleQueue)
    """Gets one answer, unless a newer frame replaces the request in the slot."""

    def message(self, session: str, last_sent_id: int) -> FrameRequest:
        """Build the message; it states a cut unless an earlier frame since the cut was sent."""
        return FrameRequest(
            session=session,
            id=self.id,
            pts=int(self.made * 1e9),
            width=self.frame.size[1],
            height=self.frame.size[0],
            cut=self.cut_id > last_sent_id,
            camera=self.camera,
            planes=self.planes,
            data=self.data,
        )

    def raw(self, why: str) -> Shown:
        """Return the given frame, unrestored."""
        return Shown(self.given, restored=False, id=self.id, why=why)


def request_of(
    frame: Frame,
    *,
    frame_id: int,
    cut_id: int,
    made: float,
    deadline: float | None,
    uses: Sequence[str],
    copy: bool,
    camera: Camera | None = None,
    mask: NDArray[np.uint8] | None = None,
) -> Request:
    """Make the request for a frame; planes that the server does not use are not sent.

    `copy` is for frames whose arrays are written again before the answer.
    """
    planes = {name: getattr(frame, name) for name in ("color", "alpha", "depth", "motion")}
    kept = {name: plane for name, plane in planes.items() if plane is not None}
    own = replace(frame, **{n: p.copy() for n, p in kept.items()}) if copy else frame
    unused: dict[str, Any] = {n: None for n in ("depth", "motion") if n not in uses}
    sent = replace(own, **unused)
    if mask is not None:
        mask = np.array(mask, order="C") if "mask" in uses else None
    wire, data = to_planes(sent, mask=mask)
    return Request(
        id=frame_id,
        frame=own,
        given=frame,
        planes=wire,
        data=data,
        cut_id=cut_id,
        camera=camera,
        made=made,
        deadline=deadline,
    )
