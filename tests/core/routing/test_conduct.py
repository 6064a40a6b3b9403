"""An account's conduct beside the others': what makes it failing, and how it comes back."""

from __future__ import annotations

import pytest

from gateway.core.routing.conduct import FIRST_PAUSE, LONGEST_PAUSE, TRIAL, Conduct, Fault, needed, stands_out

NOW = 1000.0


def conduct(bad: int, good: int = 0, *, now: float = NOW) -> Conduct:
    """So many exchanges that ended well, then so many conversations that ended badly."""
    made = Conduct()
    for _ in range(good):
        made.good(now)
    for n in range(bad):
        made.bad(Fault.ERROR, f"c{n}", now)
    return made


@pytest.mark.parametrize(("accounts", "conversations"), [(1, 0), (2, 2), (3, 2), (4, 3), (10, 3)])
def test_in_a_small_pool_two_conversations_are_enough_and_alone_no_account_is_failing(accounts, conversations):
    assert needed(accounts) == conversations


@pytest.mark.parametrize(
    ("of", "rest", "accounts", "does"),
    [
        ((3, 0), (0, 10), 4, True),
        ((2, 0), (0, 10), 4, False),  # too few conversations to tell
        ((2, 0), (0, 10), 3, True),
        ((3, 500), (0, 1000), 4, True),  # whatever it was before
        ((3, 0), (0, 0), 4, True),  # nobody else has been asked: they are worth trying
        ((3, 0), (0, 10), 1, False),
        ((3, 0), (4, 0), 4, False),  # the whole pool fails
        ((10, 0), (5, 10), 4, False),
        ((10, 0), (3, 10), 4, True),
    ],
)
def test_an_account_stands_out_by_conversations_that_others_would_have_served(of, rest, accounts, does):
    one, other = conduct(*of), conduct(*rest)
    assert stands_out(one, [one, other], accounts, NOW) is does


@pytest.mark.parametrize(
    ("rest", "does"),
    [
        ([(6, 0), (0, 3), (0, 2)], True),  # two of four fail
        ([(6, 0), (0, 3)], True),  # two of three
        ([(60, 0), (0, 1), (0, 1)], True),  # of which others tell only what ended badly
        ([(6, 0), (0, 0), (0, 3)], True),  # who was not asked has no say
        ([(6, 0)], False),  # both of two
        ([(6, 0), (0, 0), (0, 0)], False),  # nobody is known to do better
        ([(6, 0), (6, 0), (0, 3)], False),  # most of them
        ([(3, 3), (3, 3), (0, 3)], False),
        ([(1, 9), (1, 9), (3, 3), (6, 0)], True),
    ],
)
def test_an_account_stands_out_beside_half_of_the_others_though_some_fail_as_well(rest, does):
    one, *others = conduct(3), *(conduct(*each) for each in rest)
    assert stands_out(one, [*others, one], len(rest) + 1, NOW) is does


def test_an_account_that_now_and_then_fails_stands_out_by_its_last_minute():
    one, other = Conduct(), conduct(0, 100)
    for n in range(6):  # a quarter, never two in a row
        one.bad(Fault.ERROR, f"c{n}", NOW)
        for _ in range(3):
            one.good(NOW)
    assert stands_out(one, [one, other], 4, NOW)


def test_one_conversation_counts_once_a_minute_for_each_kind():
    one = Conduct()
    assert one.bad(Fault.CUT, "c", NOW)
    for n in range(1, 60):
        assert not one.bad(Fault.CUT, "c", NOW + n)
    assert one.bad(Fault.ERROR, "c", NOW + 30)
    assert one.units(NOW + 30) == 1
    assert one.bad(Fault.CUT, "c", NOW + 60)
    assert one.faults(NOW + 60) == {"cuts": 1, "errors": 1}


def test_evidence_is_forgotten_after_a_minute():
    one = conduct(3)
    assert one.units(NOW + 59) == 3
    assert one.units(NOW + 60) == 0
    assert not stands_out(one, [], 4, NOW + 60)


def test_no_client_makes_it_remember_without_bounds():
    one = conduct(10_000)
    assert one.units(NOW) <= 256


def test_trials_are_due_after_ten_seconds_and_then_after_twice_as_long_up_to_five_minutes():
    one = Conduct()
    one.begin(NOW)
    now, pauses = NOW, []
    for _ in range(8):
        assert not one.due(one.until - 0.01)
        assert one.due(one.until)
        pauses.append(one.until - now)
        now = one.until
        one.try_out(b"c", now)
        one.again(now)
    assert pauses == [FIRST_PAUSE, 20, 40, 80, 160, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_there_is_one_trial_at_a_time_until_its_answer_is_late():
    one = Conduct()
    one.begin(NOW)
    now = one.until
    one.try_out(b"c", now)
    assert one.tries(b"c") and not one.tries(b"d") and not one.tries(b"")
    assert not one.due(now + TRIAL - 1)
    assert one.due(now + TRIAL)


def test_what_ended_is_forgotten_as_a_whole():
    one = conduct(5)
    one.begin(NOW)
    one.end()
    assert not one.failing and one.units(NOW) == 0 and one.share == 0.0 and one.recent.recent(NOW) == (0, 0)
