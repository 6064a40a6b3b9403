"""A cold conversation's simultaneous requests: the first writes the cache, the others wait and read it.

For requests of one process that share a binding and a cacheable prefix. It does not know where they go.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.core.wire.peek import Peek

WAIT = 2.0  # seconds for the first one's answer to begin

Place = tuple[str, str]  # a binding's key and model


class Leader:
    """The first of several, until its answer begins."""

    __slots__ = ("began", "prefix")

    def __init__(self, prefix: tuple[Any, Any], began: asyncio.Future[None]) -> None:
        self.prefix = prefix
        self.began = began


class SingleFlight:
    """The leaders of one process, by binding."""

    def __init__(self) -> None:
        self._leaders: dict[Place, Leader] = {}

    async def join(self, place: Place, peek: Peek) -> tuple[Leader | None, bool]:
        """Lead, and get what `release` takes; or wait for the present leader, and get True once it has begun. Requests
        that cache nothing, or another prefix than the leader's, neither lead nor wait."""
        if not peek.caches:
            return None, False
        prefix = (peek.fields.get("system"), peek.fields.get("tools"))
        leader = self._leaders.get(place)
        if leader is None:
            leader = self._leaders[place] = Leader(prefix, asyncio.get_running_loop().create_future())
            return leader, False
        if leader.prefix != prefix:
            return None, False
        await asyncio.wait((leader.began,), timeout=WAIT)
        return None, True

    def leads(self, place: Place) -> bool:
        """Whether somebody leads there."""
        return place in self._leaders

    def release(self, place: Place, leader: Leader) -> None:
        """The leader's answer has begun, or will not."""
        if self._leaders.get(place) is leader:
            del self._leaders[place]
        if not leader.began.done():
            leader.began.set_result(None)
