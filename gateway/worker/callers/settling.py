"""What has ended and the store is to be told of: told in batches, one script for what waits of a tenant.

The journal has it already, so that nothing is lost where a batch cannot be told; and the store counts each request
once, however often it is told. It does not know limits.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from gateway import log
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.client.replies import Meaning, meaning
from gateway.store.ledger.ledger import Ended, Place, place_of, to_settle

WAIT = 0.02  # seconds that what has ended waits for more
MOST = 64  # requests of a tenant that wait


class Settling:
    """Of one event loop; what is `waiting` is by tenant. `refused()` is called where a store that is there will not
    count now: what was told lately is to be told again."""

    def __init__(self, store: StoreClient, refused: Callable[[], None]) -> None:
        self._store = store
        self._refused = refused
        self.waiting: dict[str, list[Ended]] = {}
        self._urgent: set[str] = set()  # tenants whose requests are told at the end of this tick
        self._armed = False

    def add(self, tenant: str, ended: Ended, at_once: bool = False) -> None:
        """Tell the store of it before long, or with `at_once` at the end of this tick."""
        waiting = self.waiting.get(tenant)
        if waiting is None:
            waiting = self.waiting[tenant] = []
        waiting.append(ended)
        if len(waiting) >= MOST:
            self.flush(tenant)
        elif at_once and tenant not in self._urgent:
            if not self._urgent:
                asyncio.get_running_loop().call_soon(self._end_of_tick)
            self._urgent.add(tenant)
        elif not at_once and not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_later(WAIT, self._due)

    def flush(self, tenant: str) -> None:
        """Tell the store of what waits of the tenant, now."""
        waiting = self.waiting.pop(tenant, None)
        if waiting is not None:
            self.tell(waiting)

    def flush_all(self) -> None:
        """Tell it of everything that waits."""
        waiting, self.waiting = self.waiting, {}
        for each in waiting.values():
            self.tell(each)

    def _end_of_tick(self) -> None:
        urgent, self._urgent = self._urgent, set()
        for tenant in urgent:
            self.flush(tenant)

    def _due(self) -> None:
        self._armed = False
        self.flush_all()

    def tell(self, batch: Sequence[Ended]) -> None:
        """Tell the store of these, all of one tenant, by one script for each hour in which some arrived."""
        if len(batch) > 1 and len({place_of(each.entry) for each in batch}) > 1:
            places: defaultdict[Place, list[Ended]] = defaultdict(list)
            for each in batch:
                places[place_of(each.entry)].append(each)
            for those in places.values():
                self._send(those)
        else:
            self._send(batch)

    def _send(self, batch: Sequence[Ended], halved: bool = False) -> None:
        try:
            self._store.post(*to_settle(batch), partial(self._failed, batch, halved))
        except StoreDown:
            if self._store.up:  # else the journal tells it once that is back
                self._refused()
        except Exception:  # whatever it was, the journal is to tell it
            log.exception("requests could not be told to the store", requests=len(batch))
            self._refused()

    def _failed(self, batch: Sequence[Ended], halved: bool, error: str) -> None:
        """The store counted none of them. One that it cannot count must not keep it from counting the others."""
        if meaning(error) is Meaning.WRONG and len(batch) > 1:
            half = len(batch) // 2
            self._send(batch[:half], True)
            self._send(batch[half:], True)
            return
        self._refused()
        if halved:
            log.error("a request cannot be counted; the journal keeps it", request_id=batch[0].entry.id, reason=error)
