"""Limits: what is left refills by the second, what is under way is reserved, and a 429 closes for a while."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.routing.buckets import Bucket, DailyBucket
from gateway.core.routing.rate_limits import LONGEST_PAUSE, Domain

RUNS = settings(deadline=None, max_examples=100)
NOW = 1000.0
AMOUNTS = st.integers(0, 400_000)


def domain(limit: int = 60_000, left: int = 60_000, *, kind: str = "input", now: float = NOW) -> Domain:
    made = Domain()
    made.observe(kind, limit, left, now)
    return made


# Buckets.


def test_a_bucket_refills_by_a_sixtieth_of_its_limit_a_second():
    bucket = Bucket(60_000, 1_000, NOW)
    assert [bucket.left(NOW + seconds) for seconds in (0, 1, 10, 59, 60, 600)] == [
        1000,
        2000,
        11000,
        60000,
        60000,
        60000,
    ]


def test_a_bucket_says_how_long_until_it_holds_enough():
    bucket = Bucket(60_000, 1_000, NOW)
    assert bucket.wait(1_000, NOW) == 0.0
    assert bucket.wait(6_000, NOW) == 5.0
    assert bucket.wait(6_000, NOW + 2.0) == 3.0


def test_a_bucket_of_a_day_refills_in_a_day():
    bucket = DailyBucket(86_400, 0, NOW)
    assert bucket.left(NOW + 60.0) == 60
    assert bucket.wait(3_600, NOW + 60.0) == 3_540.0


def test_what_no_bucket_can_hold_waits_for_a_full_one():
    assert Bucket(60_000, 0, NOW).wait(1e9, NOW) == 60.0


def test_what_is_taken_may_leave_a_debt():
    bucket = Bucket(60_000, 1_000, NOW)
    bucket.take(5_000, NOW + 1.0)
    assert bucket.left(NOW + 1.0) == -3_000
    assert bucket.left(NOW + 4.0) == 0.0


@RUNS
@given(st.integers(1, 400_000), st.integers(-400_000, 400_000), AMOUNTS, st.floats(0, 120))
def test_after_its_wait_a_bucket_holds_what_was_asked_or_is_full(limit, level, need, passed):
    bucket = Bucket(limit, level, NOW)
    now = NOW + passed
    wait = bucket.wait(need, now)
    assert bucket.left(now + wait) >= min(need, limit) - 1e-3
    if wait > 1e-3:
        assert bucket.left(now + wait * 0.99) < min(need, limit)


# A domain.


def test_an_unknown_limit_does_not_bind():
    unknown = Domain()
    assert unknown.wait(1e9, NOW) == 0.0
    assert unknown.headroom(NOW) == float("inf")


@pytest.mark.parametrize(
    ("kind", "limit", "left", "seconds"),
    [
        ("input", 60_000, 0, 10.5),
        ("requests", 60, 0, 1.0),
        ("output", 60_000, -1_999, 2.0),
        ("input", 60_000, 10_500, 0.0),
    ],
)
def test_each_limit_makes_a_request_of_10000_tokens_wait(kind, limit, left, seconds):
    assert domain(limit, left, kind=kind).wait(10_000, NOW) == seconds


def test_the_scarcest_limit_counts():
    scarce = domain(60_000, 5_500)  # 5 s
    scarce.observe("requests", 60, -6, NOW)  # 7 s
    scarce.close(3.0, NOW)
    assert scarce.wait(10_000, NOW) == 7.0
    scarce.close(30.0, NOW)
    assert scarce.wait(10_000, NOW) == 30.0


def test_what_is_reserved_is_gone_until_it_is_given_back():
    busy = domain(60_000, 20_500)
    busy.reserved, busy.asked = 15_000.0, 1
    assert busy.wait(5_000, NOW) == 0.0
    assert busy.wait(10_000, NOW) == 5.0
    assert busy.headroom(NOW) == 5_500
    busy.reserved, busy.asked = 0.0, 0
    assert busy.wait(10_000, NOW) == 0.0


def test_requests_on_their_way_count_against_the_request_limit():
    busy = domain(60, 3, kind="requests")
    busy.asked = 2
    assert busy.wait(0.0, NOW) == 0.0
    busy.asked = 3
    assert busy.wait(0.0, NOW) == 1.0


def test_a_request_larger_than_the_limit_may_go_when_the_bucket_is_full():
    full = domain(60_000, 60_000)
    assert full.wait(1e6, NOW) == full.wait(60_000, NOW) == 1.0  # others would have told by then
    assert full.wait(1e6, NOW + 1.0) == 0.0
    assert domain(60_000, 30_000).wait(1e6, NOW) == 31.0


def test_what_is_on_its_way_took_what_was_there_when_it_was_sent_and_that_refills():
    busy = domain(60_000, 60_000, now=NOW - 300)
    assert busy.send(200_000, NOW) == busy.reserved == 60_000  # a limit gives no more than it has
    assert busy.wait(4_500, NOW) == 5.0
    assert busy.wait(4_500, NOW + 5.0) == 0.0
    assert busy.headroom(NOW + 5.0) == 5_000
    busy.send(1_000, NOW + 5.0)
    assert busy.headroom(NOW + 6.0) == 5_000
    busy.answer_began(60_000)
    busy.answer_began(1_000)
    assert (busy.reserved, busy.asked) == (0.0, 0)


def test_what_is_reckoned_is_not_told_as_if_it_had_been_seen():
    one, two = domain(60_000, 0), domain(60_000, 0)
    one.send(10_000, NOW + 30)
    two.observe("input", 60_000, 2_000, NOW + 10)
    assert one.input is not None and one.input.seen == NOW
    one.heard("input", 60_000, 2_000, NOW + 10)  # newer than what this one has seen
    assert one.input.left(NOW + 30) == 22_000


@pytest.mark.parametrize(
    ("tokens", "holds", "much"), [(60_001, False, True), (60_000, True, True), (14_999, True, False)]
)
def test_a_limit_holds_what_is_no_larger(tokens, holds, much):
    assert domain(60_000, 0).holds(tokens) == holds
    assert domain(60_000, 0).takes_much(tokens) == much
    assert Domain().holds(tokens) and not Domain().takes_much(tokens)


def test_reservations_of_other_processes_count_for_a_few_seconds():
    shared = domain(60_000, 20_500)
    shared.others["elsewhere"] = (15_000.0, 1, NOW)
    assert shared.wait(10_000, NOW) == 5.0
    assert shared.headroom(NOW) == 5_500
    assert shared.wait(10_000, NOW + 3.1) == 0.0
    assert shared.others == {}


# Closures.


def test_a_429_closes_for_as_long_as_it_asks():
    closed = Domain()
    assert closed.close(12.0, NOW) == 12.0
    assert closed.wait(0.0, NOW + 2.0) == 10.0
    assert closed.wait(0.0, NOW + 12.0) == 0.0


def test_a_shorter_closure_does_not_end_a_longer_one():
    closed = Domain()
    closed.close(30.0, NOW)
    closed.close(5.0, NOW + 1.0)
    assert closed.wait(0.0, NOW + 1.0) == 29.0


@pytest.mark.parametrize(("asked", "closes"), [(-3.0, 0.0), (0.0, 0.0), (1e12, 86_400.0)])
def test_absurd_waits_are_cut(asked, closes):
    assert Domain().close(asked, NOW) == closes


def test_closures_without_a_retry_after_double_up_to_a_minute():
    closed, now, pauses = Domain(), NOW, []
    for _ in range(6):
        pauses.append(closed.close(None, now))
        now = closed.closed_until
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, LONGEST_PAUSE]
    closed.pause = 0.0  # somebody was served
    assert closed.close(None, now) == 5.0


def test_429s_of_requests_that_were_under_way_together_are_one_closure():
    closed = Domain()
    for n in range(5):
        closed.close(None, NOW + n / 100)
    assert closed.closed_until <= NOW + 5.1


def test_a_late_429_closes_for_as_long_again_and_doubles_nothing():
    closed = Domain()
    closed.close(None, NOW)
    assert closed.close(None, NOW + 4.0) == 5.0
    assert closed.closed_until == NOW + 9.0
    assert closed.close(None, NOW + 9.0) == 10.0


def test_what_an_operator_resets_is_forgotten_but_not_what_is_under_way():
    closed = domain(60_000, 0)
    closed.close(None, NOW)
    closed.reserved, closed.asked = 7.0, 1
    closed.reset()
    assert closed.wait(1e6, NOW) == 0.0
    assert (closed.reserved, closed.asked, closed.pause) == (7.0, 1, 0.0)


# What answers and others tell.


def test_an_answer_replaces_what_was_reckoned():
    told = domain(60_000, 0)
    told.observe("input", 120_000, 90_000, NOW + 1.0)
    assert told.input is not None
    assert (told.input.limit, told.input.left(NOW + 1.0)) == (120_000, 90_000)
    assert told.unreported


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_no_limit(limit):
    told = Domain()
    told.observe("input", limit, 0, NOW)
    told.heard("output", limit, 0, NOW)
    assert told.input is told.output is None


def test_a_kind_of_limit_that_only_a_newer_version_knows_is_ignored():
    told = Domain()
    told.heard("closed_until", 5, 5, NOW)
    told.heard("images", 5, 5, NOW)
    assert told.wait(0.0, NOW) == 0.0


@RUNS
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), AMOUNTS), min_size=1, max_size=12))
def test_an_older_observation_of_others_never_replaces_a_newer_one(observations):
    told, newest = Domain(), (-1, 0)
    for here, age, left in observations:
        at = int(NOW) - age
        if here and at >= newest[0]:  # this process's own come in the order of its clock
            told.observe("input", 400_000, left, at)
            newest = (at, left)
        elif not here:
            told.heard("input", 400_000, left, at)
            if at > newest[0]:
                newest = (at, left)
    if newest[0] >= 0:
        assert told.input is not None
        assert (told.input.at, told.input.level) == newest


def test_no_more_is_left_than_the_limit_whatever_an_answer_says():
    domain = Domain()
    domain.observe("input", 100, 500, 0.0)
    assert domain.input is not None and domain.input.level == 100
    domain.heard("requests", 10, 50, 0.0)
    assert domain.requests is not None and domain.requests.level == 10
    domain.asked = 20
    assert domain.wait(0.0, 0.0) > 0.0
