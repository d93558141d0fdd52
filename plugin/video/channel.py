"""A bounded queue between two threads whose ends learn of each other's failure."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Channel"]

_T = TypeVar("_T")


class Channel(Generic[_T]):
    """Hands items from one producing thread to one consuming thread, `capacity` at most.

    The producer calls `feed`; the consumer iterates. An error on the producer's side
    is raised in the consumer after the items before it; `stop` makes the producer
    end quietly.
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
        """Whether one end has given up; a channel that was only closed has not."""
        return self._stopped

    def feed(self, items: Iterable[_T]) -> None:
        """Hand over all items, then close; an error is left to the consumer."""
        try:
            for item in items:
                if not self.put(item):
                    break
        except BaseException as error:
            self.close(error)
        else:
            self.close()

    def put(self, item: _T) -> bool:
        """Wait for room and hand over one item; False when the consumer has stopped."""
        with self._change:
            self._change.wait_for(lambda: self._stopped or len(self._items) < self._capacity)
            if self._stopped:
                return False
            self._items.append(item)
            self._change.notify_all()
            return True

    def close(self, error: BaseException | None = None) -> None:
        """No more items; the consumer ends, or raises `error`."""
        with self._change:
            self._closed = True
            self._error = self._error or error
            self._change.notify_all()

    def stop(self) -> None:
        """The consumer wants no more; items that wait are dropped."""
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
