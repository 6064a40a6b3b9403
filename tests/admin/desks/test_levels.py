"""What operators see of limits: everyone who has some, in words of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.admin.desks.levels import Levels
from gateway.config.schema import Budget, Caller, CallerLimits, Team
from gateway.store.client.connection import StoreDown
from gateway.store.ledger.levels import SubjectBuckets, Used

NOON = datetime(2026, 12, 22, 12, tzinfo=UTC).timestamp()
AT = int(NOON * 1000)
LIMITS = CallerLimits(
    requests_per_minute=60, input_tokens_per_minute=1000, concurrency=2, budget_usd=Budget(day=1.0, month=20.0)
)


class Reader:
    """The store."""

    def __init__(self, used: dict[str, Used] | None) -> None:
        self.used = used
        self.asked: Mapping[str, Sequence[SubjectBuckets]] = {}

    async def read(self, asked: Mapping[str, Sequence[SubjectBuckets]]) -> dict[str, Used]:
        self.asked = asked
        if self.used is None:
            raise StoreDown("away")
        return self.used


def levels(reader: Reader, callers: list[Caller] | None = None, teams: list[Team] | None = None, now: float = NOON):
    return Levels(reader, lambda: callers or [], lambda: teams or [], lambda: now)


def by_name(row: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {each["limit"]: (each["of"], each["remaining"], each["resets_at"]) for each in row["limits"]}


async def test_each_limit_says_how_much_is_left_and_when_all_of_it_is():
    used = Used(AT, (30, 60, -500), 250_000_000, 5_000_000_000, 50_000_000, 1)
    reader = Reader({"c:alice": used})
    (row,) = await levels(reader, [Caller(id="alice", team="one", limits=LIMITS)]).all()
    assert (row["kind"], row["id"], row["team"]) == ("caller", "alice", "one")
    assert by_name(row) == {
        "requests_per_minute": (60, 30, "2026-12-22T12:00:30Z"),
        "input_tokens_per_minute": (1000, 0, "2026-12-22T12:01:30Z"),
        "concurrency": (2, 1, None),
        "budget_usd_day": (1.0, 0.7, "2026-12-23T00:00:00Z"),
        "budget_usd_month": (20.0, 14.95, "2027-01-01T00:00:00Z"),
    }
    asked = SubjectBuckets("c:alice", (("requests", 60), ("counts", 60), ("input", 1000)))
    assert reader.asked == {"t:one": [asked]}


async def test_counting_tokens_is_shown_once_it_is_used_and_what_is_full_has_no_reset():
    caller = Caller(id="bob", limits=CallerLimits(requests_per_minute=60))
    (row,) = await levels(Reader({"c:bob": Used(AT, (60, 59), 0, 0, 0, 0)}), [caller]).all()
    assert by_name(row) == {
        "requests_per_minute": (60, 60, None),
        "token_counts_per_minute": (60, 59, "2026-12-22T12:00:01Z"),
    }


async def test_who_has_no_limits_is_not_shown_and_teams_come_first():
    callers = [Caller(id="b", limits=LIMITS), Caller(id="free"), Caller(id="a", limits=LIMITS)]
    teams = [Team(id="z", limits=LIMITS), Team(id="free")]
    reader = Reader({})
    rows = await levels(reader, callers, teams).all()
    assert [(row["kind"], row["id"]) for row in rows] == [("team", "z"), ("caller", "a"), ("caller", "b")]
    assert set(reader.asked) == {"t:z", "c:a", "c:b"}
    assert await levels(Reader(None), [Caller(id="free")]).all() == []


async def test_while_the_store_is_away_limits_are_shown_without_what_is_left():
    (row,) = await levels(Reader(None), [Caller(id="alice", limits=LIMITS)]).all()
    assert by_name(row) == {
        "requests_per_minute": (60, None, None),
        "input_tokens_per_minute": (1000, None, None),
        "concurrency": (2, None, None),
        "budget_usd_day": (1.0, None, None),
        "budget_usd_month": (20.0, None, None),
    }


async def test_limits_that_have_just_become_others_are_shown_without_what_is_left():
    reader = Reader({"c:alice": Used(AT, (1,), 0, 0, 0, 0)})
    (row,) = await levels(reader, [Caller(id="alice", limits=LIMITS)]).all()
    assert by_name(row)["requests_per_minute"] == (60, None, None)


async def test_budgets_of_teams_are_shares_of_what_they_may_spend():
    teams = [
        Team(id="one", limits=LIMITS),
        Team(id="none", limits=CallerLimits(budget_usd=Budget(day=0.0))),
        Team(id="free"),
    ]
    used = Used(AT, (30, 60, 5), 250_000_000, 25_000_000_000, 50_000_000, 1)
    desk = levels(Reader({"t:one": used, "t:none": msgspec.structs.replace(used, levels=())}), teams=teams)
    assert list(desk.budgets()) == []
    await desk.look()
    assert list(desk.budgets()) == [("one", "day", 0.7), ("one", "month", 0.0), ("none", "day", 0.0)]


async def test_a_day_that_has_ended_since_the_look_is_a_whole_budget_again():
    clock = [NOON]
    used = Used(AT, (30, 60, 5), 999_000_000, 1_000_000_000, 0, 0)
    desk = Levels(Reader({"t:one": used}), list, lambda: [Team(id="one", limits=LIMITS)], lambda: clock[0])
    await desk.look()
    assert {window: ratio for _, window, ratio in desk.budgets()}["day"] < 0.01
    clock[0] += 86_400
    assert [(window, ratio) for _, window, ratio in desk.budgets()] == [("day", 1.0), ("month", 0.95)]


async def test_without_budgets_the_store_is_not_asked():
    reader = Reader({})
    await levels(reader, teams=[Team(id="one", limits=CallerLimits(concurrency=2))]).look()
    assert reader.asked == {}
