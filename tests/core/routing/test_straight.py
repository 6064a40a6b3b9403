"""The short way of a warm conversation leads where the long one does, or says that there is more to consider."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.routing.binding import Record
from gateway.core.routing.conduct import Fault
from gateway.core.routing.health import Cause
from gateway.core.routing.route import Route, Send
from gateway.core.routing.router import Router
from tests.core.routing.routing_kit import KEY, MODEL, NOW, account, router

MS = int(NOW * 1000)
RECORDS = st.builds(
    Record,
    workspace=st.sampled_from(["home", "other", "gone"]),
    generation=st.just(2),
    warm_until=st.sampled_from([0, MS - 1, MS, MS + 1, MS + 300_000]),
    tokens=st.sampled_from([0, 1, 100, 20_000]),
    size=st.sampled_from([0, 400, 80_000]),
    account_bound=st.sampled_from([0, 1]),
    previous=st.sampled_from(["", "", "other"]),
    previous_warm_until=st.just(MS + 100_000),
    previous_tokens=st.just(30_000),
    detour=st.sampled_from(["", "other"]),
    detour_warm_until=st.just(MS + 100_000),
    group=st.sampled_from(["", "g"]),
    in_flight_until=st.sampled_from([0, MS + 1000]),
)
STATES = st.sampled_from(["active", "active", "active", "draining", "disabled"])
TROUBLES = st.sets(
    st.sampled_from(["closed", "little left", "out", "failing", "full", "another's model", "not held"]), max_size=2
)


def pool(states: list[str], troubles: set[str]) -> Router:
    models = ("another",) if "another's model" in troubles else ("*",)
    made = router(
        account("home", "home", state=states[0], models=models), account("home2", "home", state=states[1]),
        account("other", "other", state=states[2]),
    )  # fmt: skip
    domain = made.domain("home", MODEL)
    if "closed" in troubles:
        domain.close(5.0, NOW)
    if "little left" in troubles:
        domain.observe("input", 100_000, 10, NOW)
    if "out" in troubles:
        made.health("home").outage.begin(Cause.CREDENTIAL, NOW)
    if "failing" in troubles:
        for number in range(20):
            made.failing.bad("home", Fault.UNSENT, number.to_bytes(16, "big"), NOW)
    if "full" in troubles:
        made.free = lambda name: name != "home"
    if "not held" in troubles:
        made.held = {"home2": "", "other": ""}
    return made


def route(over: Router, size: int, claim: float, tried: frozenset[str]) -> Route:
    made = Route(over, KEY, MODEL, size, 300.0, NOW + 100.0)
    made.claim, made.tried, made.lacking = claim, tried, tried
    return made


def said(of: Route) -> dict[str, Any]:
    """What a route has come to."""
    return {
        "tokens": of.tokens, "claim": of.claim, "group": of.group, "placement": msgspec.structs.asdict(of.placement),
        "attempts": of.past.attempts, "reserved": (of.reserved.fresh, of.reserved.workspace, of.reserved.load),
    }  # fmt: skip


@settings(deadline=None, max_examples=600)
@given(
    record=RECORDS,
    size=st.sampled_from([1, 400, 79_000, 80_000, 90_000, 500_000]),
    states=st.lists(STATES, min_size=3, max_size=3),
    troubles=TROUBLES,
    claim=st.sampled_from([0.0, 1000.0]),
    tried=st.sampled_from([frozenset(), frozenset({"home"}), frozenset({"home2"}), frozenset({"other"})]),
)
@example(Record("home", 2, MS + 300_000, 20_000, 80_000), 90_000, ["active"] * 3, set(), 0.0, frozenset())
def test_it_leads_where_the_long_way_does(
    record: Record, size: int, states: list[str], troubles: set[str], claim: float, tried: frozenset[str]
):
    short, long = route(pool(states, troubles), size, claim, tried), route(pool(states, troubles), size, claim, tried)
    entry = short.straight(record, MS, NOW)
    long.found(record, False, MS)
    better = long.better(NOW)
    if entry is None:  # it has changed nothing that the long way does not say anew
        short.found(record, False, MS)
        assert short.better(NOW) == better
    else:
        assert better is None
        step = long.next(NOW, 0.5)
        assert isinstance(step, Send) and step.entry == entry and not step.full
        for each in (short, long):
            each.sent(entry, NOW)
    assert said(short) == said(long)


def test_most_turns_go_it():
    found = route(router(account("home"), account("other")), 90_000, 0.0, frozenset())
    entry = found.straight(Record("home", 2, MS + 300_000, 20_000, 80_000), MS, NOW)
    assert entry is not None and entry.id == "home" and found.placement.warm
