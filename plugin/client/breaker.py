"""A circuit breaker for a server that does not answer."""

from dataclasses import dataclass

__all__ = ["Breaker"]


@dataclass
class Breaker:
    """A circuit breaker: closed at first, open after some misses in a row.

    While it is open, nothing is sent. After a pause one frame may probe the server, and its answer
    closes the breaker. The pause is `shortest_s`, doubled with each failure up to `longest_s`.
    The caller passes the time.
    """

    misses_allowed: int = 3
    shortest_s: float = 1.0
    longest_s: float = 10.0

    _misses: int = 0
    _pause_s: float = 0.0
    _opened: float | None = None
    _probing: bool = False

    @property
    def is_closed(self) -> bool:
        """Return whether the server answers."""
        return self._opened is None

    def may_send(self, now: float) -> bool:
        """Return whether a frame may go out; while open, that is one probe after each pause."""
        if self._opened is None:
            return True
        return not self._probing and now - self._opened >= self._pause_s

    def sent(self) -> None:
        """Note that a frame went out."""
        self._probing = self._opened is not None

    def answered(self) -> None:
        """Note a proper answer."""
        self._misses, self._pause_s = 0, 0.0
        self._opened, self._probing = None, False

    def missed(self, now: float) -> None:
        """Note a frame that was not answered in time, or was answered with an error."""
        self._misses += 1
        if self._probing or (self._opened is None and self._misses >= self.misses_allowed):
            self._pause_s = min(max(2 * self._pause_s, self.shortest_s), self.longest_s)
            self._opened, self._probing = now, False
