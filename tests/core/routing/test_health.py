"""Health: what puts an account out and for how long, whose failures stand out, and how many repeats there may be."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.routing.health import TRIAL, Cause, Errors, Health, Outage, RetryBudget

RUNS = settings(deadline=None, max_examples=100)
NOW = 1000.0


# Outages.


def test_what_has_no_outage_may_be_asked():
    assert Outage().wait(NOW) == 0.0
    assert repr(Outage()) == "<Outage none>"
    assert not Outage().end()


@pytest.mark.parametrize(
    ("cause", "pauses"),
    [
        (Cause.CREDENTIAL, [60, 120, 240, 480, 960, 1920, 3600, 3600]),
        (Cause.BILLING, [60, 120, 240, 480, 960, 1920, 3600, 3600]),
        (Cause.UNREACHABLE, [10, 10, 10]),
    ],
)
def test_each_trial_that_fails_doubles_the_pause(cause, pauses):
    outage, now = Outage(), NOW
    for pause in pauses:
        assert outage.begin(cause, now) == pause
        assert outage.wait(now) == pause
        now = outage.until
        assert outage.wait(now) == 0.0  # its time has come: one may try


def test_answers_that_were_under_way_do_not_lengthen_an_outage():
    outage = Outage()
    outage.begin(Cause.BILLING, NOW)
    for n in range(1, 20):
        assert outage.begin(Cause.BILLING, NOW + n) == 60 - n
    assert outage.pause == 60.0


def test_what_is_back_begins_anew():
    outage = Outage()
    outage.begin(Cause.BILLING, NOW)
    outage.begin(Cause.BILLING, NOW + 60)
    assert repr(outage) == "<Outage billing>"
    assert outage.end()
    assert outage.begin(Cause.BILLING, NOW + 61) == 60.0


def test_another_cause_begins_with_its_own_first_pause():
    outage = Outage()
    outage.begin(Cause.UNREACHABLE, NOW)
    assert outage.begin(Cause.CREDENTIAL, NOW) == 60.0
    assert outage.cause is Cause.CREDENTIAL


@pytest.mark.parametrize(
    ("times", "out"),
    [
        ([0.0], [False]),
        ([0.0, 5.0, 9.9], [False, False, True]),
        ([0.0, 5.0, 10.0], [False, False, False]),
        ([0.0, 5.0, 11.0, 12.0], [False, False, False, True]),
        ([0.0, 0.0, 0.0, 0.0], [False, False, True, True]),
    ],
)
def test_three_that_could_not_be_sent_within_ten_seconds_make_an_account_unreachable(times, out):
    health = Health()
    assert [health.never_sent(NOW + at) for at in times] == out


# Failures.


def errors(failures: int, exchanges: int, now: float = NOW) -> Errors:
    made = Errors()
    for n in range(exchanges):
        made.count(n < failures, now)
    return made


def test_failures_are_forgotten_after_a_minute_and_a_half():
    old = errors(10, 10)
    assert old.recent(NOW + 59) == (10, 10)
    old.count(False, NOW + 40)
    assert old.recent(NOW + 59) == (10, 11)
    old.count(False, NOW + 75)
    assert old.recent(NOW + 90) == (0, 2)
    assert old.recent(NOW + 200) == (0, 0)


# The budget.


def test_ten_repeats_in_ten_seconds_are_always_allowed():
    budget = RetryBudget()
    assert [budget.take(NOW + n / 2) for n in range(12)] == [True] * 10 + [False] * 2
    assert budget.take(NOW + 25)


def test_of_much_traffic_a_fifth_may_be_repeated():
    budget = RetryBudget()
    for n in range(100):
        budget.request(NOW + n / 100)
    assert sum(budget.take(NOW + 1 + n / 100) for n in range(50)) == 20


@RUNS
@example([(0.0, True), (2.0, False), *[(3.0, False)] * 3, *[(3.0, True)] * 3])  # a call comes after a window has ended
@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200))
def test_repeats_never_exceed_a_fifth_of_twenty_seconds_traffic_and_ten_each_ten(steps):
    budget, now = RetryBudget(), NOW
    asked: list[float] = []
    taken: list[float] = []
    for passed, repeats in steps:
        now += passed
        budget.request(now)
        asked.append(now)
        if repeats and budget.take(now):
            taken.append(now)
            recent = sum(1 for at in taken if now - at < 10.0)
            assert recent <= max(20.0, 0.4 * sum(1 for at in asked if now - at < 20.0))
        elif repeats:
            assert sum(1 for at in taken if now - at < 20.0) >= RetryBudget.LEAST


def test_a_trial_is_given_less_time_than_the_first_pause():
    assert TRIAL < 60.0
