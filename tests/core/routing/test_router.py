"""The router: who may serve, where a conversation goes, what answers change, and what processes tell each other."""

from __future__ import annotations

import pytest

from gateway.core.routing import broadcast
from gateway.core.routing.document import Entry
from gateway.core.routing.health import TRIAL, Cause
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.route import Route
from gateway.core.routing.router import (
    CREDENTIAL,
    DISABLED,
    DRAINING,
    FULL,
    LIMITED,
    OPEN,
    OUT,
    RAMP,
    REMOVED,
    Router,
)
from gateway.core.routing.router import MODEL as OTHER_MODEL
from tests.core.routing.routing_kit import (
    HOME,
    KEY,
    MODEL,
    NOW,
    OTHER,
    THIRD,
    WALL,
    account,
    document,
    fail,
    learn,
    router,
    routers,
    why,
)

INF = float("inf")


def place(over: Router, tokens: float = 1000, *, now: float = NOW, **more: object) -> tuple[str | None, bool]:
    return over.place(KEY, MODEL, MODEL, tokens, now, **more)  # type: ignore[arg-type]


def pick(over: Router, workspace: str, *, warm: bool = False, now: float = NOW) -> tuple[Entry | None, str]:
    entry, (state, _) = over.pick(workspace, KEY, MODEL, MODEL, 0.0, warm, now)
    return entry, state


# Who may serve.


@pytest.mark.parametrize(
    ("fields", "warm", "expected"),
    [
        ({}, False, (OPEN, 0.0)),
        ({"state": "disabled"}, True, (DISABLED, INF)),
        ({"state": "draining"}, False, (DRAINING, INF)),
        ({"state": "draining"}, True, (OPEN, 0.0)),
        ({"state": "draining", "drain_until": WALL + 1}, True, (OPEN, 0.0)),
        ({"state": "draining", "drain_until": WALL - 1}, True, (DRAINING, INF)),
        ({"state": "a later version's"}, True, (DISABLED, INF)),
        ({"models": ("claude-sonnet-*",)}, False, (OPEN, 0.0)),
        ({"models": ("claude-opus-*",)}, True, (OTHER_MODEL, INF)),
    ],
)
def test_what_the_pool_says_of_an_account(fields, warm, expected):
    entry = account("a", **fields)
    assert router(entry).state(entry, MODEL, MODEL, 0.0, warm, NOW) == expected


def test_requests_without_a_model_may_go_to_every_account():
    entry = account("a", models=("claude-opus-*",))
    assert router(entry).state(entry, "", "", 0.0, False, NOW) == (OPEN, 0.0)


def test_a_drain_ends_for_warm_conversations_at_its_deadline():
    entry = account("a", state="draining", drain_until=WALL + 100)
    over = router(entry)
    assert pick(over, "a", warm=True, now=NOW + 99) == (entry, OPEN)
    assert pick(over, "a", warm=True, now=NOW + 101) == (None, DRAINING)


def test_an_account_without_a_credential_here_serves_nobody_here():
    over = router(HOME, OTHER)
    over.held = {"other": ""}
    assert why(over, HOME) == (CREDENTIAL, INF)
    assert why(over, OTHER) == (OPEN, 0.0)


def test_an_unknown_workspace_is_removed():
    assert pick(router(), "gone") == (None, REMOVED)


@pytest.mark.parametrize("states", [("disabled", "active"), ("active", "disabled")])
def test_a_workspace_that_only_lacks_a_credential_here_says_so_whatever_its_other_account_does(states):
    one, two = (account(name, "w", state=state) for name, state in zip("ab", states, strict=True))
    over = router(one, two)
    over.held = {}
    assert pick(over, "w", warm=True) == (None, CREDENTIAL)


def test_the_account_that_opens_first_says_how_long_its_workspace_is_closed():
    one, two = account("a", "w", "o1"), account("b", "w", "o2")
    over = router(one, two)
    learn(over, one, Outcome.LIMITED, 30.0)
    learn(over, two, Outcome.LIMITED, 20.0)
    assert over.pick("w", KEY, MODEL, MODEL, 0.0, True, NOW) == (None, (LIMITED, 20.0))


