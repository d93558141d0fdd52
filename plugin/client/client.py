"""The client of a frame server, for a render loop or a sequence of frames.

    with Client() as client:
        shown = client.restore(frame).frame

The socket lives on its own thread. A frame that the server does not answer is shown as it was
rendered. A server that keeps missing frames gets none for a while, and then single frames. The
client finds a server that comes back. None of these failures raises an error.
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
from splatmend.plugin.client.connection import Connection
from splatmend.plugin.client.references import GivenReferences, client_references
from splatmend.plugin.client.requests import Request, Shown, request_of
from splatmend.plugin.protocol.curve_keys import client_keys
from splatmend.plugin.protocol.messages import MODES, Camera, Hello, Welcome
from splatmend.plugin.protocol.zmq_sockets import DEFAULT_URL, check_url

__all__ = ["Client", "ClientOptions", "Shown"]

_WANTED = ("up", "probe")


@dataclass(frozen=True)
class ClientOptions:
    """Mode, waiting times and references of a client."""

    mode: Literal["latest", "sync", "ordered"] = "sync"
    """sync: wait for each frame until its deadline. latest: never wait, show the newest restored
    frame. ordered: restore every frame, however long it takes."""
    deadline_ms: float = 250.0
    """In sync: longest duration of `restore`."""
    max_age_ms: float = 500.0
    """In latest: age of the oldest frame to show. The server drops frames that wait longer."""
    patience_s: float = 30.0
    """In ordered: longest absence of the server, and longest duration of a frame."""
    temporal: bool = True
    """Let the server remove flicker from the stream, if it can."""
    stream: str = ""
    """Name of the stream in the server's figures."""
    program: str = "splatmend-python"
    """Name of the program in the server's figures."""
    misses: int = 3
    """Unanswered frames in a row before the client pauses for one second, then two, up to ten."""
    key: Path | None = None
    """For a server on another machine: the client's .key_secret, see `splatmend keys`."""
    server_key: Path | None = None
    """For a server on another machine: the server's .key."""
    references: GivenReferences | None = None
    """Pictures of the person. A text is the name of one of the server's sets. The client sends a
    path, several paths or `References` to the server, 16 pictures at most."""

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

    `restore` and `stream` belong to one thread at a time. Neither takes a lock, so an exception
    that a viewer throws into its render thread does no harm.

    Raises:
        InputError: an address, a key or references cannot be used. An absent server is not an
            error: it may start later.
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
        self._connection = Connection(
            url, hello, breaker, keys=keys, patience_s=options.patience_s, references=references
        )
        try:
            self._connection.start()
        except zmq.ZMQError as error:
            raise InputError(f"cannot connect to {url}: {error.strerror}") from error

    @property
    def state(self) -> str:
        """Return up, down (no server), bypass (no answers) or probe (one frame is sent)."""
        return self._connection.state

    @property
    def welcome(self) -> Welcome | None:
        """Return the server's welcome; None while there is no session."""
        return self._connection.welcome

    @property
    def references(self) -> int:
        """Return how many of the references sent by this client the server uses."""
        return self._connection.offer.in_use

    @property
    def awaits_references(self) -> bool:
        """Return whether the server's answer to the references of this client is outstanding."""
        return self._connection.offer.is_open

    @property
    def counts(self) -> dict[str, int]:
        """Count frames sent, restored, and shown raw by reason; `unasked`: discarded answers."""
        return dict(self._connection.counts)

    @property
    def age_ms(self) -> tuple[float, float] | None:
        """Return median and 95th percentile age of the last 64 restored frames; None at first."""
        ages = sorted(self._connection.ages_ms.copy())
        return (ages[len(ages) // 2], ages[len(ages) * 95 // 100]) if ages else None

    @property
    def wants_frames(self) -> bool:
        """Return whether `restore` would send a frame now; else call `skip`."""
        return self._connection.state in _WANTED

    def skip(self) -> None:
        """Note that a frame was shown as rendered, so that the next one follows a gap."""
        next(self._ids)

    def wait(self, timeout_s: float = 5.0) -> bool:
        """Wait until a server has answered hello; not necessary, and not for render loops."""
        return self._connection.ready.wait(timeout_s)

    def restore(
        self,
        frame: Frame,
        *,
        cut: bool = False,
        camera: Camera | None = None,
        mask: NDArray[np.uint8] | None = None,
    ) -> Shown:
        """Send a frame and return the frame to show instead.

        In sync that is this frame restored, in latest one of the last few. The given frame itself
        returns if there is nothing better. In ordered, use `stream`.

        Args:
            frame: the rendered frame. You may write its arrays again as soon as this returns:
                latest copies them, and sync does not show a frame that is still on its way.
            cut: the frame starts a new scene: a new avatar, a jump.
            camera: of the frame.
            mask: (h, w), share of the restoration to keep; 255 keeps all of it.

        Raises:
            InputError: the mode is ordered.
        """
        if self.options.mode == "ordered":
            raise InputError("a client in the mode ordered has stream(), not restore()")
        made, frame_id = time.monotonic(), next(self._ids)
        if cut:
            self._cut_id = frame_id
        state = self._connection.state
        sync = self.options.mode == "sync"
        if state in _WANTED:
            request = request_of(
                frame,
                frame_id=frame_id,
                cut_id=self._cut_id,
                made=made,
                deadline=made + self.options.deadline_ms / 1e3 if sync else None,
                uses=self._connection.uses,
                camera=camera,
                mask=mask,
                copy=not sync,
            )
            self._connection.submit(request)
            if sync and state == "up":
                return self._await(request)
        return self._instead(frame, frame_id, "bypass" if state == "probe" else state)

    def stream(self, frames: Iterable[Frame]) -> Iterator[Shown]:
        """Restore all frames in order; only in the mode ordered.

        At most one frame more than the server's credit is on its way. While the server is away,
        frames wait for `patience_s`.

        Raises:
            InputError: the client has another mode.
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
                uses=("depth", "motion")
                if self._connection.welcome is None
                else self._connection.uses,
                copy=True,
            )
            waiting.append(request)
            self._connection.submit(request)
            while len(waiting) > self._connection.credit:
                yield waiting.popleft().answers.get()
        while waiting:
            yield waiting.popleft().answers.get()

    def close(self) -> None:
        """Say bye and wait for the thread to end; waiting frames are shown raw.

        Safe to call again, and from two threads. Each call returns once the client's thread has
        ended.
        """
        self._connection.close()

    def _await(self, request: Request) -> Shown:
        assert request.deadline is not None
        left = request.deadline - time.monotonic()
        try:
            return request.answers.get(timeout=max(left, 0.0))
        except Empty:
            self._connection.give_up(request)
            return request.raw("late")

    def _instead(self, frame: Frame, frame_id: int, state: str) -> Shown:
        """Return a frame at once: in latest the newest restored one, if it is usable."""
        newest = self._connection.newest if self.options.mode == "latest" else None
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
