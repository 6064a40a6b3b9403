"""Load: the fresh tokens of the last minute, here and elsewhere, and what a large request is."""

from __future__ import annotations

from math import e

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.routing.load import HOUR, WINDOW, Loads

RUNS = settings(deadline=None, max_examples=100)
NOW = 1000.0


def test_a_workspace_nobody_has_asked_has_no_load():
    assert Loads().of("w", NOW) == 0.0


def test_the_load_is_the_sum_of_the_last_minute_by_workspace():
    loads = Loads()
    loads.add("w", 1000, NOW)
    loads.add("w", 500, NOW + 30)
    loads.add("v", 7, NOW + 30)
    assert loads.of("w", NOW + 59) == 1500
    assert loads.of("w", NOW + 60) == 500
    assert loads.of("w", NOW + 90) == 0
    assert loads.of("v", NOW + 59) == 7


def test_what_others_tell_counts_like_ones_own_and_is_not_told_again():
    loads = Loads()
    loads.add("w", 1000, NOW)
    loads.add_others("w", 300, NOW)
    assert loads.of("w", NOW) == 1300
    assert loads.take_report() == {"w": 1000}
    assert loads.take_report() == {}


def test_the_load_of_an_hour_fades():
    loads = Loads()
    assert loads.of_hour("w", NOW) == 0.0
    loads.add("w", 1000, NOW)
    loads.add_others("w", 1000, NOW)
    loads.correct("w", -500, NOW)
    assert loads.of_hour("w", NOW) == 1500
    assert loads.of_hour("w", NOW + HOUR) == pytest.approx(1500 / e)
    loads.add("w", 100, NOW + HOUR)
    assert loads.of_hour("w", NOW + HOUR) == pytest.approx(1500 / e + 100)
    assert loads.of("w", NOW + HOUR) == 100


def test_what_was_reserved_and_given_back_within_a_second_is_not_told():
    loads = Loads()
    loads.add("w", 1000, NOW)
    loads.correct("w", -1000, NOW)
    assert loads.take_report() == {}
    assert loads.of("w", NOW) == 0


@RUNS
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 50_000)), max_size=30))
def test_no_token_counts_for_longer_than_a_minute_nor_much_shorter(steps):
    loads, now = Loads(), NOW
    added: list[tuple[float, int]] = []
    for passed, tokens in steps:
        now += passed
        loads.add("w", tokens, now)
        added.append((now, tokens))
        load = loads.of("w", now)
        assert load <= sum(tokens for at, tokens in added if now - at < WINDOW)
        assert load >= sum(tokens for at, tokens in added if now - at < WINDOW - 5.0)


def test_a_reservation_is_corrected_where_it_stands():
    loads = Loads()
    loads.add("w", 20_000, NOW)
    loads.add("w", 500, NOW + 30)
    loads.correct("w", -19_000, NOW)  # its stream has ended: most of it came from a cache
    assert loads.of("w", NOW + 59) == 1500
    assert loads.of("w", NOW + 61) == 500
    loads.correct("w", -19_000, NOW)  # too late to matter
    assert loads.of("w", NOW + 61) == 500


@RUNS
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 40_000), st.floats(0, 120), st.floats(0, 1)), max_size=25))
def test_what_others_reserve_and_correct_later_is_never_less_than_nothing_nor_more_than_they_reserved(requests):
    loads, now = Loads(), NOW
    reserved: list[tuple[float, int]] = []
    told: list[tuple[float, float]] = []
    for passed, tokens, lasts, share in requests:
        now += passed
        reserved.append((now, tokens))
        told += [(now, float(tokens)), (now + lasts, tokens * (share - 1.0))]
    for at, tokens in sorted(told, key=lambda each: (each[0], -each[1])):
        loads.add_others("w", tokens, at)
        most = sum(tokens for since, tokens in reserved if since <= at and at - since < WINDOW)
        assert -1e-3 <= loads.of("w", at) <= most + 1e-3


def test_corrections_of_others_leave_no_load_behind():
    loads = Loads()
    loads.add_others("w", 20_000, NOW)
    loads.add_others("w", -19_000, NOW + 59)
    for n in range(50):
        loads.add_others("w", 10, NOW + 60 + n * 4)
        assert 0 <= loads.of("w", NOW + 60 + n * 4) <= 150


def test_p95_is_the_largest_but_a_twentieth_of_recent_requests():
    loads = Loads()
    assert loads.p95 == 0.0
    for size in range(1, 226):
        loads.sized(float(size))
    assert loads.p95 == 214.0
    for _ in range(1000):
        loads.sized(10.0)
    assert loads.p95 == 10.0
