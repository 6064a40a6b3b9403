"""Fair queue: turns by tokens, bounds, batch after interactive, and nothing that outlives who waited."""

from __future__ import annotations

from collections import Counter, deque
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.spending.fair import MOST, FairQueue

RUNS = settings(deadline=None, max_examples=150)
QUANTUM = 1600.0
LEAST, LARGEST = QUANTUM / 16, QUANTUM * 4  # what a waiter counts as

Ticket = tuple[str, int]  # tenant, number


def queue(most: int = MOST) -> FairQueue[Ticket]:
    return FairQueue(QUANTUM, most)


def fill(of: FairQueue[Ticket], tenant: str, number: int, cost: float = QUANTUM, batch: bool = False) -> None:
    kind = 1000 if batch else 0
    for each in range(number):
        assert of.push(tenant, cost, (tenant, kind + each), batch)


def drain(of: FairQueue[Ticket]) -> list[Ticket]:
    return list(iter(of.pop, None))


def served(of: FairQueue[Ticket]) -> str:
    """The tenants in the order of their grants; batch waiters in capitals."""
    return "".join(name.upper() if number >= 1000 else name for name, number in drain(of))


def is_empty(of: FairQueue[Ticket]) -> bool:
    return repr(of) == "<FairQueue size=0 interactive=0 batch=0>" and not of._places and of.pop() is None


# Turns.


def test_nobody_is_next_where_nobody_waits():
    assert queue().pop() is None
    assert is_empty(queue())


def test_one_tenant_is_served_first_come_first_served():
    one = queue()
    for number, cost in enumerate([10, 9000, 0, 1600, 0.5, 300]):
        one.push("a", cost, ("a", number))
    assert [number for _, number in drain(one)] == list(range(6))


def test_tenants_take_turns():
    one = queue()
    for tenant in "abc":
        fill(one, tenant, 3)
    assert served(one) == "abcabcabc"


def test_a_turn_is_worth_a_quantum_of_tokens():
    one = queue()
    fill(one, "a", 8, QUANTUM / 4)
    fill(one, "b", 2, QUANTUM)
    fill(one, "c", 1, QUANTUM * 2)
    assert served(one) == "aaaabaaaabc"


def test_what_a_turn_did_not_spend_is_kept_for_the_next_one():
    one = queue()
    fill(one, "a", 5, QUANTUM * 3 / 4)
    fill(one, "b", 4, QUANTUM)
    assert served(one) == "ababaabab"  # a has a quarter over, then a half, which make its third turn two


def test_waiters_whose_cost_is_unknown_take_a_turn_each():
    one = queue()
    fill(one, "a", 3, 0.0)
    fill(one, "b", 3, 0.0)
    assert served(one) == "ababab"


def test_tenants_that_ask_for_little_are_served_within_one_turn_of_the_one_that_asks_for_much():
    one = queue()
    fill(one, "h", 100, QUANTUM / 4)
    fill(one, "x", 1, QUANTUM / 4)
    fill(one, "y", 1, QUANTUM)
    assert served(one) == "hhhhxy" + "h" * 96


def test_who_asks_for_little_over_and_over_never_waits_longer_than_a_round():
    one, numbers = queue(), count()
    fill(one, "h", 100, QUANTUM / 2)
    for name in "xy":
        one.push(name, QUANTUM / 2, (name, next(numbers)))
    waited: Counter[str] = Counter()
    for _ in range(90):
        name, _number = one.pop() or pytest.fail("somebody waits")
        waited.update("xy")
        if name != "h":
            assert waited.pop(name) <= 4  # two of a turn of h, one of the other, and its own
            one.push(name, QUANTUM / 2, (name, next(numbers)))


def test_however_little_one_tenant_asks_for_the_next_one_has_its_turn():
    one = queue()
    fill(one, "a", 40, 1e-9)
    fill(one, "b", 1)
    assert served(one) == "a" * 16 + "b" + "a" * 24


def test_however_much_one_asks_for_it_has_its_turn_in_the_end():
    one = queue()
    fill(one, "a", 10)
    fill(one, "b", 1, 1e9)
    assert served(one) == "aaaabaaaaaa"


