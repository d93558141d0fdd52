"""Decodes, restores and encodes at the same time: the first and the last on their own threads."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread

from splatmend.core import Frame
from splatmend.plugin.video.channel import Channel
from splatmend.plugin.video.reader import ClipReader
from splatmend.plugin.video.segments import SegmentWriter, State

__all__ = ["run_stages"]

_WAITING = 2  # batches between two stages: enough to overlap, few enough to bound memory


@dataclass(frozen=True)
class _Restored:
    """A batch on its way to the encoder."""

    frames: list[Frame]
    state: State
    """State of the stabiliser after the batch, if a segment ends with it."""


def run_stages(
    reader: ClipReader,
    mend: Callable[[list[Frame]], list[Frame]],
    remembered: Callable[[], State],
    writer: SegmentWriter,
    *,
    batch: int,
    progress: Callable[[int], None],
) -> None:
    """Send every frame of `reader` through `mend` to `writer`; `mend` runs on the calling thread.

    Calls `remembered` for the stabiliser's state at the end of each segment, and `progress` with
    the number of frames restored, in this run and before.
    """
    decoded: Channel[list[Frame]] = Channel(_WAITING)
    restored: Channel[_Restored] = Channel(_WAITING)
    encoder = _EncodeStage(writer, restored)
    decoder = Thread(target=decoded.feed, args=(_batches(reader, batch),), daemon=True)
    done = writer.frames
    decoder.start()
    encoder.thread.start()
    try:
        for frames in decoded:
            mended = mend(frames)
            done += len(frames)
            state = remembered() if done % writer.length == 0 else {}
            if not restored.put(_Restored(mended, state)):
                break  # the encoder has failed and says why below
            progress(done)
        restored.close()
        encoder.thread.join()
    finally:
        decoded.stop()
        restored.stop()
        decoder.join()
        encoder.thread.join()
        encoder.writer.close()
    if encoder.error:
        raise encoder.error


class _EncodeStage:
    """The last stage: writes batches until the channel is closed or something fails."""

    def __init__(self, writer: SegmentWriter, batches: Channel[_Restored]) -> None:
        self.writer = writer
        self.error: BaseException | None = None
        self.thread = Thread(target=self._run, daemon=True)
        self._batches = batches

    def _run(self) -> None:
        try:
            for batch in self._batches:
                for frame in batch.frames:
                    self.writer.write(frame, batch.state)
            if not self._batches.stopped:
                self.writer.finish()
        except BaseException as error:  # raised again on the calling thread
            self.error = error
            self._batches.stop()


def _batches(reader: ClipReader, size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in reader:
        if frame is None:
            continue  # encoded in an earlier run
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
