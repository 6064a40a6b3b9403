"""What this gateway has journaled, of objects' owners and of usage: given back to a store that may lack it, and kept
short.

One for all processes of a gateway. It does not know what the records mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial

from gateway import log
from gateway.store.client.client import StoreDown
from gateway.store.client.redis_py import open_redis, run
from gateway.store.ledger.ledger import UsageJournal
from gateway.store.owners import OwnersJournal

COMPACT_EVERY = 600.0  # seconds
_SAFE = 600_000  # ms that the store has had what is folded
_AGAIN = 5.0  # seconds after a store that was away meanwhile
_LATER = 60.0  # seconds after anything else that went wrong
_TOGETHER = 0.5  # seconds in which several ask for the same
_NOTHING = 2**62


class Archive:
    """The journals, and the store at `url`; `alive()` are the names of the processes that write them now."""

    def __init__(self, url: str, owners: OwnersJournal, usage: UsageJournal, alive: Callable[[], set[str]]) -> None:
        self._redis = open_redis(url)
        self._owners = owners
        self._usage = usage
        self._alive = alive
        self._asked = asyncio.Event()
        self._since = _NOTHING
        self._told = 0  # when the store was last told everything (ms); 0 while it may lack something
        self._run = partial(run, self._redis)

    def ask(self, since: int = 0) -> None:
        """The store may lack what was journaled `since` then (ms): give it back."""
        self._since = min(self._since, since)
        self._told = 0
        self._asked.set()

    async def run(self) -> None:
        """Do both until cancelled."""
        compact_at = time.monotonic() + COMPACT_EVERY
        while True:
            try:
                async with asyncio.timeout(max(0.0, compact_at - time.monotonic())):
                    await self._asked.wait()
            except TimeoutError:
                compact_at = time.monotonic() + COMPACT_EVERY
                await self._guarded(self._compact())
                continue
            await asyncio.sleep(_TOGETHER)
            self._asked.clear()
            await self._guarded(self._replay())

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except StoreDown:
            asyncio.get_running_loop().call_later(_AGAIN, self._asked.set)
        except Exception as error:  # whatever it was, it must be tried again
            log.exception("the journals cannot be given to the store or compacted", reason=str(error))
            asyncio.get_running_loop().call_later(_LATER, self._asked.set)

    async def _compact(self) -> None:
        now = int(time.time() * 1000)
        await asyncio.to_thread(self._owners.compact, now)
        if self._told and self._told <= now - _SAFE:
            await self._usage.compact(self._run, now, now - _SAFE, self._alive)

    async def _replay(self) -> None:
        now, since = int(time.time() * 1000), self._since
        owners = await self._owners.replay(self._run, now)
        restored = await self._usage.restore(self._run, now) if not since else 0
        counted = await self._usage.replay(self._run, now, since)
        estimated = await self._usage.estimate(self._run, now, self._alive)
        if not self._asked.is_set():
            self._since = _NOTHING
            self._told = int(time.time() * 1000)
        if restored or counted:
            log.info("usage given back to the store", records=counted, hours=restored, objects=owners)
        if estimated:
            log.warning("requests of processes that died are estimated", requests=estimated)

    async def close(self) -> None:
        await self._redis.aclose()
