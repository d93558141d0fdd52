"""The threads that restore frames, one for each device."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from splatmend.core.frame import Frame
from splatmend.core.references import Guide
from splatmend.core.restore.frames import RestoreOptions, restore_frames
from splatmend.core.restorer import Restorer
from splatmend.plugin.protocol.frames import to_frame, to_result
from splatmend.plugin.protocol.framing import ProtocolError
from splatmend.plugin.protocol.messages import ErrorReply, Result
from splatmend.plugin.server.batching import BatchedRestorer
from splatmend.plugin.server.scheduler import Lane, Scheduler
from splatmend.plugin.server.sessions import Job, Session, StreamLike

__all__ = ["Engine", "Worker", "engine_of"]

_log = logging.getLogger(__name__)

_JUDGED_AFTER = 48
"""Guided frames before the log says that references do not fit. Viewers begin with a few empty
frames, and the search for a missing face starts anew after 24."""


@dataclass(frozen=True)
class Engine:
    """The model of one worker and its limits."""

    name: str
    """Name of the model."""
    restore: Callable[[Sequence[Frame]], list[Frame]]
    """Restores frames of one size and type, from any streams; keeps no state."""
    new_stream: Callable[[], StreamLike] | None = None
    """Makes the memory of one session; None if sessions have no memory."""
    max_batch: int = 1
    """Frames in a batch."""
    batched: BatchedRestorer | None = None
    """The restorer of the streams, if they may share a batch."""
    uses: tuple[str, ...] = ("color", "alpha", "mask")
    """Planes that change the result."""
    guided: Callable[[Guide], "Engine"] | None = None
    """Makes the same engine with references; None if it cannot use any."""


def engine_of(
    restorer: Restorer,
    options: RestoreOptions | None = None,
    *,
    max_batch: int | None = None,
    stream: Callable[..., StreamLike] | None = None,
) -> Engine:
    """Make the engine of a restorer.

    Args:
        restorer: any restorer.
        options: strength and colour lock.
        max_batch: frames in a batch; by default one on a CPU, where more gain nothing, else four.
        stream: makes the memory of one session from a restorer and options, and for guided frames
            `references`; for example `splatmend.temporal`'s Stream.
    """
    options = options or RestoreOptions()
    max_batch = max_batch or (1 if restorer.device.type == "cpu" else 4)
    batched = BatchedRestorer(restorer) if stream is not None and max_batch > 1 else None

    def engine(guide: Guide | None) -> Engine:
        plain = Engine(
            name=restorer.traits.name,
            restore=lambda frames: restore_frames(restorer, frames, options, references=guide),
            max_batch=max_batch,
            guided=engine,
        )
        if stream is None:
            return plain
        more = {} if guide is None else {"references": guide}
        return replace(
            plain,
            new_stream=partial(stream, batched or restorer, options, **more),
            batched=batched,
            uses=(*plain.uses, "depth", "motion"),
        )

    return engine(None)


class Worker:
    """Takes batches from the scheduler until it stops, and answers every error."""

    def __init__(self, engine: Engine, scheduler: Scheduler, index: int) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._index = index
        self._thread = threading.Thread(target=self._run, name=f"smp-worker-{index}", daemon=True)

    @staticmethod
    def lane(engine: Engine) -> Lane:
        """Describe an engine for the scheduler."""
        return Lane(
            max_batch=engine.max_batch,
            stateful=engine.new_stream is not None,
            shares=engine.batched is not None,
        )

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end, if it ever began; return False if it is still busy."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with ExitStack() as stack:
            pool = None
            if self._engine.batched is not None:
                name = f"smp-stream-{self._index}"
                pool = ThreadPoolExecutor(self._engine.max_batch, thread_name_prefix=name)
                stack.enter_context(pool)
            while jobs := self._scheduler.take(self._index):
                prepared = [pair for job in jobs if (pair := self._prepare(job))]
                sessions = {job.session for job, _ in prepared}
                if len(sessions) > 1 and pool is not None and jobs[0].session.stateful:
                    tasks = [partial(self._restore, [pair]) for pair in prepared]
                    assert self._engine.batched is not None
                    self._engine.batched.together(tasks, pool)
                else:
                    for _, alike in groupby(prepared, key=lambda pair: id(pair[0].guide)):
                        self._restore(list(alike))

    def _prepare(self, job: Job) -> tuple[Job, Frame] | None:
        try:
            frame = self._frame_of(job)
        except Exception as error:
            self._fail(job, error)
            return None
        job.guide = job.session.guide
        job.prepared = time.monotonic()
        return job, frame

    def _frame_of(self, job: Job) -> Frame:
        session, request = job.session, job.request
        if not session.stateful:
            return to_frame(request, stream_id=session.id, depth=False, motion=False)
        # motion from a frame that never arrived is useless
        gap = request.id - session.last_id_prepared
        frame = to_frame(request, stream_id=session.id, motion=gap == 1)
        too_far = gap > 1 + self._scheduler.policy.longest_gap
        job.starts_anew = request.cut or too_far or job.kind != session.last_kind
        session.last_id_prepared, session.last_kind = request.id, job.kind
        return frame

    def _restore(self, prepared: list[tuple[Job, Frame]]) -> None:
        frames = [frame for _, frame in prepared]
        session = prepared[0][0].session
        try:
            if session.stateful:
                restored = self._along_stream(session, prepared)
            else:
                restored = self._engine_for(prepared[0][0].guide).restore(frames)
            _check(frames, restored)
        except Exception as error:
            if session.stream is not None:
                session.stream.reset()
            if len(prepared) == 1:
                self._fail(prepared[0][0], error)
            else:  # one of them may be at fault: spare the others
                for pair in prepared:
                    self._restore([pair])
            return
        now = time.monotonic()
        for (job, frame), result in zip(prepared, restored, strict=True):
            job.restored = now
            self._answer(job, frame, result)
            _judge(job)

    def _engine_for(self, guide: Guide | None) -> Engine:
        if guide is None:
            return self._engine
        assert self._engine.guided is not None
        return self._engine.guided(guide)

    def _along_stream(self, session: Session, prepared: Sequence[tuple[Job, Frame]]) -> list[Frame]:
        guide = prepared[0][0].guide
        if session.stream is None or session.stream_guide is not guide:
            new_stream = self._engine_for(guide).new_stream
            assert new_stream is not None
            session.stream, session.stream_guide = new_stream(), guide
        restored: list[Frame] = []
        batch: list[Frame] = []
        for job, frame in prepared:
            if job.starts_anew:
                restored += session.stream.restore(batch) if batch else []
                batch = []
                session.stream.reset()
            batch.append(frame)
        return restored + session.stream.restore(batch)

    def _answer(self, job: Job, frame: Frame, restored: Frame) -> None:
        session, request = job.session, job.request
        applied = restored is not frame
        try:
            planes, data = (
                to_result(request, frame, restored, session.hello.want) if applied else ((), ())
            )
        except Exception as error:
            self._fail(job, error)
            return
        self._scheduler.answer(
            job,
            Result(
                session=session.id,
                id=request.id,
                pts=request.pts,
                width=request.width,
                height=request.height,
                applied=applied,
                queue_ms=(job.taken - job.received) * 1e3,
                proc_ms=(time.monotonic() - job.taken) * 1e3,
                credit=session.credit,
                model=self._engine.name,
                planes=planes,
                data=data,
            ),
        )

    def _fail(self, job: Job, error: Exception) -> None:
        session = job.session
        code, text = "internal", f"{type(error).__name__}: {error}"
        if isinstance(error, ProtocolError):
            code, text = error.code, str(error)
        else:
            # once for a session, because it may happen with every frame
            level = logging.DEBUG if session.meter.frames["error"] else logging.ERROR
            _log.log(level, "frame %d of %s failed", job.request.id, session.id, exc_info=error)
        self._scheduler.answer(
            job,
            ErrorReply(
                code=code, text=text, session=session.id, id=job.request.id, credit=session.credit
            ),
        )


def _judge(job: Job) -> None:
    """Log once if the references of a session do not fit its first frames."""
    session, guide = job.session, job.guide
    if guide is None or guide is session.judged or guide.fit.frames < _JUDGED_AFTER:
        return
    session.judged = guide
    if guide.complaint:
        _log.warning("stream %s: %s", session.hello.stream or session.id, guide.complaint)


def _check(frames: Sequence[Frame], restored: Sequence[Frame]) -> None:
    if [f.size for f in frames] != [f.size for f in restored]:
        sizes = ", ".join(f"{f.size}" for f in restored)
        raise RuntimeError(f"the restorer made {sizes or 'nothing'} of {len(frames)} frames")
