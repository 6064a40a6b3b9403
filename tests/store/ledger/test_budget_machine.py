"""Any history of budgets: amounts and periods change, callers move between teams, time passes, and no spend is lost or
doubled.

Beside the real scripts stands a plain list of what was spent by whom, in which team and when. Keys have no part in it:
the ledger knows callers alone, so that making, rotating or deleting a key changes nothing it keeps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.core.spending.keyring import CallerRecord
from gateway.core.spending.quota import BUDGETS, MESSAGE, Plan, Quota, labels, subject_keys
from gateway.store.ledger.ledger import (
    Ended,
    Entry,
    ReservationRecord,
    pack,
    subjects_of,
    tenant_of,
    to_admit,
    to_settle,
)
from gateway.store.ledger.levels import Carried, Used, joined, pack_carried, spent_of, used_of
from gateway.store.scripts import CARRY, LEVELS

HOUR = 3_600_000
BEGIN = 1_801_346_400_000  # 22:00 of Saturday, 30 January 2027, UTC
PEOPLE = st.sampled_from(["ada", "bob"])
TEAMS = st.sampled_from(["", "blue", "red"])
SUBJECTS = st.sampled_from(["c:ada", "c:bob", "c:ada", "c:bob", "t:blue", "t:red"])
AMOUNTS = st.sampled_from([None, 0, 40, 70, 100, 150])
COSTS = st.integers(0, 60)


class Spent(NamedTuple):
    caller: str
    team: str
    at: int
    cost: int


class Running(NamedTuple):
    id: str
    caller: str
    team: str
    at: int
    cost: int
    plan: Plan


class Budgets(RuleBasedStateMachine):
    """Two people, two teams."""

    admin: Any

    def __init__(self) -> None:
        super().__init__()
        self.admin.flushall()
        self.now = BEGIN
        self.records = {name: CallerRecord(team="blue") for name in ("ada", "bob")}
        self.quotas: dict[str, Quota] = {}
        self.spent: list[Spent] = []
        self.running: list[Running] = []
        self.number = 0

    def ask(self, script: Any, args: Any) -> Any:
        reply = self.admin.eval(script.text, *args)
        return reply[0] if script.joins else reply

    # What operators do.

    @rule(subject=SUBJECTS, day=AMOUNTS, week=AMOUNTS, month=AMOUNTS, boost=st.integers(0, 50))
    def set(self, subject, day, week, month, boost):
        """Other amounts and periods, or none; and perhaps a boost."""
        self.quotas[subject] = Quota(day_nano=day, week_nano=week, month_nano=month, boost_nano=boost)

    @rule(name=PEOPLE, team=TEAMS)
    def move(self, name, team):
        """To another team, or to none; as the desk of callers does it."""
        record = self.records[name]
        before = record.team or ""
        if team != before:
            former = {each: left for each, left in {**record.former, before: self.now}.items() if each != team}
            self.records[name] = CallerRecord(team=team or None, former=former)
            self.carry(name)

    def carry(self, name: str) -> None:
        record = self.records[name]
        parts = [self.spent_in(tenant_of(name, team), f"c:{name}") for team in record.carried(self.now)]
        if parts:
            keys = subject_keys(tenant_of(name, record.team or ""), f"c:{name}")[:1]
            self.ask(CARRY, (1, *keys, pack_carried(joined(parts, self.now))))

    def spent_in(self, tenant: str, subject: str) -> Carried:
        return spent_of(self.look(tenant, subject))

    def look(self, tenant: str, subject: str) -> Any:
        return self.ask(LEVELS, (2, *subject_keys(tenant, subject), self.now, b"\x90"))

    # What callers do.

    def plan(self, name: str) -> Plan:
        record = self.records[name]
        subjects = []
        for subject in subjects_of(name, record.team or ""):
            quota = self.quotas.get(subject, Quota())
            if subject.startswith("c:") and record.carried(self.now):
                quota = Quota(day_nano=quota.day_nano, week_nano=quota.week_nano, month_nano=quota.month_nano,
                              boost_nano=quota.boost_nano, carried=True)  # fmt: skip
            subjects.append((subject, quota))
        return Plan(tenant_of(name, record.team or ""), subjects)

    @rule(name=PEOPLE, cost=COSTS)
    def begin(self, name, cost):
        """A request asks for that much, and is admitted where every budget has it."""
        self.carry(name)  # what runs in a former team is followed
        self.number += 1
        plan, team = self.plan(name), self.records[name].team or ""
        limits = plan.limits(MESSAGE)
        held = ReservationRecord("p", self.now, labels(self.now).hour, name, team, "m", "", "messages", 5, 1, cost,
                                 limits.leases, limits.reserved)  # fmt: skip
        call = to_admit(limits, f"r{self.number}", pack(held), cost, labels(self.now), None, self.now)
        admitted = self.ask(*call)[0] == 0
        left = [row.limit - self.used(row.subject, row.kind.field) for row in limits.rows]
        fits = all(each > 0 and each >= cost for each in left)
        assert admitted == fits
        if admitted:
            self.running.append(Running(f"r{self.number}", name, team, self.now, cost if limits.reserved else 0, plan))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 30), cost=COSTS)
    def end(self, pick, cost):
        """It has cost something else, in the team in which it began."""
        request = self.running.pop(pick % len(self.running))
        entry = Entry(request.id, request.at, self.now, request.caller, request.team, "m", "a", "messages",
                      cost_nano=cost)  # fmt: skip
        self.ask(*to_settle([Ended(entry, pack(entry), request.plan.debits)], now=self.now))
        self.spent.append(Spent(request.caller, request.team, request.at, cost))

    @rule(hours=st.sampled_from([1, 3, 30, 24 * 8]))
    def pass_time(self, hours):
        """Perhaps into another day, week or month. What runs ends before."""
        while self.running:
            self.end(0, 3)
        self.now += hours * HOUR

    # What must be so.

    def used(self, subject: str, period: str) -> int:
        """Of the present period, with what runs and reserves of this subject."""
        kind, _, name = subject.partition(":")
        mine = [each for each in self.spent if (each.caller if kind == "c" else each.team) == name]
        now = getattr(labels(self.now), period)
        total = sum(each.cost for each in mine if getattr(labels(each.at), period) == now)
        for request in self.running:
            limits = request.plan.limits(MESSAGE)
            reserved = [request.plan.subjects[number - 1] for number in limits.reserved]
            total += request.cost * (subject in reserved)
        return total

    @invariant()
    def nothing_is_lost_or_doubled(self):
        for name, record in self.records.items():
            self.carry(name)
            for subject in subjects_of(name, record.team or ""):
                at, row = self.look(tenant_of(name, record.team or ""), subject)
                used: Used = used_of(at, row)
                for period in BUDGETS:
                    reserved = used.reserved
                    assert used.spent(period) + reserved == self.used(subject, period), (subject, period)


def test_spend_is_neither_lost_nor_doubled_whatever_becomes_of_budgets_and_teams(server):
    Budgets.admin = server.admin
    run_state_machine_as_test(
        Budgets,
        settings=settings(
            max_examples=80, stateful_step_count=40, deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )  # fmt: skip