def test_a_full_account_is_passed_over_for_one_with_a_slot_and_waited_for_if_there_is_none():
    one, two = account("a", "w"), account("b", "w")
    over = router(one, two)
    taken = {"a"}
    over.free = lambda name: name not in taken
    assert pick(over, "w") == (two, OPEN)
    taken |= {"b"}
    entry, state = pick(over, "w")
    assert entry is over.ring.members("w", KEY)[0] and state == FULL


# What each answer changes.


def test_a_429_closes_its_organization_for_its_class_of_models():
    one, two, third = account("a", "v", "o"), account("b", "w", "o"), account("c")
    over = router(one, two, third)
    learn(over, one, Outcome.LIMITED, 12.0)
    assert why(over, one) == why(over, two) == (LIMITED, 12.0)
    assert why(over, third) == why(over, one, now=NOW + 12) == (OPEN, 0.0)
    assert why(over, one, model="claude-opus-4-5") == (OPEN, 0.0)


@pytest.mark.parametrize(
    ("outcome", "state", "seconds"),
    [
        (Outcome.SERVED, OPEN, 0.0),
        (Outcome.LIMITED, LIMITED, 5.0),
        (Outcome.SPENT, OUT, 60.0),
        (Outcome.UNAUTHORIZED, OUT, 60.0),
        (Outcome.DENIED, OPEN, 0.0),
        (Outcome.OVERLOADED, OPEN, 0.0),
        (Outcome.FAILED, OPEN, 0.0),
        (Outcome.BROKEN, OPEN, 0.0),
        (Outcome.UNSENT, OPEN, 0.0),
        (Outcome.REFUSED, OPEN, 0.0),
        (Outcome.IMPROPER, OPEN, 0.0),
    ],
)
def test_what_one_answer_does_to_its_account(outcome, state, seconds):
    over = router()
    learn(over, HOME, outcome)
    assert why(over, HOME) == (state, seconds)
    assert why(over, OTHER) == (OPEN, 0.0)


def test_spent_money_puts_every_account_of_the_organization_out():
    one, two = account("a", "v", "o"), account("b", "w", "o")
    over = router(one, two, HOME)
    learn(over, one, Outcome.SPENT)
    assert why(over, two) == (OUT, 60.0)
    assert why(over, two, model="another") == (OUT, 60.0)
    assert why(over, HOME) == (OPEN, 0.0)


def test_a_refused_key_puts_its_own_account_out():
    one, two = account("a", "w"), account("b", "w")
    over = router(one, two)
    learn(over, one, Outcome.UNAUTHORIZED)
    assert why(over, one) == (OUT, 60.0)
    assert why(over, two) == (OPEN, 0.0)


def test_an_account_that_cannot_be_reached_three_times_is_out():
    over = router()
    for n in range(3):
        assert why(over, HOME) == (OPEN, 0.0)
        learn(over, HOME, Outcome.UNSENT, now=NOW + n)
    assert why(over, HOME, now=NOW + 2) == (OUT, 10.0)


@pytest.mark.parametrize("outcome", [Outcome.SPENT, Outcome.UNAUTHORIZED])
def test_what_is_out_is_tried_by_one_request_at_a_time_and_comes_back_by_its_answer(outcome):
    over = router()
    learn(over, HOME, outcome)
    now = NOW + 60
    assert why(over, HOME, now=now) == (OPEN, 0.0)
    over.try_again(HOME, now)
    assert why(over, HOME, now=now) == (OUT, TRIAL)
    learn(over, HOME, outcome, now=now + 1)
    assert why(over, HOME, now=now + 1) == (OUT, 120.0)
    now += 121
    over.try_again(HOME, now)
    learn(over, HOME, Outcome.SERVED, now=now + 1)
    assert why(over, HOME, now=now + 1) == (OPEN, 0.0)


