from typing import Any

import pytest

from gateway.core.spending.local_limits import LocalLimits
from gateway.core.spending.quota import COUNT, MESSAGE, SUMS, Plan, Quota, Row

NOW = 1000.0
NOTHING = [0] * len(SUMS)


def rows(endpoints: str = MESSAGE, **quota: Any) -> tuple[Row, ...]:
    return Plan("t:team", [("c:alice", Quota(**quota)), ("t:team", Quota())]).limits(endpoints).rows


def used(**sums: int) -> list[int]:
    return [sums.get(name, 0) for name in SUMS]


@pytest.mark.parametrize(("processes", "admitted"), [(1, 10), (2, 5), (3, 3), (100, 1)])
def test_a_limit_is_divided_by_the_processes_and_one_always_passes(processes, admitted):
    limits, mine = LocalLimits(), rows(requests=10)
    results = [limits.take(mine, processes, NOW) for _ in range(20)]
    assert results.index(next(each for each in results if each)) == admitted
    refused = results[-1]
    assert refused is not None and refused[0].kind.field == "requests" and refused[1] > 0


def test_what_is_refused_is_there_again_after_the_wait():
    limits, mine = LocalLimits(), rows(requests=60)
    while (refused := limits.take(mine, 2, NOW)) is None:
        pass
    assert limits.take(mine, 2, NOW + refused[1] - 0.01) is not None
    assert limits.take(mine, 2, NOW + refused[1] + 0.01) is None


def test_tokens_are_debited_when_they_are_known_and_may_go_below_nothing():
    limits, mine = LocalLimits(), rows(input_tokens=1000)
    assert limits.take(mine, 1, NOW) is None
    limits.give(mine, used(input=500, write_5m=700, cache_read=10_000))
    refused = limits.take(mine, 1, NOW)
    assert refused is not None and refused[1] == pytest.approx(12.0)
    assert limits.take(mine, 1, NOW + 12.1) is None


def test_a_slot_is_free_again_once_its_request_has_ended():
    limits, mine = LocalLimits(), rows(concurrency=2)
    assert [limits.take(mine, 1, NOW) is None for _ in range(3)] == [True, True, False]
    limits.give(mine, NOTHING)
    assert limits.take(mine, 1, NOW) is None
    for _ in range(5):
        limits.give(mine, NOTHING)
    assert [limits.take(mine, 1, NOW) is None for _ in range(3)] == [True, True, False]


def test_all_rows_are_taken_or_none():
    limits, mine = LocalLimits(), rows(requests=10, concurrency=1)
    assert limits.take(mine, 1, NOW) is None
    for _ in range(50):
        assert limits.take(mine, 1, NOW) is not None
    limits.give(mine, NOTHING)
    assert limits.take(mine, 1, NOW) is None  # the fifty took no request


def test_counting_tokens_has_a_bucket_of_its_own_and_money_none():
    limits = LocalLimits()
    assert limits.take(rows(COUNT, requests=1), 1, NOW) is None
    assert limits.take(rows(requests=1), 1, NOW) is None
    assert all(limits.take(rows(day_nano=1), 1, NOW) is None for _ in range(9))


def test_when_the_store_is_back_buckets_begin_anew_and_slots_stay():
    limits, mine = LocalLimits(), rows(requests=1, concurrency=1)
    assert limits.take(mine, 1, NOW) is None
    limits.clear()
    refused = limits.take(mine, 1, NOW)
    assert refused is not None and refused[0].kind.field == "concurrency"