@pytest.mark.parametrize("seed", range(5))
def test_in_the_long_run_every_tenant_is_granted_as_many_tokens(seed):
    one, random, numbers = queue(), Random(seed), count()
    sizes = {"small": (LEAST, 2 * LEAST), "mixed": (LEAST, LARGEST), "large": (QUANTUM, LARGEST), "same": (800, 800)}
    costs: dict[Ticket, float] = {}
    granted: Counter[str] = Counter()

    def ask(tenant: str) -> None:
        ticket = tenant, next(numbers)
        costs[ticket] = random.uniform(*sizes[tenant])
        assert one.push(tenant, costs[ticket], ticket)

    for tenant in sizes:
        for _ in range(3):
            ask(tenant)
    for _ in range(3000):
        ticket = one.pop() or pytest.fail("somebody waits")
        granted[ticket[0]] += round(costs.pop(ticket))
        ask(ticket[0])
    assert max(granted.values()) <= 1.1 * min(granted.values())


@RUNS
@given(st.lists(st.lists(st.floats(LEAST, LARGEST), min_size=40, max_size=40), min_size=2, max_size=5))
def test_tenants_that_wait_are_never_further_apart_than_a_turn_and_the_largest_request(costs):
    one = queue()
    for which, each in enumerate(costs):
        for number, cost in enumerate(each):
            one.push(str(which), cost, (str(which), number))
    granted = [0.0] * len(costs)
    while one.size:
        tenant, number = one.pop() or ("", 0)
        granted[int(tenant)] += costs[int(tenant)][number]
        if number == 39:
            break  # this one waits no more
        assert max(granted) - min(granted) <= QUANTUM + LARGEST + 1e-6


# Coming and going.


@RUNS
@given(st.lists(st.floats(LEAST, LARGEST), min_size=1, max_size=8), st.sampled_from(["served", "leaves"]))
def test_leaving_and_coming_back_never_pays(costs, how):
    one, numbers = queue(), count()
    granted = {"stays": 0.0, "goes": 0.0}
    spent: dict[Ticket, float] = {}

    def ask(tenant: str) -> Ticket:
        number = next(numbers)
        ticket = tenant, number
        spent[ticket] = costs[number % len(costs)]
        assert one.push(tenant, spent[ticket], ticket)
        return ticket

    for _ in range(20):
        ask("stays")
    asked = deque(ask("goes") for _ in range(3))
    for _ in range(100):
        ticket = one.pop() or pytest.fail("somebody waits")
        granted[ticket[0]] += spent[ticket]
        if ticket[0] == "stays":
            ask("stays")
            continue
        asked.remove(ticket)
        if how == "leaves" or not asked:
            for each in asked:
                one.remove(each)
            asked = deque(ask("goes") for _ in range(3))
        assert granted["goes"] <= granted["stays"] + QUANTUM + LARGEST


def test_a_tenant_that_was_away_has_saved_nothing():
    one = queue()
    fill(one, "a", 3)
    one.push("b", QUANTUM * 3, ("b", 0))
    assert [one.pop(), one.pop()] == [("a", 0), ("a", 1)]  # b has saved two turns
    one.remove(("b", 0))
    one.push("b", QUANTUM * 3, ("b", 1))
    fill(one, "c", 3)
    assert served(one) == "cacbc"  # three turns, as if for the first time


def test_who_leaves_is_not_served_and_leaves_nothing_behind():
    one = queue()
    for tenant in "abc":
        fill(one, tenant, 2)
        fill(one, tenant, 1, batch=True)
    for ticket in [("a", 0), ("a", 1), ("b", 1), ("c", 1000)]:
        one.remove(ticket)
    assert one.size == 5
    one.remove(("a", 0))
    one.remove(("d", 0))
    assert one.size == 5
    assert served(one) == "bccAB"
    assert is_empty(one)


def test_a_queue_knows_which_tenants_wait():
    one = queue()
    fill(one, "a", 1)
    fill(one, "b", 1, batch=True)
    assert [one.waits(tenant) for tenant in "abc"] == [True, True, False]
    drain(one)
    assert [one.waits(tenant) for tenant in "abc"] == [False, False, False]


# Batch.


def test_batch_comes_after_interactive():
    one = queue()
    fill(one, "a", 3, batch=True)
    fill(one, "b", 3)
    fill(one, "a", 1)
    assert served(one) == "babbAAA"


def test_one_grant_in_eight_goes_to_batch_however_many_others_wait():
    one = queue()
    fill(one, "a", 30)
    fill(one, "b", 6, batch=True)
    assert served(one) == ("a" * 7 + "B") * 4 + "aaBB"


def test_grants_before_batch_began_to_wait_do_not_count():
    one = queue()
    fill(one, "a", 20)
    for _ in range(7):
        one.pop()
    fill(one, "b", 1, batch=True)
    one.pop()
    one.remove(("b", 1000))
    one.pop()
    fill(one, "b", 2, batch=True)
    assert served(one) == "aaaaaaaBaaaaB"


