"""What callers have spent in former teams, counted in their present ones: a move neither loses nor doubles it.

A tenant's limits are kept in its own slot. So the sums of a caller that was moved are copied from the slots of its
former teams to the present one, whole and again and again: what runs there, or is settled late, is followed. Every
gateway does that; it does not matter who is first.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time

from gateway.core.spending.keyring import CallerRecord, Stored
from gateway.every import every
from gateway.store.client.connection import StoreDown
from gateway.store.ledger.ledger import tenant_of
from gateway.store.ledger.level_reader import LevelReader
from gateway.store.ledger.levels import joined

EVERY = 2.0  # seconds


class Carrier:
    """Of the callers in `stored()`."""

    def __init__(self, levels: LevelReader, stored: Callable[[], Stored], now: Callable[[], float] = time) -> None:
        self._levels = levels
        self._stored = stored
        self._now = now

    async def run(self) -> None:
        """Look every now and then, until cancelled."""
        await every(EVERY, self.look, "carrying over what callers have spent failed", quiet=StoreDown)

    async def look(self) -> None:
        """All of them once. Raises StoreDown."""
        for name, record in self._stored().present.items():
            await self.carry(name, record)

    async def carry(self, name: str, record: CallerRecord) -> None:
        """One of them, who need not be in `stored()` yet. Raises StoreDown."""
        now = int(self._now() * 1000)
        former = record.carried(now)
        if not former:
            return
        subject = f"c:{name}"
        spent = [await self._levels.spent(tenant_of(name, team), subject) for team in former]
        await self._levels.carry(tenant_of(name, record.team or ""), subject, joined(spent, now))
