"""A bounded queue between two threads that passes on the failure of either."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Channel"]

_T = TypeVar("_T")


class Channel(Generic[_T]):
    """Hands items from one producing thread to one consuming thread, `capacity` at most.

    The producer calls `feed`; the consumer iterates. The consumer raises an error of the producer
    after the items before it. `stop` makes the producer end without an error.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[_T] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._stopped = False
        self._error: BaseException | None = None

    @property
    def stopped(self) -> bool:
        """Return whether `stop` was called; `close` alone does not count."""
        return self._stopped

    def feed(self, items: Iterable[_T]) -> None:
        """Hand over all items, then close; the consumer gets any error."""
        try:
            for item in items:
                if not self.put(item):
                    break
        except BaseException as error:
            self.close(error)
        else:
            self.close()

    def put(self, item: _T) -> bool:
        """Wait for room and hand over one item; return False if the consumer has stopped."""
        with self._change:
            self._change.wait_for(lambda: self._stopped or len(self._items) < self._capacity)
            if self._stopped:
                return False
            self._items.append(item)
            self._change.notify_all()
            return True

    def close(self, error: BaseException | None = None) -> None:
        """Announce the end of the items; the consumer ends, or raises `error`."""
        with self._change:
            self._closed = True
            self._error = self._error or error
            self._change.notify_all()

    def stop(self) -> None:
        """Refuse further items, and drop waiting ones; the consumer calls it."""
        with self._change:
            self._stopped = True
            self._items.clear()
            self._change.notify_all()

    def __iter__(self) -> Iterator[_T]:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._items or self._closed or self._stopped)
                if self._stopped:
                    return
                if not self._items:
                    if self._error:
                        raise self._error
                    return
                item = self._items.popleft()
                self._change.notify_all()
            yield item
