"""The invariants of routing, I1 to I12, each on whatever pools, closures and interleavings Hypothesis finds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gateway.core.routing import broadcast
from gateway.core.routing.binding import Record
from gateway.core.routing.conversation import identify
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.health import Cause
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.route import Refuse, Route, Send, Wait
from gateway.core.routing.router import LOAD_CAP, Router
from gateway.core.wire.peek import peek
from gateway.errors import ApiError
from gateway.lab.replay.production import IN_FLIGHT, Store
from gateway.upstream.anthropic import Anthropic
from gateway.upstream.provider import Call

RUNS = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
NOW, WALL, TTL, MODEL = 1000.0, 1_700_000_000.0, 300.0, "claude-sonnet-5"
KEYS = st.binary(min_size=16, max_size=16)
MANY_KEYS = [n.to_bytes(16, "big") for n in range(40)]
NAMES = "abcdefgh"
STATES = ("active", "active", "active", "draining", "disabled")
MODELS: tuple[tuple[str, ...], ...] = (("*",), ("*",), ("claude-sonnet-*",), ("claude-opus-*",))
WEIGHTS = st.sampled_from([0.5, 1.0, 1.0, 2.0, 5.0])


@st.composite
def pools(draw: st.DrawFn, least: int = 1, states: Sequence[str] = ("active",), models: Any = (("*",),)) -> list[Entry]:
    """Up to eight accounts, several of which may share a workspace, and workspaces an organization."""
    workspaces = [f"w{n}" for n in range(draw(st.integers(least, 6)))]
    organizations = {workspace: f"o{draw(st.integers(0, 3))}" for workspace in workspaces}
    places = [*workspaces, *draw(st.lists(st.sampled_from(workspaces), max_size=2))]
    return [
        Entry(
            NAMES[n], workspace, organizations[workspace], draw(WEIGHTS), draw(st.sampled_from(models)),
            draw(st.sampled_from(states)),
        )
        for n, workspace in enumerate(places)
    ]  # fmt: skip


def document(accounts: Sequence[Entry], epoch: int = 1) -> PoolDocument:
    return PoolDocument(epoch, tuple(accounts))


def made(accounts: Sequence[Entry], epoch: int = 1, now: float = NOW) -> Router:
    router = Router(lambda model: model)
    router.apply(document(accounts, epoch), now, WALL + now - NOW)
    return router


def route_of(router: Router, key: bytes, now: float = NOW, tokens: float = 10_000) -> Route:
    return Route(router, key, MODEL, int(tokens * router.bytes_a_token), TTL, now + 600.0)


def warm_record(workspace: str, now: float = NOW, tokens: int = 20_000) -> Record:
    return Record(workspace, 3, int((now + TTL) * 1000), tokens, tokens * 4)


# I1: the same key, epoch and eligible set give the same ranking on every replica and after a restart.


@st.composite
def closures(draw: st.DrawFn, accounts: list[Entry]) -> list[broadcast.Fact]:
    """Facts that keep some accounts from serving for a minute."""
    facts: list[broadcast.Fact] = []
    for entry in accounts:
        match draw(st.integers(0, 5)):
            case 0:
                facts.append(broadcast.Closed(entry.organization, MODEL, 60.0))
            case 1:
                facts.append(broadcast.Out(entry.id, Cause.CREDENTIAL, 60.0))
            case 2:
                facts.append(broadcast.Out(entry.organization, Cause.BILLING, 60.0))
            case 3:
                facts.append(broadcast.ModelClosed(entry.id, MODEL, 60.0))
    return facts


@RUNS
@given(st.data(), pools(states=STATES, models=MODELS), KEYS)
def test_i1_the_same_eligible_set_gives_the_same_ranking_on_every_replica_and_after_a_restart(data, accounts, key):
    facts = data.draw(closures(accounts))
    replica, restarted = made(accounts), made(data.draw(st.permutations(accounts)))
    replica.apply(document(accounts[:1], 0), NOW, WALL)  # it has seen other pools before
    replica.apply(document(accounts), NOW, WALL)
    for each in facts:
        replica.heard(each, NOW)
    for each in data.draw(st.permutations(facts)):
        restarted.heard(each, NOW)
    orders = []
    for router in (replica, restarted):
        order, tried = [], set[str]()
        while (workspace := router.place(key, MODEL, MODEL, 1000.0, NOW, tried=tried)[0]) is not None:
            entry, _ = router.pick(workspace, key, MODEL, MODEL, 1000.0, False, NOW, tried)
            assert entry is not None
            order.append(entry.id)
            tried.add(entry.id)
        orders.append((order, router.ranked(key, MODEL), router.ring.order(key)))
    assert orders[0] == orders[1]


# I2: adding a workspace changes first choices only to it; removing one changes only its own; raising a weight moves
# conversations only to it.


def first_choices(accounts: Sequence[Entry]) -> list[str | None]:
    router = made(accounts)
    choices = [router.place(key, MODEL, MODEL, 1000.0, NOW)[0] for key in MANY_KEYS]
    assert choices == [router.ranked(key, MODEL) for key in MANY_KEYS]
    return choices


@RUNS
@given(pools(2), st.integers(0, 5))
def test_i2_a_workspace_that_comes_or_goes_moves_first_choices_only_to_or_from_itself(accounts, index):
    one = accounts[index % len(accounts)].workspace
    without = [entry for entry in accounts if entry.workspace != one]
    for smaller, larger in zip(first_choices(without), first_choices(accounts), strict=True):
        assert larger in (smaller, one)


@RUNS
@given(pools(2), st.integers(0, 7), st.sampled_from([1.1, 2.0, 50.0]))
def test_i2_a_raised_weight_moves_first_choices_only_to_its_workspace(accounts, index, factor):
    index %= len(accounts)
    raised = accounts[:]
    raised[index] = msgspec.structs.replace(raised[index], weight=raised[index].weight * factor)
    for old, new in zip(first_choices(accounts), first_choices(raised), strict=True):
        assert new in (old, raised[index].workspace)


# I3: a warm binding to an eligible workspace survives additions, weights, epochs, drain before its deadline, and load.


@RUNS
@given(st.data(), pools(), KEYS)
def test_i3_a_warm_binding_survives_additions_weights_epochs_drains_and_load(data, accounts, key):
    router, now = made(accounts), NOW
    home = data.draw(st.sampled_from([entry.workspace for entry in accounts]))
    record = warm_record(home)
    for epoch in range(2, 2 + data.draw(st.integers(1, 4))):
        now += data.draw(st.floats(0, 40))
        match data.draw(st.sampled_from(["add", "weight", "drain", "load", "epoch"])):
            case "add" if len(accounts) < len(NAMES):
                where = data.draw(st.sampled_from([home, "new", f"new{epoch}"]))
                own = next((entry.organization for entry in accounts if entry.workspace == where), where)
                accounts = [*accounts, Entry(NAMES[len(accounts)], where, own, since=WALL + now - NOW)]
            case "weight":
                weights = data.draw(st.lists(WEIGHTS, min_size=len(accounts), max_size=len(accounts)))
                accounts = [
                    msgspec.structs.replace(entry, weight=weight)
                    for entry, weight in zip(accounts, weights, strict=True)
                ]
            case "drain":
                until = data.draw(st.sampled_from([0.0, WALL + 1000.0]))
                accounts = [
                    msgspec.structs.replace(entry, state="draining", drain_until=until)
                    if entry.workspace == home
                    else entry
                    for entry in accounts
                ]
            case "load":
                router.loads.add(data.draw(st.sampled_from([home, "w0", "w1"])), data.draw(st.floats(0, 1e6)), now)
            case _:
                pass
        router.apply(document(accounts, epoch), now, WALL + now - NOW)
        route = route_of(router, key, now, 21_000)
        route.found(record, False, int(now * 1000))
        assert route.better(now) is None
        step = route.next(now, 0.5)
        assert isinstance(step, Send) and step.entry.workspace == home


# I4: with the store reachable, any number of concurrent first requests on any number of replicas end in one workspace.


@dataclass
class First:
    """One first request: the replica it came to, and how far it is."""

    router: Router
    route: Route
    proposed: str | None = None


@RUNS
@given(st.data(), pools(2), KEYS)
def test_i4_concurrent_first_requests_on_any_replicas_end_in_one_workspace(data, accounts, key):
    store, routers = Store(), [made(accounts) for _ in range(data.draw(st.integers(1, 4)))]
    for router in routers:  # they do not see the pool alike
        for entry in accounts:
            router.loads.add(entry.workspace, data.draw(st.sampled_from([0.0, 5e4, 1e6])), NOW)
            if data.draw(st.booleans()):
                router.domain(entry.organization, MODEL).observe("input", 60_000, 0, NOW)
    firsts = [First(router, route_of(router, key)) for router in routers for _ in range(2)]
    steps = [first for first in firsts for _ in range(2)]
    workspaces = set()
    for first in data.draw(st.permutations(steps)):
        now = NOW + data.draw(st.floats(0, 5))
        route = first.route
        if first.proposed is None:
            first.proposed = route.propose(now)
            assume(first.proposed is not None)
            continue
        created, record = store.admit(
            key, Record(first.proposed, in_flight_until=int(NOW * 1000) + IN_FLIGHT), int(now * 1000), IN_FLIGHT
        )
        route.found(record, created, int(now * 1000))
        better = route.better(now)
        if better is not None:
            _, record = store.rebind(key, record, better[0], better[1], int(now * 1000))
            route.rebound(record, "moved", better[1])
        workspaces.add(route.placement.workspace)
        assert workspaces == {route.placement.workspace}
    assert store.admit(key, Record("unknown"), int(NOW * 1000), 0)[1].workspace in workspaces


# I5: nothing is ever sent to a disabled, out or wrong-model account; none is picked 100 ms after it closed.


class Truth:
    """What a pool's accounts may be sent, kept by other means than the router's: until when each is closed."""

    def __init__(self, accounts: list[Entry]) -> None:
        self.accounts = {entry.id: entry for entry in accounts}
        self.limited: dict[str, float] = {}
        self.spent: dict[str, float] = {}
        self.out: dict[str, float] = {}
        self.denied: dict[str, float] = {}
        self.unsent: dict[tuple[int, str], list[float]] = {}  # by process: each has its own experience
        self.unreachable: dict[tuple[int, str], float] = {}

    def forbids(self, process: int, name: str, settled: bool, now: float) -> str:
        entry = self.accounts[name]
        for why, closed in (
            ("limited", self.limited.get(entry.organization)),
            ("spent", self.spent.get(entry.organization)),
            ("out", self.out.get(name)),
            ("unreachable", self.unreachable.get((process, name))),
            ("denied", self.denied.get(name)),
        ):
            if closed is not None and now < closed:
                return why
        if entry.state == "disabled" or (entry.state == "draining" and not settled):
            return entry.state
        return "model" if entry.models == ("claude-opus-*",) else ""

    def answered(self, process: int, entry: Entry, outcome: Outcome, retry_after: float | None, now: float) -> None:
        name, organization = entry.id, entry.organization
        if outcome is Outcome.LIMITED:
            until = now + (5.0 if retry_after is None else retry_after)
            self.limited[organization] = max(until, self.limited.get(organization, 0.0))
        elif outcome is Outcome.SPENT:
            self.spent[organization] = now + 30.0
        elif outcome is Outcome.UNAUTHORIZED:
            self.out[name] = now + 30.0
        elif outcome is Outcome.UNSENT:
            unsent = self.unsent.setdefault((process, name), [])
            unsent.append(now)
            if len(unsent) > 2 and now - unsent[-3] < 10.0:
                self.unreachable[process, name] = now + 10.0
        elif outcome is Outcome.SERVED:
            self.spent.pop(organization, None)
            self.out.pop(name, None)
            self.unreachable.pop((process, name), None)

    def sent(self, process: int, entry: Entry, now: float) -> list[tuple[Any, Any, float]]:
        """Nobody else is to try what only just may be tried again: returns what this closed, under which name, and
        until when. It is open again if the request shows nothing of it."""
        trials: list[tuple[Any, Any, float]] = []
        places: list[tuple[Any, Any]] = [
            (self.spent, entry.organization),
            (self.out, entry.id),
            (self.unreachable, (process, entry.id)),
        ]
        for closed, name in places:
            if name in closed and closed[name] < now + 5.0:
                closed[name] = now + 5.0
                trials.append((closed, name, now + 5.0))
        return trials


@dataclass
class Flight:
    """A request that an account has and has not answered yet."""

    process: int
    route: Route
    entry: Entry
    trials: list[tuple[Any, Any, float]]


OUTCOMES = st.sampled_from([*Outcome, Outcome.LIMITED, Outcome.SERVED, Outcome.UNSENT, Outcome.UNSENT])


@RUNS
@given(st.data(), pools(states=STATES, models=MODELS))
def test_i5_nothing_is_sent_to_an_account_that_is_disabled_out_closed_or_of_another_model(data, accounts):
    truth, routers, clock = Truth(accounts), [made(accounts), made(accounts)], [NOW]
    for router, other in zip(routers, routers[::-1], strict=True):
        router.tell = lambda fact, other=other: other.heard(fact, clock[0])  # type: ignore[misc]
    flights: list[Flight] = []
    waiting: list[tuple[int, Route]] = []

    def on(process: int, route: Route) -> None:
        step = route.next(clock[0], data.draw(st.floats(0, 0.99)))
        if isinstance(step, Send):
            assert (
                truth.forbids(
                    process,
                    step.entry.id,
                    route.placement.sticky and route.placement.workspace == step.entry.workspace,
                    clock[0],
                )
                == ""
            )
            route.sent(step.entry, clock[0])
            flights.append(Flight(process, route, step.entry, truth.sent(process, step.entry, clock[0])))
        elif isinstance(step, Wait):
            waiting.append((process, route))

    for _ in range(data.draw(st.integers(1, 40))):
        clock[0] += data.draw(st.sampled_from([0.0, 0.0, 0.1, 1.0, 4.0, 31.0, 61.0]))
        now = clock[0]
        action = data.draw(st.sampled_from(["begin", "begin", "answer", "answer", "answer", "waited", "pool"]))
        if action == "begin":
            process = data.draw(st.integers(0, 1))
            route = route_of(routers[process], data.draw(st.sampled_from(MANY_KEYS)), now)
            if data.draw(st.booleans()):
                home = data.draw(st.sampled_from([entry.workspace for entry in accounts]))
                record = warm_record(home, now - data.draw(st.sampled_from([0.0, 2 * TTL])))
                record.account_bound = data.draw(st.integers(0, 1))
                route.placement.pinned = data.draw(st.sampled_from(["", home]))
                route.found(record, False, int(now * 1000))
            elif (workspace := route.propose(now)) is not None:
                route.found(Record(workspace, in_flight_until=int(now * 1000) + IN_FLIGHT), True, int(now * 1000))
            on(process, route)
        elif action == "answer" and flights:
            flight = flights.pop(data.draw(st.integers(0, len(flights) - 1)))
            outcome = data.draw(OUTCOMES)
            retry_after = data.draw(st.sampled_from([None, 0.5, 3.0, 40.0]))
            if outcome in (Outcome.UNSENT, Outcome.UNABLE):
                for closed, of, until in flight.trials:
                    if closed.get(of) == until:
                        closed[of] = now
            truth.answered(flight.process, flight.entry, outcome, retry_after, now)
            if outcome is Outcome.UNAUTHORIZED:  # as a probe shows at once
                routers[flight.process].key_refused(flight.entry.id, now)
            if outcome is Outcome.SERVED:
                flight.route.served(flight.entry, now)
                flight.route.settle(100.0, 0.0, 0, now)
            elif flight.route.answered(flight.entry, outcome, retry_after, now, data.draw(st.floats(0, 0.99))):
                on(flight.process, flight.route)
        elif action == "waited" and waiting:
            on(*waiting.pop(data.draw(st.integers(0, len(waiting) - 1))))
        elif action == "pool":
            name = data.draw(st.sampled_from(sorted(truth.accounts)))
            truth.accounts[name] = msgspec.structs.replace(
                truth.accounts[name], state=data.draw(st.sampled_from(["active", "draining", "disabled"]))
            )
            for router in routers:
                router.apply(document(list(truth.accounts.values())), now, WALL + now - NOW)


@RUNS
@given(pools(2), st.data())
def test_i5_a_model_that_was_denied_and_served_elsewhere_is_not_asked_for_again(accounts, data):
    router = made(accounts)
    route = route_of(router, data.draw(KEYS))
    first = route.next(NOW, 0.0)
    assert isinstance(first, Send)
    route.sent(first.entry, NOW)
    assert route.answered(first.entry, Outcome.DENIED, None, NOW, 0.0)
    second = route.next(NOW, 0.0)
    assert isinstance(second, Send) and second.entry.id != first.entry.id
    route.sent(second.entry, NOW)
    route.served(second.entry, NOW)
    for key in MANY_KEYS:
        for later in (0.0, 0.1, 599.0):
            step = route_of(router, key, NOW + later).next(NOW + later, 0.0)
            assert isinstance(step, Send) and step.entry.id != first.entry.id


# I6: generations only grow; a stale writer changes nothing.


@RUNS
@given(st.data())
def test_i6_generations_only_grow_and_a_stale_writer_changes_nothing(data):
    store, key = Store(), b"k"
    _, record = store.admit(key, Record("w0"))
    read = [msgspec.structs.replace(record)]
    now_ms, newest = int(NOW * 1000), msgspec.structs.replace(record)
    for _ in range(data.draw(st.integers(1, 20))):
        now_ms += data.draw(st.integers(0, 100_000))
        before = store.admit(key, Record("unknown"), int(NOW * 1000), 0)[1]
        assert before.generation == newest.generation
        writer = data.draw(st.sampled_from(read))
        stale = writer.generation < before.generation
        workspace = data.draw(st.sampled_from(["w0", "w1", "w2"]))
        if data.draw(st.booleans()):
            done, now_stands = store.rebind(key, msgspec.structs.replace(writer), workspace, "limited", now_ms)
            assert done is not stale
            if done:
                assert (now_stands.workspace, now_stands.generation) == (workspace, before.generation + 1)
            read.append(now_stands)
            newest = msgspec.structs.replace(now_stands)
        else:
            store.settle(key, msgspec.structs.replace(writer), workspace, now_ms + 300_000, 5_000)
        after = store.admit(key, Record("unknown"), int(NOW * 1000), 0)[1]
        assert after.generation >= before.generation
        if stale:
            assert after == before
        elif after.generation == before.generation:
            assert after.workspace == before.workspace
            assert after.warm_until >= before.warm_until


# I7: at placement the chosen workspace satisfies R4, or none did.


@settings(parent=RUNS, max_examples=150)
@given(st.data(), pools(states=STATES, models=MODELS), KEYS, st.sampled_from([500.0, 5_000.0, 50_000.0]))
def test_i7_a_new_conversation_goes_where_bound_and_headroom_allow_or_nowhere_did(data, accounts, key, tokens):
    router = made(accounts)
    names = sorted({entry.workspace for entry in accounts})
    loads = {name: data.draw(st.sampled_from([0.0, 1e3, 9e3, 1e4, 1.1e4, 5e4])) for name in names}
    left = {entry.organization: data.draw(st.sampled_from([None, 0, 3_000, 20_000, 400_000])) for entry in accounts}
    for name, load in loads.items():
        router.loads.add(name, load, NOW)
    for organization, amount in left.items():
        if amount is not None:
            router.domain(organization, MODEL).observe("input", 400_000, amount, NOW)
    size = data.draw(st.sampled_from([0.0, 2_000.0]))
    if size:
        router.loads.sized(size)

    def open_to(entry: Entry) -> bool:
        return entry.state == "active" and entry.models != ("claude-opus-*",)

    takes = [name for name in names if any(open_to(entry) for entry in accounts if entry.workspace == name)]
    weight = {name: sum(entry.weight for entry in accounts if entry.workspace == name) for name in names}
    mean = sum(loads[name] for name in takes) / max(1e-9, sum(weight[name] for name in takes))

    def roomy(name: str) -> bool:
        for entry in accounts:
            amount = left[entry.organization]
            if entry.workspace == name and open_to(entry) and (amount is None or amount >= tokens + 500.0):
                return True
        return False

    satisfies = {name: loads[name] <= LOAD_CAP * mean * weight[name] + size and roomy(name) for name in names}
    chosen, good = router.place(key, MODEL, MODEL, tokens, NOW)
    if chosen is None:
        assert not takes
        return
    assert chosen in takes
    assert good is any(satisfies.values())
    if good:
        assert satisfies[chosen]
        assert chosen == next(name for name in router.ring.rank(key) if satisfies[name])
    elif any(roomy(name) for name in takes):
        assert roomy(chosen)


# I8: a closure moves only conversations that ask while it lasts.


def serve(router: Router, store: Store, key: bytes, now: float) -> tuple[float, str]:
    """A request's whole life, in which every account serves at once: when and where it was sent."""
    route = route_of(router, key, now, 21_000)
    record = store.admit(key, Record("unknown"), int(NOW * 1000), 0)[1]
    route.found(record, False, int(now * 1000))
    better = route.better(now)
    if better is not None:
        _, record = store.rebind(key, record, better[0], better[1], int(now * 1000))
        route.rebound(record, "moved", better[1])
    step = route.next(now, 0.0)
    while isinstance(step, Wait):
        now += step.seconds
        step = route.next(now, 0.0)
    assert isinstance(step, Send)
    route.sent(step.entry, now)
    reason = route.served(step.entry, now)
    if reason:
        _, record = store.rebind(key, record, step.entry.workspace, reason, int(now * 1000))
    store.settle(key, record, step.entry.workspace, int((now + TTL) * 1000), 21_000)
    route.settle(1_000.0, 20_000.0, 0, now)
    return now, step.entry.workspace


