"""What a worker says upwards without being asked: broadcasts to the other processes, and a store that has been away."""

from __future__ import annotations

from collections.abc import Callable
from time import time

from gateway import log
from gateway.core.routing.broadcast import Fact

_MARGIN = 60_000  # ms before a store was found away in which it may have lost what it was told


class Above:
    """To the supervisor. `tell` takes facts that every other process is to know; `returned(since)` is told that the
    store is back that went away then (Unix ms), and is to be told what was journaled meanwhile."""

    def __init__(self, tell: Callable[[Fact], None], returned: Callable[[int], None]) -> None:
        self.tell = tell
        self._returned = returned
        self._away_since = 0  # of the store (Unix ms); 0 while it is there, or was never seen

    def store_away(self, reason: str) -> None:
        self._away_since = self._away_since or int(time() * 1000)
        log.warning("store away; conversations stay where remembered, else go by hash", reason=reason)

    def store_back(self) -> None:
        if self._away_since:
            self.not_counted(self._away_since)
        self._away_since = 0

    def not_counted(self, since: int) -> None:
        """The store has not counted what it was told since then (Unix ms)."""
        self._returned(since - _MARGIN)
