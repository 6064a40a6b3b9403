"""A gateway's copy of what was made at run time (callers, keys, teams, boosts): kept in step with the store, and on
disk for when that is away. For the supervisor, which hands it to its workers.

It decides nothing: `core.spending.keyring` does. What the store has lost it gives back, as every gateway does.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from gateway import log
from gateway.core.spending.keyring import RECORDS, CallerRecord, KeyRecord, Record, Stored, missing, stale, usable
from gateway.every import every
from gateway.store.client.connection import StoreDown
from gateway.store.pool.key_file import KeyFile
from gateway.store.pool.keyring import encode
from gateway.store.pool.keys import KeyStore, NewKey, new_key
from gateway.store.pool.pool_store import NewerSchema

LOOK_EVERY = 2.0  # seconds after which a change is known of which no message came
_FIRST_WAIT = 1.5  # seconds a starting gateway waits for the store before it goes by what is on disk
_WAIT = 5.0  # seconds for a look
_OPERATOR_WAIT = 2.0  # seconds an operator waits for the store

T = TypeVar("T")
R = TypeVar("R", bound=Record)


class SharedKeys:
    """The copy. `changed` is called after `stored` has become another. Changes raise StoreDown besides what KeyStore's
    raise; what was asked may then have been done all the same."""

    def __init__(
        self, store: KeyStore, file: KeyFile, changed: Callable[[], None], now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._file = file
        self._changed = changed
        self._now = now
        self._looking = asyncio.Lock()
        self._poked = asyncio.Event()
        self._seen = ""  # the version of the store that was read last
        self.up = False  # whether the store answered last
        self.stored = file.read() or Stored()

    def usable(self) -> bytes:
        """What workers need to recognise callers; for `decode`."""
        return encode(usable(self.stored, self._now() * 1000))

    async def join(self) -> None:
        """Look for the first time, or go on with what is on disk."""
        await self.look(_FIRST_WAIT)

    def poke(self) -> None:
        """Look soon: somebody may have changed something."""
        self._poked.set()

    async def keep(self) -> None:
        """Look every LOOK_EVERY and when poked, until cancelled."""
        await every(LOOK_EVERY, self.look, "looking for keys failed", poked=self._poked)

    async def look(self, wait: float = _WAIT) -> bool:
        """Follow the store, and give it back what it has lost; False if it is away."""
        try:
            await self._look(wait)
        except (StoreDown, NewerSchema, TimeoutError):
            return False
        return True

    async def _look(self, wait: float) -> None:
        """As `look`. Raises StoreDown, NewerSchema and TimeoutError."""
        async with self._looking:  # one at a time: a slower, older answer must not undo a newer one
            try:
                async with asyncio.timeout(wait):
                    stored = await self._read()
            except (StoreDown, NewerSchema, TimeoutError):
                self.up = False
                raise
            self.up = True
            if stored is None:
                return
            before, self.stored, self._seen = self.stored, stored, stored.version
            if not stored.same(before):
                log.info("keys changed", **_sizes(stored))
                self._changed()
            await asyncio.to_thread(self._file.write, stored)

    async def _read(self) -> Stored | None:
        """What the store says now; None if it is what it said before."""
        stored = await self._store.read(self._seen)
        if stored is None:
            return None
        now = self._now() * 1000
        lost = missing(stored, self.stored, now)
        over = stale(stored, now)
        if lost:
            log.warning("the store has lost keys; giving them back", **_sizes(lost))
            await self._store.offer(lost)
        if over:
            await self._store.forget(over)
        return await self._store.read() if lost or over else stored

    # What operators change. When it returns, this gateway goes by it.

    async def create(
        self,
        caller: str,
        record: CallerRecord | None,
        lifetime: int = 0,
        known: bool = False,
        label: str = "",
        most: int = 0,
    ) -> NewKey:
        """As KeyStore.create; the key, which nobody learns again."""
        new = new_key()
        await self._change(lambda: self._store.create(new, caller, record, lifetime, known, label, most))
        return new

    async def put(self, kind: str, name: str, record: Record) -> None:
        """As KeyStore.put, for this one who asks: where another wrote the same meanwhile, that is another's."""
        own = _own(record)
        await self._change(lambda: self._store.put(kind, name, own))

    async def rotate(
        self, key: str, overlap: int, lifetime: int | None = None, was: KeyRecord | None = None, most: int = 0
    ) -> NewKey:
        """As KeyStore.rotate."""
        new = new_key()
        await self._change(lambda: self._store.rotate(key, new, overlap, lifetime, was, most))
        return new

    async def revoke(self, key: str, was: KeyRecord | None = None) -> None:
        """As KeyStore.revoke."""
        await self._change(lambda: self._store.revoke(key, was))

    async def finish(self, caller: str, record: CallerRecord | None = None, was: int = 0) -> int:
        """As KeyStore.finish; of the record as `put`."""
        own = None if record is None else _own(record)
        return await self._change(lambda: self._store.finish(caller, own, was))

    async def _change(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(_OPERATOR_WAIT):
                await self._look(_OPERATOR_WAIT)  # a store that has lost something knows nothing of what is to change
                done = await work()
        except TimeoutError:
            raise StoreDown("no answer in time") from None
        except NewerSchema as error:
            raise StoreDown(str(error)) from None
        if not await self.look(_OPERATOR_WAIT):
            raise StoreDown("the store went away meanwhile")
        return done

    async def close(self) -> None:
        await self._store.close()


def _own(record: R) -> R:
    return msgspec.structs.replace(record, nonce=secrets.token_hex(4))


def _sizes(stored: Stored) -> dict[str, int]:
    return {"keys": len(stored.keys), **{kind: len(stored.records(kind)) for kind in RECORDS}}