@pytest.mark.parametrize("end", ["gone", "unsent"])
@pytest.mark.parametrize("outcome", [Outcome.SPENT, Outcome.UNAUTHORIZED])
def test_a_trial_that_ends_without_an_answer_lets_another_try_at_once_everywhere(outcome, end):
    one, two = routers(HOME, OTHER)
    learn(one, HOME, outcome)
    now = NOW + 60
    route = Route(one, KEY, MODEL, 400, 300.0, now + 600.0)
    route.sent(HOME, now)
    assert why(one, HOME, now=now) == (OUT, TRIAL)
    assert why(two, HOME, now=NOW + 1)[0] == OUT  # to the other it comes at once, and at NOW
    if end == "unsent":
        route.answered(HOME, Outcome.UNSENT, None, now, 0.0)
    route.ended()
    assert why(one, HOME, now=now) == why(two, HOME, now=NOW + 1) == (OPEN, 0.0)


def test_a_trial_that_was_answered_is_not_let_go_by_its_end():
    over = router()
    learn(over, HOME, Outcome.SPENT)
    now = NOW + 60
    route = Route(over, KEY, MODEL, 400, 300.0, now + 600.0)
    route.sent(HOME, now)
    route.answered(HOME, Outcome.SPENT, None, now + 1, 0.0)
    route.ended()
    assert why(over, HOME, now=now + 1) == (OUT, 120.0)


def test_a_trial_that_never_comes_back_lets_another_try():
    over = router()
    learn(over, HOME, Outcome.SPENT)
    for n in range(3):
        now = NOW + 60 + n * TRIAL
        assert why(over, HOME, now=now) == (OPEN, 0.0)
        over.try_again(HOME, now)
        assert why(over, HOME, now=now + TRIAL - 1)[0] == OUT


def test_an_account_that_may_not_use_a_model_is_not_asked_for_it_for_ten_minutes():
    over = router()
    over.denied(HOME, MODEL, frozenset(), NOW)
    assert why(over, HOME) == (OUT, 600.0)
    assert why(over, HOME, now=NOW + 600) == (OPEN, 0.0)
    assert why(over, HOME, model="another") == (OPEN, 0.0)


def test_a_request_that_is_served_ends_the_doubling_of_closures():
    over = router()
    learn(over, HOME, Outcome.LIMITED)
    learn(over, HOME, Outcome.LIMITED, now=NOW + 5)
    learn(over, HOME, Outcome.SERVED, now=NOW + 16)
    learn(over, HOME, Outcome.LIMITED, now=NOW + 17)
    assert why(over, HOME, now=NOW + 17) == (LIMITED, 5.0)


def test_a_failing_account_comes_last_in_its_workspace():
    one, two = account("a", "w"), account("b", "w")
    over = router(one, two)
    first, second = over.ring.members("w", KEY)
    fail(over, first.id)
    assert pick(over, "w") == (second, OPEN)
    learn(over, second, Outcome.UNAUTHORIZED)
    assert pick(over, "w") == (first, OPEN)  # better than nobody


# Where a conversation goes.


def test_a_new_conversation_goes_to_the_first_by_rank():
    assert place(router(THIRD, OTHER, HOME)) == ("home", True)


@pytest.mark.parametrize("state", ["disabled", "draining"])
def test_workspaces_that_take_nobody_are_passed_over_by_rank(state):
    assert place(router(account("home", state=state), OTHER, THIRD)) == ("other", True)


def test_nobody_goes_where_nobody_may_serve():
    assert place(router(account("home", state="disabled"))) == (None, False)
    over = router(HOME, OTHER)
    learn(over, HOME, Outcome.LIMITED, 5.0)
    learn(over, OTHER, Outcome.UNAUTHORIZED)
    assert place(over) == (None, False)


def test_headroom_steers_before_a_429_does():
    over = router(HOME, OTHER)
    over.domain("home", MODEL).observe("input", 60_000, 10_000, NOW)
    assert place(over, 9_000) == ("home", True)
    assert place(over, 20_000) == ("other", True)
    assert place(over, 20_000, now=NOW + 11) == ("home", True)


@pytest.mark.parametrize("kind", ["requests", "output"])
def test_so_does_every_other_limit(kind):
    over = router(HOME, OTHER)
    over.domain("home", MODEL).observe(kind, 60, 0, NOW)
    assert place(over) == ("other", True)


