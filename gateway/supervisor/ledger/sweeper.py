"""Reservations that nobody will settle: of processes that died. They become estimates, so that no request is lost.

It does not know how requests are reserved or settled.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from gateway import log
from gateway.every import every
from gateway.store.client.client import StoreDown
from gateway.store.client.redis_py import open_redis, run
from gateway.store.ledger.ledger import (
    Ended,
    UsageJournal,
    estimate_of,
    pack,
    settled_of,
    subjects_of,
    swept_of,
    tenant_of,
    to_enroll,
    to_list_tenants,
    to_settle,
    to_sweep,
)

EVERY = 10.0  # seconds
Callers = Callable[[], set[tuple[str, str]]]


class Sweeper:
    """`callers()` are all (id, team or "") that may have reservations; `alive()` the names of all processes of all
    gateways that settle their own, None while one has not said."""

    def __init__(self, url: str, journal: UsageJournal, callers: Callers, alive: Callable[[], set[str] | None]) -> None:
        self._redis = open_redis(url)
        self._journal = journal
        self._callers = callers
        self._alive = alive

    async def run(self) -> None:
        """Sweep until cancelled."""
        await every(EVERY, self.sweep, "sweep failed", at_once=True, quiet=StoreDown)

    async def sweep(self) -> int:
        """Once through all tenants; how many estimates were made. Raises StoreDown."""
        subjects: dict[str, set[str]] = {}
        for caller, team in self._callers():
            subjects.setdefault(tenant_of(caller, team), set()).update(subjects_of(caller, team))
        if subjects:  # each time: the store may have forgotten them
            await run(self._redis, *to_enroll(sorted(subjects)))
        alive = self._alive()
        if alive is None:
            return 0
        for tenant in await run(self._redis, *to_list_tenants()):  # those of callers that are gone too
            subjects.setdefault(tenant.decode(), set())
        made = 0
        for tenant, its in subjects.items():
            try:
                made += await self._tenant(tenant, its, sorted(alive))
            except (msgspec.MsgspecError, ValueError) as error:  # a newer version's: it must not stop the others
                log.error("reservations cannot be read", tenant=tenant, reason=str(error))
        if made:
            self._journal.close()  # so that it can be compacted
            log.warning("requests of processes that died are estimated", requests=made)
        return made

    async def _tenant(self, tenant: str, subjects: set[str], alive: list[str]) -> int:
        made, cursor = 0, "0"
        while True:
            now = int(time.time() * 1000)
            cursor, found = swept_of(await run(self._redis, *to_sweep(tenant, alive, now, cursor, sorted(subjects))))
            for request_id, held in found:
                entry = estimate_of(request_id, held, now)
                packed = pack(entry)
                statuses, _ = settled_of(await run(self._redis, *to_settle([Ended(entry, packed)])))
                if statuses == [1]:
                    self._journal.append(packed)
                    made += 1
            if cursor == "0":
                return made

    async def close(self) -> None:
        self._journal.close()
        await self._redis.aclose()
