"""The processes that serve, of all gateways of the pool: their names, and which of them still live."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection

from gateway.supervisor.pool.membership import Membership

_SILENT = 15.0  # seconds after which a process of which nothing is heard is gone


class Processes:
    """`own()` are the names of this gateway's, `pool()` is what the gateways have agreed on."""

    def __init__(self, gateway: str, own: Callable[[], Collection[str]], pool: Callable[[], Membership]) -> None:
        self._gateway = gateway
        self._own = own
        self._pool = pool
        self._numbers = itertools.count(1)
        self._seen: dict[str, float] = {}  # by name, when they were last heard of

    def new_name(self) -> str:
        """The name of a process that starts now."""
        return f"{self._gateway}.{next(self._numbers)}"

    def running(self) -> set[str]:
        """The names of the processes that are not known to have ended."""
        others = [each for each in self._pool().live if each.process != self._gateway]
        return set(self._own()).union(*(each.names for each in others))

    def alive(self) -> set[str] | None:
        """The names of all processes that settle their own requests; None while a gateway has not said."""
        now = time.monotonic()
        own, pool = tuple(self._own()), self._pool()
        pool.name(own)
        others = [each for each in pool.live if each.process != self._gateway]
        for name in (*own, *(name for each in others for name in each.names)):
            self._seen[name] = now
        for each in others:
            first = self._seen.setdefault(each.process, now)
            if not each.names and now - first < _SILENT:
                return None
        # One that has just gone may be back with its gateway's next heartbeat.
        self._seen = {name: at for name, at in self._seen.items() if now - at < 10 * _SILENT}
        return {name for name, at in self._seen.items() if now - at < _SILENT}