@RUNS
@given(
    st.data(),
    st.sampled_from([Outcome.LIMITED, Outcome.UNAUTHORIZED, Outcome.SPENT]),
    st.lists(st.tuples(st.integers(0, 9), st.floats(-100, 150)), max_size=30),
)
def test_i8_a_closure_moves_only_conversations_that_ask_while_it_lasts(data, outcome, asks):
    accounts = [Entry(NAMES[n], f"w{n}", f"o{n}") for n in range(4)]
    router, store = made(accounts), Store()
    homes = {}
    for key in MANY_KEYS[:10]:
        homes[key] = data.draw(st.sampled_from(["w0", "w0", "w1", "w2", "w3"]))
        record = warm_record(homes[key], NOW + 200)
        store.admit(key, record)
    begins, lasts = NOW + 100.0, 60.0
    moved: set[bytes] = set()
    closed = False
    for which, at in sorted(asks, key=lambda ask: ask[1]):
        now = begins + at
        if at >= 0 and not closed:
            if outcome is Outcome.UNAUTHORIZED:
                router.key_refused(accounts[0].id, begins)
            else:
                router.learn(accounts[0], MODEL, outcome, lasts, begins)
            closed = True
        key = MANY_KEYS[which]
        _, workspace = serve(router, store, key, now)
        if workspace != homes[key]:
            assert 0 <= at < lasts and homes[key] == "w0"
            moved.add(key)
            homes[key] = workspace
    for key in MANY_KEYS[:10]:
        assert store.admit(key, Record("unknown"), int(NOW * 1000), 0)[1].workspace == homes[key]


