"""This gateway's part in the pool: what it announces, the document that all agree on, the operators' overrides.

It decides nothing: `core.routing.document` does, and the store keeps it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from gateway import log
from gateway.core.routing.document import Announcement, Entry, Overrides, definitions, reconcile, resume
from gateway.every import every
from gateway.listen.bind import Unstartable
from gateway.store.client.client import StoreDown
from gateway.store.pool.pool_store import NewerSchema, PoolStore
from gateway.supervisor.pool.snapshot import Snapshot

HEARTBEAT = 2.0  # seconds
_FIRST_WAIT = 1.5  # seconds a starting gateway waits for the store before it goes by its snapshot and its own file
_WAIT = 5.0  # seconds for a heartbeat
_OPERATOR_WAIT = 2.0  # seconds an operator waits for the store


class Membership:
    """The membership of gateway `process` with its `workers`, whose file defines `accounts`.

    `changed` is called for each new document and number of `processes`, `reseed` when the store may have lost what the
    workers know, and `outdated` when a newer version has taken over the store.
    """

    def __init__(
        self,
        process: str,
        workers: int,
        accounts: tuple[Entry, ...],
        store: PoolStore,
        snapshot: Snapshot,
        *,
        changed: Callable[[], None],
        reseed: Callable[[], None],
        outdated: Callable[[], None],
    ) -> None:
        self._process = process
        self._workers = workers
        self._names: tuple[str, ...] = ()  # of them
        self._store = store
        self._snapshot = snapshot
        self._changed = changed
        self._reseed = reseed
        self._outdated = outdated
        self._agreeing = asyncio.Lock()
        self._poked = asyncio.Event()
        self.up = False  # whether the store answered last
        self.overrides: Overrides = {}
        self.processes = workers  # worker processes of all live gateways
        self.live: tuple[Announcement, ...] = ()
        self.announce(accounts)
        kept = snapshot.read()
        if kept is None:
            self.document = reconcile(None, [self.own])
        else:
            self.document = resume(kept.document, kept.overrides, self.own)
            self.overrides = kept.overrides

    def announce(self, accounts: tuple[Entry, ...]) -> None:
        """Say from the next agreement on that this gateway holds these, as it has just read."""
        self.own = Announcement(self._process, time.time(), tuple(sorted(accounts)), self._workers, self._names)
        self.live = (*(each for each in self.live if each.process != self._process), self.own)

    def name(self, names: tuple[str, ...]) -> None:
        """Say from the next agreement on that the workers are called so."""
        if names != self._names:
            self._names = names
            self.own = msgspec.structs.replace(self.own, names=names)

    @property
    def defined(self) -> dict[str, Entry]:
        """The accounts that any live gateway announces, as the files define them."""
        return definitions(self.live)

    async def join(self) -> None:
        """Agree for the first time, or go on without. Raises Unstartable where a newer version owns the store."""
        try:
            await self._agree(_FIRST_WAIT)
        except NewerSchema as error:
            raise Unstartable(f"{error}; upgrade this gateway or give it a store of its own") from None

    async def agree(self) -> bool:
        """Bring the document in line with what all announce; False if the store is away."""
        try:
            await self._agree(_WAIT)
        except NewerSchema as error:
            log.error("a newer version owns the store; stopping", reason=str(error))
            self._outdated()
            self.up = False
        return self.up

    def poke(self) -> None:
        """Agree soon: somebody changed something."""
        self._poked.set()

    async def keep(self, revive: Callable[[], object]) -> None:
        """Agree every HEARTBEAT and when poked, until cancelled; `revive` is called first."""

        async def beat() -> None:
            revive()
            await self.agree()

        await every(HEARTBEAT, beat, "heartbeat failed", poked=self._poked)

    async def override(self, account: str, values: Mapping[str, object]) -> None:
        """Override fields of an account for all gateways, None undoing one, and agree. Raises StoreDown."""
        try:
            async with asyncio.timeout(_OPERATOR_WAIT):
                await self._store.override(account, values)
        except TimeoutError:
            raise StoreDown("no answer in time") from None
        except NewerSchema as error:
            raise StoreDown(str(error)) from None
        if not await self.agree():
            raise StoreDown("the store went away meanwhile")

    async def leave(self) -> None:
        await self._store.leave(self._process)

    async def _agree(self, wait: float) -> None:
        async with self._agreeing:  # one at a time: a slower, older answer must not undo a newer one
            try:
                async with asyncio.timeout(wait):
                    agreement = await self._store.agree(self.own, self.document, self.overrides)
            except (StoreDown, TimeoutError) as error:
                if self.up:
                    log.warning("store away; the pool stays as it was agreed last", reason=str(error))
                self.up = False
                return
            again = not self.up or agreement.lost
            self.up = True
            self.live, self.overrides = agreement.live, agreement.overrides
            processes = sum(max(1, each.workers) for each in agreement.live)
            if agreement.lost:  # the others have not said yet that they are still there
                processes = max(processes, self.processes)
            document, before = agreement.document, self.document
            if document.epoch != before.epoch or document.accounts != before.accounts:
                log.info("pool agreed", epoch=document.epoch, accounts=len(document.accounts))
                self.document, self.processes = document, processes
                self._changed()
            elif processes != self.processes:
                self.processes = processes
                self._changed()
            if again:
                self._reseed()
            await asyncio.to_thread(self._snapshot.write, document, agreement.overrides)
