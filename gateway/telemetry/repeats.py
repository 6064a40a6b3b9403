"""Of what may come often: how many times each has, and when to stop saying so each time.

It does not know what it counts, nor a clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

MOST = 10_000  # things that are counted at a time

K = TypeVar("K", bound=Hashable)


class Repeats(Generic[K]):
    """Counts each thing for `seconds` from when it first came. `over` is told of each at the end of that time, with how
    many came after the first, if any did. `now()` gives seconds."""

    def __init__(self, seconds: float, over: Callable[[K, int], object], now: Callable[[], float]) -> None:
        self._seconds = seconds
        self._over = over
        self._now = now
        self._counts: dict[K, int] = {}
        self._since: dict[K, float] = {}  # the first to come first
        self.total = 0  # of all that are counted now

    def add(self, thing: K) -> int:
        """It has come once more: how many times that is now."""
        self.look()
        if thing not in self._since:
            if len(self._since) >= MOST:
                self._end(next(iter(self._since)))
            self._since[thing] = self._now()
        count = self._counts[thing] = self._counts.get(thing, 0) + 1
        self.total += 1
        return count

    def times(self, thing: K) -> int:
        """How many times it has come lately."""
        self.look()
        return self._counts.get(thing, 0)

    def left(self, thing: K) -> float:
        """Seconds until it is counted from the beginning again."""
        return max(0.0, self._since.get(thing, 0.0) + self._seconds - self._now())

    def look(self) -> None:
        """See whose time is over. `add` does so too."""
        edge = self._now() - self._seconds
        while self._since:
            thing, since = next(iter(self._since.items()))
            if since > edge:
                return
            self._end(thing)

    def _end(self, thing: K) -> None:
        del self._since[thing]
        count = self._counts.pop(thing)
        self.total -= count
        if count > 1:
            self._over(thing, count - 1)
