"""What the requests of this UTC day and month have cost, from the ledger. Days that are over are read seldom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from gateway.store.ledger.usage import DAY, Span, Sums, Totals

EVERY = 10.0  # seconds between two looks
_OVER_EVERY = 600.0  # seconds between looks at the days that are over: late settlements still come


class Store(Protocol):
    """The ledger, as in store.ledger.usage."""

    async def sum(self, span: Span, groups: tuple[str, ...], only: Mapping[str, frozenset[str]]) -> Sums: ...


class CostToDate:
    """`now()` gives Unix seconds."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._over = Totals()
        self._over_of = (0, 0.0)  # the day before which they are, and when they were read

    async def look(self) -> dict[str, float]:
        """Dollars of this UTC day and month, and those that cache reads have saved. Raises StoreDown."""
        now = self._now()
        today = int(now // DAY) * DAY
        if self._over_of[0] != today or now - self._over_of[1] >= _OVER_EVERY:
            month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            self._over = await self._sum(int(month.timestamp()), today)
            self._over_of = (today, now)
        day = await self._sum(today, today + DAY)
        return {
            "today_usd": day.cost_nano / 1e9,
            "saved_today_usd": day.savings_nano / 1e9,
            "month_usd": (self._over.cost_nano + day.cost_nano) / 1e9,
            "saved_month_usd": (self._over.savings_nano + day.savings_nano) / 1e9,
        }

    async def _sum(self, start: int, end: int) -> Totals:
        total = Totals()
        if start < end:
            for row in (await self._store.sum(Span(start, end), (), {})).rows.values():
                total.add(row)
        return total