def test_the_bound_is_a_quarter_over_the_mean_and_one_large_request():
    over = router(HOME, OTHER)
    over.loads.add("home", 12_500, NOW)
    over.loads.add("other", 7_500, NOW)
    assert over.load_cap("home", MODEL, NOW) == 12_500
    assert over.within_cap("home", MODEL, NOW)
    over.loads.add("home", 100, NOW + 1)
    assert not over.within_cap("home", MODEL, NOW + 1)
    over.loads.sized(1000)
    assert over.within_cap("home", MODEL, NOW + 1)


def test_load_steers_new_conversations_away():
    over = router(HOME, OTHER)
    over.loads.add("home", 10_000, NOW)
    assert place(over) == ("other", True)
    assert place(over, now=NOW + 61) == ("home", True)


def test_load_is_measured_by_weight():
    over = router(account("home", weight=3.0), OTHER)
    over.loads.add("home", 10_000, NOW)
    over.loads.add("other", 3_300, NOW)
    assert over.within_cap("home", MODEL, NOW)
    over.loads.add("other", 3_000, NOW + 1)
    assert not over.within_cap("other", MODEL, NOW + 1)


def test_workspaces_that_take_nobody_do_not_count_for_the_mean():
    over = router(HOME, OTHER, account("third", state="disabled"))
    over.loads.add("home", 10_000, NOW)
    over.loads.add("other", 10_000, NOW)
    assert over.load_cap("home", MODEL, NOW) == 12_500


def test_where_all_are_over_their_bounds_or_limits_the_most_headroom_decides():
    over = router(HOME, OTHER, THIRD)
    for name, left in (("home", 2_000), ("other", 5_000), ("third", 3_000)):
        over.domain(name, MODEL).observe("input", 60_000, left, NOW)
    assert place(over, 20_000) == ("other", False)


def test_an_account_that_is_open_is_better_than_one_without_room():
    over = router(HOME, OTHER)
    over.domain("home", MODEL).observe("requests", 50, 0, NOW)  # how much input it has left, nobody knows
    over.domain("other", MODEL).observe("input", 600_000, 500_000, NOW)
    over.loads.add("other", 10_000, NOW)  # over its bound
    assert place(over) == ("other", False)


def test_a_conversation_goes_first_where_most_of_it_is_cached():
    over = router(HOME, OTHER, THIRD)
    over.loads.add("third", 50_000, NOW)
    assert place(over, 9_000, cached={"other": 4_000.0, "third": 8_000.0}) == ("third", True)
    learn(over, THIRD, Outcome.LIMITED, 5.0)
    assert place(over, 9_000, cached={"other": 4_000.0, "third": 8_000.0}) == ("other", True)
    assert place(over, 9_000, cached={"gone": 8_000.0}) == ("home", True)


def test_what_is_cached_needs_no_headroom():
    over = router(HOME, OTHER)
    over.domain("other", MODEL).observe("input", 60_000, 3_000, NOW)
    assert place(over, 20_000, cached={"other": 19_000.0}) == ("other", True)
    assert place(over, 20_000, cached={"other": 10_000.0}) == ("home", True)


def test_of_workspaces_that_are_about_as_busy_the_ranking_decides_then_the_last_hour_else_the_last_minute():
    over = router(HOME, OTHER, THIRD)
    for _ in range(40):
        over.loads.sized(10_000)
    for name in ("home", "other", "third"):
        over.groups.touch("g", name, NOW + 7200)
        over.loads.add(name, 50_000, NOW)
    assert place(over, group="g") == ("home", True)
    over.loads.add("home", 5_000, NOW)
    assert place(over, group="g") == ("home", True)
    over.loads.add("home", 1, NOW)
    assert place(over, group="g") == ("other", True)
    later = NOW + 3600
    assert place(over, group="g", now=later) == ("home", True)  # it has all but faded
    over.loads.add("home", 4_000, later)
    assert place(over, group="g", now=later) == ("other", True)


