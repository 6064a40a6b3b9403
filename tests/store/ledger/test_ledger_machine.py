"""Any history of requests: the scripts and the journal beside a plain account of what should be there.

Requests of two tenants are admitted, refused, settled, settled again, forgotten by processes that die, swept, corrected
late, and replayed; replies and settlements are lost; time passes, up to other days and another month; the store is
flushed. At the end nothing is held by anybody.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.core.spending.quota import (
    BUCKET,
    COUNT,
    KINDS,
    LEASE,
    LEASES,
    MESSAGE,
    MONEY,
    Labels,
    Limits,
    Plan,
    Quota,
    labels,
)
from gateway.store.client.connection import Arg
from gateway.store.ledger.ledger import (
    STALE,
    Call,
    Ended,
    Entry,
    ReservationRecord,
    UsageJournal,
    estimate_of,
    levels_of,
    pack,
    place_of,
    settled_of,
    subjects_of,
    sums_of,
    swept_of,
    tenant_of,
    to_admit,
    to_renew,
    to_settle,
    to_sweep,
)
from gateway.store.scripts import Script
from tests.subjects import filled_at, numbers

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
BEGIN = 1_801_346_400_000  # 22:00 of 30 January 2027, UTC

TEAMS = {"alice": "research", "bob": "research", "carol": ""}
QUOTAS = {
    "c:alice": Quota(4, 1000, 500, 3, 100, 250, 180),
    "c:bob": Quota(),
    "t:research": Quota(6, 1500, None, 4, None, 400, 330),
    "c:carol": Quota(3, None, 300, 2, 60, None),
}
PLANS = {
    caller: Plan(tenant_of(caller, team), [(subject, QUOTAS[subject]) for subject in subjects_of(caller, team)])
    for caller, team in TEAMS.items()
}

CALLERS = st.sampled_from(["alice", "alice", "bob", "carol"])
PROCESSES = st.sampled_from(["p1", "p2"])
COSTS = st.integers(0, 40)
PICKS = st.integers(0, 50)


class Request(msgspec.Struct):
    """One that was admitted: what its process knows of it."""

    id: str
    caller: str
    process: str
    at: int

    @property
    def plan(self) -> Plan:
        return PLANS[self.caller]


class Money(msgspec.Struct):
    day: str = ""
    day_spent: int = 0
    month: str = ""
    month_spent: int = 0
    week: int = 0
    week_spent: int = 0


def label_of(hour: str) -> Labels:
    """The labels of an hour, such as 2026112214."""
    return labels(int(datetime.strptime(hour, "%Y%m%d%H").replace(tzinfo=UTC).timestamp()) * 1000)


class Account:
    """What the store should hold."""

    def __init__(self) -> None:
        self.levels: dict[tuple[str, str], tuple[float, int]] = {}  # by subject and field: level, when
        self.money = {subject: Money() for subject in QUOTAS}
        self.held: dict[str, tuple[Request, int]] = {}  # reservations and their dollars
        self.leases: dict[str, dict[str, int]] = {subject: {} for subject in QUOTAS}
        self.settled: dict[str, Entry | None] = {}  # None is for good, else an estimate
        self.sums: dict[tuple[str, str, str], tuple[int, ...]] = {}  # by tenant, period, field

    def reserved(self, subject: str) -> int:
        return sum(
            cost
            for request, cost in self.held.values()
            if subject in request.plan.subjects
            and any(row.subject == subject and row.kind.form == MONEY for row in request.plan.message.rows)
        )

    def level(self, subject: str, field: str, limit: int, now: int) -> float:
        level, at = self.levels.get((subject, field), (float(limit), now))
        return min(float(limit), level + max(0, now - at) * limit / 60000)

    def put(self, subject: str, field: str, level: float, now: int) -> None:
        self.levels[subject, field] = (level, now)

    def admit(self, request: Request, limits: Limits, cost: int, when: int, now: int) -> list[int] | tuple[int, int]:
        """The levels after it, or (row, wait) of the limit that refuses."""
        refusing, longest, levels = 0, -1.0, []
        taken: list[tuple[str, str, float]] = []
        for number, row in enumerate(limits.rows, 1):
            wait = -1.0
            if row.kind.form == BUCKET:
                level = self.level(row.subject, row.kind.field, row.limit, now)
                if level < row.kind.need or level <= 0:
                    wait = max(1, math.ceil((row.kind.need - level) * 60000 / row.limit))
                if row.kind.take:
                    level -= row.kind.take
                    taken.append((row.subject, row.kind.field, level))
                levels.append(math.trunc(level))
            elif row.kind.form == MONEY:
                period, money = row.kind.field, self.money[row.subject]
                left = row.limit - self.reserved(row.subject)
                if getattr(money, period) >= getattr(labels(when), period):
                    left -= getattr(money, f"{period}_spent")
                if left < cost or left <= 0:
                    wait = math.inf
            elif sum(expiry > now for expiry in self.leases[row.subject].values()) >= row.limit:
                wait = 0
            if wait > longest:
                refusing, longest = number, wait
        if refusing:
            return refusing, -1 if longest in (0, math.inf) else int(longest)
        for subject, field, level in taken:
            self.put(subject, field, level, now)
        if limits is request.plan.message:
            self.held[request.id] = request, cost
            for row in limits.rows:
                if row.kind.form == LEASES:
                    self.leases[row.subject][request.id] = now + LEASE
        return levels

    def settle(self, entry: Entry, now: int, debit: bool) -> int:
        if entry.id in self.held:
            request, _ = self.held.pop(entry.id)
            for subject in request.plan.subjects:
                if any(row.subject == subject and row.kind.form == LEASES for row in request.plan.message.rows):
                    self.leases[subject].pop(entry.id, None)
        else:  # perhaps renewed after all
            for subject in subjects_of(entry.caller, entry.team):
                self.leases[subject].pop(entry.id, None)
        status = 1
        if entry.id in self.settled:
            earlier = self.settled[entry.id]
            if earlier is None:
                return 0
            if entry.provisional:
                return 3
            self.count(earlier, -1)
            status = 2
        self.settled[entry.id] = entry if entry.provisional else None
        self.count(entry, 1)
        if debit:
            for subject in subjects_of(entry.caller, entry.team):
                quota = QUOTAS[subject]
                fresh = entry.input + entry.write_5m + entry.write_1h
                for field, limit, amount in (
                    ("input", quota.input_tokens, fresh), ("output", quota.output_tokens, entry.output),
                ):  # fmt: skip
                    if limit and amount:
                        self.put(subject, field, self.level(subject, field, limit, now) - amount, now)
        return status

    def flush(self, told: set[str]) -> None:
        """Forget what no journal has. Those of `told` and estimates are told again, one by one; others are totals."""
        self.levels.clear()
        self.held.clear()
        self.leases = {subject: {} for subject in QUOTAS}
        self.settled = {each: entry for each, entry in self.settled.items() if each in told or entry is not None}
        before, self.money = self.money, {subject: Money() for subject in QUOTAS}
        for (_, period, field), sums in sorted(self.sums.items(), key=lambda item: item[0][1]):
            caller = field.partition("\0")[0]
            if period.startswith("h:"):
                self.charge(subjects_of(caller, TEAMS[caller]), label_of(period[2:]), sums[7])
        for subject, money in self.money.items():
            if money.day == before[subject].day:
                assert money.day_spent == before[subject].day_spent
            if money.week == before[subject].week:
                assert money.week_spent == before[subject].week_spent
            if money.month == before[subject].month:
                assert money.month_spent == before[subject].month_spent

    def count(self, entry: Entry, sign: int) -> None:
        when, sums = labels(entry.at), sums_of(entry)
        field = f"{entry.caller}\0{entry.model}\0{entry.account}"
        for period in (f"h:{when.hour}", f"d:{when.day}"):
            key = (tenant_of(entry.caller, entry.team), period, field)
            before = self.sums.pop(key, (0,) * 9)
            after = tuple(one + sign * other for one, other in zip(before, sums, strict=True))
            if any(after):
                self.sums[key] = after
        self.charge(subjects_of(entry.caller, entry.team), when, sign * entry.cost_nano)

    def charge(self, subjects: tuple[str, ...], when: Labels, amount: int) -> None:
        day, week, month = when.day, when.week, when.month
        for subject in subjects if amount else ():
            money = self.money[subject]
            if money.day <= day:
                money.day_spent = amount + (money.day_spent if money.day == day else 0)
                money.day = day
            if money.week <= week:
                money.week_spent = amount + (money.week_spent if money.week == week else 0)
                money.week = week
            if money.month <= month:
                money.month_spent = amount + (money.month_spent if money.month == month else 0)
                money.month = month


class History(RuleBasedStateMachine):
    """Three callers, two processes, one journal."""

    admin: Any

    def __init__(self) -> None:
        super().__init__()
        self.admin.flushall()
        self.folder = Path(tempfile.mkdtemp(prefix="gw-"))
        self.journal = UsageJournal(self.folder / "usage")
        self.now = BEGIN
        self.account = Account()
        self.running: list[Request] = []
        self.over: list[Entry] = []  # settled for good, and the journal has them one by one
        self.untold: list[Entry] = []  # in the journal, and the store never heard of them
        self.lost: list[Request] = []  # of processes that have died
        self.number = 0
        self.generations = {"p1": 0, "p2": 0}

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            self.journal.close()
            shutil.rmtree(self.folder)

    def ask(self, call: Call) -> Any:
        script, args = call
        reply = self.admin.eval(script.text, *args)
        return reply[0] if script.joins else reply

    async def run(self, script: Script, args: tuple[Arg, ...]) -> Any:
        return self.ask((script, args))

    def alive(self) -> list[str]:
        return [f"{process}.{generation}" for process, generation in self.generations.items()]

    # Requests.

    def admission(self, request: Request, limits: Limits, cost: int) -> Call:
        held = ReservationRecord(
            request.process, request.at, labels(request.at).hour, request.caller, TEAMS[request.caller], "m", "",
            "messages", 50, cost // 2, cost, limits.leases, limits.reserved,
        )  # fmt: skip
        packed = pack(held) if limits is request.plan.message else b""
        return to_admit(limits, request.id, packed, cost, labels(request.at), None, self.now)

    @rule(caller=CALLERS, process=PROCESSES, cost=COSTS, endpoints=st.sampled_from([MESSAGE] * 5 + [COUNT]),
          asked=st.sampled_from([1, 1, 2]))  # fmt: skip
    def admit(self, caller, process, cost, endpoints, asked):
        """A request arrives; the reply may be lost, and it is asked again."""
        self.number += 1
        request = Request(f"r{self.number}", caller, f"{process}.{self.generations[process]}", self.now)
        limits = request.plan.limits(endpoints)
        expected = self.account.admit(request, limits, cost, self.now, self.now)
        for _ in range(1 if endpoints == COUNT else asked):
            reply = self.ask(self.admission(request, limits, cost))
            if isinstance(expected, tuple):
                assert reply[:3] == [2, *expected]
            else:
                assert reply[0] == 0 and list(levels_of(reply)) == expected
        if endpoints == MESSAGE and isinstance(expected, list):
            self.running.append(request)

    def entry(self, request: Request, cost: int, sent: bool) -> Entry:
        fields: dict[str, Any] = {
            "input": cost * 7,
            "write_1h": cost,
            "cache_read": 5,
            "output": cost * 3,
            "cost_nano": cost,
        }
        if not sent:
            fields = {"requests": 0}
        return Entry(
            request.id, request.at, self.now, request.caller, TEAMS[request.caller], "m", "a" * sent, "messages", False,
            estimated=cost % 2 * sent, **fields,
        )  # fmt: skip

    def tell(self, entry: Entry, debit: bool = True) -> int:
        debits = PLANS[entry.caller].debits if debit else ()
        expected = self.account.settle(entry, self.now, debit)
        call = to_settle([Ended(entry, pack(entry), debits)], now=self.now, records=50)
        assert settled_of(self.ask(call)) == ([expected], [])
        return expected

    def settle(self, request: Request, cost: int, sent: bool, told: bool) -> None:
        entry = self.entry(request, cost, sent)
        self.journal.append(pack(entry))
        if told:
            self.tell(entry)
            self.over.append(entry)
        else:
            self.untold.append(entry)

    @precondition(lambda self: self.running)
    @rule(pick=PICKS, cost=COSTS, sent=st.sampled_from([True, True, False]), told=st.sampled_from([True, True, False]))
    def end(self, pick, cost, sent, told):
        self.settle(self.running.pop(pick % len(self.running)), cost, sent, told)

    @precondition(lambda self: self.running)
    @rule(pick=PICKS, costs=st.lists(COSTS, min_size=1, max_size=6), again=st.lists(PICKS, max_size=2))
    def end_together(self, pick, costs, again):
        """Several requests of one tenant and hour are told at once, perhaps with some that were told before."""
        first = self.running[pick % len(self.running)]
        place = place_of(self.entry(first, 0, True))
        those = [each for each in self.running if place_of(self.entry(each, 0, True)) == place][: len(costs)]
        ended = [self.entry(request, cost, cost % 3 > 0) for request, cost in zip(those, costs, strict=False)]
        for entry in ended:
            self.journal.append(pack(entry))
        batch = [*ended, *(self.over[each % len(self.over)] for each in again if self.over), ended[0]]
        batch = [entry for entry in batch if place_of(entry) == place]
        expected = [self.account.settle(entry, self.now, True) for entry in batch]
        told = [Ended(entry, pack(entry), PLANS[entry.caller].debits) for entry in batch]
        assert settled_of(self.ask(to_settle(told, now=self.now, records=50))) == (expected, [])
        self.running = [each for each in self.running if each not in those]
        self.over += ended

    @precondition(lambda self: self.over)
    @rule(pick=PICKS)
    def settle_again(self, pick):
        assert self.tell(self.over[pick % len(self.over)]) == 0

    @rule(caller=CALLERS, cost=COSTS)
    def end_without_an_admission(self, caller, cost):
        """The store was away when the request arrived."""
        self.number += 1
        self.settle(Request(f"r{self.number}", caller, "p1.0", self.now), cost, True, True)

    @precondition(lambda self: self.over)
    @rule(pick=PICKS, cost=COSTS)
    def admit_too_late(self, pick, cost):
        """An admission that the network held back comes after its settlement."""
        entry = self.over[pick % len(self.over)]
        if self.now - entry.at <= HOUR and entry.id not in self.account.held:
            request = Request(entry.id, entry.caller, self.alive()[0], entry.at)
            limits = request.plan.message
            expected = self.account.admit(request, limits, cost, entry.at, self.now)
            reply = self.ask(self.admission(request, limits, cost))
            assert (reply[:3] == [2, *expected]) if isinstance(expected, tuple) else reply[0] == 0

    # What becomes of them otherwise.

    @rule(process=PROCESSES)
    def die(self, process):
        """A process is killed, and started anew."""
        gone = f"{process}.{self.generations[process]}"
        self.generations[process] += 1
        self.lost += [request for request in self.running if request.process == gone]
        self.running = [request for request in self.running if request.process != gone]

    @rule()
    def sweep(self):
        for tenant, subjects in (("t:research", ["c:alice", "c:bob", "t:research"]), ("c:carol", ["c:carol"])):
            reply = self.ask(to_sweep(tenant, self.alive(), self.now, "0", subjects, self.now))
            cursor, some = swept_of(reply)
            assert cursor == "0"
            for request_id, held in some:
                self.swept(request_id, held)
        assert not any(self.stale(request) for request, _ in self.account.held.values())
        for leases in self.account.leases.values():
            for request_id in [each for each, expiry in leases.items() if expiry <= self.now]:
                del leases[request_id]

    def stale(self, request: Request) -> bool:
        if request.at + STALE > self.now:
            return False
        recent = request.at // HOUR >= self.now // HOUR - 2
        return request.process not in self.alive() or (recent and request.id in self.account.settled)

    def swept(self, request_id: str, held: ReservationRecord) -> None:
        request, cost = self.account.held[request_id]
        assert self.stale(request)
        assert (held.caller, held.at, held.cost_nano) == (request.caller, request.at, cost)
        estimate = estimate_of(request_id, held, self.now)
        if self.tell(estimate, debit=False) == 1:
            self.journal.append(pack(estimate))

    @precondition(lambda self: self.lost)
    @rule(pick=PICKS, cost=COSTS, sent=st.booleans(), told=st.booleans())
    def come_back(self, pick, cost, sent, told):
        """It was not dead, only slow; or its journal is found."""
        request = self.lost.pop(pick % len(self.lost))
        if self.now - request.at < 2 * DAY:
            self.settle(request, cost, sent, told)

    @precondition(lambda self: self.running)
    @rule()
    def renew(self):
        for caller, plan in PLANS.items():
            for number in plan.message.leases:
                subject = plan.subjects[number - 1]
                ids = [request.id for request in self.running if request.caller == caller]
                if ids:
                    leases = self.account.leases[subject]
                    leases.update(dict.fromkeys(ids, self.now + LEASE))
                    count = self.ask(to_renew(plan.tenant, subject, ids, self.now))
                    assert count == sum(expiry > self.now for expiry in leases.values())

    @rule()
    def replay(self):
        for entry in (*self.over, *self.untold):  # the former give back what a late admission took
            self.account.settle(entry, self.now, debit=False)
        assert self.replayed() <= len(self.untold)
        self.over += self.untold
        self.untold = []

    def replayed(self) -> int:
        return asyncio.run(self.journal.replay(self.run, self.now))

    @rule(minutes=st.sampled_from([0, 10]))
    def compact(self, minutes):
        self.replay()
        self.compacted(self.now - minutes * MINUTE)

    def compacted(self, safe_before: int) -> None:
        self.journal.close()
        asyncio.run(self.journal.compact(self.run, self.now, safe_before, tuple))
        self.over = [entry for entry in self.over if entry.ended >= safe_before]

    @rule()
    def restore(self):
        assert self.restored() == 0

    def restored(self) -> int:
        return asyncio.run(self.journal.restore(self.run, self.now))

    @rule(noticed=st.booleans())
    def flush(self, noticed):
        """Everything is gone, for good what nobody wrote down: buckets, leases, and what is reserved. Whoever does not
        notice compacts first."""
        self.replay()
        self.admin.flushall()
        told = {entry.id for entry in self.over}
        self.account.flush(told)
        self.lost = [request for request in self.lost if request.id in self.account.settled]
        if not noticed:
            self.compacted(self.now - 10 * MINUTE)
        self.restored()
        self.replayed()

    @rule(step=st.sampled_from([1, SECOND, 5 * SECOND, STALE, STALE, MINUTE, 10 * MINUTE, HOUR, DAY]))
    def time_passes(self, step):
        if step == DAY:
            if self.now - BEGIN > 20 * DAY:
                return
            self.sweep()
            self.replay()
            self.compacted(self.now + 1)
        self.now += step
        if step >= HOUR:
            self.compact(0)

    # What always holds.

    @invariant()
    def the_store_holds_what_it_should(self):
        self.compare()

    def compare(self) -> None:
        account, sums, held = self.account, {}, set[str]()
        keys: list[bytes] = self.admin.keys()
        for key in map(bytes.decode, keys):
            tenant, kind = key[1 : key.index("}")], key[key.index("}") + 2 :]
            if kind.startswith("u:"):
                for field, packed in self.hash(key).items():
                    sums[tenant, kind[2:], field.decode()] = tuple(msgspec.msgpack.decode(packed))
            elif kind == "r":
                held.update(map(bytes.decode, self.hash(key)))
        assert sums == account.sums
        assert held == set(account.held)
        for subject, tenant in (("c:alice", "t:research"), ("c:bob", "t:research"), ("t:research", "t:research"),
                                ("c:carol", "c:carol")):  # fmt: skip
            key = f"{{{tenant}}}:q:{subject}"
            kept = numbers(self.hash(key))
            money = account.money[subject]
            assert int(kept.get("reserved", 0)) == account.reserved(subject)
            if money.day:
                assert (kept["day"], int(kept["day_spent"])) == (int(money.day), money.day_spent)
                assert (kept["week"], int(kept["week_spent"])) == (money.week, money.week_spent)
                assert (kept["month"], int(kept["month_spent"])) == (int(money.month), money.month_spent)
            levels = {kind.field: kept[kind.field] for kind in KINDS if kind.form == BUCKET and kind.field in kept}
            assert levels.keys() == {field for who, field in account.levels if who == subject}
            for name, level in levels.items():
                assert (level, filled_at(self.hash(key), name)) == account.levels[subject, name]
            leases: Any = self.admin.zrangebyscore(f"{{{tenant}}}:c:{subject}", f"({self.now}", "+inf")
            expected = {each for each, expiry in account.leases[subject].items() if expiry > self.now}
            assert set(map(bytes.decode, leases)) == expected

    def hash(self, key: str) -> dict[bytes, bytes]:
        found: Any = self.admin.hgetall(key)
        return found

    def everything_ends(self) -> None:
        while self.running:
            self.end(0, 5, True, True)
        self.replay()
        self.die("p1")
        self.die("p2")
        self.now += MINUTE
        self.sweep()
        self.compare()
        assert not self.account.held
        keys: list[bytes] = self.admin.keys()
        for key in map(bytes.decode, keys):
            assert "}:r" not in key and "}:c:" not in key
            if "}:q:" in key:
                assert numbers(self.hash(key)).get("reserved", 0) == 0


def test_any_history_of_requests_is_counted_exactly_and_leaves_nothing_held(server):
    History.admin = server.admin
    run_state_machine_as_test(
        History,
        settings=settings(
            deadline=None,
            max_examples=60,
            stateful_step_count=40,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
