"""Limits that operators state, where no answer tells what is left: taken at sending, put right at the end."""

from __future__ import annotations

from math import inf

import pytest

from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.rate_limits import Domain
from gateway.core.routing.route import Send
from gateway.core.routing.router import LIMITED, OPEN, Router
from gateway.core.routing.stated_limits import Allowance, Stated
from tests.core.routing.routing_kit import HOME, MODEL, NOW, OTHER, fresh_route, known, new, record, router


def stated(**limits: float | bool) -> Allowance:
    return Allowance(Stated(**limits), 0.0)  # type: ignore[arg-type]


# By themselves.


def test_what_is_sent_is_taken_at_once_and_comes_back_in_a_minute():
    allowance = stated(requests=2.0, input=6000.0)
    for _ in range(2):
        assert allowance.wait(1000.0, 0.0, 0.0) == 0.0
        allowance.send(1000.0, 0.0, 0.0)
    assert allowance.wait(100.0, 0.0, 0.0) == pytest.approx(30.0), "a request is there in half a minute"
    assert allowance.headroom(0.0) == pytest.approx(4000.0)
    assert allowance.wait(100.0, 0.0, 31.0) == 0.0
    allowance.send(5000.0, 0.0, 31.0)
    assert allowance.headroom(31.0) == pytest.approx(1000.0)


def test_an_answer_puts_right_what_was_estimated():
    allowance = stated(input=6000.0, output=500.0, tokens=10_000.0, burndown=5.0)
    hold = allowance.send(3000.0, 0.0, 0.0)
    assert allowance.headroom(0.0) == pytest.approx(3000.0)
    hold.settle(1000.0, 400.0, 0.0)
    left = [each.left(0.0) for each in (allowance.input, allowance.output, allowance.tokens) if each is not None]
    assert left == [5000.0, 100.0, 7000.0], "a token of output counts five times where it shares a limit"
    allowance.send(0.0, 0.0, 0.0).settle(0.0, 100.0, 0.0)
    assert allowance.wait(10.0, 0.0, 0.0) > 0.0, "no output is left"


def test_what_a_day_has_is_input_and_output_and_comes_back_in_a_day():
    allowance = stated(day=86_400.0, burndown=2.0)
    allowance.send(40_000.0, 0.0, 0.0).settle(40_000.0, 20_000.0, 0.0)
    assert allowance.headroom(0.0) == pytest.approx(6_400.0)
    assert allowance.wait(10_000.0, 0.0, 0.0) == pytest.approx(3_600.0)
    assert allowance.wait(10_000.0, 0.0, 3_601.0) == 0.0


@pytest.mark.parametrize(("reserves", "left"), [(True, 6_000.0), (False, 9_000.0)])
def test_an_account_that_reserves_takes_all_input_and_the_most_output_until_the_answer_has_ended(reserves, left):
    allowance = stated(tokens=10_000.0, day=10_000.0, burndown=5.0, reserves=reserves)
    hold = allowance.send(1_000.0, 4_000.0, 0.0)  # of 2,000 tokens half are in a cache
    assert allowance.headroom(0.0) == left
    hold.settle(1_000.0, 100.0, 0.0)
    assert allowance.headroom(0.0) == 8_500.0


def test_what_would_be_reserved_must_be_there_but_for_more_than_half_a_limit_half_is_enough():
    allowance = stated(tokens=10_000.0, reserves=True)
    allowance.send(100.0, 7_000.0, 0.0)
    assert allowance.wait(100.0, 2_500.0, 0.0) == 0.0
    assert allowance.wait(100.0, 4_000.0, 0.0) == pytest.approx(6.0)
    assert allowance.wait(100.0, 200_000.0, 0.0) == pytest.approx(12.0)
    hold = allowance.send(100.0, 200_000.0, 12.0)
    assert hold.tokens == 10_000.0, "no limit gives more than it has"


def test_another_share_keeps_what_was_used_as_a_part():
    allowance = stated(input=6000.0)
    hold = allowance.send(3000.0, 0.0, 0.0)
    after = Allowance(Stated(input=3000.0, tokens=500.0), 0.0, allowance)
    assert after.input is not None and after.input.left(0.0) == pytest.approx(1500.0)
    assert after.tokens is not None and after.tokens.left(0.0) == 500.0
    hold.settle(0.0, 0.0, 0.0)
    assert after.input.left(0.0) == pytest.approx(1500.0), "what was sent before ends where it was taken"


# Of organizations and classes of models.


def test_what_is_stated_holds_instead_of_what_is_told_until_it_is_stated_no_more():
    domain = Domain()
    domain.stated = stated(input=6000.0)
    domain.observe("input", 100, 0, 0.0)
    domain.heard("requests", 100.0, 0.0, 5.0)
    domain.others["p2"] = (5000.0, 3, 0.0)
    assert domain.wait(5000.0, 0.0) == 0.0 and domain.headroom(0.0) == 6000.0
    assert domain.holds(6000.0) and not domain.holds(6001.0)
    domain.reset()
    assert domain.headroom(0.0) == 6000.0
    domain.stated = None
    assert domain.headroom(0.0) == inf


def test_a_429_closes_what_is_stated_too():
    domain = Domain()
    domain.stated = stated(input=6000.0)
    domain.close(None, 0.0)
    assert domain.wait(1.0, 0.0) == 5.0 and domain.headroom(0.0) < 0.0