@pytest.mark.parametrize(("tokens", "goes"), [(60_000, False), (55_000, True), (0, True)])
def test_a_workspace_that_has_had_next_to_nothing_to_do_is_worth_its_groups_prefix(tokens, goes):
    over = router(*(account(f"a{n}") for n in range(6)))
    for n in range(5):  # each has room, and holds the prefix
        over.groups.touch("g", f"a{n}", NOW + 300)
        over.loads.add(f"a{n}", 700_000, NOW)
    over.loads.add("a5", tokens, NOW)
    assert all(over.within_cap(f"a{n}", MODEL, NOW) for n in range(5))
    assert (place(over, group="g")[0] == "a5") == goes


def test_a_new_conversation_prefers_where_its_groups_prefix_is_warm_and_within_the_bound():
    over = router(HOME, OTHER, THIRD)
    over.groups.touch("g", "other", NOW + 300)
    assert place(over, group="g") == ("other", True)
    assert place(over, group="another") == ("home", True)
    over.loads.add("other", 10_000, NOW)
    assert place(over, group="g") == ("home", True)
    assert place(over, group="g", now=NOW + 301) == ("home", True)


def test_a_prefix_that_is_cached_needs_no_headroom():
    over = router(HOME, OTHER)
    over.groups.touch("g", "other", NOW + 300)
    over.groups.read("g", 15_000)
    over.domain("other", MODEL).observe("input", 60_000, 6_000, NOW)
    assert place(over, 20_000, group="g") == ("other", True)
    assert place(over, 22_000, group="g") == ("home", True)


def test_those_already_asked_and_the_one_to_avoid_are_passed_over():
    over = router(HOME, OTHER, THIRD)
    assert place(over, tried={"home"}) == ("other", True)
    assert place(over, tried={"home"}, avoid="other") == ("third", True)


@pytest.mark.parametrize(
    ("after", "share"), [(0.0, 0.1), (100.0, 0.4), (150.0, 0.55), (299.0, 0.997), (300.0, 1.0), (1000.0, 1.0)]
)
def test_an_account_that_joined_a_running_pool_comes_up_to_its_bound_in_five_minutes(after, share):
    over = router(account("home", since=WALL), OTHER)
    for name in ("home", "other"):
        over.loads.add(name, 10_000, NOW + after)
    assert over.load_cap("home", MODEL, NOW + after) == pytest.approx(12_500 * share)
    assert over.load_cap("other", MODEL, NOW + after) == 12_500


def test_the_first_accounts_of_a_pool_are_at_their_bound_at_once():
    over = router(account("home", since=0.0), account("other", since=WALL - RAMP))
    over.loads.add("home", 10_000, NOW)
    over.loads.add("other", 10_000, NOW)
    assert over.load_cap("home", MODEL, NOW) == over.load_cap("other", MODEL, NOW) == 12_500


def test_in_a_workspace_only_the_share_of_the_account_that_joined_ramps():
    over = router(account("a", "home", weight=3.0), account("b", "home", since=WALL), OTHER)
    over.loads.add("home", 40_000, NOW)
    over.loads.add("other", 10_000, NOW)
    assert over.load_cap("home", MODEL, NOW) == pytest.approx(50_000 * (3.0 + 0.1) / 4.0)


def test_a_clock_ahead_of_this_one_does_not_turn_the_bound_negative():
    over = router(account("home", since=WALL + 60), OTHER)
    over.loads.add("home", 10_000, NOW)
    assert over.load_cap("home", MODEL, NOW) == pytest.approx(6_250 * 0.1)


def test_what_is_made_first_is_made_where_somebody_works():
    over = router(HOME, OTHER, THIRD)
    ranked = over.ring.rank(b"key")
    assert over.working(b"key", NOW) == ranked[0]
    entries = {entry.workspace: entry for entry in (HOME, OTHER, THIRD)}
    learn(over, entries[ranked[0]], Outcome.LIMITED, 5.0)
    assert over.working(b"key", NOW) == ranked[0]  # a limit passes
    learn(over, entries[ranked[0]], Outcome.UNAUTHORIZED)
    assert over.working(b"key", NOW) == ranked[1]
    for workspace in ranked[1:]:
        learn(over, entries[workspace], Outcome.UNAUTHORIZED)
    assert over.working(b"key", NOW) == ranked[0]  # nobody does: where it belongs
    assert router(account("a", state="disabled")).working(b"key", NOW) is None


