"""One request's way: by answer and sort of conversation, where it goes, how long it waits, what it is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.routing import broadcast
from gateway.core.routing.binding import Record
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.route import MAX_ATTEMPTS, MAX_WAIT, MAX_WAITING, Refuse, Route, Send, Wait
from gateway.core.routing.router import Router
from tests.core.routing.routing_kit import (
    HOME,
    KEY,
    MODEL,
    NOW,
    OTHER,
    THIRD,
    TTL,
    WALL,
    Answer,
    account,
    document,
    fail,
    fresh_route,
    known,
    learn,
    new,
    play,
    record,
    router,
    routers,
    why,
)

RUNS = settings(deadline=None, max_examples=150)
LIMITED, SPENT, UNAUTHORIZED = Outcome.LIMITED, Outcome.SPENT, Outcome.UNAUTHORIZED
DENIED, OVERLOADED, FAILED = Outcome.DENIED, Outcome.OVERLOADED, Outcome.FAILED
BROKEN, UNSENT, REFUSED, IMPROPER = Outcome.BROKEN, Outcome.UNSENT, Outcome.REFUSED, Outcome.IMPROPER


# Sorts of conversations, all but the first at `home`: one worth 10 s of waiting, 1 s, 100 s; and one that names an
# object of its workspace.
SORTS: dict[str, Callable[[Router], Route]] = {
    "new": lambda over: new(over),
    "cold": lambda over: known(over, record(warm=False)),
    "warm": lambda over: known(over, record()),
    "short": lambda over: known(over, record(tokens=2_000)),
    "bound": lambda over: known(over, record(account_bound=1)),
    "pinned": lambda over: known(over, record(warm=False), pinned="home"),
}
MOVED_LATER = ("new", "cold", "short")
ALL = tuple(SORTS)

# (what home answers, once) -> for each sort: the steps, and why it is bound elsewhere in the end.
TABLE: list[tuple[Answer, dict[str, tuple[str, str]]]] = [
    (
        (LIMITED, 1.0),
        {
            **dict.fromkeys(("warm", "short", "bound", "pinned"), ("home, wait 1, home", "")),
            **dict.fromkeys(("new", "cold"), ("home, other", "limited")),
        },
    ),
    (
        (LIMITED, 10.0),
        {
            **dict.fromkeys(("warm", "bound", "pinned"), ("home, wait 10, home", "")),
            **dict.fromkeys(MOVED_LATER, ("home, other", "limited")),
        },
    ),
    (
        (LIMITED, 30.0),
        {
            "bound": ("home, wait 30, home", ""),
            "pinned": ("home, refuse 429 30", ""),
            **dict.fromkeys((*MOVED_LATER, "warm"), ("home, other", "limited")),
        },
    ),
    (
        (LIMITED, 200.0),
        {
            "pinned": ("home, refuse 429 200", ""),
            **dict.fromkeys((*MOVED_LATER, "warm", "bound"), ("home, other", "limited")),
        },
    ),
    (
        LIMITED,  # without a retry-after: 5 s
        {
            **dict.fromkeys(("warm", "bound", "pinned"), ("home, wait 5, home", "")),
            **dict.fromkeys(MOVED_LATER, ("home, other", "limited")),
        },
    ),
    (
        SPENT,
        {
            "pinned": ("home, refuse 529 60", ""),
            **dict.fromkeys((*MOVED_LATER, "warm", "bound"), ("home, other", "out")),
        },
    ),
    (
        UNAUTHORIZED,  # perhaps: a probe is to show it
        {
            "pinned": ("home, refuse 529", ""),
            **dict.fromkeys((*MOVED_LATER, "warm", "bound"), ("home, other", "out")),
        },
    ),
    (
        DENIED,
        {
            "pinned": ("home, refuse 529", ""),
            **dict.fromkeys((*MOVED_LATER, "warm", "bound"), ("home, other", "model")),
        },
    ),
    (
        OVERLOADED,
        {
            **dict.fromkeys(("warm", "short", "bound", "pinned"), ("home, wait 0.5, home", "")),
            "cold": ("home, other", ""),
            "new": ("home, other", "overloaded"),
        },
    ),
    *(
        (
            outcome,
            {
                "pinned": ("home, refuse 529", ""),
                **dict.fromkeys(("cold", "warm", "short", "bound"), ("home, other", "")),
                "new": ("home, other", "failed"),
            },
        )
        for outcome in (FAILED, IMPROPER)
    ),
    *(
        (
            outcome,
            {
                "pinned": ("home, refuse 529", ""),
                **dict.fromkeys((*MOVED_LATER, "warm", "bound"), ("home, other", reason)),
            },
        )
        for outcome, reason in (
            (Outcome.DECLINED, "refused"),
            (Outcome.UNEXPLAINED, "limited"),
            ((Outcome.OVERSIZED, 30.0), "limited"),
        )
    ),
    (
        UNSENT,
        {
            "pinned": ("home, refuse 529", ""),
            **dict.fromkeys(("cold", "warm", "short", "bound"), ("home, other", "")),
            "new": ("home, other", "unsent"),
        },
    ),
    (BROKEN, dict.fromkeys(ALL, ("home, pass", ""))),
    (REFUSED, dict.fromkeys(ALL, ("home, pass", ""))),
    (Outcome.SERVED, dict.fromkeys(ALL, ("home", ""))),
]


def named(answer: Answer) -> str:
    return f"{answer[0].value} {answer[1]:g}" if isinstance(answer, tuple) else answer.value


ROWS = [
    pytest.param(answer, sort, expected[sort], id=f"{named(answer)}-{sort}")
    for answer, expected in TABLE
    for sort in ALL
]


@pytest.mark.parametrize(("answer", "sort", "expected"), ROWS)
def test_what_one_answer_of_its_home_does_to_each_sort_of_conversation(answer, sort, expected):
    over = router()
    assert play(SORTS[sort](over), {"home": [answer]}) == expected
    everything_was_given_back(over)


def everything_was_given_back(over: Router) -> None:
    for name in ("home", "other", "third"):
        domain = over.domain(name, MODEL)
        assert (domain.reserved, domain.asked) == (0.0, 0)


@pytest.mark.parametrize(
    ("sort", "how", "route_header"),
    [
        ("new", "", "new"),
        ("cold", "", "bound"),
        ("warm", "", "bound"),
        ("pinned", "", "pinned"),
        ("warm", "stateless", "stateless"),
    ],
)
def test_the_header_says_how_a_request_found_its_way(sort, how, route_header):
    route = SORTS[sort](router())
    if how:
        route.found(record(), False, int(NOW * 1000), how)
    assert route.placement.how == route_header


def test_a_detour_is_named_so_with_its_reason():
    route = known(router(), record())
    play(route, {"home": [FAILED]})
    assert (route.placement.how, route.placement.reason) == ("detour", "failed")


# Waiting.


def test_a_second_429_of_the_same_account_moves_even_the_warmest():
    assert play(known(router(), record()), {"home": [(LIMITED, 1.0)] * 2}) == ("home, wait 1, home, other", "limited")


def test_two_limited_accounts_of_a_workspace_are_not_asked_in_turn_for_ever():
    accounts = account("a", "home", "one"), account("b", "home", "two"), OTHER
    answers: dict[str, list[Answer]] = {name: [(LIMITED, 0.5)] * 9 for name in "ab"}
    steps, reason = play(known(router(*accounts), record()), answers)
    assert (steps.count("a,"), steps.count("b,"), reason) == (2, 2, "limited")


@pytest.mark.parametrize("sort", ["warm", "new", "bound"])
def test_a_429_that_asks_for_no_wait_at_all_is_tried_again_once(sort):
    assert play(SORTS[sort](router()), {"home": [(LIMITED, 0.0)] * 9}) == ("home, home, other", "limited")


def test_an_account_that_lacks_room_is_waited_for_without_asking_it():
    over = router()
    over.domain("home", MODEL).observe("input", 60_000, 0, NOW)
    assert play(known(over, record(), 4_500), {}) == ("wait 5, home", "")


def test_what_fits_within_a_second_is_sent_in_hope_where_nobody_has_room():
    over = router(HOME)
    over.domain("home", MODEL).observe("input", 60_000, 4_600, NOW)
    assert play(new(over, 5_000), {}) == ("home", "")
    over.domain("home", MODEL).observe("input", 60_000, 4_000, NOW)
    assert play(new(over, 5_000), {})[0] == "refuse 429 1.5"


def test_a_warm_conversation_that_may_not_wait_moves_to_an_open_account_even_over_its_bound():
    over = router()
    over.domain("home", MODEL).observe("input", 60_000, 0, NOW)
    over.loads.add("other", 10_000, NOW)
    assert play(known(over, record(tokens=4_000), 6_000), {}) == ("other", "limited")


def test_a_cold_conversation_whose_home_lacks_room_goes_to_an_open_account_even_over_its_bound():
    over = router()
    over.domain("home", MODEL).observe("input", 60_000, 0, NOW)
    over.loads.add("other", 10_000, NOW)
    route = known(over, record(tokens=4_000, warm=False), 6_000)
    assert route.better(NOW) in (None, ("other", "cold"))
    assert play(route, {})[0] == "other"


def test_where_all_lack_room_by_reckoning_the_pool_says_the_least_wait_of_all():
    over = router()
    over.domain("home", MODEL).observe("input", 60_000, 0, NOW)
    over.domain("other", MODEL).observe("input", 600_000, 0, NOW)
    steps, _ = play(known(over, record(tokens=4_000), 26_000), {})  # 26.5 s at home, 3.05 s elsewhere
    assert steps.startswith("refuse 429")
    assert float(steps.removeprefix("refuse 429")) <= 3.1


@pytest.mark.parametrize(
    ("limit", "warm_for", "stays"),
    [
        (60_000, TTL, True),  # a move would take more than all of the other's limit
        (60_000, 30.0, False),  # it is cold by then, and may as well go
        (110_000, TTL, False),
    ],
)
def test_a_warm_conversation_larger_than_the_others_limit_is_told_its_own_wait(limit, warm_for, stays):
    over = router()
    over.domain("other", MODEL).observe("input", limit, limit, NOW - 60)
    of = record(tokens=100_000)
    of.warm_until = int((NOW + warm_for) * 1000)
    steps, _ = play(known(over, of), {"home": [(LIMITED, 30.0)]})
    assert steps == ("home, refuse 429 30" if stays else "home, other")


@pytest.mark.parametrize(("size", "fresh"), [(80_000, 0.0), (78_000, 0.0), (76_000, 19_000.0), (8_000, 2_000.0)])
def test_a_turn_shorter_than_the_one_before_has_been_rewritten_and_reads_nothing(size, fresh):
    over = router()
    route = fresh_route(over, size / 4)
    route.found(record(tokens=20_000), False, int(NOW * 1000))
    assert route.placement.warm
    route.sent(HOME, NOW)
    assert over.domain("home", MODEL).reserved == fresh


def test_what_takes_much_of_a_limit_is_told_to_others_at_once():
    one, two = routers(HOME, OTHER)
    for over in (one, two):
        over.domain("home", MODEL).observe("input", 60_000, 60_000, NOW - 60)
    new(one, 14_000).sent(HOME, NOW)
    assert two.domain("home", MODEL).headroom(NOW) == 60_000
    new(one, 15_000).sent(HOME, NOW)
    assert two.domain("home", MODEL).headroom(NOW) == 60_000 - 29_000


@pytest.mark.parametrize(("seconds", "waits"), [(9.0, True), (20.0, False)])
def test_nobody_waits_past_the_deadline(seconds, waits):
    route = known(router(), record(account_bound=1))
    route.deadline = NOW + 15.0
    steps, _ = play(route, {"home": [(LIMITED, seconds)]})
    assert steps == (f"home, wait {seconds:g}, home" if waits else "home, other")


def test_no_more_than_so_many_wait_at_once():
    answers: list[tuple[Answer, str]] = [((LIMITED, 1.0), "limited"), (OVERLOADED, "")]
    for answer, reason in answers:
        over = router()
        over.waiting = MAX_WAITING
        assert play(known(over, record()), {"home": [answer]}) == ("home, other", reason)


@RUNS
@given(
    st.lists(st.floats(0.0001, 6.0), min_size=1, max_size=60),
    st.sampled_from([1_000, 4_000, 20_000, 200_000]),
    st.booleans(),
    st.floats(0, 0.999),
)
def test_all_waits_of_a_request_together_stay_within_its_allowance(lacks, tokens, bound, random):
    over = router()
    route = known(over, record(tokens=tokens, account_bound=int(bound)))
    allowed = min(10.0, tokens / 2_000) * (10.0 if bound else 1.0)
    now = NOW
    for seconds in lacks:  # whoever is quicker takes what comes in
        over.domain("home", MODEL).observe("requests", 60, 0, now)
        over.domain("home", MODEL).requests.level = 1 - seconds  # type: ignore[union-attr]
        step = route.next(now, random)
        if not isinstance(step, Wait):
            break
        now += step.seconds
    assert now - NOW <= allowed + 0.5  # the jitter of the last


def test_waiting_for_the_overloaded_counts_as_well():
    route = known(router(), record())
    steps, _ = play(route, {"home": [OVERLOADED, (LIMITED, 9.0)]}, random=0.9)
    assert steps.startswith("home, wait 1.85, home")
    assert steps.count("wait") == 1


def test_waits_are_jittered():
    over = router()
    learn(over, HOME, LIMITED, 4.0, NOW)
    waits = set()
    for n in range(4):
        step = known(over, record()).next(NOW, n / 4)
        assert isinstance(step, Wait)
        waits.add(step.seconds)
    assert len(waits) == 4
    assert min(waits) == 4.0 and max(waits) <= 4.5


# Repeats: overloaded and failed.


def test_the_overloaded_is_asked_once_more_in_place_and_then_another_account_once():
    over = router(HOME, OTHER, THIRD)
    steps = "home, wait 0.5, home, other"
    assert play(known(over, record()), {"home": [OVERLOADED] * 9}) == (steps, "")
    answers = {name: [OVERLOADED] * 9 for name in ("home", "other", "third")}
    assert play(known(over, record()), answers) == (f"{steps}, pass", "")


def test_a_pinned_request_is_asked_twice_of_the_overloaded_and_no_other():
    over = router()
    route = known(over, record())
    route.pin("home")
    assert play(route, {"home": [OVERLOADED] * 9}) == ("home, wait 0.5, home, pass", "")


def test_a_request_that_is_asked_twice_of_the_overloaded_and_once_of_another_is_one_that_is_repeated():
    over = router()
    for _ in range(10):
        assert play(known(over, record()), {"home": [OVERLOADED] * 2})[0] == "home, wait 0.5, home, other"
    assert play(known(over, record()), {"home": [OVERLOADED] * 2})[0] == "home, pass"


def test_an_overloaded_account_does_not_draw_what_is_new():
    over = router()
    over.loads.add("other", 15_000, NOW)
    for _ in range(3):  # where it answers with a refusal it has had the work all the same
        play(new(over, 20_000), {"home": [OVERLOADED]})
    assert over.loads.of("home", NOW) >= 20_000


def test_what_fails_after_the_overloaded_was_asked_again_is_asked_of_another_account():
    assert play(known(router(), record()), {"home": [OVERLOADED, FAILED]}) == ("home, wait 0.5, home, other", "")


@pytest.mark.parametrize("outcome", [OVERLOADED, FAILED])
@pytest.mark.parametrize("sort", ["cold", "new"])
def test_one_detour_is_all(outcome, sort):
    over = router(HOME, OTHER, THIRD)
    answers = {name: [outcome] * 9 for name in ("home", "other", "third")}
    assert play(SORTS[sort](over), answers) == ("home, other, pass", "")


@pytest.mark.parametrize("random", [0.0, 0.5, 0.999])
def test_the_pause_before_the_overloaded_is_asked_again_is_half_a_second_to_two(random):
    over = router()
    route = known(over, record())
    step = route.next(NOW, random)
    assert step == Send(HOME)
    route.sent(HOME, NOW)
    assert route.answered(HOME, OVERLOADED, None, NOW, random)
    step = route.next(NOW, random)
    assert isinstance(step, Wait) and 0.5 <= step.seconds <= 2.0


def test_an_overload_closes_nobody():
    over = router()
    for n in range(50):
        learn(over, HOME, OVERLOADED, None, NOW + n)
    assert why(over, HOME, now=NOW + 50) == ("", 0.0)


def test_what_closes_while_the_overloaded_is_waited_for_follows_its_own_rule():
    over = router()
    route = known(over, record())
    route.next(NOW, 0.0)
    route.sent(HOME, NOW)
    assert route.answered(HOME, OVERLOADED, None, NOW, 0.0)
    assert route.next(NOW, 0.0) == Wait(0.5)
    over.heard(broadcast.Closed("home", MODEL, 1.0), NOW)
    assert route.next(NOW + 0.5, 0.0) == Wait(0.5)
    assert route.next(NOW + 1.0, 0.0) == Send(HOME)


@pytest.mark.parametrize("outcome", [OVERLOADED, FAILED])
def test_without_a_budget_the_answer_passes(outcome):
    over = router()
    while over.retries.take(NOW):
        pass
    for sort in ("cold", "warm"):
        assert play(SORTS[sort](over), {"home": [outcome]}) == ("home, pass", "")


def test_at_most_ten_in_ten_seconds_are_repeated_with_little_traffic_and_a_fifth_of_much():
    over = router()
    passed = [play(known(over, record()), {"home": [FAILED]})[0] for _ in range(13)]
    assert passed == ["home, other"] * 10 + ["home, pass"] * 3
    over = router(HOME, OTHER)
    for _ in range(95):
        play(known(over, record()), {})
    passed = [play(known(over, record()), {"home": [OVERLOADED]})[0] for _ in range(30)]
    assert passed.count("home, pass") in (5, 6)  # of 125


@pytest.mark.parametrize("outcome", [LIMITED, SPENT, UNAUTHORIZED, DENIED, UNSENT])
def test_accounts_that_cannot_serve_cost_no_repeat(outcome):
    over = router()
    while over.retries.take(NOW):
        pass
    assert play(known(over, record(warm=False)), {"home": [outcome]})[0] == "home, other"


def test_what_was_sent_and_not_answered_is_repeated_only_if_its_owner_allows():
    over = router()
    for repeat in (False, True):
        route = known(over, record())
        route.next(NOW, 0.0)
        route.sent(HOME, NOW)
        assert route.answered(HOME, BROKEN, None, NOW, 0.0, repeat) is repeat


def test_where_its_account_is_failing_the_conversation_moves():
    over = router()
    fail(over, "home")
    assert play(known(over, record()), {"home": [FAILED]}, now=NOW + 3) == ("home, other", "errors")


def test_a_detour_goes_where_the_last_one_went_while_that_is_warm():
    over = router(HOME, OTHER, THIRD)
    warm_until = int((NOW + 100) * 1000)
    of = record()
    of.detour, of.detour_warm_until = "third", warm_until
    assert play(known(over, of), {"home": [FAILED]}) == ("home, third", "")
    of.detour_warm_until = 0
    over = router(HOME, OTHER, THIRD)
    assert play(known(over, of), {"home": [FAILED]}) == ("home, other", "")


def test_a_forced_move_goes_where_it_was_before_while_that_is_warm():
    over = router(HOME, OTHER, THIRD)
    of = record()
    of.previous, of.previous_warm_until, of.previous_tokens = "third", int((NOW + 100) * 1000), 15_000
    assert play(known(over, of), {"home": [UNAUTHORIZED]}) == ("home, third", "out")


# Refused by one account, served by another.


def test_an_account_may_not_use_a_model_only_if_another_may():
    over = router(HOME, OTHER, THIRD)
    assert play(known(over, record()), {"home": [DENIED]}) == ("home, other", "model")
    assert why(over, HOME) == ("out", 600.0)
    assert why(over, HOME, model="another") == ("", 0.0)


@pytest.mark.parametrize("sort", ["new", "cold", "warm"])
def test_what_two_accounts_deny_passes_and_closes_nobody(sort):
    over = router(HOME, OTHER, THIRD)
    assert play(SORTS[sort](over), {"home": [DENIED], "other": [DENIED]}) == ("home, other, pass", "")
    for entry in (HOME, OTHER, THIRD):
        assert why(over, entry) == ("", 0.0)


def test_what_only_one_account_could_answer_passes():
    over = router(HOME)
    assert play(known(over, record()), {"home": [DENIED]}) == ("home, refuse 529", "")
    assert why(over, HOME) == ("", 0.0)


def test_a_denied_request_outside_the_models_limits_closes_no_model():
    over = router()
    route = Route(over, b"k", MODEL, 100, TTL, NOW + 600, "count_tokens")
    first, second = ("home", "other") if over.ring.rank(b"k")[0] == "home" else ("other", "home")
    assert play(route, {first: [DENIED]})[0] == f"{first}, {second}"
    assert why(over, HOME) == why(over, OTHER) == ("", 0.0)


# Never sent.


def test_three_requests_that_could_not_be_sent_spare_the_fourth_the_attempt():
    over = router()
    for n in range(3):
        assert play(known(over, record()), {"home": [UNSENT]}, now=NOW + n) == ("home, other", "")
    assert why(over, HOME, now=NOW + 3) == ("out", 9.0)
    assert play(known(over, record(), now=NOW + 3), {}, now=NOW + 3) == ("other", "out")


def test_what_cannot_be_sent_anywhere_is_refused():
    over = router(HOME, OTHER, THIRD)
    answers = dict.fromkeys(("home", "other", "third"), [UNSENT] * 9)
    assert play(new(over), answers) == ("home, other, third, refuse 529", "")


# Money and keys.


def test_spent_money_is_tried_again_by_one_request_after_a_minute():
    over = router()
    assert play(known(over, record()), {"home": [SPENT]}) == ("home, other", "out")
    assert play(known(over, record(), now=NOW + 59), {}, now=NOW + 59) == ("other", "out")
    one = known(over, record(), now=NOW + 61)
    assert one.next(NOW + 61, 0.0) == Send(HOME)
    one.sent(HOME, NOW + 61)
    assert play(known(over, record(), now=NOW + 61), {}, now=NOW + 61) == ("other", "out")  # while it is tried
    one.served(HOME, NOW + 62)
    assert play(known(over, record(), now=NOW + 62), {}, now=NOW + 62) == ("home", "")


def test_what_costs_nothing_does_not_show_that_there_is_money_again():
    over = router(HOME)
    learn(over, HOME, SPENT, None, NOW)
    free = Route(over, b"k", MODEL, 100, TTL, NOW + 600, "count_tokens")
    play(free, {}, now=NOW + 61)
    assert over.organization("home").cause is not None


# Nobody left.


def test_where_all_are_limited_the_pool_says_the_least_wait_at_once():
    over = router(HOME, OTHER, THIRD)
    answers: dict[str, list[Answer]] = {
        "home": [(LIMITED, 30.0)],
        "other": [(LIMITED, 12.0)],
        "third": [(LIMITED, 20.0)],
    }
    assert play(new(over), answers) == ("home, other, third, refuse 429 12", "")
    assert play(new(over), {}) == ("refuse 429 12", "")


@pytest.mark.parametrize(("outcome", "seconds"), [(SPENT, " 60"), (UNAUTHORIZED, "")])
def test_where_all_are_out_it_is_the_gateways_overload(outcome, seconds):
    over = router()
    assert play(new(over), {"home": [outcome], "other": [outcome]}) == (f"home, other, refuse 529{seconds}", "")


def test_a_model_that_no_account_is_meant_to_serve_is_not_found():
    over = router(account("home", models=("claude-opus-*",)))
    assert play(new(over), {}) == ("refuse 404", "")


@pytest.mark.parametrize("state", ["disabled", "draining"])
def test_where_nobody_takes_new_conversations_they_are_refused(state):
    assert play(new(router(account("home", state=state))), {})[0] in ("refuse 404", "refuse 529")


@RUNS
@given(st.data())
def test_every_request_comes_to_an_end_and_gives_back_what_it_took(data):
    accounts = [account(f"a{n}", f"w{n % 4}", f"o{n % 3}") for n in range(data.draw(st.integers(1, 14)))]
    over = router(*accounts)
    answer = st.sampled_from([*Outcome]) | st.tuples(st.just(LIMITED), st.sampled_from([0.0, 0.01, 1.0, 30.0]))
    answers = {entry.id: data.draw(st.lists(answer, max_size=4)) for entry in accounts}
    workspace = data.draw(st.sampled_from([entry.workspace for entry in accounts]))
    flags = {"pinned": data.draw(st.sampled_from(["", "home"]))}
    route = data.draw(
        st.sampled_from([new(over), known(over, record(workspace, warm=data.draw(st.booleans())), **flags)])
    )
    steps, _ = play(route, answers, random=data.draw(st.floats(0, 0.999)))
    sends = [step for step in steps.split(", ") if step.startswith("a")]
    assert len(sends) <= MAX_ATTEMPTS
    assert max((sends.count(each) for each in sends), default=0) <= 3  # once more after a 529, once more after a 429
    for entry in accounts:
        domain = over.domain(entry.organization, MODEL)
        assert domain.asked == 0
        assert domain.reserved == pytest.approx(0.0, abs=1e-6)
    assert sum(over.loads.of(entry.workspace, NOW) for entry in accounts) >= -1e-6


# Slots.


def full(*names: str) -> Router:
    over = router(HOME, OTHER)
    over.free = lambda name: name not in names
    return over


def test_a_warm_conversation_waits_for_a_slot_of_its_account_and_then_takes_a_detour():
    route = known(full("home"), record())
    assert route.next(NOW, 0.0) == Send(HOME, full=True)
    route.no_slot(HOME)
    assert route.next(NOW + 2, 0.0) == Send(OTHER)
    route.sent(OTHER, NOW + 2)
    assert route.served(OTHER, NOW + 3) == ""
    assert (route.placement.how, route.placement.reason) == ("detour", "full")


@pytest.mark.parametrize("sort", ["new", "cold"])
def test_a_cold_conversation_goes_where_there_is_a_slot(sort):
    route = SORTS[sort](full("home"))
    assert route.next(NOW, 0.0) == Send(OTHER)


@pytest.mark.parametrize("sort", ["new", "cold"])
@pytest.mark.parametrize("names", [("home", "other"), ("home",)])
def test_a_cold_conversation_waits_for_a_slot_where_nobody_has_one_and_is_refused_after_that(sort, names):
    over = full(*names)
    over.apply(document(account(name) for name in names), NOW, WALL)
    route = SORTS[sort](over)
    step = route.next(NOW, 0.0)
    assert isinstance(step, Send) and step.full
    for _ in range(3):  # no slot came free in two seconds, wherever it waited
        if isinstance(step, Send):
            route.no_slot(step.entry)
            step = route.next(NOW + 2, 0.0)
    assert isinstance(step, Refuse) and step.status == 529


def test_what_is_pinned_waits_for_its_slot_and_is_refused():
    route = known(full("home"), record(), pinned="home")
    assert route.next(NOW, 0.0) == Send(HOME, full=True)
    route.no_slot(HOME)
    assert route.next(NOW + 2, 0.0) == Refuse(529, 1.0)


# The pool changes.


def test_a_draining_account_serves_the_warm_until_its_deadline_and_nobody_else():
    over = router(account("home", state="draining", drain_until=WALL + 100), OTHER)
    assert play(known(over, record()), {}) == ("home", "")
    assert known(over, record(warm=False)).better(NOW) == ("other", "draining")
    assert new(over).placement.workspace == "other"
    assert play(known(over, record(now=NOW + 101), now=NOW + 101), {}, now=NOW + 101) == ("other", "draining")


def test_a_disabled_account_loses_its_conversations_at_their_next_request():
    over = router(account("home", state="disabled"), OTHER)
    assert play(known(over, record()), {}) == ("other", "disabled")
    assert known(over, record(warm=False)).better(NOW) == ("other", "disabled")


def test_so_does_one_that_was_removed():
    over = router(OTHER)
    assert play(known(over, record()), {}) == ("other", "removed")
    assert known(over, record(warm=False)).better(NOW) == ("other", "removed")


@pytest.mark.parametrize("warm", [True, False])
def test_an_account_whose_credential_this_process_lacks_is_stood_in_for_and_never_left(warm):
    over = router()
    over.held = {"other": ""}
    route = known(over, record(warm=warm))
    assert route.better(NOW) is None
    assert play(route, {}) == ("other", "")
    assert (route.placement.how, route.placement.reason) == ("detour", "credential")


@pytest.mark.parametrize("state", ["disabled", "draining"])
def test_nor_if_another_account_of_its_workspace_takes_nobody(state):
    for lacking, closed in (("a", "b"), ("b", "a")):
        over = router(account(lacking, "home"), account(closed, "home", state=state), OTHER)
        over.held = {closed: "", "other": ""}
        assert play(known(over, record(warm=state == "disabled")), {}) == ("other", "")


def test_a_pinned_request_never_leaves_its_workspace():
    over = router(account("home", state="disabled"), OTHER)
    assert play(known(over, record(), pinned="home"), {}) == ("refuse 529", "")
    over.held = {"other": ""}
    assert play(known(router(OTHER), record(), pinned="home"), {}) == ("refuse 529", "")


def test_another_account_of_the_same_workspace_is_no_move():
    over = router(account("a", "home"), account("b", "home"), OTHER)
    first, second = (entry.id for entry in over.ring.members("home", known(over, record()).conversation))
    for outcome in (UNAUTHORIZED, UNSENT, FAILED, DENIED):
        over = router(account("a", "home"), account("b", "home"), OTHER)
        assert play(known(over, record()), {first: [outcome]}) == (f"{first}, {second}", "")


def test_a_new_conversation_lives_where_the_object_is_that_it_names():
    over = router()
    route = new(over, pinned="other")
    assert (route.placement.workspace, route.placement.how) == ("other", "pinned")
    assert play(route, {"other": [SPENT]}) == ("other, refuse 529 60", "")


def test_a_known_conversation_is_rebound_to_the_object_that_it_names_and_served_there():
    route = known(router(), record(), pinned="other")
    assert route.better(NOW) == ("other", "object")
    assert (route.placement.warm, route.placement.cached) == (False, 0.0)  # its cache is at home
    assert play(route, {}) == ("other", "")


def test_what_costs_nothing_follows_the_object_and_rebinds_nothing():
    over = router()
    route = Route(over, KEY, MODEL, 1000, TTL, NOW + 600.0, "count_tokens")
    route.placement.pinned = "other"
    route.found(record(), False, int(NOW * 1000))
    assert route.better(NOW) is None
    assert play(route, {}) == ("other", "")


def test_an_object_without_a_conversation_is_served_by_a_draining_account_and_by_nobody_else():
    over = router(account("home", state="draining"), OTHER)
    route = Route(over, KEY, "", 0, TTL, NOW + 600.0, "files")
    route.pin("home")
    assert play(route, {}) == ("home", "")
    assert route.placement.how == "pinned"


def test_an_object_that_its_account_does_not_know_is_known_nowhere():
    over = router(account("a", "home"), account("b", "home"), OTHER)
    route = Route(over, KEY, "", 0, TTL, NOW + 600.0, "files")
    route.pin("home")
    first = over.ring.members("home", KEY)[0].id
    assert play(route, {first: [DENIED]}) == (f"{first}, pass", "")


def test_what_is_to_be_done_once_is_not_repeated_after_a_failure_and_is_after_a_refusal():
    for outcome, steps in ((FAILED, "a, pass"), (UNAUTHORIZED, "a, b"), (UNSENT, "a, b")):
        over = router(account("a", "home"), account("b", "home"), OTHER)
        route = Route(over, KEY, "", 0, TTL, NOW + 600.0, "files")
        route.pin("home")
        route.once = True
        first, second = (entry.id for entry in over.ring.members("home", KEY))
        assert play(route, {first: [outcome]})[0] == steps.replace("a", first).replace("b", second)


# Cold conversations, and going home.


def busy(*names: str) -> Router:
    over = router(HOME, OTHER, THIRD)
    for name in names:
        over.loads.add(name, 1_000_000, NOW)
    return over


def test_a_cold_conversation_stays_unless_its_workspace_is_over_the_bound():
    assert known(busy(), record(warm=False)).better(NOW) is None
    assert known(busy("home"), record(warm=False)).better(NOW) == ("other", "cold")


def test_a_cold_conversation_leaves_a_workspace_that_has_had_more_to_do_for_an_hour():
    over = router(HOME, OTHER, THIRD)
    for minutes in range(30):
        over.loads.add("home", 60_000, NOW + 60 * minutes)
        over.loads.add("other", 30_000, NOW + 60 * minutes)
        over.loads.add("third", 30_000, NOW + 60 * minutes)
    now = NOW + 30 * 60
    for name in ("home", "other", "third"):
        over.loads.add(name, 20_000, now)  # the last minute is level
    assert over.within_cap("home", MODEL, now)
    assert known(over, record("other", warm=False), now=now).better(now) is None
    assert known(over, record(now=now), now=now).better(now) is None
    assert known(over, record(warm=False), now=now).better(now) == ("other", "cold")


def test_a_little_load_is_no_reason_to_place_a_cold_conversation_anew():
    for tokens, stays in ((10_000, True), (10_001, False)):
        over = router(HOME, OTHER, THIRD)
        over.loads.add("home", tokens, NOW)
        assert not over.within_cap("home", MODEL, NOW)
        assert (known(over, record(warm=False)).better(NOW) is None) == stays


def test_load_never_moves_the_warm_nor_those_whose_first_answer_is_on_its_way():
    assert known(busy("home"), record()).better(NOW) is None
    young = Record("home", warm_until=int(NOW * 1000) + 60_000)
    assert known(busy("home"), young).better(NOW) is None
    for of in (Record("home"), record(tokens=400_000, warm=False)):
        of.in_flight_until = int(NOW * 1000) + 1
        second = known(busy("home"), of)
        assert second.better(NOW) is None and second.placement.sticky and not second.placement.warm
        of.in_flight_until = int(NOW * 1000)
        assert known(busy("home"), of).better(NOW) == ("other", "cold")
    assert play(known(busy("home"), record()), {}) == ("home", "")


def test_a_cold_conversation_leaves_a_workspace_that_lacks_room():
    over = router()
    over.domain("home", MODEL).observe("input", 60_000, 5_000, NOW)
    assert known(over, record(warm=False)).better(NOW) == ("other", "cold")
    over.domain("other", MODEL).observe("input", 60_000, 5_000, NOW)
    assert known(over, record(warm=False)).better(NOW) is None  # nor has anybody else any


def test_load_does_not_move_a_cold_conversation_whose_history_only_its_workspace_reads():
    assert known(busy("home"), record(warm=False, account_bound=1)).better(NOW) is None


def moved(*, tokens: int = 20_000, warm: bool = True, voluntary: float = 0.0, account_bound: int = 0) -> Record:
    """At `other`, once at `home`."""
    of = record("other", account_bound=account_bound)
    of.previous, of.previous_tokens = "home", tokens
    of.previous_warm_until = int((NOW + (100 if warm else -100)) * 1000)
    of.voluntary = int(voluntary * 1000)
    return of


@pytest.mark.parametrize(
    ("of", "loaded", "goes"),
    [
        (moved(), ("other",), True),
        (moved(), (), False),  # it is not over its share
        (moved(), ("other", "home"), False),  # home is no better
        (moved(tokens=18_000), ("other",), False),
        (moved(tokens=19_100), ("other",), True),
        (moved(warm=False), ("other",), False),
        (moved(voluntary=NOW - TTL + 1), ("other",), False),  # it has moved once in this TTL
        (moved(voluntary=NOW - TTL), ("other",), True),
        (moved(account_bound=1), ("other",), False),  # part of its history is read only where it is
    ],
)
def test_a_conversation_goes_home_if_it_is_one_too_many_and_as_warm_there(of, loaded, goes):
    assert known(busy(*loaded), of).better(NOW) == (("home", "home") if goes else None)


def test_nobody_goes_home_where_home_takes_nobody():
    over = router(account("home", state="draining"), OTHER, THIRD)
    over.loads.add("other", 1_000_000, NOW)
    assert known(over, moved()).better(NOW) is None


# Who else has moved it.


def test_a_binding_that_another_request_has_moved_is_followed():
    over = router(HOME, OTHER, THIRD)
    route = known(over, record())
    route.rebound(record("third", 5_000), "moved", "limited")
    assert (route.placement.workspace, route.placement.cached, route.placement.how, route.placement.reason) == (
        "third",
        5_000,
        "moved",
        "limited",
    )
    assert play(route, {}) == ("third", "")


def test_of_two_first_requests_the_second_follows_the_first_wherever_it_would_go():
    one, two = routers()
    two.loads.add("home", 1e6, NOW)
    first = new(one)
    second = fresh_route(two)
    assert (first.placement.workspace, second.propose(NOW)) == ("home", "other")
    assert first.placement.record is not None
    second.found(first.placement.record, False, int(NOW * 1000))
    assert second.better(NOW) is None
    assert play(second, {}) == ("home", "")


# What is counted.


def test_what_is_under_way_is_reserved_until_the_answer_begins():
    over = router()
    route = known(over, record(), 5_000)
    route.next(NOW, 0.0)
    route.sent(HOME, NOW)
    domain = over.domain("home", MODEL)
    assert (domain.reserved, domain.asked) == (5_000, 1)
    assert over.loads.of("home", NOW) == 5_000
    route.answer_began()
    route.answer_began()
    assert (domain.reserved, domain.asked) == (0, 0)
    route.settle(4_000, 20_000, 0, NOW)
    route.settle(4_000, 20_000, 0, NOW)
    assert over.loads.of("home", NOW) == 4_000


def test_what_was_not_served_is_no_load():
    over = router()
    play(new(over), {"home": [LIMITED], "other": [UNAUTHORIZED]})
    assert over.loads.of("home", NOW) == over.loads.of("other", NOW) == 0


@pytest.mark.parametrize("lasts", [1.0, 59.0, 61.0, 300.0])
def test_a_long_stream_leaves_no_load_below_zero(lasts):
    over = router()
    route = new(over, 20_000)
    route.next(NOW, 0.0)
    route.sent(HOME, NOW)
    route.served(HOME, NOW + 1)
    route.settle(1_000, 19_000, 0, NOW + lasts)  # its group's prefix was warm
    for later in (0.0, 2.0, 30.0):
        assert 0 <= over.loads.of("home", NOW + lasts + later) <= 1_000
    assert 0 <= over.loads.of("home", NOW + 61) <= 1_000


def test_a_request_outside_the_models_limits_is_no_load_and_is_reserved_only_as_a_request():
    over = router()
    route = Route(over, b"k", MODEL, 40_000, TTL, NOW + 600, "count_tokens")
    step = route.next(NOW, 0.0)
    assert isinstance(step, Send)
    route.sent(step.entry, NOW)
    assert over.loads.of(step.entry.workspace, NOW) == 0
    own, models = over.domain(step.entry.organization, "count_tokens"), over.domain(step.entry.organization, MODEL)
    assert (own.reserved, own.asked, models.reserved, models.asked) == (0, 1, 0, 0)
    route.answer_began()
    assert own.asked == 0


def test_output_is_taken_from_its_limit_as_it_is_produced():
    over = router()
    over.domain("home", MODEL).observe("output", 8_000, 700, NOW)
    route = known(over, record())
    route.next(NOW, 0.0)
    route.sent(HOME, NOW)
    route.served(HOME, NOW)
    route.settle(500, 20_000, 500, NOW)
    output = over.domain("home", MODEL).output
    assert output is not None and output.left(NOW) == 200


def test_a_conversation_that_was_served_makes_its_groups_prefix_known():
    over = router(HOME, OTHER, THIRD)
    first = new(over, group="g")
    play(first, {"home": [UNAUTHORIZED]})  # so it is served elsewhere
    assert over.groups.shared("g", "other", NOW) == 0.0
    over.heard(broadcast.Back("home"), NOW)
    second = new(over, group="g")
    assert second.placement.workspace == "other"
    second.next(NOW, 0.0)
    second.sent(OTHER, NOW)
    second.served(OTHER, NOW)
    second.settle(5_000, 15_000, 0, NOW)
    assert over.groups.shared("g", "other", NOW) == 15_000


@pytest.mark.parametrize(
    ("size", "tokens"),
    [(80_000, 20_000.0), (84_000, 21_000.0), (60_000, 15_000.0), (20_000, 5_000.0), (39_000, 9_750.0)],
)
def test_the_size_of_a_known_conversation_follows_from_its_last_turn(size, tokens):
    over = router()
    route = Route(over, b"k", MODEL, size, TTL, NOW + 600)
    route.found(record(), False, int(NOW * 1000))
    assert route.tokens == tokens


def test_no_wait_is_longer_than_its_own_bound():
    assert known(router(), record(tokens=1_000_000))._allowance() == MAX_WAIT


# What an account's provider does not serve.


def partial(over: Router, *accounts: str, endpoints: tuple[str, ...] = ("messages",)) -> Router:
    """A router of whose accounts these serve these endpoints alone."""
    over.offer.partial = {name: lambda endpoint, model: endpoint in endpoints for name in accounts}
    over.offer.forget()
    return over


def test_a_request_never_goes_where_its_endpoint_is_not_served_and_its_conversation_stays():
    over = partial(router(HOME, OTHER, THIRD), "home", "third")
    route = known(over, record())
    route.leave_out(over.offer.without("chat", MODEL))
    assert play(route, {}) == ("other", "")
    assert route.placement.how == "detour" and route.placement.reason == "lacking"


def test_what_does_not_count_is_proposed_where_the_conversation_may_live_and_asked_where_it_is_served():
    over = partial(router(HOME, OTHER, THIRD), "home", "third")
    route = fresh_route(over)
    route.counts = False
    route.leave_out(over.offer.without("count_tokens", MODEL))
    home = route.propose(NOW)
    assert home == fresh_route(over).propose(NOW)
    assert play(route, {})[0] == "other"


def test_where_no_account_serves_an_endpoint_nobody_is_meant_to():
    over = partial(router(HOME, OTHER), "home", "other")
    route = fresh_route(over)
    route.leave_out(over.offer.without("count_tokens", MODEL))
    assert route.next(NOW, 0.0) == Refuse(404, None)
    assert over.offers(MODEL)


def test_a_model_that_a_provider_does_not_have_is_offered_by_those_that_have_it():
    over = router(HOME, OTHER)
    over.offer.partial = {"home": lambda endpoint, model: model != MODEL}
    over.offer.forget()
    assert over.offers(MODEL)
    assert not over.offer.serves(over.ring.accounts["home"], MODEL)
    assert over.offer.serves(over.ring.accounts["home"], "claude-other")
    assert play(new(over), {})[0] == "other"


def test_objects_live_where_they_are_served():
    over = partial(router(HOME, OTHER), "home")
    assert over.working(KEY, NOW, over.offer.without("batches", "")) == "other"
