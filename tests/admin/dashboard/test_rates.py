"""Rates and percentiles of counters: over a stretch of time, whoever restarts meanwhile."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.dashboard.rates import Rates, Sample, quantile, sample_of
from gateway.telemetry.counters import Family


def rates_of(*samples: Sample) -> Rates:
    rates = Rates(0.0)
    for sample in samples:
        rates.add(sample)
    return rates


def test_families_are_summed_over_their_labels_and_missing_ones_are_nothing():
    families = [
        Family("gateway_requests", "counter", "", ("model", "code"), [
            (("a", "200"), [5]), (("b", "200"), [2]), (("a", "503"), [1]), (("a", "429"), [4]), (("a", "499"), [1]),
        ]),
        Family("gateway_stream_interruptions", "counter", "", ("cause",), [(("upstream",), [2]), (("client",), [9])]),
        Family("gateway_tokens", "counter", "", ("type", "account"), [
            (("input", "x"), [1]), (("cache_write_5m", "x"), [2]), (("cache_write_1h", "x"), [3]),
            (("output", "x"), [1]), (("output", "y"), [3]), (("strange", "x"), [5]),
        ]),
        Family("gateway_time_to_first_token_seconds", "histogram", "", ("model",), [
            (("a",), [1, 2, 9.0]), (("b",), [1, 2, 9.0]),
        ], (0.1,)),
        Family("gateway_overhead_seconds", "histogram", "", ("phase",), [
            (("total",), [2, 0, 0.1]), (("admit",), [7, 0, 0.1]),
        ], (0.1,)),
        Family("gateway_requests_in_flight", "gauge", "", ("endpoint",), [(("messages",), [3]), (("chat",), [1])]),
        Family("gateway_upstream_requests", "counter", "", ("account", "provider", "model", "code"), [
            (("x", "p", "a", "200"), [4]), (("x", "p", "b", "200"), [1]), (("y", "q", "a", "529"), [1]),
        ]),
        Family("gateway_degraded", "gauge", "", ("mode",), [(("store",), [2])]),
        Family("gateway_lacking_requests", "counter", "", ("need", "team"), [
            (("url", "a"), [2]), (("url", "b"), [1]), (("mcp", ""), [5]),
        ]),
        Family("gateway_of_the_future", "counter", "", ("code",), [(("500",), [9])]),
    ]  # fmt: skip
    sample = sample_of(families, 7.0)
    assert (sample.at, sample.requests, sample.errors, sample.in_flight) == (7.0, 13, 3, 4)
    assert sample.refused == 4
    assert sample.tokens == {"input": 1, "cache_write": 5, "output": 4}
    assert sample.ttft == {0.1: 2, inf: 6}
    assert sample.overhead == {0.1: 2, inf: 2}
    assert sample.exchanges == {("x", "200"): 5, ("y", "529"): 1}
    assert sample.degraded == {"store": 2}
    assert sample.lacking == {"url": 3, "mcp": 5}
    assert sample_of([Family("gateway_requests", "counter", "", (), [((), [3])])], 7.0).requests == 3
    assert sample_of([Family("gateway_overhead_seconds", "histogram", "", ("phase",), [], (1.0,))], 7.0).overhead == {}
    assert sample_of([], 7.0) == Sample(7.0)


def test_rates_are_of_the_last_seconds_and_shares_of_the_last_minutes():
    rates = rates_of(
        Sample(10.0, requests=100.0, tokens={"input": 100.0, "cache_read": 0.0}),
        Sample(
            20.0, requests=150.0, errors=5.0, refused=10.0, in_flight=2.0, tokens={"input": 100.0, "cache_read": 300.0}
        ),
    )
    numbers = rates.numbers()
    assert (numbers.requests, numbers.errors, numbers.refused, numbers.in_flight) == (5.0, 0.5, 1.0, 2)
    assert numbers.tokens == {"input": 0.0, "cache_read": 30.0, "cache_write": 0.0, "output": 0.0}
    assert numbers.cache_hit_rate == 0.75
    assert (numbers.ttft_p50, numbers.overhead_p99) == (None, None)


def test_what_more_than_one_in_a_hundred_requests_cannot_have_everywhere_is_named_the_largest_first():
    before = {"mcp": 50.0, "old": 900.0}
    now = {"mcp": 52.0, "old": 900.0, "url": 30.0, "beta:rare": 1.0}
    rates = rates_of(
        Sample(10.0, requests=1000.0, lacking=before), Sample(320.0, requests=1100.0, lacking=now)
    )  # fmt: skip
    assert rates.numbers().lacking == {"url": 0.3, "mcp": 0.02}
    assert rates_of(Sample(10.0, requests=0.0, lacking={"mcp": 9.0})).numbers().lacking == {"mcp": 1.0}


def test_before_anything_happened_nothing_is_known():
    numbers = rates_of().numbers()
    assert (numbers.requests, numbers.cache_hit_rate, numbers.ttft_p95) == (0.0, None, None)


def test_percentiles_are_of_the_last_minute_alone():
    slow = {0.1: 0.0, 1.0: 100.0, inf: 100.0}
    fast = {0.1: 10.0, 1.0: 110.0, inf: 110.0}
    rates = rates_of(Sample(10.0, ttft=slow), Sample(40.0, ttft=slow))
    assert rates.numbers().ttft_p50 == pytest.approx(0.55)
    rates.add(Sample(75.0, ttft=fast))
    p50 = rates.numbers().ttft_p50
    assert p50 is not None and p50 <= 0.1


def test_exchanges_that_are_new_are_told_apart():
    rates = rates_of(Sample(1.0, exchanges={("a", "200"): 4.0, ("a", "529"): 1.0}))
    after = Sample(2.0, exchanges={("a", "200"): 4.0, ("a", "529"): 2.0, ("b", "not_sent"): 1.0})
    assert rates.risen(after) == {("a", "529"), ("b", "not_sent")}


@given(st.lists(st.tuples(st.floats(0.01, 100.0), st.integers(0, 1000), st.integers(0, 1000)), max_size=200))
def test_no_rate_is_ever_negative_and_little_is_remembered(steps):
    rates = Rates(0.0)
    at = 0.0
    for seconds, requests, tokens in steps:  # counts that fall are those of workers that were not heard
        at += seconds
        rates.add(
            Sample(at, requests, requests / 2, 0.0, {"input": tokens, "cache_read": tokens}, {1.0: tokens, inf: 9})
        )
        numbers = rates.numbers()
        assert min(numbers.requests, numbers.errors, *numbers.tokens.values()) >= 0.0
        assert numbers.cache_hit_rate is None or 0.0 <= numbers.cache_hit_rate <= 1.0
        assert numbers.ttft_p95 is None or 0.0 <= numbers.ttft_p95 <= 1.0
    assert len(rates._samples) < 2 + len(steps)
    edge = rates.latest.at - 300.0
    assert sum(sample.at <= edge for sample in rates._samples) <= 1 or len(rates._samples) == 2


@given(st.lists(st.floats(0.0, 9.9), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_is_within_the_bucket_where_it_lies(values, share):
    bounds = (0.5, 1.0, 2.0, 5.0, 10.0)
    buckets = {bound: float(sum(value <= bound for value in values)) for bound in (*bounds, inf)}
    true = sorted(values)[max(0, -(-int(share * len(values) * 1000) // 1000) - 1)]
    found = quantile(share, buckets)
    assert found is not None
    upper = next(bound for bound in bounds if buckets[bound] >= share * len(values))
    lower = max((bound for bound in (0.0, *bounds) if bound < upper), default=0.0)
    assert lower <= found <= upper
    assert true <= upper


def test_what_lies_beyond_the_last_bound_is_at_least_that():
    assert quantile(0.5, {1.0: 0.0, inf: 4.0}) == 1.0
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {1.0: 0.0, inf: 0.0}) is None
