"""Reservations that nobody will settle: of processes that died. They become estimates, so that no request is lost.

It does not know how requests are reserved or settled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec

from gateway import log
from gateway.every import every
from gateway.store.client.client import StoreDown
from gateway.store.client.redis_py import open_redis, run, run_all
from gateway.store.ledger.ledger import (
    Call,
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
_AT_ONCE = 50  # tenants
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
        made, tenants, failed = 0, iter(subjects.items()), None
        while some := list(islice(tenants, _AT_ONCE)):
            found = await run_all(self._redis, [_look(tenant, its, alive) for tenant, its in some])
            for (tenant, its), reply in zip(some, found, strict=True):
                try:
                    if isinstance(reply, StoreDown):
                        raise reply
                    made += await self._tenant(tenant, its, alive, reply)
                except StoreDown as error:  # a part of a cluster may be away: the others go on
                    failed = failed or error
                except (msgspec.MsgspecError, ValueError) as error:  # a newer version's: it must not stop the others
                    log.error("reservations cannot be read", tenant=tenant, reason=str(error))
        if made:
            self._journal.close()  # so that it can be compacted
            log.warning("requests of processes that died are estimated", requests=made)
        if failed is not None:
            raise failed
        return made

    async def _tenant(self, tenant: str, subjects: set[str], alive: set[str], reply: Any) -> int:
        """What is to be made of a tenant, of which the first look brought this reply."""
        made = 0
        while True:
            cursor, found = swept_of(reply)
            for request_id, held in found:
                entry = estimate_of(request_id, held, int(time.time() * 1000))
                packed = pack(entry)
                statuses, _ = settled_of(await run(self._redis, *to_settle([Ended(entry, packed)])))
                if statuses == [1]:
                    self._journal.append(packed)
                    made += 1
            if cursor == "0":
                return made
            reply = await run(self._redis, *_look(tenant, subjects, alive, cursor))

    async def close(self) -> None:
        self._journal.close()
        await self._redis.aclose()


def _look(tenant: str, subjects: set[str], alive: set[str], cursor: str = "0") -> Call:
    return to_sweep(tenant, sorted(alive), int(time.time() * 1000), cursor, sorted(subjects))
