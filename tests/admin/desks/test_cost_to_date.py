"""Dollars of today and of this month, read seldom where they no longer change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from gateway.admin.desks.cost_to_date import CostToDate
from gateway.store.ledger.usage import DAY, Span, Sums, Totals

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
TODAY = int(NOON) // DAY * DAY


class Ledger:
    """A dollar, and half of it saved, on each day."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    async def sum(self, span: Span, groups: tuple[str, ...], only: Mapping[str, frozenset[str]]) -> Sums:
        self.asked.append(((span.start - TODAY) // DAY, (span.end - TODAY) // DAY))
        days = (span.end - span.start) // DAY
        return Sums({(): Totals(cost_nano=days * 1_000_000_000, savings_nano=days * 500_000_000)}, 0)


async def test_the_month_is_the_days_before_and_today():
    assert await CostToDate(Ledger(), lambda: NOON).look() == {
        "today_usd": 1.0, "saved_today_usd": 0.5, "month_usd": 22.0, "saved_month_usd": 11.0,
    }  # fmt: skip


async def test_days_that_are_over_are_read_again_after_a_while_and_on_another_day():
    ledger, clock = Ledger(), [NOON]
    cost = CostToDate(ledger, lambda: clock[0])
    await cost.look()
    clock[0] += 60
    await cost.look()
    assert ledger.asked == [(-21, 0), (0, 1), (0, 1)]
    clock[0] += 3600
    await cost.look()
    assert ledger.asked[3:] == [(-21, 0), (0, 1)]
    clock[0] += DAY
    assert (await cost.look())["month_usd"] == 23.0
    assert ledger.asked[5:] == [(-21, 1), (1, 2)]


async def test_on_the_first_of_a_month_there_are_no_days_before():
    ledger = Ledger()
    first = datetime(2026, 12, 1, 0, 0, 1, tzinfo=UTC).timestamp()
    assert (await CostToDate(ledger, lambda: first).look())["month_usd"] == 1.0
    assert len(ledger.asked) == 1