def test_what_is_made_first_is_made_at_a_failing_account_only_where_there_is_no_other():
    over = router(HOME, OTHER, THIRD)
    ranked = over.ring.rank(b"key")
    entries = {entry.workspace: entry for entry in (HOME, OTHER, THIRD)}
    over.failing.marked.add(entries[ranked[0]].id)
    assert over.working(b"key", NOW) == ranked[1]
    learn(over, entries[ranked[1]], Outcome.UNAUTHORIZED)
    assert over.working(b"key", NOW) == ranked[2]
    learn(over, entries[ranked[2]], Outcome.UNAUTHORIZED)
    assert over.working(b"key", NOW) == ranked[0]


def test_by_rank_alone_health_and_load_do_not_count():
    over = router(account("home", models=("claude-opus-*",)), account("other", state="draining"), THIRD)
    learn(over, THIRD, Outcome.UNAUTHORIZED)
    over.loads.add("third", 1e9, NOW)
    over.held = {}
    assert over.ranked(KEY, MODEL) == "third"
    assert over.ranked(KEY, "claude-opus-4-5") == "home"
    assert router(account("a", state="disabled")).ranked(KEY, MODEL) is None


# Until when.


def test_the_pool_opens_with_the_first_account_that_does():
    over = router(HOME, OTHER, THIRD)
    learn(over, HOME, Outcome.LIMITED, 30.0)
    learn(over, OTHER, Outcome.LIMITED, 7.0)
    learn(over, THIRD, Outcome.UNSENT)
    assert over.opens_in(MODEL, MODEL, NOW) == (7.0, True)


def test_where_none_is_limited_those_that_are_out_say_when():
    over = router(HOME, account("other", state="disabled"))
    assert over.opens_in(MODEL, MODEL, NOW) == (INF, False)
    learn(over, HOME, Outcome.SPENT)
    assert over.opens_in(MODEL, MODEL, NOW) == (60.0, False)


def test_the_pool_offers_what_some_account_is_meant_to_serve():
    over = router(account("a", models=("x",)), account("b", models=("y",), state="disabled"))
    assert [over.offers(model) for model in ("", "x", "y", "z")] == [True, True, False, False]


# What processes tell each other.


@pytest.mark.parametrize("outcome", [Outcome.LIMITED, Outcome.SPENT, Outcome.UNAUTHORIZED], ids=lambda each: each.value)
def test_another_process_knows_of_a_closure_within_the_same_call(outcome):
    one, two = routers(HOME, OTHER)
    for _ in range(3):
        learn(one, HOME, outcome)
    state = why(two, HOME)
    assert state[0] in (LIMITED, OUT)
    assert state == why(one, HOME)
    assert place(two) == ("other", True)


def test_another_process_knows_of_a_model_that_an_account_may_not_use():
    one, two = routers()
    one.denied(HOME, MODEL, frozenset(), NOW)
    assert why(two, HOME) == (OUT, 600.0)


def test_a_trial_of_one_process_is_the_only_one_and_its_success_everybodys():
    one, two = routers()
    learn(one, HOME, Outcome.SPENT)
    one.try_again(HOME, NOW + 60)
    two.heard(broadcast.Out("home", Cause.BILLING, TRIAL), NOW + 60)  # as told, by the clock of then
    assert why(two, HOME, now=NOW + 60) == (OUT, TRIAL)
    learn(one, HOME, Outcome.SERVED, now=NOW + 61)
    assert why(two, HOME, now=NOW + 61) == (OPEN, 0.0)


def test_an_account_that_answers_what_costs_nothing_brings_back_no_money():
    one, two = routers()
    for over in (one, two):
        learn(over, HOME, Outcome.SPENT)
    learn(one, HOME, Outcome.UNAUTHORIZED)
    one.served(HOME, None, NOW + 61, paid=False)  # to count tokens, say
    for over in (one, two):
        assert over.health("home").outage.cause is None
        assert over.organization("home").cause is Cause.BILLING


