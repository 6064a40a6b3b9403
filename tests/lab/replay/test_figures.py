"""The definitions of the figures, on streams small enough to be worked out by hand."""

import pytest

from gateway.lab.replay.engine import Run, Served, replay
from gateway.lab.replay.events import Event
from gateway.lab.replay.figures import (
    Totals,
    Yardstick,
    after_events,
    balances,
    duration,
    figures,
    percentile,
    switches,
    window_peaks,
)
from gateway.lab.replay.policy import Wait
from gateway.lab.replay.pool import Pool
from gateway.lab.replay.run import Stream, oracle
from gateway.lab.replay.strawmen import Hash
from tests.lab.replay.replay_kit import PACE, accounts, play, request

EVEN = {"ws-a": 0.5, "ws-b": 0.5}


def judged(plan, stream, **options):
    _, run = play(plan, stream, **options)
    return figures(run, oracle(Stream(stream, False), 300.0, PACE))


def served(workspace, sent, new, *, read=0):
    return Served(account=workspace[3:], workspace=workspace, sent=sent, started=sent, read=read, written=new)


def a_run(rows, shares=((0.0, EVEN),)):
    """A run of rows (workspace, sent, new tokens), and the yardstick of an oracle that needs 100 tokens a request."""
    requests = [request(n, sent, [n]) for n, (_, sent, _) in enumerate(rows)]
    best = Run(
        "oracle", 300.0, [served("ws-o", sent, 100, read=412) for _, sent, _ in rows], [(0.0, {"ws-o": 1.0})], {}
    )
    run = Run("p", 300.0, [served(*row) for row in rows], list(shares), {})
    return run, Yardstick.of(requests, best)


def test_the_ratios_of_three_requests():
    stream = [request(0, 0, [1, 2]), request(1, 10, [1, 2, 3]), request(2, 20, [1, 2])]
    found = judged({0: ["a"], 1: ["a"], 2: ["b"]}, stream)
    # Of 3,584 tokens 1,024 are read, by the second request; the oracle reads 2,048.
    assert found["H"] == 1024 / 3584
    assert found["R"] == 0.5
    assert found["C"] == pytest.approx((0.1 * 1024 + 1.25 * 2560) / (0.1 * 2048 + 1.25 * 1536))
    assert found["peak_to_mean"] == pytest.approx(1536 / 1280)
    assert (found["requests"], found["switches"], found["warm_switches"], found["rate_limited"]) == (3, 1, 1, 0)
    assert (found["cache_read_tokens"], found["cache_written_tokens"], found["uncached_tokens"]) == (1024, 2560, 0)


def test_tokens_without_a_block_cost_what_they_cost_uncached():
    assert Totals(read=100, written=10, fresh=1).cost == pytest.approx(10 + 12.5 + 1)


def test_the_oracle_against_itself_is_one():
    stream = [request(n, n * 5, [n % 7, 100 + n % 3, n]) for n in range(60)]
    pool = accounts("only")
    run = replay(Hash(pool, 300.0, 1), Pool(pool, 300.0), PACE, stream)
    found = figures(run, oracle(Stream(stream, False), 300.0, PACE))
    assert (found["R"], found["C"], found["peak_to_mean"]) == (1.0, 1.0, 1.0)


def test_nothing_to_read_is_no_loss():
    assert judged({0: ["a"]}, [request(0, 0, [1])])["R"] == 1.0


def test_waits_are_those_of_the_policy_and_of_the_client():
    stream = [request(0, 0, [1]), request(1, 0, [2])]
    events = [Event(0.0, "burst", account="a", seconds=1.0, retry_after=1.0)]
    found = judged({0: [Wait(3.0), "b"], 1: ["a", "b"]}, stream, events=events)
    assert found["wait_max_s"] == 3.0
    assert found["wait_p50_s"] == 0.25  # until the 429 arrived
    assert (found["rate_limited"], found["moves"]) == (1, {})


def test_a_percentile_is_a_value_that_occurred():
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile(range(1, 102), 0.99) == 100
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([], 0.5) == 0.0


def test_a_run_lasts_a_minute_at_least():
    assert duration([request(0, 0, [1])]) == 60.0
    assert duration([request(0, 0, [1]), request(1, 90, [1])]) == 90.0


# Balance


def test_balance_is_by_weight():
    run, _ = a_run([("ws-a", 0, 300), ("ws-b", 1, 300)], [(0.0, {"ws-a": 0.25, "ws-b": 0.75})])
    assert balances(run)[0].peak(0.0, whole=True) == pytest.approx(2.0)  # 300 where 150 would be fair


def test_a_workspace_without_a_request_counts():
    run, yard = a_run([("ws-a", 0, 300), ("ws-a", 1, 300)])
    assert figures(run, yard)["peak_to_mean"] == 2.0


def test_a_workspace_is_owed_only_what_came_while_it_was_there():
    shares = [(0.0, {"ws-a": 1.0}), (100.0, EVEN), (200.0, {"ws-b": 1.0})]
    rows = [("ws-a", 50, 1000), ("ws-a", 150, 600), ("ws-b", 160, 400), ("ws-b", 250, 1000)]
    run, _ = a_run(rows, shares)
    balance = balances(run)[0]
    assert balance.fair == {"ws-a": 1500.0, "ws-b": 1500.0}
    assert balance.peak(0.0, whole=False) == pytest.approx(1600 / 1500)


def test_windows_are_judged_one_by_one_and_quiet_ones_not_at_all():
    rows = [("ws-a", 0, 300), ("ws-b", 59, 100), ("ws-a", 60, 150), ("ws-a", 125, 200), ("ws-b", 130, 200)]
    run, yard = a_run(rows)
    assert yard.large == 100
    # The second minute's fair share is 75 tokens, less than one request of the oracle's.
    assert window_peaks(run, yard) == [(0.0, 1.5), (120.0, 1.0)]
    assert figures(run, yard)["window_peak_to_mean"] == 1.5


def test_a_window_leaves_out_who_was_not_there_for_all_of_it():
    shares = [(0.0, {"ws-a": 1.0}), (30.0, EVEN)]
    run, yard = a_run([("ws-a", 0, 300), ("ws-b", 40, 900), ("ws-b", 50, 300)], shares)
    [(start, peak)] = window_peaks(run, yard)
    assert start == 0.0 and peak == pytest.approx(300 / 900)


def test_no_window_worth_judging_is_no_figure():
    run, yard = a_run([("ws-a", 0, 10)])
    assert figures(run, yard)["window_peak_to_mean"] is None


# Changes of workspace, and what followed an event


def test_switches_count_conversations_and_tell_warm_from_cold():
    stream = [request(n, at, [1]) for n, at in enumerate((0, 10, 20, 400))]
    _, run = play({0: ["a"], 1: ["a"], 2: ["b"], 3: ["a"]}, stream)
    assert switches(run, stream) == (2, 1)


def test_each_event_is_judged_by_what_is_due_in_the_ttl_after_it():
    stream = [request(n, 100 * n, [1]) for n in range(10)]
    plan = {n: ["a" if n < 5 else "b"] for n in range(10)}
    events = [Event(150.0, "flush"), Event(450.0, "store_down"), Event(500.0, "store_up"), Event(5000.0, "restart")]
    _, run = play(plan, stream, events=events)
    found = after_events(run, oracle(Stream(stream, False), 300.0, PACE), events)
    assert [(each.event, each.requests, each.R) for each in found] == [
        ("flush", 3, 1.0),
        ("store_down", 3, pytest.approx(2 / 3)),
        ("store_up", 3, pytest.approx(2 / 3)),
    ]
