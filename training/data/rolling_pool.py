"""A pool of costly pieces of training data, each used many times before it is replaced."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

__all__ = ["RollingPool"]

Piece = TypeVar("Piece")


class RollingPool(Generic[Piece]):
    """`size` pieces, of which the oldest is replaced every `renew` updates.

    A piece is named by (seed, number) and the crop size, a sample by (seed, step, index). So a
    pick does not depend on earlier picks. A piece yields batch * renew crops on average.
    """

    def __init__(self, draw: Callable[[int, int, int], Piece], *, size: int, renew: int) -> None:
        self._draw, self._size, self._renew = draw, size, renew
        self._pieces: dict[int, Piece] = {}

    def __len__(self) -> int:
        """Count the pieces in memory; each is drawn when it is first picked."""
        return len(self._pieces)

    def pick(
        self, *, seed: int, step: int, batch: int, crop: int, first: int
    ) -> Iterator[tuple[Piece, np.random.Generator]]:
        """Yield a piece and a generator for each of the samples first .. first + batch - 1."""
        oldest = step // self._renew
        for number in [n for n in self._pieces if not oldest <= n < oldest + self._size]:
            del self._pieces[number]
        for index in range(first, first + batch):
            rng = np.random.default_rng((seed, step, index))
            number = oldest + int(rng.integers(self._size))
            if number not in self._pieces:
                self._pieces[number] = self._draw(seed, number, crop)
            yield self._pieces[number], rng