# I9: at most one voluntary move a TTL.


@RUNS
@given(
    st.data(), st.lists(st.tuples(st.floats(0, 120), st.sampled_from(["w0", "w1", "w2"]), st.booleans()), max_size=25)
)
def test_i9_a_conversation_moves_without_need_at_most_once_a_ttl(data, turns):
    accounts = [Entry(NAMES[n], f"w{n}", f"o{n}") for n in range(3)]
    router, store, key, now = made(accounts), Store(), MANY_KEYS[0], NOW
    store.admit(key, warm_record("w0"))
    voluntary: list[float] = []
    for passed, heavy, limited in turns:
        now += passed
        router.loads.add(heavy, 1e6, now)
        record = store.admit(key, Record("unknown"), int(NOW * 1000), 0)[1]
        if limited:
            home = next(entry for entry in accounts if entry.workspace == record.workspace)
            router.learn(home, MODEL, Outcome.LIMITED, 30.0, now)
        route = route_of(router, key, now, 20_000)
        route.found(record, False, int(now * 1000))
        better = route.better(now)
        if better is not None:
            if route.placement.warm:
                assert better[1] == "home"
                assert all(now - at >= TTL for at in voluntary)
                voluntary.append(now)
            _, record = store.rebind(key, record, better[0], better[1], int(now * 1000))
            route.rebound(record, "moved", better[1])
        step = route.next(now, 0.0)
        if isinstance(step, Send):
            reason = route.served(step.entry, now)
            if reason:
                _, record = store.rebind(key, record, step.entry.workspace, reason, int(now * 1000))
            store.settle(key, record, step.entry.workspace, int((now + TTL) * 1000), 20_000)