def test_the_first_pause_is_the_shortest_however_late_a_process_heard_of_the_outage():
    one, two = router(), router()
    learn(one, HOME, Outcome.SPENT)
    for told in one.picture(NOW + 55):
        two.heard(told, NOW + 55)
    two.try_again(HOME, NOW + 61)
    learn(two, HOME, Outcome.SPENT, now=NOW + 62)
    assert two.organization("home").wait(NOW + 62) >= 60.0


def told_of() -> Router:
    """A router that has something to tell of everything."""
    over = router(HOME, OTHER, THIRD)
    learn(over, HOME, Outcome.LIMITED, 30.0)
    learn(over, OTHER, Outcome.UNAUTHORIZED)
    learn(over, THIRD, Outcome.SPENT)
    over.denied(HOME, "claude-opus-4-5", frozenset(), NOW)
    return over


def test_a_new_process_is_given_the_whole_picture():
    over, begun = told_of(), router(HOME, OTHER, THIRD)
    for told in over.picture(NOW + 10):
        decoded = broadcast.decode(broadcast.encode(told))
        assert decoded == told
        begun.heard(told, NOW + 10)
    for entry in (HOME, OTHER, THIRD):
        for model in (MODEL, "claude-opus-4-5"):
            assert why(begun, entry, now=NOW + 10, model=model) == why(over, entry, now=NOW + 10, model=model)


def test_what_is_over_is_no_longer_told_but_for_what_is_still_to_be_tried():
    over = told_of()
    assert over.picture(NOW + 100) == [
        broadcast.Out("other", Cause.CREDENTIAL, 0.0),
        broadcast.ModelClosed("home", "claude-opus-4-5", 500.0),
        broadcast.Out("third", Cause.BILLING, 0.0),
    ]
    for name in ("other", "third"):
        over.heard(broadcast.Back(name, paid=True), NOW)
    assert over.picture(NOW + 700) == []


def test_an_account_that_waits_for_its_trial_gets_no_more_than_one_from_a_new_process_either():
    over, begun = router(), router()
    learn(over, HOME, Outcome.SPENT)
    for told in over.picture(NOW + 61):
        begun.heard(told, NOW + 61)
    assert why(begun, HOME, now=NOW + 61) == (OPEN, 0.0)
    begun.try_again(HOME, NOW + 61)
    assert why(begun, HOME, now=NOW + 61) == (OUT, TRIAL)


def test_an_operator_may_have_everything_about_an_account_forgotten():
    over = told_of()
    for name in ("home", "other", "third"):
        over.heard(broadcast.Back(name, wholly=True), NOW)
    for entry in (HOME, OTHER, THIRD):
        assert why(over, entry) == why(over, entry, model="claude-opus-4-5") == (OPEN, 0.0)


def test_an_account_that_answers_a_probe_is_back_but_its_limits_and_models_are_not_open():
    over = told_of()
    for name in ("home", "other", "third"):
        over.heard(broadcast.Back(name), NOW)
    assert [why(over, entry)[0] for entry in (HOME, OTHER, THIRD)] == [LIMITED, OPEN, OUT]  # nor is there money
    assert why(over, HOME, model="claude-opus-4-5")[0] == OUT


def test_news_of_accounts_nobody_knows_does_no_harm():
    over = router()
    for told in (
        broadcast.Out("gone", Cause.CREDENTIAL, 60.0),
        broadcast.Back("gone", wholly=True),
        broadcast.ModelClosed("gone", MODEL, 60.0),
        broadcast.Closed("gone", MODEL, 60.0),
        broadcast.ClosedFrom("gone", MODEL, 5.0, 60.0),
        broadcast.FeaturesClosed("gone", MODEL, ["beta:x"], 60.0),
        broadcast.Failed("gone", "errors", "c"),
        broadcast.Failing("gone", "p", {"errors": 3}, 10.0, 10.0),
        broadcast.Trying("gone"),
        broadcast.Recovered("gone"),
        broadcast.Suspected("gone"),
        broadcast.Unreachable("gone", "p", 10.0),
        broadcast.Forget(key="k"),
        broadcast.Hello(),
        broadcast.Report(
            "elsewhere", {"gone": 5.0}, [broadcast.Seen("gone", MODEL, 1.0, 1, {"input": (1.0, 1.0, 0.0)})]
        ),
    ):
        over.heard(told, NOW)
    assert place(over) == ("home", True)


