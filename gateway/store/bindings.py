"""The conversations' bindings as operators look at them and flush them. Not the data path, which has admission.

It reads and removes what it is told to; it does not know callers, rankings, or what processes remember themselves.
"""

from __future__ import annotations

import asyncio

import msgspec

from gateway.core.routing.binding import Record, unpack
from gateway.store.client.connection import StoreDown
from gateway.store.client.redis_py import open_redis, run, scan
from gateway.store.scripts import FLUSH, INSPECT

ALL = "{*}:b:*"  # the keys of all conversations: see core.routing.binding
BATCH = 500  # conversations that one script goes through at most
STAYS_FLUSHED = 900_000  # ms for which requests that were on their way bring nothing back, longer than most take
PATIENCE = 2.0  # seconds for one conversation


class Stored(msgspec.Struct, frozen=True):
    """What is kept of one conversation: its records by model, and when they expire; `now` is the store's clock. Times
    are Unix milliseconds."""

    records: dict[str, Record]
    expires: int | None
    now: int


class Bindings:
    """The bindings in the store at `url`. It connects when first used."""

    def __init__(self, url: str) -> None:
        self._redis = open_redis(url)

    async def read(self, key: str) -> Stored | None:
        """The conversation that is kept at `key`. Raises StoreDown."""
        try:
            async with asyncio.timeout(PATIENCE):
                flat, left, now = await run(self._redis, INSPECT, (1, key, 0))
        except TimeoutError:
            raise StoreDown("no answer in time") from None
        records = {flat[i].decode(errors="replace"): unpack(flat[i + 1]) for i in range(0, len(flat), 2) if flat[i + 1]}
        if not records:
            return None
        return Stored(records, now + left if left >= 0 else None, now)

    async def flush(self, key: str) -> int:
        """Remove one conversation's bindings; how many there were. Raises StoreDown."""
        try:
            async with asyncio.timeout(PATIENCE):
                return int(await run(self._redis, FLUSH, (1, key, "", STAYS_FLUSHED)))
        except TimeoutError:
            raise StoreDown("no answer in time") from None

    async def flush_workspace(self, workspace: str) -> int:
        """Remove every binding to `workspace`, batch by batch over all primaries; how many there were. What another
        process writes meanwhile may stay. Raises StoreDown, perhaps with a part of them gone."""
        gone = 0
        keys: list[bytes] = []
        async for key in scan(self._redis, ALL):
            keys.append(key)
            if len(keys) == BATCH:
                gone += await self._flush(keys, workspace)
                keys.clear()
        return gone + await self._flush(keys, workspace)

    async def _flush(self, keys: list[bytes], workspace: str) -> int:
        gone = 0
        tenants: dict[bytes, list[bytes]] = {}  # the keys of one script must share a slot
        for key in keys:
            tenants.setdefault(key[: key.index(b"}")], []).append(key)
        for each in tenants.values():
            gone += await run(self._redis, FLUSH, (len(each), *each, workspace, STAYS_FLUSHED))
        return gone

    async def close(self) -> None:
        await self._redis.aclose()