def test_i9_is_about_something_for_there_are_voluntary_moves():
    accounts = [Entry(NAMES[n], f"w{n}", f"o{n}") for n in range(3)]
    router, store, key = made(accounts), Store(), MANY_KEYS[0]
    store.admit(key, warm_record("w0"))
    _, record = store.rebind(
        key, store.admit(key, Record("unknown"), int(NOW * 1000), 0)[1], "w1", "limited", int(NOW * 1000)
    )
    store.settle(key, record, "w1", int((NOW + TTL) * 1000), 20_000)
    router.loads.add("w1", 1e6, NOW + 1)
    route = route_of(router, key, NOW + 1, 20_000)
    route.found(store.admit(key, Record("unknown"), int(NOW * 1000), 0)[1], False, int((NOW + 1) * 1000))
    assert route.better(NOW + 1) == ("w0", "home")


# I10: with the store away and the same epoch, all replicas agree on conversations that none of them remembers.


@RUNS
@given(st.data(), pools(states=STATES, models=MODELS))
def test_i10_without_the_store_all_replicas_of_an_epoch_agree_on_what_none_remembers(data, accounts):
    routers = [made(accounts), made(data.draw(st.permutations(accounts)))]
    for router in routers:  # each with its own idea of health, load and limits
        for fact in data.draw(closures(accounts)):
            router.heard(fact, NOW)
        for entry in accounts:
            router.loads.add(entry.workspace, data.draw(st.sampled_from([0.0, 1e6])), NOW)
        router.held = dict.fromkeys(data.draw(st.lists(st.sampled_from([entry.id for entry in accounts]))), "")
    served = [entry for entry in accounts if entry.state == "active" and entry.models != ("claude-opus-*",)]
    for key in MANY_KEYS:
        one, other = (router.ranked(key, MODEL) for router in routers)
        assert one == other
        assert one in {entry.workspace for entry in served} or (one is None and not served)