def test_a_router_s_domains_have_what_is_stated_of_them_and_no_others():
    over = Router(lambda model: model)
    over.state_limits({("o", "m"): Stated(input=600.0)}, 0.0)
    over.domain("o", "other").observe("input", 100, 50, 0.0)
    over.state_limits({("o", "n"): Stated(requests=1.0)}, 0.0)
    assert over.domain("o", "m").stated is None
    assert over.domain("o", "n").stated is not None
    assert over.domain("o", "other").input is not None, "what answers have told stays"


def test_stating_the_same_again_changes_nothing_and_less_keeps_its_part():
    over, allowance = pool(input=600.0)
    allowance.send(300.0, 0.0, NOW)
    over.state_limits({("home", MODEL): Stated(input=600.0)}, NOW)
    assert over.domain("home", MODEL).stated is allowance
    over.state_limits({("home", MODEL): Stated(input=300.0)}, NOW)
    assert over.domain("home", MODEL).headroom(NOW) == pytest.approx(150.0)


def test_classes_of_one_group_share_what_is_left_within_an_organization():
    over = Router(lambda model: model)
    lineage, own = Stated(requests=1.0, group="claude-opus-*"), Stated(requests=1.0)
    stated = {("o", "opus-5"): lineage, ("o", "opus-4"): lineage, ("p", "opus-5"): lineage, ("o", "haiku"): own}
    for _ in range(2):
        over.state_limits(stated, 0.0)
        limits = {place: over.domain(*place).stated for place in stated}
        assert limits["o", "opus-5"] is limits["o", "opus-4"]
        assert len({id(each) for each in limits.values()}) == 3
    allowance = over.domain("o", "opus-5").stated
    assert allowance is not None
    allowance.send(1.0, 0.0, 0.0)
    assert over.domain("o", "opus-4").wait(1.0, 0.0) == 60.0
    assert over.domain("p", "opus-5").wait(1.0, 0.0) == over.domain("o", "haiku").wait(1.0, 0.0) == 0.0


# On a request's way.


def pool(**limits: float | bool) -> tuple[Router, Allowance]:
    """A pool whose `home` states limits."""
    over = router()
    over.state_limits({("home", MODEL): Stated(**limits)}, NOW)  # type: ignore[arg-type]
    allowance = over.domain("home", MODEL).stated
    assert allowance is not None
    return over, allowance


def test_a_request_goes_where_there_is_room_for_what_is_reserved_for_it():
    over, allowance = pool(tokens=100_000.0, reserves=True)
    allowance.send(0.0, 75_000.0, NOW)
    assert new(over, 20_000).next(NOW, 0.0) == Send(HOME)
    assert new(over, 20_000, claim=50_000.0).next(NOW, 0.0) == Send(OTHER)
    why, wait = over.state(HOME, MODEL, MODEL, 20_000.0, False, NOW, 50_000.0)
    assert (why, round(wait, 6)) == (LIMITED, 15.0)
    assert over.state(OTHER, MODEL, MODEL, 20_000.0, False, NOW, 50_000.0)[0] == OPEN


def test_all_input_is_reserved_also_what_is_in_a_cache_as_the_binding_tells_it():
    over, allowance = pool(tokens=100_000.0, reserves=True)
    route = fresh_route(over, 20_500, claim=24_500.0)
    last = record(tokens=30_000)
    last.size = 80_000
    route.found(last, False, int(NOW * 1000))
    assert (route.tokens, route.claim) == (30_500.0, 34_500.0)
    route.sent(HOME, NOW)
    assert allowance.headroom(NOW) == pytest.approx(65_500.0)
    route.served(HOME, NOW)
    route.settle(500.0, 20_000.0, 100, NOW)
    route.settle(500.0, 20_000.0, 100, NOW)
    assert allowance.headroom(NOW) == pytest.approx(99_400.0), "once"


@pytest.mark.parametrize(
    ("outcome", "used"),
    [
        (Outcome.UNSENT, 0.0),
        (Outcome.LIMITED, 0.0),
        (Outcome.OVERLOADED, 0.0),
        (Outcome.REFUSED, 0.0),
        (Outcome.UNAUTHORIZED, 0.0),
        (Outcome.FAILED, 10_000.0),
        (Outcome.BROKEN, 10_000.0),
    ],
)
def test_what_was_reserved_is_given_back_however_an_attempt_ends(outcome: Outcome, used: float):
    over, allowance = pool(tokens=100_000.0, reserves=True)
    route = new(over, 10_000, claim=42_000.0)
    route.sent(HOME, NOW)
    assert allowance.headroom(NOW) == pytest.approx(58_000.0)
    route.answered(HOME, outcome, None, NOW, 0.0)
    assert allowance.headroom(NOW) == pytest.approx(100_000.0 - used)
    route.settle(0.0, 0.0, 0, NOW)
    assert allowance.headroom(NOW) == pytest.approx(100_000.0 - used)


def test_an_account_that_lacks_something_gives_back_what_was_reserved_before_it_is_asked_again():
    over, allowance = pool(tokens=100_000.0, reserves=True)
    route = new(over, 10_000, claim=42_000.0)
    route.sent(HOME, NOW)
    route.unfit(HOME, True, NOW)
    assert allowance.headroom(NOW) == pytest.approx(100_000.0)
    route.sent(HOME, NOW)
    assert allowance.headroom(NOW) == pytest.approx(58_000.0)


def test_a_request_holds_nothing_where_nothing_is_stated():
    over, _ = pool(tokens=100_000.0, reserves=True)
    route = known(over, record("other"), claim=42_000.0)
    route.sent(OTHER, NOW)
    assert route.reserved.hold is None
