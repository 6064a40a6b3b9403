"""Metrics: what is counted, summed over workers, and never more series than there are kinds of things."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gateway.admin.dashboard.rates import sample_of
from gateway.data import load_catalogue
from gateway.records import Finished, Usage
from gateway.telemetry import metric_table as measures
from gateway.telemetry import metrics
from gateway.telemetry.metrics import OTHER, WorkerMetrics
from gateway.telemetry.totals import Totals
from gateway.worker.endpoints import METERED

CATALOGUE = load_catalogue()
RUNS = settings(deadline=None, max_examples=40)
NONE: dict[str, Any] = {}


def known(model: str) -> str:
    found = CATALOGUE.find(model)
    return found.id if found is not None else OTHER


def worker(in_flight: int = 0, store_away: bool = False) -> WorkerMetrics:
    made = WorkerMetrics(known, lambda: {"messages": in_flight}, lambda: {"store": float(store_away)}, METERED)
    made.know_teams(["research", "blue", "red"])
    return made


def record(**fields: Any) -> Finished:
    usual = Finished(
        request_id="req_1", at=1.0, endpoint="messages", status=200, model="claude-sonnet-4-5", team="research",
        stream=True, account="team-a", route="bound", attempts=1, usage=Usage(input=3, output=5), duration=0.3,
        ttft=0.2, overhead=0.001,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **fields)


def totals_of(*workers: WorkerMetrics) -> Totals:
    totals = Totals()
    for number, of in enumerate(workers):
        totals.replace(number, of.snapshot())
    return totals


def value(of: WorkerMetrics, name: str, **labels: str) -> float | None:
    return total(totals_of(of), name, **labels)


def samples_of(of: WorkerMetrics) -> list[Sample]:
    return [sample for metric in totals_of(of).collect() for sample in metric.samples]


def scrape(totals: Totals) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples as a scraper reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(totals)
    text = generate_latest(registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(totals: Totals, name: str, **labels: str) -> float | None:
    return scrape(totals).get((name, frozenset(labels.items())))


# One worker.


def test_a_request_is_counted_by_what_it_was():
    of = worker()
    of.observe(record(), 0.0004)
    of.observe(record(status=529), 0.0)
    of.observe(record(status=0, outcome="client_gone"), 0.0)
    usual = {"endpoint": "messages", "model": "claude-sonnet-4-5", "team": "research"}
    assert value(of, "gateway_requests_total", **usual, code="200") == 1
    assert value(of, "gateway_requests_total", **usual, code="529") == 1
    assert value(of, "gateway_requests_total", **usual, code="499") == 1
    assert value(of, "gateway_affinity_decisions_total", route="bound") == 3


def test_times_fall_into_buckets_that_add_up():
    of = worker()
    for seconds in (0.1, 0.25, 0.26, 14.0, 5000.0):
        of.observe(record(duration=seconds, ttft=seconds / 2, overhead=0.002), 0.0007)
    labels = {"endpoint": "messages", "model": "claude-sonnet-4-5", "stream": "true"}
    buckets = {
        le: value(of, "gateway_request_duration_seconds_bucket", **labels, le=le)
        for le in ("0.25", "0.5", "10.0", "20.0", "900.0", "+Inf")
    }
    assert buckets == {"0.25": 2, "0.5": 3, "10.0": 3, "20.0": 4, "900.0": 4, "+Inf": 5}
    assert value(of, "gateway_request_duration_seconds_count", **labels) == 5
    assert value(of, "gateway_request_duration_seconds_sum", **labels) == pytest.approx(5014.61)
    assert value(of, "gateway_time_to_first_token_seconds_bucket", model="claude-sonnet-4-5", le="0.25") == 3
    assert value(of, "gateway_overhead_seconds_bucket", phase="admit", le="0.0005") == 0
    assert value(of, "gateway_overhead_seconds_bucket", phase="admit", le="0.001") == 5
    assert value(of, "gateway_overhead_seconds_bucket", phase="total", le="0.002") == 5


def test_tokens_are_counted_by_price_class_and_account():
    of = worker()
    usage = Usage(input=1, cache_read=20, cache_write_5m=300, cache_write_1h=4000, output=50000)
    of.observe(record(usage=usage), 0.0)
    of.observe(record(usage=Usage(input=1, output=1)), 0.0)
    of.observe(record(usage=usage, account="team-b"), 0.0)
    counts = {"input": 2, "cache_read": 20, "cache_write_5m": 300, "cache_write_1h": 4000, "output": 50001}
    for kind, count in counts.items():
        assert value(of, "gateway_tokens_total", type=kind, model="claude-sonnet-4-5", account="team-a") == count
    assert value(of, "gateway_tokens_total", type="output", model="claude-sonnet-4-5", account="team-b") == 50000


def test_conversations_that_move_are_counted_by_reason():
    of = worker()
    for reason in ("limited", "limited", "out", "home"):
        of.moved(reason)
    counts = {reason: value(of, "gateway_conversation_moves_total", reason=reason) for reason in ("limited", "out")}
    assert counts == {"limited": 2, "out": 1}


def test_waits_for_limits_and_slots_are_seen_of_those_that_did_wait():
    of = worker()
    for queued, status in ((0.0, 200), (0.3, 200), (7.0, 200), (2.0, 529), (1.0, 0)):
        of.observe(record(queued=queued, status=status), 0.0)
    of.observe(record(queued=0.2, endpoint="count_tokens"), 0.0)
    name = "gateway_queue_wait_seconds"
    assert value(of, f"{name}_count", result="served") == 3
    assert value(of, f"{name}_sum", result="served") == pytest.approx(7.5)
    assert value(of, f"{name}_bucket", result="served", le="0.5") == 2
    assert value(of, f"{name}_count", result="refused") == 2


def test_a_worker_without_its_store_is_degraded_while_that_lasts():
    away = False
    of = WorkerMetrics(known, dict, lambda: {"store": float(away)}, METERED)
    assert value(of, "gateway_degraded", mode="store") == 0
    away = True
    assert value(of, "gateway_degraded", mode="store") == 1
    away = False
    assert value(of, "gateway_degraded", mode="store") == 0


@pytest.mark.parametrize(
    "fields", [{"status": 400}, {"attempts": 0}, {"endpoint": "count_tokens"}, {"endpoint": "models", "model": ""}]
)
def test_only_answers_of_accounts_to_messages_have_a_first_token_and_an_overhead(fields):
    of = worker()
    of.observe(record(**{"usage": Usage(), **fields}), 0.0)
    counts = {sample.name: sample.value for sample in samples_of(of) if sample.value}
    assert counts.keys() == {
        "gateway_requests_total", "gateway_request_duration_seconds_bucket", "gateway_request_duration_seconds_count",
        "gateway_request_duration_seconds_sum", "gateway_affinity_decisions_total",
    }  # fmt: skip


def test_what_a_broken_request_may_be_billed_for_counts_like_the_rest():
    """As in the ledger: metrics and ledger would differ otherwise."""
    of = worker()
    of.observe(record(status=504, outcome="error", estimated=True, usage=Usage(input=7), cost_nano_usd=21_000), 0.0)
    assert value(of, "gateway_tokens_total", type="input", model="claude-sonnet-4-5", account="team-a") == 7
    assert value(of, "gateway_cost_usd_total", model="claude-sonnet-4-5", team="research") == 21e-6


def test_tokens_dollars_and_savings_are_counted_by_team():
    of = worker()
    usage = Usage(input=1, cache_read=20, cache_write_5m=300, cache_write_1h=4000, output=50000)
    of.observe(record(usage=usage, cost_nano_usd=1_500_000_001, savings_nano_usd=250_000_000), 0.0)
    of.observe(record(usage=usage, cost_nano_usd=1, account="team-b", endpoint="batch_items"), 0.0)
    of.observe(record(usage=usage, team="", cost_nano_usd=7), 0.0)
    where = {"model": "claude-sonnet-4-5", "team": "research"}
    assert value(of, "gateway_cost_usd_total", **where) == 1.500000002
    assert value(of, "gateway_cache_savings_usd_total", **where) == 0.25
    assert value(of, "gateway_cost_usd_total", model="claude-sonnet-4-5", team="") == 7e-9
    assert value(of, "gateway_team_tokens_total", type="output", **where) == 100_000
    assert value(of, "gateway_team_tokens_total", type="cache_write_1h", model="claude-sonnet-4-5", team="") == 4000
    assert value(of, "gateway_requests_total", endpoint="messages", code="200", **where) == 1


@pytest.mark.parametrize(
    ("usage", "result"),
    [
        (Usage(input=5, cache_read=900, cache_write_5m=20), "hit"),
        (Usage(input=5, cache_read=900), "hit"),
        (Usage(input=5, cache_read=90, cache_write_1h=900), "partial"),
        (Usage(cache_read=90, cache_write_5m=90), "partial"),
        (Usage(input=5, cache_write_5m=900), "miss"),
        (Usage(input=5000, output=1), "none"),
    ],
)
def test_answers_are_told_apart_by_what_a_cache_gave_them(usage, result):
    of = worker()
    of.observe(record(usage=usage), 0.0)
    of.observe(record(usage=usage, status=429), 0.0)
    results = {each: value(of, "gateway_prompt_cache_requests_total", model="claude-sonnet-4-5", result=each)
               for each in ("hit", "partial", "miss", "none")}  # fmt: skip
    assert results == {each: float(each == result) for each in results}


def test_the_time_per_token_is_that_of_streams_that_came_to_their_end():
    of = worker()
    name, model = "gateway_time_per_output_token_seconds", "claude-sonnet-4-5"
    of.observe(record(duration=2.2, ttft=0.2, usage=Usage(output=101)), 0.0)
    of.observe(record(duration=9.0, ttft=0.2, usage=Usage(output=101), outcome="interrupted", cause="upstream"), 0.0)
    of.observe(record(duration=9.0, ttft=0.2, usage=Usage(output=101), stream=False), 0.0)
    of.observe(record(duration=9.0, ttft=0.2, usage=Usage(output=1)), 0.0)
    assert value(of, f"{name}_count", model=model) == 1
    assert value(of, f"{name}_sum", model=model) == pytest.approx(0.02)
    assert value(of, f"{name}_bucket", model=model, le="0.015") == 0


def test_the_phases_of_the_overhead_add_up_to_its_total():
    of = worker()
    of.observe(record(overhead=0.004, choose=0.001), 0.0005)
    of.observe(record(overhead=0.001, choose=0.001), 0.0005)  # clocks are read at different moments: never below 0
    sums = {phase: value(of, "gateway_overhead_seconds_sum", phase=phase)
            for phase in ("choose", "admit", "relay", "total")}  # fmt: skip
    assert sums == {phase: pytest.approx(seconds) for phase, seconds in
                    {"choose": 0.002, "admit": 0.001, "relay": 0.0025, "total": 0.005}.items()}  # fmt: skip


def counted(of: WorkerMetrics, name: str) -> dict[tuple[str, ...], float]:
    """Label values and numbers of a family, without those that are 0."""
    return {tuple(s.labels.values()): s.value for s in samples_of(of) if s.name == name and s.value}


def test_failovers_are_counted_by_their_first_reason_and_by_how_they_ended():
    of = worker()
    for reason, status, outcome in (
        ("limited", 200, "ok"), ("limited", 200, "interrupted"), ("unsent", 529, "error"), ("denied", 200, "ok"),
        ("denied", 404, "error"), ("failed", 0, "client_gone"), ("", 529, "error"),
    ):  # fmt: skip
        of.observe(record(failover=reason, status=status, outcome=outcome, cause="upstream"), 0.0)
    assert counted(of, "gateway_failovers_total") == {
        ("limited", "recovered"): 2, ("unsent", "exhausted"): 1, ("denied", "recovered"): 1,
    }  # fmt: skip


def test_streams_that_broke_off_are_counted_by_whose_doing_it_was():
    of = worker()
    for outcome, cause, fields in (
        ("interrupted", "upstream", NONE), ("interrupted", "timeout", NONE), ("interrupted", "drain", NONE),
        ("client_gone", "client", NONE), ("client_gone", "client", {"status": 0}), ("error", "drain", {"status": 529}),
        ("interrupted", "upstream", {"stream": False}), ("ok", "", NONE),
    ):  # fmt: skip
        of.observe(record(outcome=outcome, cause=cause, **fields), 0.0)
    assert counted(of, "gateway_stream_interruptions_total") == {
        ("upstream",): 1, ("timeout",): 1, ("drain",): 1, ("client",): 1
    }  # fmt: skip


def test_refusals_by_limits_are_counted_by_whose_limit_it_was():
    of = worker()
    of.observe(record(status=429, outcome="error", throttled="caller", limit="budget_day"), 0.0)
    of.observe(record(status=429, outcome="error", throttled="account", limit="rate_limit"), 0.0)
    of.observe(record(status=429, outcome="error"), 0.0)
    of.throttled("gateway", "connections")
    assert counted(of, "gateway_throttled_total") == {
        ("caller", "budget_day"): 1, ("account", "rate_limit"): 1, ("gateway", "connections"): 1,
    }  # fmt: skip


def test_tokens_that_a_cache_had_and_did_not_give_are_counted_by_reason():
    of = worker()
    for tokens, reason in ((900, "moved"), (90, "moved"), (5, "expired"), (0, "")):
        of.observe(record(missed=tokens, missed_reason=reason), 0.0)
    assert counted(of, "gateway_prompt_cache_avoidable_miss_tokens_total") == {("moved",): 990, ("expired",): 5}


def test_operations_of_the_store_and_the_loops_lateness_are_measured():
    of = worker()
    watch = of.store("admit")
    watch.answered(0.0004)
    watch.answered(0.2)
    watch.failed()
    of.lag(0.3)
    name = "gateway_store_operation_duration_seconds"
    assert value(of, f"{name}_bucket", op="admit", le="0.0005") == 1
    assert value(of, f"{name}_count", op="admit") == 2
    assert counted(of, "gateway_store_errors_total") == {("admit",): 1}
    assert value(of, "gateway_event_loop_lag_seconds_bucket", le="0.25") == 0
    assert value(of, "gateway_event_loop_lag_seconds_count") == 1


def test_requests_in_flight_fall_back_to_nought_and_stay():
    running = {"messages": 3.0, "files": 1.0}
    of = WorkerMetrics(known, lambda: running, dict, METERED)
    assert counted(of, "gateway_requests_in_flight") == {("messages",): 3, ("files",): 1}
    running = {"messages": 0.0}
    assert value(of, "gateway_requests_in_flight", endpoint="files") == 0


def test_children_at_hand_count_the_same_as_those_that_had_to_be_found(monkeypatch):
    rnd = random.Random(3)
    models = ["claude-sonnet-4-5", "claude-opus-4-8", "unknown", ""]
    records = [
        record(
            model=rnd.choice(models),
            status=rnd.choice([200, 429]),
            stream=rnd.choice([True, False]),
            account=rnd.choice("ab"),
            route=rnd.choice(["new", "bound"]),
            usage=Usage(input=rnd.randint(0, 9), cache_read=rnd.randint(0, 1)),
        )
        for _ in range(300)
    ]
    cached = worker()
    for each in records:
        cached.observe(each, 0.001)
        cached.upstream_answered(each.account, "anthropic", each.model, str(each.status))
    monkeypatch.setattr(metrics, "_MAX_CHILDREN", 0)
    uncached = worker()
    for each in records:
        uncached.observe(each, 0.001)
        uncached.upstream_answered(each.account, "anthropic", each.model, str(each.status))
    assert msgspec.msgpack.decode(cached.snapshot()) == msgspec.msgpack.decode(uncached.snapshot())


# Bounds.


def series(of: WorkerMetrics) -> int:
    return len(samples_of(of))


def test_unknown_models_are_other_and_known_ones_their_catalogue_id():
    of = worker()
    assert of.model("claude-opus-4-5-20251101") == "claude-opus-4-5" == of.model("claude-opus-4-5")
    assert of.model("gpt-7") == OTHER == of.model("gpt-8")
    assert of.model("") == ""
    of.observe(record(model="gpt-7"), 0.0)
    of.observe(record(model="gpt-8"), 0.0)
    assert value(of, "gateway_requests_total", endpoint="messages", model=OTHER, team="research", code="200") == 2


def test_a_hundred_thousand_models_users_paths_and_conversations_make_no_more_series_than_a_few():
    of = worker()

    def meet(number: int) -> None:
        own = {
            "request_id": f"req_{number}", "caller": f"user-{number}", "conversation": f"{number:012x}",
            "upstream_request_id": f"req_u{number}", "trace_id": f"{number:032x}", "answered_model": f"m-{number}",
        }  # fmt: skip
        of.observe(record(model=f"model-{number}", status=404, attempts=0, **own), 0.0)
        of.observe(record(model=f"claude-opus-4-5-20{number:06d}", **own), 0.0)
        of.observe(record(model="", endpoint="other", stream=False, usage=Usage(), **own), 0.0)
        of.upstream_answered("team-a", "bedrock", f"model-{number}", "404")

    meet(0)
    before, size = series(of), len(of.snapshot())
    for number in range(1, 100_000):
        meet(number)
    assert series(of) == before < 700
    assert len(of.snapshot()) < size * 2
    assert len(of._models) <= metrics._MAX_CHILDREN
    assert len(of._updates) <= 8
    assert len(of._exchanges) <= 4


def test_teams_beyond_a_bound_are_other():
    of, another = WorkerMetrics(known, dict, dict, METERED), WorkerMetrics(known, dict, dict, METERED)
    names = [f"team-{number}" for number in range(metrics.MAX_TEAMS + 300)]
    of.know_teams(names)
    another.know_teams(reversed(names))
    assert [of.team(name) for name in names] == [another.team(name) for name in names]
    for number in range(metrics.MAX_TEAMS + 300):
        of.observe(record(team=f"team-{number}", usage=Usage(input=1)), 0.0)
    tokens = counted(of, "gateway_team_tokens_total")
    assert len(tokens) == metrics.MAX_TEAMS + 1
    assert sum(tokens.values()) == metrics.MAX_TEAMS + 300
    assert tokens["input", "claude-sonnet-4-5", OTHER] == 300
    of.observe(record(team="team-100", usage=Usage(input=1)), 0.0)
    assert counted(of, "gateway_team_tokens_total")["input", "claude-sonnet-4-5", "team-100"] == 2
    for number in range(metrics.MAX_TEAMS):  # teams that come and go
        of.know_teams([f"team-of-a-day-{number}"])
        of.observe(record(team=f"team-of-a-day-{number}", usage=Usage(input=1)), 0.0)
    of.observe(record(team="team-100", usage=Usage(input=1)), 0.0)
    of.observe(record(team="", usage=Usage(input=1)), 0.0)
    tokens = counted(of, "gateway_team_tokens_total")
    assert len(tokens) == metrics.MAX_TEAMS + 2
    assert [tokens["input", "claude-sonnet-4-5", name] for name in ("team-100", OTHER, "")] == [3, 800, 1]


def test_a_new_team_has_a_label_as_long_as_there_are_some():
    of = worker()
    of.know_teams(["red", "zoo"])
    assert [of.team(name) for name in ("research", "zoo", "nobody", "")] == ["research", "zoo", OTHER, ""]


def test_nothing_of_a_request_but_its_kind_becomes_a_label():
    of = worker()
    private = (
        "request_id", "caller", "conversation", "upstream_request_id", "trace_id", "span_id", "parent_id", "cause",
        "answered_model", "reason",
    )  # fmt: skip
    of.observe(record(**dict.fromkeys(private, "canary")), 0.0)
    assert b"canary" not in of.snapshot()


def busy(teams: int) -> WorkerMetrics:
    """A worker that has seen these many teams, and all that may go wrong."""
    rnd = random.Random(teams)
    of = WorkerMetrics(known, lambda: {"messages": 3.0, "files": 0.0}, lambda: {"store": 1.0, "journal": 0.0}, METERED)
    of.know_teams(f"team-{number}" for number in range(teams))
    for number in range(teams * 30):
        each = record(
            team=f"team-{number % teams}", model=rnd.choice(["claude-sonnet-4-5", "claude-opus-4-8", "unknown"]),
            status=rnd.choice([200, 200, 200, 404, 429, 503, 0]), account=rnd.choice("abc"), ttft=rnd.expovariate(1.0),
            overhead=rnd.expovariate(100.0), outcome=rnd.choice(["ok", "interrupted", "client_gone"]),
            cause=rnd.choice(["upstream", "client", "drain"]), stream=rnd.random() < 0.8,
            usage=Usage(rnd.randint(0, 9), rnd.randint(0, 9), rnd.randint(0, 9), rnd.randint(0, 9), rnd.randint(0, 9)),
            lacking=rnd.choice([(), ("url",), ("mcp", "url")]),
        )  # fmt: skip
        of.observe(each, 0.0001)
        of.upstream_answered(each.account, "anthropic", each.model, str(each.status))
    return of


def test_a_sample_says_all_of_now_that_the_whole_does():
    workers = [busy(3), busy(20), worker()]
    workers[2].sample()
    for _ in range(2):  # children that come after a look count too
        whole, small = totals_of(*workers), Totals()
        for number, of in enumerate(workers):
            small.replace(number, of.sample())
        expected = sample_of(whole.families(), 1.0)
        assert sample_of(small.families(), 1.0) == expected
        assert all(msgspec.structs.astuple(expected))
        workers[2].observe(record(team="late", status=502, account="late"), 0.0)
        workers[2].upstream_answered("late", "vertex", "unknown", "502")


def test_a_sample_is_small_however_many_teams_there_are():
    few, many = busy(3), busy(200)
    assert len(many.sample()) < 1.5 * len(few.sample()) < 6000
    assert len(many.snapshot()) > 10 * len(many.sample())


# All workers.


def snapshot_of(in_flight: int, *records: Finished) -> bytes:
    of = worker(in_flight)
    for each in records:
        of.observe(each, 0.001)
    return of.snapshot()


LABELS = {"endpoint": "messages", "model": "claude-sonnet-4-5", "team": "research", "code": "200"}


def test_totals_are_the_sum_over_workers():
    totals = Totals()
    totals.replace(1, snapshot_of(2, record(), record(status=400)))
    totals.replace(2, snapshot_of(3, record()))
    assert total(totals, "gateway_requests_total", **LABELS) == 2
    assert total(totals, "gateway_requests_total", **{**LABELS, "code": "400"}) == 1
    assert total(totals, "gateway_requests_in_flight", endpoint="messages") == 5


def test_totals_tell_how_many_workers_are_degraded_and_how_many_conversations_moved():
    totals = Totals()
    for number, away in enumerate((True, False, True)):
        of = worker(store_away=away)
        of.moved("out")
        totals.replace(number, of.snapshot())
    assert total(totals, "gateway_degraded", mode="store") == 2
    assert total(totals, "gateway_conversation_moves_total", reason="out") == 3
    totals.end(0)
    assert total(totals, "gateway_degraded", mode="store") == 1
    assert total(totals, "gateway_conversation_moves_total", reason="out") == 3


def test_a_snapshot_takes_the_place_of_the_one_before():
    totals = Totals()
    totals.replace(1, snapshot_of(9, record()))
    totals.replace(1, snapshot_of(4, record(), record()))
    assert total(totals, "gateway_requests_total", **LABELS) == 2
    assert total(totals, "gateway_requests_in_flight", endpoint="messages") == 4


def test_counters_of_ended_workers_stay_and_their_gauges_go():
    totals = Totals()
    totals.replace(1, snapshot_of(2, record(), record()))
    totals.replace(2, snapshot_of(3, record()))
    totals.end(1)
    totals.end(1)
    totals.end(77)
    assert total(totals, "gateway_requests_total", **LABELS) == 3
    assert total(totals, "gateway_requests_in_flight", endpoint="messages") == 3
    totals.replace(1, snapshot_of(1, record()))  # its successor starts from nothing
    assert total(totals, "gateway_requests_total", **LABELS) == 4
    totals.end(1)
    totals.end(2)
    assert total(totals, "gateway_requests_total", **LABELS) == 4
    assert total(totals, "gateway_requests_in_flight", endpoint="messages") in (None, 0)
    assert total(totals, "gateway_tokens_total", type="output", model="claude-sonnet-4-5", account="team-a") == 20


def test_summed_histograms_are_proper_histograms():
    totals = Totals()
    totals.replace(1, snapshot_of(0, record(duration=0.3), record(duration=700.0), record(duration=0.1, stream=False)))
    totals.replace(2, snapshot_of(0, record(duration=0.4), record(duration=4.0, model="claude-opus-4-8")))
    totals.end(1)
    samples = scrape(totals)
    for stream, model, count, summed in (
        ("true", "claude-sonnet-4-5", 3, 700.7),
        ("false", "claude-sonnet-4-5", 1, 0.1),
        ("true", "claude-opus-4-8", 1, 4.0),
    ):
        labels = frozenset({"endpoint": "messages", "model": model, "stream": stream}.items())
        buckets = sorted(
            (float(dict(key[1])["le"]), number) for key, number in samples.items()
            if key[0] == "gateway_request_duration_seconds_bucket" and labels <= key[1]
        )  # fmt: skip
        assert [bound for bound, _ in buckets] == [*measures.DURATION.buckets, float("inf")]
        assert [number for _, number in buckets] == sorted(number for _, number in buckets)
        assert buckets[-1][1] == count == samples["gateway_request_duration_seconds_count", labels]
        assert samples["gateway_request_duration_seconds_sum", labels] == pytest.approx(summed)


NAMES = {
    "gateway_requests", "gateway_request_duration_seconds", "gateway_requests_in_flight",
    "gateway_time_to_first_token_seconds", "gateway_time_per_output_token_seconds", "gateway_overhead_seconds",
    "gateway_queue_wait_seconds", "gateway_tokens", "gateway_team_tokens", "gateway_cost_usd",
    "gateway_cache_savings_usd", "gateway_prompt_cache_requests", "gateway_prompt_cache_avoidable_miss_tokens",
    "gateway_affinity_decisions", "gateway_conversation_moves", "gateway_upstream_requests", "gateway_failovers",
    "gateway_stream_interruptions", "gateway_throttled", "gateway_store_operation_duration_seconds",
    "gateway_store_errors", "gateway_event_loop_lag_seconds", "gateway_degraded", "gateway_default_priced_requests",
    "gateway_lacking_requests",
}  # fmt: skip


def fresh() -> dict[str, Metric]:
    totals = Totals()
    totals.replace(1, snapshot_of(0))
    return {metric.name: metric for metric in totals.collect()}


def test_every_kind_of_metric_is_named_and_explained():
    families = fresh()
    assert set(families) == NAMES
    assert all(metric.documentation.endswith(".") for metric in families.values())
    assert families["gateway_requests"].type == "counter"
    registry = CollectorRegistry(auto_describe=False)
    totals = Totals()
    totals.replace(1, snapshot_of(0))
    registry.register(totals)
    text = generate_latest(registry).decode()
    for name, metric in families.items():
        assert f"# TYPE {name}{'_total' if metric.type == 'counter' else ''} {metric.type}\n" in text


def test_what_may_be_counted_is_there_as_nought_before_it_is():
    known_labels = {
        name: [tuple(sample.labels.values()) for sample in metric.samples] for name, metric in fresh().items()
    }
    assert ("limited", "exhausted") in known_labels["gateway_failovers"]
    assert sorted(known_labels["gateway_stream_interruptions"]) == [
        ("client",),
        ("drain",),
        ("revoked",),
        ("timeout",),
        ("upstream",),
    ]
    assert ("caller", "budget_month") in known_labels["gateway_throttled"]
    assert ("gateway", "memory") in known_labels["gateway_throttled"]
    assert ("pinned",) in known_labels["gateway_affinity_decisions"]
    assert ("store",) in known_labels["gateway_degraded"]
    assert ("admit",) in known_labels["gateway_store_errors"]
    assert {phase for phase, *_ in known_labels["gateway_overhead_seconds"]} == {"admit", "choose", "relay", "total"}
    assert known_labels["gateway_event_loop_lag_seconds"]
    assert not known_labels["gateway_requests"]  # of teams and models nobody knows yet


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["request", "request", "snapshot", "end"]), st.integers(0, 5)),
    max_size=30,
)


@RUNS
@given(STEPS)
def test_over_any_lives_of_workers_no_total_ever_falls(steps):
    """Each worker counts tokens; what a snapshot held at the worker's end is kept, gauges count the living alone."""
    totals = Totals()
    live: dict[int, WorkerMetrics] = {}
    counted, told, flying = dict.fromkeys(range(3), 0), dict.fromkeys(range(3), 0), dict.fromkeys(range(3), 0)
    kept, before = 0, 0.0
    tokens = {"type": "output", "model": "claude-sonnet-4-5", "account": "team-a"}
    for number, step, amount in steps:
        of = live.setdefault(number, worker(number + 1))
        if step == "request":
            of.observe(record(usage=Usage(output=amount)), 0.0)
            counted[number] += amount
        elif step == "snapshot":
            totals.replace(number, of.snapshot())
            told[number], flying[number] = counted[number], number + 1
        else:
            totals.end(number)
            kept += told[number]
            counted[number] = told[number] = flying[number] = 0
            del live[number]
        samples = {
            (s.name, frozenset(s.labels.items())): s.value for metric in totals.collect() for s in metric.samples
        }
        now = samples.get(("gateway_tokens_total", frozenset(tokens.items())), 0.0)
        assert now == kept + sum(told.values())
        assert now >= before
        before = now
        running = ("gateway_requests_in_flight", frozenset({("endpoint", "messages")}))
        assert samples.get(running, 0.0) == sum(flying.values())