def test_batch_tenants_take_turns_among_themselves():
    one = queue()
    fill(one, "a", 8, QUANTUM / 4, batch=True)
    fill(one, "b", 2, QUANTUM, batch=True)
    assert served(one) == "AAAABAAAAB"


# Bounds.


def test_a_tenant_may_have_a_quarter_of_the_queue():
    one = queue(20)
    fill(one, "a", 3)
    fill(one, "a", 2, batch=True)
    assert not one.push("a", 1.0, ("a", 7))
    assert not one.push("a", 1.0, ("a", 1007), True)
    assert one.push("b", 1.0, ("b", 0))
    one.remove(("a", 1000))
    assert one.push("a", 1.0, ("a", 7))
    assert not one.push("a", 1.0, ("a", 8))


def test_a_full_queue_takes_nobody():
    one = queue(20)
    for tenant in "abcd":
        fill(one, tenant, 5)
    assert not one.push("e", 1.0, ("e", 0))
    assert one.size == 20
    one.pop()
    assert one.push("e", 1.0, ("e", 0))
    assert not one.push("e", 1.0, ("e", 1))
    assert len(drain(one)) == 20
    assert is_empty(one)


def test_a_thousand_may_wait_if_nothing_else_is_said():
    one: FairQueue[Ticket] = FairQueue(QUANTUM)
    for tenant in "abcd":
        fill(one, tenant, 250)
        assert not one.push(tenant, 1.0, (tenant, 250))
    assert one.size == 1000


# Shares.


def test_who_has_its_share_is_passed_over():
    one = queue()
    for tenant in "abc":
        fill(one, tenant, 2)
    held = {"a": 2, "b": 3, "c": 1}
    assert one.pop(held, 2) == ("c", 0)
    held["c"] = 2
    held["a"] = 1
    assert one.pop(held, 2) == ("a", 0)


def test_who_holds_nothing_needs_no_entry():
    one = queue()
    fill(one, "a", 1)
    fill(one, "b", 1)
    assert one.pop({"a": 1}, 1) == ("b", 0)


def test_where_all_have_their_share_they_take_turns_as_ever():
    one = queue()
    for tenant in "abc":
        fill(one, tenant, 2)
    held = dict.fromkeys("abc", 5)
    assert [one.pop(held, 1) for _ in range(7)] == [*((name, n) for n in (0, 1) for name in "abc"), None]


def test_who_is_passed_over_saves_nothing_and_loses_nothing():
    one = queue()
    fill(one, "a", 4)
    fill(one, "b", 6)
    assert [one.pop({"a": 1}, 1) for _ in range(3)] == [("b", 0), ("b", 1), ("b", 2)]
    assert served(one) == "abababa"


def test_a_request_of_many_turns_is_served_though_others_are_passed_over():
    one = queue()
    fill(one, "a", 5)
    fill(one, "b", 1, QUANTUM * 4)
    fill(one, "c", 5)
    assert one.pop({"a": 1, "c": 1}, 1) == ("b", 0)


# Any course of events.

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "pop", "pop", "remove"]),
        st.sampled_from("abcd"),
        st.sampled_from([0.0, 1.0, LEAST, 700.0, QUANTUM, 5000.0, 1e7]),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=80,
)


@settings(RUNS, max_examples=300)
@given(STEPS)
def test_over_any_course_of_events_everybody_waits_once_and_in_order(steps):
    one, numbers = queue(24), count()
    lines: dict[tuple[str, bool], list[Ticket]] = {(tenant, batch): [] for tenant in "abcd" for batch in (False, True)}
    for step, tenant, cost, batch, share in steps:
        line = lines[tenant, batch]
        if step == "push":
            theirs = len(lines[tenant, False]) + len(lines[tenant, True])
            ticket = tenant, next(numbers)
            room = theirs < 6 and sum(map(len, lines.values())) < 24
            assert one.push(tenant, cost, ticket, batch) == room
            if room:
                line.append(ticket)
        elif step == "pop":
            held = {"a": 2, "b": 1}
            found = one.pop(held, share)
            first = [each for each in lines.values() if each and each[0] == found]
            assert len(first) == (1 if any(lines.values()) else 0)
            for each in first:
                each.pop(0)
        elif line:
            one.remove(line.pop(share % len(line)))
        assert one.size == sum(map(len, lines.values()))
        assert [one.waits(name) for name in "abcd"] == [bool(lines[n, False] or lines[n, True]) for n in "abcd"]
    for each in lines.values():
        for ticket in each[::2]:
            one.remove(ticket)
    drain(one)
    assert is_empty(one)