def test_a_report_tells_loads_limits_and_what_is_under_way():
    one, two = router(), router()
    one.loads.add("home", 700, NOW)
    domain = one.domain("home", MODEL)
    domain.observe("input", 60_000, 30_000, NOW - 2)
    domain.reserved, domain.asked = 5_000.0, 1
    report = one.report("one", NOW)
    assert report is not None and broadcast.decode(broadcast.encode(report)) == report
    two.heard(report, NOW)
    assert two.loads.of("home", NOW) == 700
    assert two.domain("home", MODEL).headroom(NOW) == 32_000 - 5_000
    assert one.domain("home", MODEL).headroom(NOW) == 32_000 - 5_000


def test_what_was_heard_is_not_reported_on():
    one, two = router(), router()
    one.loads.add("home", 700, NOW)
    one.domain("home", MODEL).observe("input", 60_000, 30_000, NOW)
    report = one.report("one", NOW)
    assert report is not None
    two.heard(report, NOW)
    assert two.report("two", NOW) is None
    assert one.report("one", NOW) is None  # nothing new


def test_a_later_report_of_a_process_replaces_what_it_had_under_way():
    over = router()
    for reserved in (9_000.0, 2_000.0):
        over.heard(broadcast.Report("one", {}, [broadcast.Seen("home", MODEL, reserved, 1, {})]), NOW)
    over.heard(broadcast.Report("two", {}, [broadcast.Seen("home", MODEL, 500.0, 1, {})]), NOW)
    over.domain("home", MODEL).observe("input", 60_000, 30_000, NOW)
    assert over.domain("home", MODEL).headroom(NOW) == 27_500


def test_an_older_observation_of_another_process_replaces_nothing():
    over = router()
    over.domain("home", MODEL).observe("input", 60_000, 30_000, NOW)
    seen = broadcast.Seen("home", MODEL, 0.0, 0, {"input": (60_000.0, 1.0, 2.0)})  # two seconds old
    over.heard(broadcast.Report("one", {}, [seen]), NOW + 1)
    assert over.domain("home", MODEL).headroom(NOW) == 30_000
    over.heard(broadcast.Report("one", {}, [seen]), NOW + 3)
    assert over.domain("home", MODEL).headroom(NOW + 1) == 1.0


def test_operators_see_what_is_left_of_the_limits():
    over = router()
    assert over.rate_limits("home", NOW) == {}
    over.domain("home", MODEL).observe("input", 60_000, 30_000, NOW)
    learn(over, HOME, Outcome.LIMITED, 30.0)
    assert over.rate_limits("home", NOW) == {MODEL: {"input_limit": 60_000, "input_left": 30_000, "closed_for": 30.0}}


@pytest.mark.parametrize(
    ("size", "tokens", "moves"),
    [(40_000, 10_000, 0), (80_000, 10_000, 1), (9, 1, 0), (20_000, 10_000, -1), (300, 36_000, 0), (14_000, 10_000, 0)],
)
def test_bodies_teach_how_many_bytes_make_a_token(size, tokens, moves):
    over = router()
    over.measured(size, tokens)
    assert (over.bytes_a_token > 4.0) - (over.bytes_a_token < 4.0) == moves


def test_a_new_pool_keeps_what_is_known_of_the_accounts_that_stay():
    over = router(HOME, OTHER)
    learn(over, HOME, Outcome.UNAUTHORIZED)
    over.loads.add("home", 5.0, NOW)
    over.apply(document([HOME, THIRD], 2), NOW, WALL)
    assert why(over, HOME)[0] == OUT
    assert over.loads.of("home", NOW) == 5.0
    assert over.ring.epoch == 2
