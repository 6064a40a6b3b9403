"""The last requests, and what is shown of them."""

from __future__ import annotations

from gateway.records import ITEMS, Finished, Usage
from gateway.telemetry.recent import MOST, Recent


def record(name: str, at: float = 0.0, **fields) -> Finished:
    return Finished(name, at, "messages", **fields)


def names(rows) -> list[str]:
    return [row.record.request_id for row in rows]


def test_those_that_ended_last_come_first_whichever_worker_told_them():
    recent = Recent()
    recent.add([record("a", 1.0, duration=1.0), record("long", 0.0, duration=9.0)])
    recent.add([record("b", 2.0, duration=1.0)])
    assert names(recent.rows(10)) == ["long", "b", "a"]
    assert names(recent.rows(1)) == ["long"]


def test_they_are_chosen_by_caller_account_and_outcome():
    recent = Recent()
    recent.add(
        [
            record("a", 1.0, caller="alice", account="one", status=200),
            record("b", 2.0, caller="alice", account="two", status=429, outcome="error"),
            record("c", 3.0, caller="bob", account="two", status=200, outcome="interrupted"),
            record("d", 4.0),
        ]
    )
    assert names(recent.rows(10, key="alice")) == ["b", "a"]
    assert names(recent.rows(10, account="two")) == ["c", "b"]
    assert names(recent.rows(10, key="alice", account="two", outcome="error")) == ["b"]
    assert names(recent.rows(10, outcome="429")) == ["b"]
    assert names(recent.rows(10, key="nobody")) == []


def test_no_more_than_the_last_are_remembered():
    recent = Recent()
    recent.add(record(str(number), float(number)) for number in range(MOST + 7))
    assert len(recent.rows(10_000)) == MOST
    assert names(recent.rows(1)) == [str(MOST + 6)]
    assert recent.number == MOST + 7


def test_those_after_a_number_are_the_latest_at_most():
    recent = Recent()
    recent.add([record("a"), record("b")])
    seen = recent.number
    assert recent.since(seen, 10) == []
    recent.add([record("c"), record("d"), record("e")])
    assert names(recent.since(seen, 10)) == ["e", "d", "c"]
    assert names(recent.since(seen, 2)) == ["e", "d"]


def test_items_of_batches_are_no_requests():
    recent = Recent()
    recent.add([Finished("a", 0.0, ITEMS)])
    assert (recent.rows(10), recent.number) == ([], 0)


def test_what_is_shown_names_its_units_and_says_none_where_there_is_nothing():
    recent = Recent()
    usage = Usage(1, 2, 3, 4, 5)
    recent.add([record("a", 1_800_000_000.25, usage=usage, cost_nano_usd=12_500_000, duration=1.0, ttft=0.5)])
    (row,) = recent.rows(1)
    shown = row.shown()
    assert shown["at"] == "2027-01-15T08:00:00.250Z"
    assert shown["tokens"] == {"input": 1, "cache_read": 2, "cache_write": 7, "output": 5}
    assert (shown["cost_usd"], shown["duration_seconds"], shown["ttft_seconds"]) == (0.0125, 1.0, 0.5)
    assert shown["key"] is shown["team"] is shown["account"] is shown["status"] is None


def test_whose_limit_refused_a_request_is_shown():
    recent = Recent()
    recent.add([record("a", status=429, outcome="error", throttled="caller", limit="budget_day"), record("b", 1.0)])
    assert [row.shown()["limit"] for row in recent.rows(10)] == [None, "caller: budget_day"]
