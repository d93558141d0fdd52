"""The choice of the next frame, in the one place that carriers and workers share.

A monitor: every method takes one lock, and no thread holds it while it touches pixels or uses
sockets. Carriers open sessions and submit frames. Workers take and finish them. Each frame gets
exactly one answer, from the first thread that knows its outcome.
"""

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from queue import SimpleQueue

from splatmend.plugin.protocol.codec import encode
from splatmend.plugin.protocol.framing import ProtocolError
from splatmend.plugin.protocol.messages import Bye, Drop, ErrorReply, FrameRequest, Hello, Result
from splatmend.plugin.server.sessions import Job, Peer, Policy, Session
from splatmend.plugin.server.stats import Meter, StreamFigures

__all__ = ["Answer", "Lane", "Scheduler"]

Answer = Result | Drop | ErrorReply


class Lane:
    """The sessions of a worker, the next in turn first."""

    def __init__(self, *, max_batch: int, stateful: bool, shares: bool) -> None:
        self.max_batch = max_batch
        self.stateful = stateful
        """Whether it can keep a memory for each session."""
        self.shares = shares
        """Whether sessions with a memory can share a batch."""
        self.sessions: deque[Session] = deque()
        self.bell: SimpleQueue[None] = SimpleQueue()
        """Bell that wakes the worker; `asleep` tells whether the worker waits for it."""
        self.asleep = False


