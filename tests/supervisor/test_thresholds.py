"""A budget that passes a soft threshold is said once between all gateways, in each period anew."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from gateway.admin.audit import Entry
from gateway.admin.desks.levels import Levels, Passed
from gateway.store.client.connection import StoreDown
from gateway.supervisor.ledger.thresholds import Thresholds

NOON = 1_800_000_000.0
BLUE = Passed("team", "blue", "day", 0.8, 0.85, 50.0)


class Office:
    """Two gateways that see the same."""

    def __init__(self) -> None:
        self.passed_now = [BLUE]
        self.marks: set[str] = set()
        self.entries: list[Entry] = []
        self.now = NOON
        self.away = False
        levels = cast(Levels, self)
        self.gateways = [Thresholds(levels, self, self._record, lambda: "req_1", lambda: self.now) for _ in range(2)]

    async def passed(self) -> list[Passed]:
        return self.passed_now

    async def first(self, name: str, seconds: int) -> bool:
        if self.away:
            raise StoreDown("connection refused")
        new = name not in self.marks
        self.marks.add(name)
        return new

    async def _record(self, entry: Entry) -> None:
        self.entries.append(entry)

    async def look(self) -> list[Any]:
        for each in self.gateways:
            await each.look()
        return [(each.resource, each.changes) for each in self.entries]


async def test_it_is_said_once_by_all_gateways_together():
    office = Office()
    said = ("teams/blue", {"budget_usd_day": (50.0, 42.5)})
    assert await office.look() == [said] == await office.look()
    (entry,) = office.entries
    assert (entry.who, entry.action, entry.status) == ("gateway", "budget.threshold", 200)


async def test_another_threshold_and_another_day_are_said_anew():
    office = Office()
    await office.look()
    office.passed_now = [msgspec.structs.replace(BLUE, share=0.95, used=0.96)]
    assert len(await office.look()) == 2
    office.now += 86_400
    assert len(await office.look()) == 3


async def test_what_could_not_be_marked_is_said_later():
    office = Office()
    office.away = True
    with pytest.raises(StoreDown):
        await office.look()
    assert office.entries == []
    office.away = False
    assert len(await office.look()) == 1
