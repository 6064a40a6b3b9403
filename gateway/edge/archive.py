"""What this gateway has journaled of objects and their owners: given back to a store that may lack it, and kept short.

One for all processes of a gateway. It does not know what the records mean.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from gateway.store.client import StoreDown
from gateway.store.owners import OwnersJournal
from gateway.store.redis_py import open_redis, run

log = structlog.get_logger("gateway.archive")
COMPACT_EVERY = 3600.0  # seconds
_AGAIN = 5.0  # seconds after a store that was away meanwhile


class Archive:
    """The journal, and the store at `url`."""

    def __init__(self, url: str, journal: OwnersJournal) -> None:
        self._redis = open_redis(url)
        self._journal = journal
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """The store may have lost what was journaled: give it back."""
        self._asked.set()

    async def run(self) -> None:
        """Do both until cancelled."""
        compact_at = 0.0
        while True:
            if time.monotonic() >= compact_at:
                compact_at = time.monotonic() + COMPACT_EVERY
                await self._compact()
            try:
                async with asyncio.timeout(compact_at - time.monotonic()):
                    await self._asked.wait()
            except TimeoutError:
                continue
            self._asked.clear()
            await self._replay()

    async def _compact(self) -> None:
        try:
            await asyncio.to_thread(self._journal.compact, int(time.time() * 1000))
        except OSError as error:
            log.error("the journal of objects cannot be compacted", reason=str(error))

    async def _replay(self) -> None:
        try:
            given = await self._journal.replay(
                lambda script, args: run(self._redis, script, args), int(time.time() * 1000)
            )
        except StoreDown:
            asyncio.get_running_loop().call_later(_AGAIN, self.ask)
        except OSError as error:
            log.error("the journal of objects cannot be read", reason=str(error))
        else:
            if given:
                log.info("owners of objects published", records=given)

    async def close(self) -> None:
        await self._redis.aclose()
