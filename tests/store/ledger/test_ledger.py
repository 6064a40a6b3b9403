"""Limits and the ledger on a real server: taken together or not at all, counted once, and given back to a store that
has lost them."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from gateway.core.routing.binding import Record
from gateway.core.routing.binding import pack as pack_binding
from gateway.core.routing.binding import unpack as unpack_binding
from gateway.core.spending.quota import COUNT, LEASE, MESSAGE, SUMS, Limits, Plan, Quota, Refused, labels
from gateway.store.client import redis_py
from gateway.store.client.connection import Arg, StoreDown
from gateway.store.ledger import journal as journals
from gateway.store.ledger import ledger
from gateway.store.ledger.ledger import (
    SETTLED_FOR,
    STALE,
    TENANTS,
    Alive,
    Call,
    Cancelled,
    Ended,
    Entry,
    Intent,
    ReservationRecord,
    Total,
    UsageJournal,
    estimate_of,
    levels_of,
    pack,
    pack_intent,
    pack_renewal,
    refused_of,
    settled_of,
    swept_of,
    to_admit,
    to_enroll,
    to_note,
    to_renew,
    to_settle,
    to_sweep,
    unpack,
)
from gateway.store.scripts import Script
from tests.subjects import filled_at, numbers

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
AT = 1_800_014_400_000  # noon of 15 January 2027, UTC
CENT = 10**7
T = "{t:research}"
Q = f"{T}:q:"


def plan_of(caller: Quota | None = None, team: Quota | None = None, name: str = "alice") -> Plan:
    return Plan("t:research", [(f"c:{name}", caller or Quota()), ("t:research", team or Quota())])


class Ledger:
    """What the calls do, and what the store holds afterwards. Times are given, so that nothing depends on the clock."""

    def __init__(self, admin: Any) -> None:
        self.admin = admin

    def ask(self, call: Call) -> Any:
        script, args = call
        reply = self.admin.eval(script.text, *args)
        return reply[0] if script.joins else reply

    async def run(self, script: Script, args: tuple[Arg, ...]) -> Any:
        return self.ask((script, args))

    def admit(
        self, plan: Plan, request_id: str = "r1", *, cost: int = 0, endpoints: str = MESSAGE, at: int = AT,
        now: int | None = None, process: str = "p1", binding: tuple[Arg, ...] | None = None, discount: int = 0,
    ) -> Refused | None:  # fmt: skip
        limits = plan.limits(endpoints)
        self.reply = self.ask(admission(plan, request_id, cost, endpoints, at, now, process, binding, discount))
        self.levels = list(levels_of(self.reply))
        return refused_of(self.reply, limits, at)

    def settle(self, entry: Entry, plan: Plan | None = None, now: int | None = None) -> int:
        return self.settle_all([entry], plan, now)[0]

    def settle_all(self, entries: list[Entry], plan: Plan | None = None, now: int | None = None) -> list[int]:
        debits = plan.debits if plan else ()
        batch = [Ended(entry, pack(entry), debits) for entry in entries]
        statuses, renewals = settled_of(self.ask(to_settle(batch, now=entries[0].ended if now is None else now)))
        assert renewals == []
        return statuses

    def sweep(self, at: int, *alive: str, tenant: str = "t:research") -> list[tuple[str, ReservationRecord]]:
        cursor, found = "0", []
        for _ in range(1000):
            reply = self.ask(to_sweep(tenant, alive, at, cursor, ("c:alice", "t:research"), at))
            cursor, some = swept_of(reply)
            found += some
            if cursor == "0":
                return found
        raise AssertionError("a sweep without end")

    # What is kept.

    def hash(self, key: str) -> dict[str, str]:
        return {field.decode(): value.decode() for field, value in self.admin.hgetall(key).items()}

    def level(self, field: str, subject: str = "c:alice") -> float:
        return numbers(self.admin.hgetall(Q + subject))[field]

    def money(self, subject: str = "c:alice") -> tuple[int, int, int]:
        """(spent today, spent this month, reserved)."""
        return self.kept(Q + subject)

    def kept(self, key: str) -> tuple[int, int, int]:
        kept = numbers(self.admin.hgetall(key))
        return int(kept.get("day_spent", 0)), int(kept.get("month_spent", 0)), int(kept.get("reserved", 0))

    def leases(self, subject: str = "c:alice") -> int:
        return int(self.admin.zcard(f"{T}:c:{subject}"))

    def reservations(self) -> int:
        return int(self.admin.hlen(f"{T}:r"))

    def sums(self, key: str) -> dict[str, tuple[int, ...]]:
        flat = self.admin.hgetall(key)
        return {field.decode(): tuple(msgspec.msgpack.decode(packed)) for field, packed in flat.items()}

    def hour(self, at: int = AT) -> dict[str, tuple[int, ...]]:
        return self.sums(f"{T}:u:h:{labels(at).hour}")

    def day(self, at: int = AT) -> dict[str, tuple[int, ...]]:
        return self.sums(f"{T}:u:d:{labels(at).day}")

    def everything(self) -> dict[str, bytes]:
        return {key.decode(): self.admin.dump(key) for key in self.admin.scan_iter()}

    def records(self) -> dict[str, list[bytes]]:
        """What the streams of records hold, in no order."""
        keys = [key for key in self.admin.scan_iter() if key.endswith(b":s")]
        return {key.decode(): sorted(fields[b"r"] for _, fields in self.admin.xrange(key)) for key in keys}

    def counted(self) -> dict[str, Any]:
        """All aggregates, and all that was spent."""
        found: dict[str, Any] = {}
        for key in map(bytes.decode, self.admin.scan_iter()):
            if ":u:" in key:
                found[key] = self.sums(key)
            elif ":q:" in key:
                kept = numbers(self.admin.hgetall(key))
                spent = {name: value for name, value in kept.items() if name.startswith(("day", "month"))}
                if spent:
                    found[key] = spent
        return found


@pytest.fixture
def store(server) -> Ledger:
    return Ledger(server.admin)


def admission(
    plan: Plan, request_id: str, cost: int = 0, endpoints: str = MESSAGE, at: int = AT, now: int | None = None,
    process: str = "p1", binding: tuple[Arg, ...] | None = None, discount: int = 0,
) -> Call:  # fmt: skip
    limits = plan.limits(endpoints)
    caller, team = plan.subjects[0][2:], "research" if len(plan.subjects) > 1 else ""
    held = lighter = b""
    if endpoints == MESSAGE:
        record = ReservationRecord(
            process, at, labels(at).hour, caller, team, "m", "", "messages", 100, cost // 2, cost, limits.leases,
            limits.reserved,
        )  # fmt: skip
        less = msgspec.structs.replace(
            record, cost_nano=cost - discount, conversation=str(binding[0]) if binding else ""
        )
        held, lighter = pack(record), pack(less)
    now = at if now is None else now
    return to_admit(limits, request_id, held, cost, labels(at), binding, now, discount, lighter)


def used(request_id: str = "r1", *, at: int = AT, **fields: Any) -> Entry:
    values = {"ended": at + 1000, "caller": "alice", "team": "research", "model": "m", "account": "a1", **fields}
    return Entry(id=request_id, at=at, endpoint="messages", **values)


# Buckets.


def test_a_bucket_of_requests_holds_a_minutes_and_refills_by_time(store):
    plan = plan_of(Quota(requests=3))
    for number in range(3):
        assert store.admit(plan, f"r{number}") is None
        assert store.levels == [2 - number]
    refused = store.admit(plan, "r3")
    assert refused is not None and (refused.row.kind.field, refused.wait) == ("requests", 20)
    assert store.reply == [2, 1, 20_000, [0]]
    assert store.admit(plan, "r3", now=AT + 19_999) is not None
    assert store.admit(plan, "r3", now=AT + 20_000) is None
    assert store.admit(plan, "r4", now=AT + 20 * MINUTE) is None
    assert store.levels == [2]


def test_tokens_admit_while_there_are_any_and_are_taken_at_settlement(store):
    plan = plan_of(Quota(input_tokens=1000, output_tokens=600))
    assert store.admit(plan, "r1") is None
    assert store.levels == [1000, 600]
    store.settle(used("r1", input=700, write_5m=200, write_1h=50, cache_read=9999, output=60), plan, now=AT)
    assert (store.level("input"), store.level("output")) == (50, 540)
    assert store.admit(plan, "r2") is None
    assert store.levels == [50, 540]


def test_a_level_may_fall_below_nothing_and_then_refuses_until_it_is_above(store):
    plan = plan_of(Quota(input_tokens=1000, output_tokens=600))
    store.settle(used("r1", input=3000, output=1200), plan, now=AT)
    assert (store.level("input"), store.level("output")) == (-2000, -600)
    refused = store.admit(plan, "r2")
    assert refused is not None and (refused.row.kind.field, refused.wait) == ("input", 120)
    refused = store.admit(plan, "r2", now=AT + 119_500)
    assert refused is not None and (refused.row.kind.field, refused.wait) == ("input", 1)
    assert store.admit(plan, "r2", now=AT + 120_000) is not None
    assert store.admit(plan, "r2", now=AT + 120_060) is None
    assert store.levels == [1, 600]


def test_a_bucket_whose_limit_was_lowered_holds_no_more_than_that(store):
    store.admit(plan_of(Quota(requests=100)))
    store.admit(plan_of(Quota(requests=5)), "r2")
    assert store.levels == [4]


def test_a_clock_that_goes_back_refills_nothing(store):
    plan = plan_of(Quota(requests=2))
    store.admit(plan, "r1")
    store.admit(plan, "r2", now=AT - HOUR)
    assert store.levels == [0]
    assert store.admit(plan, "r3", now=AT - HOUR + 30_000) is None


def test_what_no_gateway_wrote_into_a_bucket_counts_as_a_full_one(store):
    store.admin.hset(Q + "c:alice", "n", "none")
    store.admit(plan_of(Quota(requests=2)))
    assert store.levels == [1]


def test_counting_tokens_takes_from_its_own_bucket_and_reserves_nothing(store):
    plan = plan_of(Quota(requests=1, concurrency=1, input_tokens=1, day_nano=1), Quota(requests=5))
    assert store.admit(plan, "r1", endpoints=COUNT) is None
    assert store.levels == [0, 4]
    refused = store.admit(plan, "r2", endpoints=COUNT)
    assert refused is not None and refused.row.kind.field == "counts"
    assert store.admit(plan, "r3", cost=1) is None
    assert (store.reservations(), store.leases()) == (1, 1)
    assert store.level("counts", "t:research") == 4


def test_without_a_time_the_servers_clock_counts(store):
    plan = plan_of(Quota(requests=60, output_tokens=60, concurrency=1))
    seconds, _ = store.admin.time()
    store.admit(plan, now=0)
    store.settle(used(output=5), plan, now=0)
    for field in ("requests", "output"):
        at = filled_at(store.admin.hgetall(Q + "c:alice"), field)
        assert seconds * 1000 <= at <= seconds * 1000 + MINUTE
    store.ask(to_renew("t:research", "c:alice", ["r1"]))
    assert store.admin.zscore(f"{T}:c:c:alice", "r1") >= seconds * 1000 + LEASE


# All together or not at all.


async def test_of_forty_at_once_ten_a_minute_pass(server, connect):
    clients = [connect(server.url) for _ in range(2)]
    for client in clients:
        assert await client.start(10)
    plan = plan_of(Quota(requests=10))
    replies = await asyncio.gather(*(clients[each % 2].call(*admission(plan, f"r{each}")) for each in range(40)))
    answers = [refused_of(reply, plan.message, AT) for reply in replies]
    assert answers.count(None) == 10
    assert {answer.row.kind.field for answer in answers if answer} == {"requests"}


def test_of_many_at_once_as_many_run_as_there_are_slots(store):
    plan = plan_of(Quota(concurrency=3))
    answers = [store.admit(plan, f"r{each}") for each in range(40)]
    assert answers.count(None) == store.leases() == store.reservations() == 3
    assert {(each.row.kind.field, each.wait) for each in answers if each} == {("concurrency", 1)}
    store.settle(used("r1"), plan)
    assert store.admit(plan, "r40") is None
    assert store.admit(plan, "r41") is not None


def test_caller_and_team_are_taken_together_or_not_at_all(store):
    plan = plan_of(Quota(requests=10, concurrency=10, day_nano=100), Quota(requests=10, concurrency=1, day_nano=100))
    assert store.admit(plan, "r1", cost=1) is None
    before = store.everything()
    refused = store.admit(plan, "r2", cost=1, now=AT + 1)
    assert refused is not None and (refused.row.subject, refused.row.kind.field) == ("t:research", "concurrency")
    assert store.everything() == before


def test_a_team_of_callers_shares_what_the_team_may(store):
    team = Quota(requests=5)
    answers = [store.admit(plan_of(Quota(requests=4), team, f"caller{each % 3}"), f"r{each}") for each in range(9)]
    assert answers.count(None) == 5
    assert {each.message for each in answers if each} == {
        "This request would exceed your team's limit of 5 requests per minute."
    }


def test_of_several_limits_the_one_with_the_longest_wait_speaks_and_budgets_before_all(store):
    plan = plan_of(Quota(requests=1, concurrency=1), Quota(requests=2, input_tokens=10))
    store.admit(plan, "r1")
    refused = store.admit(plan, "r2")
    assert refused is not None and (refused.row.kind.field, refused.wait) == ("requests", 60)
    store.settle(used("r1", input=20, cost_nano=5), plan, now=AT)
    refused = store.admit(plan, "r2")
    assert refused is not None and (refused.row.kind.field, refused.row.subject, refused.wait) == (
        "requests", "c:alice", 60,
    )  # fmt: skip
    store.settle(used("r0", input=100), plan, now=AT)
    refused = store.admit(plan, "r2")
    assert refused is not None and (refused.row.kind.field, refused.wait) == ("input", 660)
    plan = plan_of(Quota(requests=1, day_nano=5, month_nano=5), Quota(input_tokens=10))
    refused = store.admit(plan, "r2")
    assert refused is not None and refused.row.kind.field == "month"


def test_a_refused_request_creates_no_binding(store):
    plan = plan_of(Quota(requests=1))
    binding = (f"{T}:b:00ff", "m", pack_binding(Record("w1")), 1, DAY, 0)
    assert store.admit(plan, "r1", binding=binding) is None
    created, packed, now, levels, _ = store.reply
    assert (created, unpack_binding(packed), now, levels) == (1, Record("w1"), AT, [0])
    assert store.admit(plan, "r2", binding=(f"{T}:b:00ee", *binding[1:])) is not None
    assert store.admin.exists(f"{T}:b:00ee") == 0
    assert store.admit(plan, "r2", now=AT + MINUTE, binding=binding) is None
    assert store.reply == [0, packed, AT + MINUTE, [0], 0]


def test_a_request_of_a_caller_without_limits_is_noted_and_nothing_else(store):
    assert store.admit(plan_of(), cost=5) is None
    assert store.levels == []
    assert list(store.everything()) == [f"{T}:r"]


def test_an_admission_whose_reply_was_lost_takes_nothing_when_it_is_asked_again(store):
    plan = plan_of(Quota(requests=1, concurrency=1, input_tokens=1, day_nano=10), Quota(requests=5, month_nano=10))
    assert store.admit(plan, cost=10) is None
    levels, before = store.levels, store.everything()
    assert store.admit(plan, cost=10) is None
    assert store.levels == levels == [0, 1, 4]
    assert store.everything() == before


def test_leases_that_nobody_renewed_make_room_for_others(store):
    plan = plan_of(Quota(concurrency=2))
    store.admit(plan, "dead")
    store.admit(plan, "alive")
    assert store.ask(to_renew("t:research", "c:alice", ["alive"], AT + 30_000)) == 2
    assert store.admit(plan, "r3", now=AT + LEASE - 1) is not None
    assert store.admit(plan, "r3", now=AT + LEASE) is None
    assert store.admin.zrange(f"{T}:c:c:alice", 0, -1) == [b"alive", b"r3"]


def test_a_lease_that_the_store_has_lost_is_there_again_once_it_is_renewed(store):
    ids = [f"r{each}" for each in range(3000)]
    assert store.ask(to_renew("t:research", "c:alice", ids, AT)) == 3000
    assert store.ask(to_renew("t:research", "c:alice", ["r1", "r7"], AT + LEASE)) == 2


# Money.


def test_two_hundred_at_once_never_exceed_a_budget_and_what_they_leave_is_usable(store):
    plan = plan_of(Quota(day_nano=10 * CENT), Quota(month_nano=12 * CENT))
    answers = [store.admit(plan, f"r{each}", cost=CENT) for each in range(200)]
    assert answers.count(None) == 10
    assert store.money() == (0, 0, 10 * CENT)
    for each in range(10):
        store.settle(used(f"r{each}", cost_nano=CENT // 10), plan)
    assert store.money() == store.money("t:research") == (CENT, CENT, 0)
    answers = [store.admit(plan, f"s{each}", cost=CENT) for each in range(200)]
    assert answers.count(None) == 9
    other = plan_of(None, Quota(month_nano=12 * CENT), "bob")
    assert [store.admit(other, f"t{each}", cost=CENT) for each in range(9)].count(None) == 2


WARM = (f"{T}:b:{'ab' * 16}", "m", pack_binding(Record("w1")), 1, 60_000, 0)
OTHER = (f"{T}:b:{'cd' * 16}", *WARM[1:])


def test_one_request_of_a_conversation_at_a_time_reserves_less_for_what_its_cache_has(store):
    plan = plan_of(Quota(day_nano=10 * CENT))
    assert store.admit(plan, "r1", cost=4 * CENT, discount=3 * CENT, binding=WARM) is None
    assert store.money()[2] == CENT
    assert store.admit(plan, "r2", cost=4 * CENT, discount=3 * CENT, binding=WARM) is None
    assert store.money()[2] == 5 * CENT  # the second one whole
    assert store.admit(plan, "r3", cost=4 * CENT, discount=3 * CENT, binding=OTHER) is None
    assert store.money()[2] == 6 * CENT  # another conversation
    assert store.admit(plan, "r4", cost=5 * CENT, discount=4 * CENT, binding=WARM) is not None
    assert store.money()[2] == 6 * CENT
    store.settle(used("r1", cost_nano=CENT // 2), plan)
    store.settle(used("r3"), plan)
    assert store.money() == (CENT // 2, CENT // 2, 4 * CENT)  # each gives back what it had taken
    assert store.admit(plan, "r4", cost=5 * CENT, discount=4 * CENT, binding=WARM) is None  # r1 has ended
    assert store.money()[2] == 5 * CENT
    for request_id in ("r2", "r4"):
        store.settle(used(request_id), plan)
    assert store.money()[2] == 0 and store.reservations() == 0


def test_a_conversation_whose_request_is_settled_by_who_does_not_know_of_it_reserves_less_again(store):
    plan = plan_of(Quota(day_nano=10 * CENT))
    store.admit(plan, "r1", cost=4 * CENT, discount=3 * CENT, binding=WARM)
    store.settle(used("r1"), plan)
    mark = msgspec.msgpack.encode(["r1", 1 << 53])
    store.admin.hset(f"{T}:r", WARM[0], mark)  # as an older version would have left it
    assert store.admit(plan, "r2", cost=4 * CENT, discount=3 * CENT, binding=WARM) is None
    assert store.money()[2] == CENT
    store.settle(used("r2"), plan)
    assert store.reservations() == 0
    store.admin.hset(f"{T}:r", WARM[0], mark)
    assert store.sweep(AT + STALE) == [] and store.reservations() == 0


def test_who_reserves_less_is_no_reservation_to_a_sweep_not_even_to_an_older_ones(store):
    plan = plan_of(Quota(day_nano=10 * CENT))
    store.admit(plan, "r1", cost=4 * CENT, discount=3 * CENT, binding=WARM)
    held = {name: msgspec.msgpack.decode(packed) for name, packed in store.admin.hgetall(f"{T}:r").items()}
    assert {len(each) for each in held.values()} == {2, 14}
    assert held[str(WARM[0]).encode()] == ["r1", 1 << 53]  # which it compares to the time
    assert [name for name, _ in store.sweep(AT + STALE)] == ["r1"] and store.reservations() == 2
    assert store.sweep(AT + STALE, "p1") == []


def test_two_hundred_at_once_of_one_warm_conversation_are_no_more_than_the_budget_holds(store):
    plan = plan_of(Quota(day_nano=10 * CENT))
    admitted = [
        request_id
        for request_id in map("r{}".format, range(200))
        if store.admit(plan, request_id, cost=CENT, discount=CENT - 1, binding=WARM) is None
    ]
    assert len(admitted) == 10 and store.money()[2] <= 10 * CENT
    for request_id in admitted:  # each as if nothing had been in the cache
        store.settle(used(request_id, cost_nano=CENT), plan)
    assert store.money() == (10 * CENT, 10 * CENT, 0)


def test_a_reply_that_was_lost_takes_the_discount_once(store):
    plan = plan_of(Quota(day_nano=10 * CENT, requests=5))
    for _ in range(2):
        assert store.admit(plan, "r1", cost=4 * CENT, discount=3 * CENT, binding=WARM) is None
        assert (store.money()[2], store.levels) == (CENT, [4])
    [(_, held)] = store.sweep(AT + STALE)
    assert (held.cost_nano, held.leases, held.reserved) == (CENT, (), (1,))


def test_a_budget_that_is_spent_admits_not_even_what_costs_nothing(store):
    plan = plan_of(Quota(day_nano=100))
    store.settle(used("r0", cost_nano=100))
    assert store.admit(plan, cost=0) is not None
    assert store.admit(plan_of(Quota(day_nano=0)), "r2") is not None
    assert store.admit(plan_of(Quota(day_nano=101)), "r3", cost=1) is None


def test_what_was_spent_before_there_was_a_budget_counts(store):
    store.settle(used("r0", cost_nano=90))
    assert store.admit(plan_of(Quota(day_nano=100)), cost=11) is not None
    assert store.admit(plan_of(Quota(day_nano=100)), cost=10) is None


def test_a_new_day_is_a_new_budget_and_a_month_goes_on(store):
    plan = plan_of(Quota(day_nano=100, month_nano=150))
    store.settle(used("r0", cost_nano=100))
    refused = store.admit(plan, cost=10)
    assert refused is not None and (refused.row.kind.field, refused.wait) == ("day", 12 * 3600)
    midnight = AT + 12 * HOUR
    assert store.admit(plan, cost=50, at=midnight) is None
    store.settle(used("r1", at=midnight, cost_nano=50))
    refused = store.admit(plan, "r2", cost=1, at=midnight)
    assert refused is not None and (refused.row.kind.field, refused.wait) == ("month", 16 * 86_400)
    first = AT + 12 * HOUR + 16 * DAY
    assert store.admit(plan, "r2", cost=100, at=first) is None
    assert store.money() == (50, 150, 100)
    store.settle(used("r2", at=first, cost_nano=70))
    assert store.money() == (70, 70, 0)


def test_what_is_settled_after_midnight_belongs_to_its_own_day_and_month(store):
    midnight, first = AT + 12 * HOUR, AT + 12 * HOUR + 16 * DAY
    store.settle(used("r1", at=midnight, cost_nano=5))
    store.settle(used("late", at=midnight - 1, cost_nano=3))
    assert store.money() == (5, 8, 0)
    store.settle(used("r2", at=first, cost_nano=1))
    store.settle(used("later", at=first - 1, cost_nano=100))
    assert store.money() == (1, 1, 0)
    assert list(store.day(midnight - 1).values()) == [(1, 0, 0, 0, 0, 0, 0, 3, 0)]


def test_a_process_whose_clock_is_behind_at_midnight_asks_of_the_new_day(store):
    plan = plan_of(Quota(day_nano=100))
    store.settle(used("r0", at=AT + 12 * HOUR, cost_nano=100))
    assert store.admit(plan, at=AT + 12 * HOUR - 1, cost=1) is not None


def test_nano_dollars_stay_exact_as_long_as_they_are_below_nine_million_dollars(store):
    most = 2**53 - 1
    plan = plan_of(Quota(day_nano=most, month_nano=most), Quota(day_nano=most))
    assert store.admit(plan, cost=most - 2) is None
    assert store.money() == (0, 0, most - 2)
    assert store.admit(plan, "r2", cost=3) is not None
    assert store.admit(plan, "r2", cost=2) is None
    assert store.money("t:research") == (0, 0, most)
    store.settle(used("r1", cost_nano=most - 2, savings_nano=most - 7), plan)
    store.settle(used("r2", cost_nano=1, savings_nano=6), plan)
    assert store.money() == store.money("t:research") == (most - 1, most - 1, 0)
    assert store.hour() == store.day() == {"alice\0m\0a1": (2, 0, 0, 0, 0, 0, 0, most - 1, most - 1)}


# Settlement.


def test_a_request_is_counted_by_caller_model_and_account_in_its_hour_and_day(store):
    one = used("r1", input=1, cache_read=2, write_5m=3, write_1h=4, output=5, cost_nano=6, savings_nano=7)
    assert store.settle(one) == 1
    assert store.settle(used("r2", estimated=1, account="a2")) == 1
    assert store.settle(used("r3", at=AT + HOUR, input=10)) == 1
    assert store.hour() == {"alice\0m\0a1": (1, 0, 1, 2, 3, 4, 5, 6, 7), "alice\0m\0a2": (1, 1, *[0] * 7)}
    assert store.hour(AT + HOUR) == {"alice\0m\0a1": (1, 0, 10, *[0] * 6)}
    assert store.day() == {"alice\0m\0a1": (2, 0, 11, 2, 3, 4, 5, 6, 7), "alice\0m\0a2": (1, 1, *[0] * 7)}
    records = store.admin.xrange(f"{T}:s")
    assert [unpack(fields[b"r"]).id for _, fields in records] == ["r1", "r2", "r3"]
    assert unpack(records[0][1][b"r"]) == one


def test_a_request_is_counted_once_however_often_it_is_settled(store):
    plan = plan_of(Quota(input_tokens=100, concurrency=3, day_nano=CENT))
    store.admit(plan, cost=50)
    entry = used(input=30, cost_nano=20)
    assert store.settle(entry, plan) == 1
    before = store.everything()
    assert [store.settle(entry, plan) for _ in range(3)] == [0, 0, 0]
    assert store.everything() == before
    assert (store.money(), store.leases(), store.reservations()) == ((20, 20, 0), 0, 0)


def test_a_settlement_without_a_reservation_counts_just_the_same(store):
    plan = plan_of(Quota(input_tokens=100), Quota(day_nano=CENT))
    assert store.settle(used(input=30, cost_nano=20), plan, now=AT) == 1
    assert store.level("input") == 70
    assert store.money() == store.money("t:research") == (20, 20, 0)
    assert list(store.hour()) == ["alice\0m\0a1"]


def test_an_admission_that_arrives_after_its_settlement_is_swept_without_being_counted(store):
    plan = plan_of(Quota(concurrency=3, day_nano=CENT))
    store.settle(used(cost_nano=20), plan)
    counted = store.counted()
    store.admit(plan, cost=50)
    assert store.money()[2] == 50
    ((request_id, held),) = store.sweep(AT + STALE, "p1")
    assert store.settle(estimate_of(request_id, held, AT + STALE), plan) == 0
    assert (store.reservations(), store.leases(), store.money()[2], store.counted()) == (0, 0, 0, counted)


def test_a_request_that_was_never_sent_gives_back_what_it_reserved_and_is_not_counted(store):
    plan = plan_of(Quota(requests=5, concurrency=1, day_nano=100), Quota(day_nano=100))
    store.admit(plan, cost=60)
    assert store.settle(used(requests=0, account=""), plan) == 1
    assert (store.reservations(), store.leases(), store.money(), store.money("t:research")) == (0, 0, *[(0, 0, 0)] * 2)
    assert store.hour() == store.day() == {}
    assert store.admin.exists(f"{T}:s") == 0
    assert store.settle(used(requests=0, account=""), plan) == 0


def test_a_caller_without_a_team_is_its_own_tenant(store):
    plan = Plan("c:carol", [("c:carol", Quota(requests=5, concurrency=1, day_nano=100))])
    assert store.admit(plan, cost=60) is None
    entry = used(caller="carol", team="", cost_nano=4)
    assert store.settle(entry, plan) == 1
    assert store.kept("{c:carol}:q:c:carol")[0] == 4
    assert {key.partition("}")[0] for key in store.everything()} == {"{c:carol"}
    assert store.admin.zcard("{c:carol}:c:c:carol") == store.admin.hlen("{c:carol}:r") == 0


def test_a_settlement_renews_the_binding_too(store):
    binding = (f"{T}:b:00ff", "m", pack_binding(Record("w1")), 1, DAY, 0)
    plan = plan_of(Quota(requests=5))
    store.admit(plan, binding=binding)
    renewal = (f"{T}:b:00ff", "m", DAY, b"", b"", pack_renewal(("w1", 1, "w1", 0, 300_000, 500, 2000, 0)))
    entry = used(output=7, cost_nano=4)
    call = to_settle([Ended(entry, pack(entry), plan.debits, renewal)], AT)
    assert store.ask(call) == [[1], [1]]
    record = unpack_binding(store.admin.hget(f"{T}:b:00ff", "m"))
    assert (record.warm_until, record.tokens) == (AT + 300_000, 500)
    assert store.money() == (4, 4, 0)
    assert store.ask(call) == [[0], [1]]


BATCHED = plan_of(
    Quota(requests=100, input_tokens=10**6, output_tokens=10**6, concurrency=50, day_nano=CENT), Quota(month_nano=CENT)
)  # fmt: skip
OTHERS = plan_of(name="bob")
ENDED = [
    used(
        f"r{n}", caller="alice" if n % 3 else "bob", input=10 * n, output=n, cost_nano=100 + n, requests=int(n != 5),
        model=f"m{n % 2}",
    )
    for n in range(1, 9)
]  # fmt: skip


def settled_so(store: Ledger, batches: list[list[Entry]]) -> tuple[Any, ...]:
    """What the store holds after requests were admitted and told in these batches."""
    store.admin.flushall()
    for entry in ENDED:
        assert store.admit(BATCHED if entry.caller == "alice" else OTHERS, entry.id, cost=1000) is None
    for batch in batches:
        debits = [(BATCHED if entry.caller == "alice" else OTHERS).debits for entry in batch]
        ended = [Ended(entry, pack(entry), its) for entry, its in zip(batch, debits, strict=True)]
        store.ask(to_settle(ended, now=AT))
    subjects = ("c:alice", "c:bob", "t:research")
    left = [numbers(store.admin.hgetall(Q + subject)) for subject in subjects]
    return left, store.hour(), store.day(), store.records(), store.reservations(), [*map(store.leases, subjects)]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(len(ENDED))), again=st.lists(st.integers(0, len(ENDED) - 1), max_size=6),
    cuts=st.sets(st.integers(1, len(ENDED) + 5)),
)  # fmt: skip
def test_any_batches_in_any_order_and_told_however_often_give_the_same_sums(store, order, again, cuts):
    told = [ENDED[n] for n in (*order, *again)]
    bounds = [0, *sorted(cut for cut in cuts if cut < len(told)), len(told)]
    batches = [told[begin:end] for begin, end in itertools.pairwise(bounds)]
    assert settled_so(store, batches) == settled_so(store, [[entry] for entry in ENDED])


def test_money_that_was_written_field_by_field_counts_on(store):
    when = labels(AT)
    spent = {"reserved": 7, "day": when.day, "day_spent": 60, "month": when.month, "month_spent": 500}
    store.admin.hset(Q + "c:alice", mapping={**spent, "requests": "3 1"})
    plan = plan_of(Quota(day_nano=100, requests=5))
    refused = store.admit(plan, cost=40)
    assert refused is not None and refused.row.kind.field == "day"
    assert store.admit(plan, cost=30) is None
    store.settle(used(cost_nano=20), plan)
    assert store.money() == (80, 520, 7)


def test_an_estimate_and_what_is_known_later_may_be_in_one_batch(store):
    store.admit(BATCHED, cost=60)
    ((request_id, held),) = store.sweep(AT + STALE)
    estimate, entry = estimate_of(request_id, held, AT + STALE), used(input=40, cost_nano=12)
    assert store.settle_all([estimate, estimate, entry, estimate, entry], BATCHED) == [1, 3, 2, 0, 0]
    assert store.hour() == store.day() == {"alice\0m\0a1": (1, 0, 40, 0, 0, 0, 0, 12, 0)}
    assert (store.money(), store.leases(), store.reservations()) == ((12, 12, 0), 0, 0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda store: store.admin.hset(f"{T}:r", "r2", b"\xc1"),  # a reservation that cannot be read
        lambda store: store.admin.set(f"{T}:u:d:{labels(AT).day}", "somebody's"),
        lambda store: store.admin.set(f"{T}:s", "somebody's"),
    ],
)
def test_a_batch_that_cannot_be_counted_changes_nothing(store, spoil):
    for name in ("r1", "r2", "r3"):
        store.admit(BATCHED, name, cost=10)
    spoil(store)
    before = store.everything()
    with pytest.raises(redis.ResponseError):
        store.settle_all([used("r1", cost_nano=1), used("r2", cost_nano=2), used("r3", cost_nano=3)], BATCHED)
    assert store.everything() == before


def test_bindings_of_several_conversations_are_renewed_with_one_batch(store):
    keys = [f"{T}:b:{n:04x}" for n in range(3)]
    for number, key in enumerate(keys[:2]):
        store.admit(BATCHED, f"r{number}", binding=(key, "m", pack_binding(Record("w1")), 1, DAY, 0))
    batch = [
        Ended(entry := used(f"r{n}"), pack(entry), BATCHED.debits,
              (key, "m", DAY, b"", b"", pack_renewal(("w1", 1, "w1", 0, 300_000, 10 + n, 40, 0))) if key else None)
        for n, key in enumerate([keys[0], None, keys[1], keys[2], keys[0]])
    ]  # fmt: skip
    statuses, renewed = settled_of(store.ask(to_settle(batch, now=AT)))
    assert (statuses, renewed) == ([1] * 5, [1] * 4)
    assert [unpack_binding(store.admin.hget(key, "m")).tokens for key in keys] == [14, 12, 13]  # the last one counts


def test_the_stream_is_bounded_and_may_be_left_out(store):
    for each in range(2000):
        entry = used(f"r{each}")
        store.ask(to_settle([Ended(entry, pack(entry))], now=AT, records=100))
    assert 100 <= store.admin.xlen(f"{T}:s") <= 300
    entry = used(team="", caller="bob")
    assert store.ask(to_settle([Ended(entry, pack(entry))], now=AT, records=0)) == [[1], []]
    assert store.admin.exists("{c:bob}:s") == 0


def test_what_is_kept_ends_in_time(store):
    store.settle(used(cost_nano=1))
    when = labels(AT)
    lives = {key: store.admin.pttl(key) / DAY for key in store.everything()}
    assert {name: round(life) for name, life in lives.items() if life > 0} == {
        f"{T}:x:{when.hour}": 3, f"{T}:u:h:{when.hour}": 35, f"{T}:u:d:{when.day}": 400, f"{Q}c:alice": 40,
        f"{Q}t:research": 40,
    }  # fmt: skip
    assert round(lives[f"{T}:x:{when.hour}"]) * DAY == SETTLED_FOR
    store.admin.pexpire(f"{Q}c:alice", DAY)
    store.settle(used("r2", cost_nano=1))
    assert store.admin.pttl(f"{Q}c:alice") <= DAY
    store.settle(used("r3", at=AT + DAY, cost_nano=1))
    assert store.admin.pttl(f"{Q}c:alice") > 39 * DAY


def test_names_may_be_anything(store):
    entry = used(model="m\u00e4h \U0001f600 " + "x" * 300, account="", input=5)
    assert store.settle(entry) == 1
    assert store.hour() == {f"alice\0{entry.model}\0": (1, 0, 5, *[0] * 6)}


# Sweeping.


def test_reservations_of_dead_processes_become_estimates(store):
    plan = plan_of(Quota(requests=9, concurrency=5, day_nano=CENT), Quota(concurrency=5, month_nano=CENT))
    store.admit(plan, "dead", cost=60, process="p1")
    store.admit(plan, "alive", cost=10, process="p2")
    assert store.sweep(AT + STALE - 1, "p2") == []
    ((request_id, held),) = store.sweep(AT + STALE, "p2", "p3")
    estimate = estimate_of(request_id, held, AT + STALE)
    assert (estimate.id, estimate.caller, estimate.team, estimate.at) == ("dead", "alice", "research", AT)
    assert store.settle(estimate, plan) == 1
    assert store.settle(estimate, plan) == 3
    assert store.hour() == {"alice\0m\0": (1, 1, 100, 0, 0, 0, 0, 30, 0)}
    assert store.money() == store.money("t:research") == (30, 30, 10)
    assert (store.leases(), store.leases("t:research"), store.reservations()) == (1, 1, 1)
    assert store.sweep(AT + HOUR, "p2") == []


def test_a_late_settlement_corrects_the_estimate_by_the_difference(store):
    plan = plan_of(Quota(day_nano=CENT, input_tokens=1000), Quota(month_nano=CENT))
    store.admit(plan, cost=60)
    ((request_id, held),) = store.sweep(AT + STALE)
    store.settle(estimate_of(request_id, held, AT + STALE), plan)
    entry = used(input=40, output=5, cost_nano=12, savings_nano=2)
    assert store.settle(entry, plan) == 2
    assert store.hour() == store.day() == {"alice\0m\0a1": (1, 0, 40, 0, 0, 0, 5, 12, 2)}
    assert store.money() == store.money("t:research") == (12, 12, 0)
    assert store.settle(entry, plan) == 0
    assert store.settle(estimate_of(request_id, held, AT + STALE), plan) == 0


def test_an_estimate_of_what_was_never_sent_goes_altogether(store):
    plan = plan_of(Quota(day_nano=CENT))
    store.admit(plan, cost=60)
    ((request_id, held),) = store.sweep(AT + STALE)
    store.settle(estimate_of(request_id, held, AT + STALE), plan)
    assert store.settle(used(requests=0), plan) == 2
    assert store.hour() == store.day() == {}
    assert store.money() == (0, 0, 0)


def test_an_estimate_from_yesterday_is_corrected_in_its_own_day_and_in_the_month(store):
    store.admit(plan_of(Quota(day_nano=CENT)), cost=60)
    ((request_id, held),) = store.sweep(AT + STALE)
    store.settle(estimate_of(request_id, held, AT + STALE))
    store.settle(used("r2", at=AT + DAY, cost_nano=5))
    assert store.money() == (5, 35, 0)
    assert store.settle(used(cost_nano=50, ended=AT + DAY)) == 2
    assert store.money() == (5, 55, 0)


def test_a_sweep_goes_through_all_reservations_a_few_at_a_time(store):
    plan = plan_of()
    for each in range(1500):
        store.admit(plan, f"r{each}")
    cursor, looks, found = "0", 0, set[str]()
    while looks == 0 or cursor != "0":
        reply = store.ask(to_sweep("t:research", [], AT + STALE, cursor, now=AT + STALE, count=100))
        cursor, some = swept_of(reply)
        assert len(some) < 300
        found.update(request_id for request_id, _ in some)
        looks += 1
    assert looks > 5
    assert found == {f"r{each}" for each in range(1500)}


def test_leases_that_expired_go_with_a_sweep(store):
    store.ask(to_renew("t:research", "c:alice", ["r1"], AT))
    store.ask(to_renew("t:research", "t:research", ["r1"], AT + 5))
    store.sweep(AT + LEASE)
    assert (store.leases(), store.leases("t:research")) == (0, 1)


def test_tenants_are_noted(store):
    assert store.ask(to_enroll(["t:research", "c:bob"])) == 2
    assert store.ask(to_enroll(["c:bob"])) == 0
    assert store.admin.smembers(TENANTS) == {b"t:research", b"c:bob"}


def test_all_keys_of_a_call_are_in_one_slot():
    plan = plan_of(Quota(requests=1, concurrency=1), Quota(day_nano=1))
    entry = used()
    renewal = (f"{T}:b:00ff", "m", 1, b"", b"", b"")
    total = Total(AT // HOUR, "alice", "research", "m", "a", (1,) * 9)
    calls = [
        admission(plan, "r"), admission(plan, "r", endpoints=COUNT),
        admission(plan, "r", binding=(f"{T}:b:00ff", "m", b"", 1, 1, 0)), to_settle([Ended(entry, pack(entry))]),
        to_settle([Ended(entry, pack(entry), plan.debits, renewal)]), to_renew("t:research", "c:alice", ["r"]),
        to_sweep("t:research", [], AT, subjects=["c:alice"]), to_note("t:research", ["c:alice"], "2027", [("r", b"")]),
        admission(plan, "r", binding=(f"{T}:b:00ff", "m", b"", 1, 1, 0), discount=1),
        ledger._to_restore("j", [("t:research", AT // HOUR)], {("t:research", AT // HOUR): [total]}),
        to_settle([Ended(each, pack(each)) for each in (entry, used(caller="bob"))]),
    ]  # fmt: skip
    for script, (count, *args) in calls:
        assert isinstance(count, int) and len(args) >= count > 0, script
        assert {key_slot(str(key).encode()) for key in args[:count]} == {key_slot(b"{t:research}")}


# The journal.


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "usage"


@pytest.fixture
def journal(folder) -> UsageJournal:
    return UsageJournal(folder)


ids = itertools.count()


def write(store: Ledger, journal: UsageJournal, *entries: Entry) -> None:
    """As a process does it: first the journal, then the store."""
    for entry in entries:
        journal.append(pack(entry))
        store.settle(entry)


def kept(folder: Path) -> list[Entry | Total]:
    return [unpack(packed) for packed in journals.read(folder)]


async def compacted(
    store: Ledger, journal: UsageJournal, now: int, safe_before: int | None = None, alive: tuple[str, ...] = ()
) -> None:
    journal.close()
    await journal.compact(store.run, now, now - 10 * MINUTE if safe_before is None else safe_before, lambda: alive)


def some(at: int = AT, **fields: Any) -> Entry:
    number = next(ids)
    values = {"input": number, "output": 1, "cost_nano": 100 + number, "savings_nano": 3, **fields}
    return used(f"some{number}", at=at, **values)


async def test_what_the_store_never_heard_is_told_once_it_is_back(store, journal):
    told, untold = some(), some(caller="bob", team="")
    write(store, journal, told)
    journal.append(pack(untold))
    assert await journal.replay(store.run, AT + HOUR) == 1
    assert store.kept("{c:bob}:q:c:bob")[0] == untold.cost_nano
    before = store.counted()
    assert await journal.replay(store.run, AT + HOUR) == 0
    assert store.counted() == before


async def test_what_the_store_cannot_count_keeps_nothing_else_in_the_journal_from_it(store, server, journal):
    entries = [some() for _ in range(20)]
    for entry in entries:
        journal.append(pack(entry))
    store.admin.hset(f"{T}:r", entries[7].id, b"\xc1")
    client = redis_py.open_redis(server.url)
    assert await journal.replay(partial(redis_py.run, client), AT + HOUR) == 19
    store.admin.hdel(f"{T}:r", entries[7].id)
    assert await journal.replay(partial(redis_py.run, client), AT + HOUR) == 1
    await client.aclose()
    assert sum(sums[0] for sums in store.hour().values()) == 20


async def test_only_what_ended_lately_is_told_if_that_is_enough(store, journal):
    for entry in (some(), some(at=AT + 5000)):
        journal.append(pack(entry))
    assert await journal.replay(store.run, AT + HOUR, since=AT + 6000) == 1
    assert await journal.replay(store.run, AT + HOUR) == 1


async def test_a_flushed_store_gets_everything_back_once(store, journal, folder):
    entries = [some(at=AT - each * 20 * MINUTE, caller=f"caller{each % 3}") for each in range(30)]
    alone = [some(at=AT - each * HOUR, caller="bob", team="", account=f"a{each}") for each in range(5)]
    write(store, journal, *entries, *alone)
    before = store.counted()
    await compacted(store, journal, AT + 5000)
    assert {type(each) for each in kept(folder)} == {Entry, Total}
    for _ in range(2):
        store.admin.flushall()
        for _ in range(2):
            await journal.replay(store.run, AT + 5000)
            await journal.restore(store.run, AT + 5000)
            assert store.counted() == before
        await compacted(store, journal, AT + HOUR)
        assert store.counted() == before
    assert {type(each) for each in kept(folder)} == {Total}


async def test_what_a_flushed_store_gets_back_is_found_though_nobody_of_its_tenant_is_there(store, journal):
    old, new = some(at=AT - 3 * HOUR, team="", caller="bob"), some(at=AT)
    write(store, journal, old, new)
    await compacted(store, journal, AT + 5000)
    store.admin.flushall()
    await journal.restore(store.run, AT + 5000)
    assert store.admin.smembers(TENANTS) == {b"c:bob"}
    await journal.replay(store.run, AT + 5000)
    assert store.admin.smembers(TENANTS) == {b"c:bob", b"t:research"}


@pytest.mark.parametrize("at_once", [1, 3, 1000])
async def test_a_replay_gives_what_each_settlement_gave_and_the_records_with_it(store, journal, monkeypatch, at_once):
    monkeypatch.setattr(ledger, "_AT_ONCE", at_once)
    monkeypatch.setattr(ledger, "_REPLAYED", 20)
    plan, limited = plan_of(Quota(day_nano=CENT, concurrency=9)), Plan("c:bob", [("c:bob", Quota(concurrency=9))])
    places = [("alice", "research"), ("bob", "research"), ("bob", "")]
    entries = [
        some(at=AT + each * MINUTE, caller=places[each % 3][0], team=places[each % 3][1], requests=int(each % 5 > 0))
        for each in range(40)
    ]
    write(store, journal, *entries, *entries[:7])
    before, records = store.counted(), store.records()
    assert sum(map(len, records.values())) == 40
    store.admin.flushall()
    for entry, its in ((entries[0], plan), (entries[2], limited)):
        store.admit(its, entry.id, cost=60, at=entry.at)
    assert store.money()[2] == 60 and store.leases() == 1
    assert await journal.replay(store.run, AT + 3 * HOUR) == 40
    assert (store.counted(), store.records()) == (before, records)
    assert store.money()[2] == store.leases() == store.reservations() == 0
    assert not [key for key in store.everything() if "}:c:" in key]


async def test_an_estimate_and_the_word_that_nothing_was_sent_leave_nothing_of_a_replay(store, journal):
    store.admit(plan_of(Quota(day_nano=CENT)), cost=60)
    await swept(store, journal, AT + STALE)
    write(store, journal, used(requests=0))
    store.admin.flushall()
    assert await journal.replay(store.run, AT + HOUR) == 2
    assert store.counted() == {}


async def test_restoring_a_store_that_has_lost_nothing_changes_nothing(store, journal):
    write(store, journal, *(some(at=AT - each * HOUR) for each in range(10)))
    await compacted(store, journal, AT + DAY)
    before = store.counted()
    assert await journal.restore(store.run, AT + DAY) == 0
    write(store, journal, some(at=AT + DAY))
    after = store.counted()
    assert await journal.restore(store.run, AT + DAY) == 0
    assert store.counted() == after != before


async def test_a_month_that_began_long_ago_is_rebuilt_to_the_cent(store, journal):
    begin = AT - 14 * DAY
    entries = [some(at=begin + each * 3 * HOUR) for each in range(14 * 8)]
    for entry in entries:
        write(store, journal, entry)
        if int(entry.id[4:]) % 20 == 0:
            await compacted(store, journal, entry.ended + HOUR)
    month = sum(entry.cost_nano for entry in entries)
    assert store.money()[1] == store.money("t:research")[1] == month
    before = store.counted()
    store.admin.flushall()
    await journal.restore(store.run, AT)
    await journal.replay(store.run, AT)
    assert store.money()[1] == month
    assert store.counted() == before


async def test_many_totals_are_restored_in_several_calls(store, journal, monkeypatch):
    monkeypatch.setattr(ledger, "_ROWS", 5)
    write(store, journal, *(some(at=AT - each * 10 * MINUTE, caller=f"caller{each % 7}") for each in range(80)))
    before = store.counted()
    await compacted(store, journal, AT + DAY)
    store.admin.flushall()
    assert await journal.restore(store.run, AT + DAY) == len(before) - 10  # two days, seven callers and the team
    assert store.counted() == before


async def test_a_flush_that_nobody_noticed_before_a_compaction_loses_nothing(store, journal):
    write(store, journal, *(some(at=AT + each * MINUTE) for each in range(20)))
    before = store.counted()
    store.admin.flushall()
    await compacted(store, journal, AT + DAY)
    assert store.counted() == before
    store.admin.flushall()
    await journal.restore(store.run, AT + DAY)
    assert store.counted() == before


async def test_a_flush_between_two_compactions_of_an_hour_loses_nothing(store, journal):
    write(store, journal, *(some(at=AT + each * MINUTE) for each in range(10)))
    await compacted(store, journal, AT + 30 * MINUTE)
    write(store, journal, *(some(at=AT + each * MINUTE) for each in range(20, 30)))
    before = store.counted()
    store.admin.flushall()
    await compacted(store, journal, AT + HOUR)
    assert store.counted() == before
    await journal.restore(store.run, AT + HOUR)
    assert store.counted() == before


async def test_two_gateways_give_back_their_own(store, tmp_path):
    one, two = UsageJournal(tmp_path / "one"), UsageJournal(tmp_path / "two")
    for each in range(20):
        write(store, (one, two)[each % 2], some(at=AT - each * 30 * MINUTE))
    before = store.counted()
    await compacted(store, one, AT + DAY)
    store.admin.flushall()
    for _ in range(2):
        for gateway in (two, one):
            await gateway.restore(store.run, AT + HOUR)
            await gateway.replay(store.run, AT + HOUR)
    assert store.counted() == before


async def test_what_is_not_safe_yet_stays_as_it_is(store, journal, folder):
    early, late = some(), some(at=AT - HOUR, ended=AT + 9 * MINUTE)  # a long stream
    write(store, journal, early, late)
    await compacted(store, journal, AT + 15 * MINUTE)
    assert late in kept(folder) and early not in kept(folder)
    (total,) = [each for each in kept(folder) if isinstance(each, Total)]
    assert total.sums == tuple(getattr(early, name) for name in SUMS)


async def test_a_store_that_is_away_leaves_the_journal_as_it_is(store, journal, folder):
    write(store, journal, some(), some())
    before = kept(folder)

    async def away(script: Script, args: tuple[Arg, ...]) -> Any:
        raise StoreDown("away")

    with pytest.raises(StoreDown):
        await journal.replay(away, AT)
    journal.close()
    with pytest.raises(StoreDown):
        await journal.compact(away, AT + DAY, AT + DAY, alive())
    assert kept(folder) == before


async def test_what_two_processes_wrote_of_one_request_is_folded_once(store, journal, folder):
    entry = some()
    other = UsageJournal(folder)
    for each in (journal, other):
        write(store, each, entry)
    before = store.counted()
    other.close()
    await compacted(store, journal, AT + DAY)
    store.admin.flushall()
    await journal.restore(store.run, AT + DAY)
    assert store.counted() == before


async def test_totals_that_are_too_old_are_not_given_back(store, journal):
    write(store, journal, some(at=AT - 34 * DAY), some())
    await compacted(store, journal, AT + DAY // 2)
    store.admin.flushall()
    assert await journal.restore(store.run, AT + 2 * DAY) == 1
    assert store.hour(AT - 34 * DAY) == {} != store.hour()


async def test_totals_that_are_too_old_go(store, journal, folder):
    write(store, journal, some(at=AT - 40 * DAY), some(at=AT - 34 * DAY), some())
    await compacted(store, journal, AT)
    totals = [each for each in kept(folder) if isinstance(each, Total)]
    assert [each.hour for each in totals] == [AT // HOUR - 34 * 24]
    await compacted(store, journal, AT + 2 * DAY)
    assert [each.hour for each in kept(folder) if isinstance(each, Total)] == [AT // HOUR]


async def test_what_the_store_would_not_know_again_is_not_told_again(store, journal):
    write(store, journal, some())
    before = store.counted()
    store.admin.delete(f"{T}:x:{labels(AT).hour}")  # as it is after three days
    assert await journal.replay(store.run, AT + SETTLED_FOR) == 0
    assert store.counted() == before


async def test_what_was_never_sent_is_told_for_its_reservation_and_then_forgotten(store, journal, folder):
    store.admit(plan_of(Quota(concurrency=1)))
    journal.append(pack(used(requests=0)))
    await journal.replay(store.run, AT)
    assert (store.reservations(), store.leases()) == (0, 0)
    await compacted(store, journal, AT + HOUR)
    assert kept(folder) == []


async def swept(store: Ledger, journal: UsageJournal, now: int) -> None:
    for request_id, held in store.sweep(now):
        estimate = estimate_of(request_id, held, now)
        if store.settle(estimate) == 1:
            journal.append(pack(estimate))


def intent(request_id: str = "r1", process: str = "p1", at: int = AT, caller: str = "alice", cost: int = 60) -> bytes:
    held = ReservationRecord(
        process, at, labels(at).hour, caller, "research", "m", "", "messages", 100, cost // 2, cost, (1,), (1, 2)
    )
    return pack_intent(request_id, pack(held))


def alive(*names: str) -> Alive:
    return lambda: names


def test_an_intent_is_packed_around_what_it_reserves():
    held = ReservationRecord("p1", AT, labels(AT).hour, "alice", "", "m", "", "messages", 1, 2, 3)
    for name in ("r1", "r" * 40, "é"):
        packed = pack_intent(name, pack(held))
        assert unpack(packed) == Intent(name, held) and packed == pack(Intent(name, held))


async def test_what_a_process_that_is_gone_has_left_is_estimated_though_the_store_has_lost_it(store, journal):
    journal.extend([intent("lost"), intent("running", "p2"), intent("ended"), intent("refused")])
    journal.extend([pack(used("ended", cost_nano=7)), pack(Cancelled("refused"))])
    assert await journal.replay(store.run, AT + HOUR) == 1
    assert await journal.estimate(store.run, AT + 5000, alive("p2", "p3")) == 1
    assert store.money() == store.money("t:research") == (37, 37, 0)
    assert store.hour() == {"alice\0m\0a1": (1, 0, 0, 0, 0, 0, 0, 7, 0), "alice\0m\0": (1, 1, 100, 0, 0, 0, 0, 30, 0)}
    assert await journal.estimate(store.run, AT + 5000, alive("p2", "p3")) == 0
    assert await journal.estimate(store.run, AT + 9000, alive("p3")) == 1  # now p2 is gone too
    store.admin.flushall()
    assert await journal.replay(store.run, AT + HOUR) == 3  # the estimates are in the journal
    assert store.money() == (67, 67, 0)
    assert store.settle(used("lost", cost_nano=50, ended=AT + HOUR)) == 2  # it was not dead, only slow
    assert store.money() == (87, 87, 0)


async def test_what_the_store_has_still_reserved_is_estimated_once(store, journal):
    plan = plan_of(Quota(day_nano=CENT, concurrency=3))
    store.admit(plan, "r1", cost=60)
    journal.append(intent("r1"))
    assert await journal.estimate(store.run, AT + 5000, alive()) == 1
    assert (store.money(), store.leases(), store.reservations()) == ((30, 30, 0), 0, 0)
    assert store.sweep(AT + STALE) == []
    store.admit(plan, "r2", cost=60)
    journal.append(intent("r2"))
    await swept(store, journal, AT + STALE)
    assert await journal.estimate(store.run, AT + 5000, alive()) == 0
    assert store.money() == (60, 60, 0)


async def test_a_process_that_is_gone_while_the_journal_is_read_is_left_alone(store, journal):
    journal.extend([intent("r1", "ends"), intent("r2", "begins")])
    seen = iter([{"ends"}, {"begins"}])
    assert await journal.estimate(store.run, AT, lambda: next(seen)) == 0


async def test_a_compaction_keeps_the_intents_of_those_who_run_and_no_others(store, journal, folder):
    write(store, journal, some())
    journal.extend([intent("running"), intent("ended"), intent("refused"), intent("lost", "gone")])
    journal.append(intent("forgotten", "gone", AT - 4 * DAY))
    write(store, journal, used("ended"))
    journal.append(pack(Cancelled("refused")))
    for later in (HOUR, 2 * HOUR):
        await compacted(store, journal, AT + later, alive=("p1",))
        left = [each for each in kept(folder) if isinstance(each, Intent | Cancelled)]
        assert [each.id for each in left] == ["running"]
        assert [each.id for each in kept(folder) if isinstance(each, Entry)] == ["lost"]  # an estimate
    journal.append(pack(used("running", ended=AT + 2 * HOUR)))
    store.settle(used("running", ended=AT + 2 * HOUR))
    await compacted(store, journal, AT + 3 * HOUR, alive=("p1",))
    assert not [each for each in kept(folder) if isinstance(each, Intent)]
    before = store.counted()
    store.admin.flushall()
    await journal.restore(store.run, AT + 3 * HOUR)
    await journal.replay(store.run, AT + 3 * HOUR)
    assert store.counted() == before
    assert sum(sums[0] for sums in store.hour().values()) == 4  # some, ended, running, lost


async def test_an_intent_whose_entry_is_still_being_written_is_not_lost_by_a_compaction(store, journal, folder):
    journal.append(intent("r1"))
    other = UsageJournal(folder)
    journal.close()
    other.append(pack(used("r1")))  # in a later segment, which is open
    await journal.compact(store.run, AT + HOUR, AT + 50 * MINUTE, alive("p1"))
    assert [type(each) for each in kept(folder)] == [Intent, Entry]
    other.close()
    store.settle(used("r1"))
    await compacted(store, journal, AT + HOUR, alive=("p1",))
    assert [type(each) for each in kept(folder)] == [Total]


async def test_an_estimate_that_another_process_wrote_answers_an_intent_in_a_later_segment(store, journal, folder):
    sweeper = UsageJournal(folder)
    sweeper.append(pack(some()))  # its segment begins first
    journal.append(intent("r1"))
    store.admit(plan_of(), "r1", cost=60)
    await swept(store, sweeper, AT + STALE)
    assert await journal.estimate(store.run, AT + HOUR, alive()) == 0
    sweeper.close()
    await compacted(store, journal, AT + HOUR)
    assert not [each for each in kept(folder) if isinstance(each, Intent)]


# What is on its way is noted again.


def note(store: Ledger, *requests: str, subjects: tuple[str, ...] = ("c:alice", "t:research"), now: int = AT) -> int:
    held = [(each, pack(unpack(intent(each)).held)) for each in requests]
    return int(store.ask(to_note("t:research", subjects, labels(AT).hour, held, now)))


def test_what_the_store_has_lost_is_reserved_again_once(store):
    plan = plan_of(Quota(day_nano=CENT, concurrency=3), Quota(day_nano=CENT))
    store.admit(plan, "r1", cost=60)
    before = store.everything()
    assert note(store, "r1") == 0 and store.everything() == before
    store.admin.flushall()
    assert note(store, "r1", "r2") == 2 and note(store, "r1", "r2") == 0
    assert (store.money()[2], store.money("t:research")[2], store.leases(), store.reservations()) == (120, 120, 2, 2)
    assert {held.process for _, held in store.sweep(AT + STALE)} == {"p1"}
    for each in ("r1", "r2"):
        store.settle(used(each, cost_nano=5))
    assert (store.money(), store.leases(), store.reservations()) == ((10, 10, 0), 0, 0)


def test_what_has_ended_is_not_reserved_again(store):
    store.settle(used("r1", cost_nano=5))
    assert note(store, "r1") == 0
    assert (store.money(), store.leases(), store.reservations()) == ((5, 5, 0), 0, 0)


async def test_estimates_survive_a_flush_and_still_give_way(store, journal, folder):
    store.admit(plan_of(Quota(day_nano=CENT)), cost=60)
    await swept(store, journal, AT + STALE)
    write(store, journal, some())
    await compacted(store, journal, AT + HOUR)
    assert [each.provisional for each in kept(folder) if isinstance(each, Entry)] == [True]
    before = store.counted()
    store.admin.flushall()
    await journal.replay(store.run, AT + HOUR)
    await journal.restore(store.run, AT + HOUR)
    assert store.counted() == before
    assert store.settle(used(cost_nano=50)) == 2
    await compacted(store, journal, AT + 2 * HOUR)
    assert not [each for each in kept(folder) if isinstance(each, Entry)]


async def test_an_estimate_that_gave_way_to_another_gateways_entry_is_not_given_back(store, tmp_path):
    one, two = UsageJournal(tmp_path / "one"), UsageJournal(tmp_path / "two")
    store.admit(plan_of(Quota(day_nano=CENT)), cost=60)
    await swept(store, one, AT + STALE)
    write(store, two, used(cost_nano=50))
    before = store.counted()
    await compacted(store, two, AT + HOUR)
    await compacted(store, one, AT + HOUR)
    assert kept(tmp_path / "one") == []
    store.admin.flushall()
    for gateway in (one, two):
        await gateway.restore(store.run, AT + HOUR)
        await gateway.replay(store.run, AT + HOUR)
    assert store.counted() == before


async def test_an_estimate_that_nobody_corrected_becomes_a_part_of_the_totals(store, journal, folder):
    store.admit(plan_of(Quota(day_nano=CENT)), cost=60)
    await swept(store, journal, AT + STALE)
    await compacted(store, journal, AT + 4 * DAY)
    (total,) = kept(folder)
    assert isinstance(total, Total) and total.sums == (1, 1, 100, 0, 0, 0, 0, 30, 0)


async def test_records_of_a_newer_version_are_kept(store, journal, folder):
    journal.append(msgspec.msgpack.encode(["other", 1]))
    newer = msgspec.msgpack.encode([*msgspec.msgpack.decode(pack(some())), "more"])
    journal.append(newer)
    assert await journal.replay(store.run, AT) == 1
    await compacted(store, journal, AT + HOUR)
    assert msgspec.msgpack.encode(["other", 1]) in list(journals.read(folder))


async def test_a_journal_keeps_its_name(folder, store):
    assert ledger._name(folder) == ledger._name(folder) != ledger._name(folder.with_name("other"))
    write(store, UsageJournal(folder), some())
    assert [path.name for path in folder.iterdir() if path.name.startswith("name")] == ["name"]


async def test_a_journal_is_replayed_through_the_client_of_the_supervisor(server, store, journal):
    journal.append(pack(some()))
    client = redis_py.open_redis(server.url)
    assert await journal.replay(lambda script, args: redis_py.run(client, script, args), AT) == 1
    await client.aclose()
    assert len(store.hour()) == 1


def test_a_plan_is_enough_for_a_newer_reservation(store):
    """Fields that a newer version appends to a reservation are of no matter to a settlement."""
    plan = plan_of(Quota(concurrency=1, day_nano=CENT))
    limits: Limits = plan.message
    held = ReservationRecord("p1", AT, labels(AT).hour, "alice", "research", "m", "", "messages", 1, 1, 9, (1,), (1,))
    packed = msgspec.msgpack.encode([*msgspec.msgpack.decode(pack(held)), "more"])
    store.ask(to_admit(limits, "r1", packed, 9, labels(AT), None, AT))
    assert store.money() == (0, 0, 9)
    assert store.sweep(AT + STALE) == [("r1", held)]
    store.settle(used())
    assert (store.money(), store.leases()) == ((0, 0, 0), 0)
