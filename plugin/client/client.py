"""The client of a frame server, for a render loop or a sequence of frames.

    with Client() as client:
        shown = client.restore(frame).frame

The socket lives on a thread of its own. A frame that the server does not answer is shown as
it was rendered; a server that keeps missing is left alone for a while and asked again with
single frames; a server that comes back is found again. Nothing of this raises.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Literal, Self

import numpy as np
import zmq
from numpy.typing import NDArray

from splatmend.core.errors import InputError
from splatmend.core.frame import Frame
from splatmend.plugin.client.breaker import Breaker
from splatmend.plugin.client.connection import Link
from splatmend.plugin.client.references import GivenReferences, client_references
from splatmend.plugin.client.requests import Request, Shown, request_of
from splatmend.plugin.protocol.curve_keys import client_keys
from splatmend.plugin.protocol.messages import MODES, Camera, Hello, Welcome
from splatmend.plugin.protocol.zmq_sockets import DEFAULT_URL, check_url

__all__ = ["Client", "ClientOptions", "Shown"]

_WANTED = ("up", "probe")


@dataclass(frozen=True)
class ClientOptions:
    """How a client asks, and how long it waits."""

    mode: Literal["latest", "sync", "ordered"] = "sync"
    """sync: wait for each frame until its deadline. latest: never wait, show the newest frame
    that came back. ordered: every frame counts, however long it takes."""
    deadline_ms: float = 250.0
    """In sync: the longest that `restore` may take."""
    max_age_ms: float = 500.0
    """In latest: the oldest frame that is shown. The server drops what waits longer."""
    patience_s: float = 30.0
    """In ordered: how long a server may be away, or a frame may take."""
    temporal: bool = True
    """Let the server steady the stream over time, if it can."""
    stream: str = ""
    """Shown in the server's figures."""
    program: str = "splatmend-python"
    """Likewise."""
    misses: int = 3
    """Unanswered frames in a row after which the server is left alone for a second, then two,
    up to ten."""
    key: Path | None = None
    """For a server on another machine: the client's .key_secret, see `splatmend keys`."""
    server_key: Path | None = None
    """And the server's .key."""
    references: GivenReferences | None = None
    """Pictures of the person. A text is the name of one of the server's sets; a path, several
    paths or `References` are sent to the server, 16 pictures at most."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        least = min(self.deadline_ms, self.max_age_ms, self.patience_s, self.misses)
        if not least > 0:
            raise InputError(f"times and misses must be above 0, got {least}")
        if (self.key is None) != (self.server_key is None):
            raise InputError("key and server_key go together: give both, or neither")


class Client:
    """Sends the frames of one stream to one server.

    `restore` and `stream` belong to one thread at a time. Neither takes a lock, so that an
    exception which a viewer throws into its render thread does no harm.

    Raises:
        InputError: an address, a key or references that cannot be used. A server that is not
            there is no error: it may come.
    """

    def __init__(self, url: str = DEFAULT_URL, options: ClientOptions | None = None) -> None:
        check_url(url)
        self.options = options = options or ClientOptions()
        keys = None
        if options.key is not None and options.server_key is not None:
            keys = client_keys(options.key, options.server_key)
        references = client_references(options.references)
        limit_ms = {"sync": options.deadline_ms, "latest": options.max_age_ms}.get(options.mode)
        hello = Hello(
            client=options.program,
            stream=options.stream,
            mode=options.mode,
            max_age_ms=limit_ms,
            temporal=options.temporal,
            references=references.name,
        )
        breaker = Breaker(misses_allowed=options.misses)
        self._ids = itertools.count()
        self._cut_id = -1
        self._link = Link(
            url, hello, breaker, keys=keys, patience_s=options.patience_s, references=references
        )
        try:
            self._link.start()
        except zmq.ZMQError as error:
            raise InputError(f"cannot connect to {url}: {error.strerror}") from error

    @property
    def state(self) -> str:
        """up, down (no server), bypass (it does not answer), or probe (it is being tried)."""
        return self._link.state

    @property
    def welcome(self) -> Welcome | None:
        """What the server said of itself; None while there is none."""
        return self._link.welcome

    @property
    def references(self) -> int:
        """How many of the references that this client sent the server uses; 0 until it does."""
        return self._link.offer.in_use

    @property
    def awaits_references(self) -> bool:
        """Whether the server has yet to say if it uses the references that this client sent."""
        return self._link.offer.is_open

    @property
    def counts(self) -> dict[str, int]:
        """Frames sent, restored, and shown raw by reason; `unasked` answers were thrown away."""
        return dict(self._link.counts)

    @property
    def age_ms(self) -> tuple[float, float] | None:
        """Median and 95th percentile of the last 64 frames' way there and back; None before."""
        ages = sorted(self._link.ages_ms.copy())
        return (ages[len(ages) // 2], ages[len(ages) * 95 // 100]) if ages else None

    @property
    def wants_frames(self) -> bool:
        """Whether `restore` has any use for a frame just now; else call `skip`."""
        return self._link.state in _WANTED

    def skip(self) -> None:
        """A frame was rendered and shown as it is: those that follow are no longer the next."""
        next(self._ids)

    def wait(self, timeout_s: float = 5.0) -> bool:
        """Wait until a server has answered hello; not needed, and not for render loops."""
        return self._link.ready.wait(timeout_s)

    def restore(
        self,
        frame: Frame,
        *,
        cut: bool = False,
        camera: Camera | None = None,
        mask: NDArray[np.uint8] | None = None,
    ) -> Shown:
        """Send a frame and say what to show instead.

        In sync that is this frame, in latest one of the last few; the given frame itself where
        there is nothing better. In ordered, use `stream`.

        Args:
            frame: what was rendered. Its arrays may be written again as soon as this returns: in
                latest they are copied; in sync what is left on its way is not shown any more.
            cut: it has nothing to do with the frames before: a new avatar, a jump.
            camera: of the frame.
            mask: (h, w), how much of the restoration to keep, 255 all of it.

        Raises:
            InputError: the mode is ordered.
        """
        if self.options.mode == "ordered":
            raise InputError("a client in the mode ordered has stream(), not restore()")
        made, frame_id = time.monotonic(), next(self._ids)
        if cut:
            self._cut_id = frame_id
        state = self._link.state
        sync = self.options.mode == "sync"
        if state in _WANTED:
            request = request_of(
                frame,
                frame_id=frame_id,
                cut_id=self._cut_id,
                made=made,
                deadline=made + self.options.deadline_ms / 1e3 if sync else None,
                uses=self._link.uses,
                camera=camera,
                mask=mask,
                copy=not sync,
            )
            self._link.submit(request)
            if sync and state == "up":
                return self._await(request)
        return self._instead(frame, frame_id, "bypass" if state == "probe" else state)

    def stream(self, frames: Iterable[Frame]) -> Iterator[Shown]:
        """Restore all frames, in order; in the mode ordered.

        As many frames are on their way as the server gives credit for, and one more. While the
        server is away they wait, for `patience_s`.

        Raises:
            InputError: the mode is another.
        """
        if self.options.mode != "ordered":
            raise InputError(
                f"stream() needs a client in the mode ordered, not {self.options.mode}"
            )
        waiting: deque[Request] = deque()
        for frame in frames:
            request = request_of(
                frame,
                frame_id=next(self._ids),
                cut_id=self._cut_id,
                made=time.monotonic(),
                deadline=None,
                uses=("depth", "motion") if self._link.welcome is None else self._link.uses,
                copy=True,
            )
            waiting.append(request)
            self._link.submit(request)
            while len(waiting) > self._link.credit:
                yield waiting.popleft().answers.get()
        while waiting:
            yield waiting.popleft().answers.get()

    def close(self) -> None:
        """Say bye and wait for the thread to end; frames that wait are shown raw.

        Again, or from two threads at once: each returns when the client's thread has ended.
        """
        self._link.close()

    def _await(self, request: Request) -> Shown:
        assert request.deadline is not None
        left = request.deadline - time.monotonic()
        try:
            return request.answers.get(timeout=max(left, 0.0))
        except Empty:
            self._link.give_up(request)
            return request.raw("late")

    def _instead(self, frame: Frame, frame_id: int, state: str) -> Shown:
        """Without waiting: in latest the newest restored frame, if there is one that will do."""
        newest = self._link.newest if self.options.mode == "latest" else None
        why = state
        if newest is not None:
            shown, made = newest
            age_ms = (time.monotonic() - made) * 1e3
            fits = (shown.frame.size, shown.frame.color.dtype) == (frame.size, frame.color.dtype)
            if fits and shown.id >= self._cut_id and age_ms <= self.options.max_age_ms:
                return replace(shown, age_ms=age_ms)
            why = "old" if state == "up" else state
        elif state == "up":
            why = "waiting"
        return Shown(frame, restored=False, id=frame_id, why=why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
