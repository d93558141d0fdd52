"""Costly pieces of training data, each used many times before it makes room for another."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

__all__ = ["RollingPool"]

Piece = TypeVar("Piece")


class RollingPool(Generic[Piece]):
    """`size` pieces at hand; every `renew` updates the oldest of them makes room for a new one.

    A piece is named by (seed, number) and the size of crops that it shall lend, a sample by (seed,
    step, index): what is picked depends on nothing that was picked before. A piece lends
    batch * renew crops on average.
    """

    def __init__(self, draw: Callable[[int, int, int], Piece], *, size: int, renew: int) -> None:
        self._draw, self._size, self._renew = draw, size, renew
        self._pieces: dict[int, Piece] = {}

    def __len__(self) -> int:
        """How many pieces are at hand; they are drawn when they are first picked."""
        return len(self._pieces)

    def pick(
        self, *, seed: int, step: int, batch: int, crop: int, first: int
    ) -> Iterator[tuple[Piece, np.random.Generator]]:
        """A piece for each of the samples first .. first + batch - 1, and what cuts it."""
        oldest = step // self._renew
        for number in [n for n in self._pieces if not oldest <= n < oldest + self._size]:
            del self._pieces[number]
        for index in range(first, first + batch):
            rng = np.random.default_rng((seed, step, index))
            number = oldest + int(rng.integers(self._size))
            if number not in self._pieces:
                self._pieces[number] = self._draw(seed, number, crop)
            yield self._pieces[number], rng
