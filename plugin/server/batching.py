"""One batch for several streams, each of which has its own memory.

A stream calls its restorer in the middle of its own computation. Each stream runs on a thread
until that call or its end. When all threads have got there, their calls go through the restorer
as one batch.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from splatmend.core.references import Guidance
from splatmend.core.restorer import Restorer, RestorerTraits, takes_guidance

__all__ = ["BatchedRestorer"]

_T = TypeVar("_T")


@dataclass
class _Call:
    rgb: Tensor
    guidance: Guidance | None = None
    result: Tensor | None = None
    error: Exception | None = None

    @property
    def kind(self) -> str:
        guided = "alone"
        if self.guidance is not None:
            guided = f"guided {self.guidance.exact} {self.guidance.view is None}"
        return f"{tuple(self.rgb.shape[1:])} {self.rgb.dtype} {self.rgb.device} {guided}"

    @staticmethod
    def run(restorer: Restorer, calls: "Sequence[_Call]") -> Tensor:
        """Restore calls of one kind together."""
        rgb = torch.cat([call.rgb for call in calls])
        hints = [call.guidance for call in calls if call.guidance is not None]
        if not hints or not takes_guidance(restorer):
            return restorer(rgb)
        return restorer(rgb, Guidance.joined(hints))


class BatchedRestorer:
    """A restorer that joins the calls from the tasks of `together` into one call of its inner one.

    Any other call goes to the inner restorer unchanged. Only one `together` may run at a time.
    """

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self._change = threading.Condition()
        self._running = 0
        """Number of tasks that may still call."""
        self._asked: list[_Call] = []

    @property
    def traits(self) -> RestorerTraits:
        """Return the inner restorer's traits."""
        return self._restorer.traits

    @property
    def device(self) -> torch.device:
        """Return the inner restorer's device."""
        return self._restorer.device

    def __call__(self, rgb: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Restore (n, 3, h, w), together with the calls of the other tasks."""
        call = _Call(rgb, guidance)
        with self._change:
            if self._running:
                self._asked.append(call)
                self._end_of_turn()
                self._change.wait_for(lambda: call.result is not None or call.error is not None)
            else:
                call.result = _Call.run(self._restorer, [call])
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def together(
        self, tasks: Sequence[Callable[[], _T]], pool: ThreadPoolExecutor
    ) -> list[_T | Exception]:
        """Run tasks that may each call the restorer any number of times.

        Args:
            tasks: each ends by itself once its calls are answered.
            pool: has at least as many threads as there are tasks.

        Returns:
            The result of each task, or the exception that ended it.
        """
        self._running = len(tasks)
        return [future.result() for future in [pool.submit(self._run, task) for task in tasks]]

    def _run(self, task: Callable[[], _T]) -> _T | Exception:
        try:
            return task()
        except Exception as error:
            return error
        finally:
            with self._change:
                self._end_of_turn()

    def _end_of_turn(self) -> None:
        """Count one task less that may still call; the last one runs all calls."""
        self._running -= 1
        if self._running or not self._asked:
            return
        asked, self._asked = self._asked, []
        for _, group in groupby(sorted(asked, key=lambda c: c.kind), key=lambda c: c.kind):
            self._restore(list(group))
        self._running = len(asked)
        self._change.notify_all()

    def _restore(self, calls: list[_Call]) -> None:
        try:
            results = _Call.run(self._restorer, calls)
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
            for call in calls if len(calls) > 1 else ():  # one of them may be at fault
                self._restore([call])
            return
        for call, result in zip(
            calls, torch.split(results, [len(c.rgb) for c in calls]), strict=True
        ):
            call.result = result
