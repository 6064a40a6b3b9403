import pytest

from gateway.core.spending.local_limits import Share
from gateway.core.spending.quota import COUNT, MESSAGE, SUMS, Plan, Quota, Row

NOW = 1000.0
NOTHING = [0] * len(SUMS)


def rows(endpoints: str = MESSAGE, **quota: int) -> tuple[Row, ...]:
    return Plan("t:team", [("c:alice", Quota(**quota)), ("t:team", Quota())]).limits(endpoints).rows


def used(**sums: int) -> list[int]:
    return [sums.get(name, 0) for name in SUMS]


@pytest.mark.parametrize(("processes", "admitted"), [(1, 10), (2, 5), (3, 3), (100, 1)])
def test_a_limit_is_divided_by_the_processes_and_one_always_passes(processes, admitted):
    share, mine = Share(), rows(requests=10)
    results = [share.take(mine, processes, NOW) for _ in range(20)]
    assert results.index(next(each for each in results if each)) == admitted
    refused = results[-1]
    assert refused is not None and refused[0].kind.field == "requests" and refused[1] > 0


def test_what_is_refused_is_there_again_after_the_wait():
    share, mine = Share(), rows(requests=60)
    while (refused := share.take(mine, 2, NOW)) is None:
        pass
    assert share.take(mine, 2, NOW + refused[1] - 0.01) is not None
    assert share.take(mine, 2, NOW + refused[1] + 0.01) is None


def test_tokens_are_debited_when_they_are_known_and_may_go_below_nothing():
    share, mine = Share(), rows(input_tokens=1000)
    assert share.take(mine, 1, NOW) is None
    share.give(mine, used(input=500, write_5m=700, cache_read=10_000))
    refused = share.take(mine, 1, NOW)
    assert refused is not None and refused[1] == pytest.approx(12.0)
    assert share.take(mine, 1, NOW + 12.1) is None


def test_a_slot_is_free_again_once_its_request_has_ended():
    share, mine = Share(), rows(concurrency=2)
    assert [share.take(mine, 1, NOW) is None for _ in range(3)] == [True, True, False]
    share.give(mine, NOTHING)
    assert share.take(mine, 1, NOW) is None
    for _ in range(5):
        share.give(mine, NOTHING)
    assert [share.take(mine, 1, NOW) is None for _ in range(3)] == [True, True, False]


def test_all_rows_are_taken_or_none():
    share, mine = Share(), rows(requests=10, concurrency=1)
    assert share.take(mine, 1, NOW) is None
    for _ in range(50):
        assert share.take(mine, 1, NOW) is not None
    share.give(mine, NOTHING)
    assert share.take(mine, 1, NOW) is None  # the fifty took no request


def test_counting_tokens_has_a_bucket_of_its_own_and_money_none():
    share = Share()
    assert share.take(rows(COUNT, requests=1), 1, NOW) is None
    assert share.take(rows(requests=1), 1, NOW) is None
    assert all(share.take(rows(day_nano=1), 1, NOW) is None for _ in range(9))


def test_when_the_store_is_back_buckets_begin_anew_and_slots_stay():
    share, mine = Share(), rows(requests=1, concurrency=1)
    assert share.take(mine, 1, NOW) is None
    share.clear()
    refused = share.take(mine, 1, NOW)
    assert refused is not None and refused[0].kind.field == "concurrency"
