"""Budgets that are used beyond one of their soft thresholds: said once, by whichever gateway sees it first.

It is written into the audit log and the log; what a caller is told is the workers' (core.spending.quota.Warned).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway import log
from gateway.admin.audit import Entry
from gateway.admin.desks.levels import Levels, Passed
from gateway.config.rules import instant_text
from gateway.core.spending.quota import labels
from gateway.every import every
from gateway.store.client.connection import StoreDown

EVERY = 5.0  # seconds
_KEPT = 40 * 86_400  # seconds that a mark lasts: longer than any period
_MOST_SEEN = 10_000


class Once(Protocol):
    """As store.pool.marks."""

    async def first(self, name: str, seconds: int) -> bool: ...


class Thresholds:
    """Of the budgets that `levels` knows; `record` writes into the audit log, `now()` gives Unix seconds."""

    def __init__(
        self,
        levels: Levels,
        marks: Once,
        record: Callable[[Entry], Awaitable[None]],
        new_id: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        self._levels = levels
        self._marks = marks
        self._record = record
        self._new_id = new_id
        self._now = now
        self._seen: set[str] = set()

    async def run(self) -> None:
        """Look every now and then, until cancelled."""
        await every(EVERY, self.look, "looking at budgets failed", quiet=StoreDown)

    async def look(self) -> None:
        """Once. Raises StoreDown."""
        for passed in await self._levels.passed():
            period = getattr(labels(int(self._now() * 1000)), passed.window)
            mark = f"soft:{passed.kind}:{passed.id}:{passed.window}:{period}:{passed.share:g}"
            if mark in self._seen:
                continue
            first = await self._marks.first(mark, _KEPT)
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen.add(mark)
            if first:
                await self._say(passed)

    async def _say(self, passed: Passed) -> None:
        log.warning(
            "budget used beyond a threshold", kind=passed.kind, id=passed.id, window=passed.window,
            threshold=passed.share, used=round(passed.used, 3), budget_usd=passed.usd,
        )  # fmt: skip
        entry = Entry(
            id=self._new_id(), at=instant_text(self._now()), who="gateway", role="", by="gateway", address="",
            action="budget.threshold", method="", resource=f"{passed.kind}s/{passed.id}", status=200,
            changes={f"budget_usd_{passed.window}": (passed.usd, round(passed.used * passed.usd, 4))},
        )  # fmt: skip
        await self._record(entry)