# I11: keys of different callers never collide.

CALLERS = st.text(st.sampled_from("ab:1\0é,"), min_size=1, max_size=6)
IDS = st.binary(max_size=8) | st.sampled_from([b"", b"1:a", b"session", b"6:header1:a"])


@st.composite
def identities(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, dict[str, Any]]:
    """Headers and body of a request that belongs to some conversation."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": draw(st.sampled_from(["a", "b"]))}]}
    if draw(st.booleans()):
        user = draw(st.sampled_from(["", "u", "user_x_account__session_0f8b1c9e-1a2b", '{"session_id": "s"}']))
        body["metadata"] = {"user_id": user}
    if draw(st.booleans()):
        body["system"] = draw(st.sampled_from(["", "s", "a"]))
    return draw(IDS), draw(IDS), draw(IDS), body


def key_of(secret: bytes, caller: str, identity: tuple[bytes, bytes, bytes, dict[str, Any]]) -> bytes | None:
    header, session, agent, body = identity
    return identify(secret, caller, header, session, agent, peek(json.dumps(body).encode()))


@settings(parent=RUNS, max_examples=150)
@given(CALLERS, CALLERS, identities(), identities(), st.booleans())
def test_i11_keys_of_different_callers_never_collide(one, other, first, second, same):
    keys = [key_of(b"s" * 32, one, first), key_of(b"s" * 32, other, first if same else second)]
    assert None not in keys
    if one != other:
        assert keys[0] != keys[1]
    elif same:
        assert keys[0] == keys[1]


def test_i11_no_caller_and_conversation_read_like_another_caller_and_conversation():
    parts = ["a", "a\0header", "aheader", "1:a", "a1:a6:header", ""]
    seen: dict[bytes | None, tuple[str, bytes]] = {}
    for caller in parts:
        for value in (b"x", b"headerx", b"\0headerx", b"6:headerx", b"1:x", b"6:header1:x"):
            key = identify(b"s" * 32, caller, value, b"", b"", None)
            assert seen.setdefault(key, (caller, value)) == (caller, value)


# I12: the body is byte-identical.

NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
SPACES = st.text(st.sampled_from(" \t\r\n"), max_size=3)
FIELDS = st.sampled_from(
    ["messages", "system", "tools", "stream", "metadata", "max_tokens", "é", "x y", 'q"', "\\", "\U0001f600"]
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """A Messages body as an odd client may write it, and the keys that stand in it."""
    names = draw(st.permutations(["model", *draw(st.lists(FIELDS, max_size=5))]))

    def text(value: Any) -> str:
        indent = draw(st.sampled_from([None, 0, 3]))
        return json.dumps(value, ensure_ascii=draw(st.booleans()), indent=indent)

    def space() -> str:
        return draw(SPACES)

    def member(name: str) -> str:
        value = "claude-sonnet-5" if name == "model" else draw(VALUES)
        return f"{space()}{text(name)}{space()}:{space()}{text(value)}{space()}"

    members = [member(name) for name in names]
    return names, f"{space()}{{{','.join(members)}}}{space()}".encode(errors="surrogatepass")


@settings(parent=RUNS, max_examples=150)
@given(bodies(), KEYS)
def test_i12_the_bytes_that_go_out_are_the_clients_unless_two_parsers_could_differ(named, caller):
    names, body = named
    original = bytes(bytearray(body))
    if len(set(names)) < len(names):
        with pytest.raises(ApiError) as refused:
            peek(body)
        assert refused.value.status == 400
        return
    try:
        peeked = peek(body)
    except ApiError:
        assert re.search(rb"\\ud[89a-f]", body, re.IGNORECASE) or b"\xed" in body  # half a surrogate pair
        return
    assert sorted(peeked.fields) == sorted(names)
    identify(b"s" * 32, caller.hex(), b"", b"", b"", peeked)
    route = Route(made([Entry("a", "w", "o")]), caller, peeked.model, peeked.text_size, peeked.cache_ttl, NOW + 600)
    assert not isinstance(route.next(NOW, 0.0), Refuse)
    call = Call(b"POST", b"/v1/messages", [], peeked.body, peeked.model, peeked.stream)
    for key in ("one", "another"):  # each account gets the same
        out = Anthropic(key).prepare(call)
        assert out.body == original
        assert (out.method, out.path) == (b"POST", b"/v1/messages")
    assert call.body == original
