"""What chooses at the same instant spreads, over one replica and over two that do not hear each other."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.routing.binding import Record
from gateway.core.routing.route import Route, Send
from gateway.core.routing.router import Router
from tests.core.routing.routing_kit import MODEL, NOW, TTL, WALL, account, document

RUNS = settings(deadline=None, max_examples=60)
HEALTHY = 3
MOVED = pytest.mark.parametrize(("moved", "peak"), [(11, 2.0), (100, 1.5)])
REPLICAS = pytest.mark.parametrize("replicas", [1, 2])
GROUPS = st.sampled_from(["", "group"])
SIZES = st.sampled_from([5_000.0, 40_000.0])  # that make a difference beside a large request
LARGE = 8_000.0


def pools(data: st.DataObject, replicas: int, group: str) -> list[Router]:
    """Replicas of one pool that has been in use; they have seen about the same."""
    accounts = [account(f"a{n}") for n in range(HEALTHY + 1)]
    made = [Router(lambda model: model) for _ in range(replicas)]
    loads = [data.draw(st.floats(0, 3_000)) for _ in accounts]
    for one in made:
        one.apply(document(accounts), NOW, WALL)
        for entry, load in zip(accounts, loads, strict=True):
            one.loads.add(entry.workspace, load, NOW)
            if group:
                one.groups.touch(group, entry.workspace, NOW + TTL)
        for _ in range(40):
            one.loads.sized(LARGE)
        one._mean(MODEL, NOW)
    return made


def peak_to_mean(went: Counter[str], over: int) -> float:
    return max(went.values()) * over / went.total()


@MOVED
@REPLICAS
@RUNS
@given(data=st.data(), group=GROUPS, tokens=SIZES, salt=st.binary(min_size=8, max_size=8))
def test_those_whom_one_429_moves_spread_over_the_others(replicas, moved, peak, data, group, tokens, salt):
    routers, went = pools(data, replicas, group), Counter[str]()
    for one in routers:
        one.domain("a0", MODEL).close(30.0, NOW)
    for n in range(moved):
        over = routers[n % replicas]
        route = Route(over, salt + n.to_bytes(8, "big"), MODEL, int(tokens * 4), TTL, NOW + 600.0)
        record = Record("a0", 3, int((NOW + TTL) * 1000), int(tokens), int(tokens * 4), group=group)
        route.found(record, False, int(NOW * 1000))
        step = route.next(NOW, 0.0)
        assert isinstance(step, Send)
        went[step.entry.id] += 1
        route.sent(step.entry, NOW)
    assert peak_to_mean(went, HEALTHY) <= peak


@MOVED
@REPLICAS
@RUNS
@given(data=st.data(), tokens=SIZES, salt=st.binary(min_size=8, max_size=8))
def test_new_conversations_of_one_group_spread_before_any_of_them_is_sent(replicas, moved, peak, data, tokens, salt):
    routers, went = pools(data, replicas, "group"), Counter[str]()
    routes = []
    for n in range(moved):
        over = routers[n % replicas]
        route = Route(over, salt + n.to_bytes(8, "big"), MODEL, int(tokens * 4), TTL, NOW + 600.0)
        route.group = "group"
        routes.append(route)
        workspace = route.propose(NOW)
        assert workspace is not None
        went[workspace] += 1
    assert peak_to_mean(went, HEALTHY + 1) <= peak
    for route in routes:
        route.settle(0.0, 0.0, 0, NOW)  # none of them was sent after all
    for one in routers:
        assert sum(one.loads.of(f"a{n}", NOW) for n in range(HEALTHY + 1)) <= (HEALTHY + 1) * 3_000 + 1e-3


@REPLICAS
@RUNS
@given(data=st.data(), group=GROUPS, salt=st.binary(min_size=8, max_size=8))
def test_small_ones_go_each_by_its_own_ranking_whatever_little_the_loads_differ_by(replicas, data, group, salt):
    routers = pools(data, replicas, group)
    for one in routers:
        one.domain("a0", MODEL).close(30.0, NOW)
    for n in range(11):
        over, key = routers[n % replicas], salt + n.to_bytes(8, "big")
        route = Route(over, key, MODEL, 80, TTL, NOW + 600.0)
        route.found(Record("a0", 3, int((NOW + TTL) * 1000), 20, 80, group=group), False, int(NOW * 1000))
        step = route.next(NOW, 0.0)
        assert isinstance(step, Send)
        assert step.entry.id == next(name for name in over.ring.rank(key) if name != "a0")
        route.sent(step.entry, NOW)


def test_a_choice_that_another_request_had_made_before_is_taken_back():
    (one,) = (Router(lambda model: model),)
    one.apply(document([account("a0"), account("a1")]), NOW, WALL)
    route = Route(one, bytes(16), MODEL, 80_000, TTL, NOW + 600.0)
    chosen = route.propose(NOW)
    assert chosen is not None and one.loads.of(chosen, NOW) == 20_000
    other = "a1" if chosen == "a0" else "a0"
    route.found(Record(other), False, int(NOW * 1000))
    assert one.loads.of(chosen, NOW) == one.loads.of(other, NOW) == 0.0
    step = route.next(NOW, 0.0)
    assert isinstance(step, Send)
    route.sent(step.entry, NOW)
    assert one.loads.of(other, NOW) == 20_000