class Scheduler:
    """Sessions and their waiting frames."""

    def __init__(self, lanes: Sequence[Lane], policy: Policy) -> None:
        self.policy = policy
        self.frames: Counter[str] = Counter()
        """Answered frames by outcome, of all present and past sessions."""
        self._lanes = lanes
        self._sessions: dict[Peer, Session] = {}
        self._lock = threading.RLock()
        self._answered = threading.Condition(self._lock)
        """Notified while draining."""
        self._draining = False
        self._stopped = False

    # For carriers

    def open(self, peer: Peer, hello: Hello) -> Session:
        """Open the session of a connection, and end its earlier one.

        Raises:
            ProtocolError: the server is full or stopping.
        """
        with self._lock:
            self._end(self._sessions.get(peer))
            if self._draining:
                raise ProtocolError("busy", "the server is stopping: try again later")
            if not self._make_room():
                raise ProtocolError(
                    "busy", f"all {self.policy.max_sessions} sessions are taken: try again later"
                )
            index = min(range(len(self._lanes)), key=lambda i: len(self._lanes[i].sessions))
            lane = self._lanes[index]
            credit = self.policy.credit_local if peer.local else self.policy.credit_remote
            if hello.mode == "ordered":  # nothing is gained by waiting with work to come
                credit = max(credit, 2 * lane.max_batch)
            session = Session(
                id=secrets.token_hex(6),
                peer=peer,
                hello=hello,
                credit=credit,
                lane=index,
                stateful=hello.temporal and lane.stateful,
                meter=Meter(),
            )
            self._sessions[peer] = session
            lane.sessions.append(session)
            return session

    def session_of(self, peer: Peer) -> Session | None:
        """Return the open session of a connection, or None."""
        with self._lock:
            return self._sessions.get(peer)

    def submit(self, session: Session, request: FrameRequest) -> None:
        """Queue a frame; unless the session is ordered, drop its older waiting ones."""
        with self._lock:
            now = time.monotonic()
            job = Job(session, request, now)
            session.last_seen = now
            session.strikes = 0
            session.last_id = request.id
            session.meter.size = request.width, request.height
            if self._draining or session.closing is not None or session.gone:
                self._drop(job, "shutdown")
                return
            if not session.ordered:
                while session.pending:
                    self._drop(session.pending.popleft(), "superseded")
            elif len(session.pending) + len(session.active) >= session.credit:
                self._drop(job, "busy")  # its client sent more than it was allowed to
                return
            session.pending.append(job)
            self._ring(self._lanes[session.lane])

    def leave(self, session: Session, why: str) -> None:
        """End a session with a bye once all its frames are answered."""
        with self._lock:
            if session.closing is None:
                session.closing = why
                while session.pending:
                    self._drop(session.pending.popleft(), "shutdown")
                self._finish_leaving(session)

    def lose(self, peer: Peer) -> None:
        """Remove the session of a lost connection, without answers."""
        with self._lock:
            if session := self._sessions.get(peer):
                session.pending.clear()
                self._remove(session)

    def refuse(self, session: Session, frame_id: int | None) -> bool:
        """Count an unusable message; return True if it was one too many."""
        with self._lock:
            session.last_seen = time.monotonic()
            session.strikes += 1
            if frame_id is not None:
                session.last_id = max(session.last_id, frame_id)
                session.meter.frames["error"] += 1
                self.frames["error"] += 1
            return session.strikes >= self.policy.strikes

    def touch(self, session: Session) -> None:
        """Note that a session is alive."""
        with self._lock:
            session.last_seen = time.monotonic()

    def tick(self) -> None:
        """Drop stale frames and close silent sessions; call it often."""
        with self._lock:
            now = time.monotonic()
            for session in list(self._sessions.values()):
                self._drop_stale(session, now)
            for session in self._silent(self.policy.idle_s):
                self._close_idle(session)

    # For workers

    def take(self, lane: int) -> list[Job]:
        """Wait for work and take a batch of it; empty once the server has stopped.

        All frames of one batch are of one kind. Several frames come from one ordered session, or
        from as many sessions, either all with a memory or all without.
        """
        own = self._lanes[lane]
        while True:
            with self._lock:
                if self._stopped:
                    return []
                if jobs := self._pick(own):
                    return jobs
                own.asleep = True
            own.bell.get()  # unlike a condition's, its sleep is one call of C

    def answer(self, job: Job, answer: Answer) -> None:
        """Answer a taken frame, once only."""
        with self._lock:
            self._answer(job, answer)
            if job in job.session.active:
                job.session.active.remove(job)
            self._finish_leaving(job.session)
            if self._draining:
                self._answered.notify_all()

    # For the server

    def drain(self, grace_s: float) -> None:
        """Answer everything, say bye to everyone, let the workers go.

        Drops waiting frames, and waits for those at a worker, `grace_s` seconds at most.
        """
        with self._lock:
            self._draining = True
            sessions = list(self._sessions.values())
            for session in sessions:
                self.leave(session, "shutdown")
            self._answered.wait_for(lambda: not any(s.active for s in sessions), grace_s)
            for session in list(self._sessions.values()):
                self._end(session)
            self._stopped = True
            for lane in self._lanes:
                self._ring(lane)

    def figures(self) -> tuple[dict[str, int], tuple[StreamFigures, ...]]:
        """Return the frames by outcome and the open sessions."""
        with self._lock:
            streams = tuple(
                StreamFigures(
                    session=s.id, stream=s.hello.stream, client=s.hello.client, mode=s.hello.mode,
                    size=s.meter.size, fps=s.meter.fps(), frames=dict(s.meter.frames),
                    age_ms=s.meter.ages(), guided=s.fit.frames, unfit=s.fit.unfit,
                )
                for s in self._sessions.values()
            )  # fmt: skip
            return dict(self.frames), streams

    # With the lock held

    def _make_room(self) -> bool:
        """Return whether one more session may come in; close one that missed two heartbeats."""
        if len(self._sessions) < self.policy.max_sessions:
            return True
        silent = self._silent(2 * self.policy.heartbeat_ms / 1e3)
        if silent:
            self._close_idle(min(silent, key=lambda session: session.last_seen))
        return bool(silent)

    def _silent(self, seconds: float) -> list[Session]:
        """Return the sessions that are silent for so long and wait for no answer."""
        limit = time.monotonic() - seconds
        return [
            s
            for s in self._sessions.values()
            if s.last_seen < limit and not s.pending and not s.active
        ]

    def _close_idle(self, session: Session) -> None:
        session.closing = session.closing or "idle"
        self._finish_leaving(session)

    def _ring(self, lane: Lane) -> None:
        if lane.asleep:
            lane.asleep = False
            lane.bell.put(None)

    def _pick(self, lane: Lane) -> list[Job]:
        now = time.monotonic()
        jobs: list[Job] = []
        for session in list(lane.sessions):
            self._drop_stale(session, now)
            if session.active or not session.pending:
                continue
            alone = session.ordered or (session.stateful and not lane.shares)
            if jobs and (alone or not _may_share(session.pending[0], jobs[0])):
                continue
            most = lane.max_batch if alone else 1
            jobs += self._pop(session, most, now)
            lane.sessions.remove(session)  # its next turn comes after all others'
            lane.sessions.append(session)
            if alone or len(jobs) >= lane.max_batch:
                break
        return jobs

    def _pop(self, session: Session, most: int, now: float) -> Iterable[Job]:
        jobs = [session.pending.popleft()]
        while len(jobs) < most and session.pending and session.pending[0].kind == jobs[0].kind:
            jobs.append(session.pending.popleft())
        for job in jobs:
            job.taken = now
        session.active += jobs
        return jobs

    def _drop_stale(self, session: Session, now: float) -> None:
        while session.pending and session.pending[0].is_stale(now):
            self._drop(session.pending.popleft(), "stale")

    def _drop(self, job: Job, why: str) -> None:
        session = job.session
        self._answer(
            job, Drop(session=session.id, id=job.request.id, why=why, credit=session.credit)
        )

    def _answer(self, job: Job, answer: Answer) -> None:
        session = job.session
        if job.answered or session.gone:
            return
        job.answered = True
        outcome = "error"
        if isinstance(answer, Drop):
            outcome = answer.why
        elif isinstance(answer, Result):
            outcome = "result" if answer.applied else "bypass"
            stamps = (job.received, job.taken, job.prepared, job.restored, time.monotonic())
            session.meter.times.append(stamps)
        session.meter.frames[outcome] += 1
        self.frames[outcome] += 1
        session.peer.send(encode(answer))

    def _end(self, session: Session | None) -> None:
        """End a session now; drop its frames at a worker."""
        if session is not None and not session.gone:
            while session.active:
                self._drop(session.active.pop(), "shutdown")
            self.leave(session, "replaced")
            self._finish_leaving(session)  # it may have been leaving before

    def _finish_leaving(self, session: Session) -> None:
        if session.closing is not None and not session.active and not session.gone:
            session.peer.send(encode(Bye(session=session.id, why=session.closing)))
            self._remove(session)

    def _remove(self, session: Session) -> None:
        session.gone = True
        self._lanes[session.lane].sessions.remove(session)
        del self._sessions[session.peer]


def _may_share(job: Job, first: Job) -> bool:
    return job.kind == first.kind and job.session.stateful == first.session.stateful
