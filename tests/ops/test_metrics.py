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
from prometheus_client.parser import text_string_to_metric_families

from gateway.data import load_catalogue
from gateway.ops import metrics
from gateway.ops.metrics import OTHER, Totals, WorkerMetrics
from gateway.records import Finished, Usage

CATALOGUE = load_catalogue()
RUNS = settings(deadline=None, max_examples=40)
NONE: dict[str, Any] = {}


def known(model: str) -> str:
    found = CATALOGUE.find(model)
    return found.id if found is not None else OTHER


def worker(in_flight: int = 0, store_away: bool = False) -> WorkerMetrics:
    return WorkerMetrics(known, lambda: in_flight, lambda: store_away)


def record(**fields: Any) -> Finished:
    usual = Finished(
        request_id="req_1", at=1.0, endpoint="messages", status=200, model="claude-sonnet-4-5", team="research",
        stream=True, account="team-a", route="bound", attempts=1, usage=Usage(input=3, output=5), duration=0.3,
        ttft=0.2, overhead=0.001,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **fields)


def value(of: WorkerMetrics, name: str, **labels: str) -> float | None:
    return of.registry.get_sample_value(name, labels)


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
    of = WorkerMetrics(known, lambda: 0, lambda: away)
    assert value(of, "gateway_degraded", mode="store") == 0
    away = True
    assert value(of, "gateway_degraded", mode="store") == 1
    away = False
    assert value(of, "gateway_degraded", mode="store") == 0


@pytest.mark.parametrize(
    "fields", [{"status": 400}, {"attempts": 0}, {"endpoint": "count_tokens"}, {"endpoint": "models", "model": ""}]
)
def test_only_answers_of_accounts_to_messages_have_tokens_and_a_first_one(fields):
    of = worker()
    of.observe(record(**fields), 0.0)
    samples = [sample for metric in of.registry.collect() for sample in metric.samples]
    assert not [
        sample for sample in samples if sample.name.startswith(("gateway_tokens_total", "gateway_time_to_first"))
    ]
    assert sum(sample.value for sample in samples if sample.name == "gateway_requests_total") == 1


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
        cached.upstream_answered(each.account, each.model, str(each.status))
    monkeypatch.setattr(metrics, "_MAX_CHILDREN", 0)
    uncached = worker()
    for each in records:
        uncached.observe(each, 0.001)
        uncached.upstream_answered(each.account, each.model, str(each.status))
    assert msgspec.msgpack.decode(cached.snapshot()) == msgspec.msgpack.decode(uncached.snapshot())


# Bounds.


def series(of: WorkerMetrics) -> int:
    return sum(len(metric.samples) for metric in of.registry.collect())


def test_unknown_models_are_other_and_known_ones_their_catalogue_id():
    of = worker()
    assert of.model("claude-opus-4-5-20251101") == "claude-opus-4-5" == of.model("claude-opus-4-5")
    assert of.model("gpt-7") == OTHER == of.model("gpt-8")
    assert of.model("") == ""
    of.observe(record(model="gpt-7"), 0.0)
    of.observe(record(model="gpt-8"), 0.0)
    assert value(of, "gateway_requests_total", endpoint="messages", model=OTHER, team="research", code="200") == 2


def test_five_thousand_models_make_no_more_series_than_one_and_keep_little_at_hand():
    of = worker()

    def meet(model: str) -> None:
        of.observe(record(model=model), 0.0)
        of.observe(record(model=model, status=404, attempts=0), 0.0)
        of.upstream_answered("team-a", model, "404")

    meet("unknown")
    meet("claude-opus-4-5")
    before = series(of)
    for number in range(5000):
        meet(f"model-{number}")
        meet(f"claude-opus-4-5-20{number % 1000000:06d}")
    assert series(of) == before
    assert len(of._models) <= metrics._MAX_CHILDREN
    assert len(of._updates) <= 8
    assert len(of._upstream_children) <= 4


def test_nothing_of_a_request_but_its_kind_becomes_a_label():
    of = worker()
    private = ("request_id", "caller", "conversation", "upstream_request_id", "trace_id", "cause", "answered_model")
    of.observe(record(**dict.fromkeys(private, "canary")), 0.0)
    assert b"canary" not in of.snapshot()


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
    assert total(totals, "gateway_requests_in_flight") == 5


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
    assert total(totals, "gateway_requests_in_flight") == 4


def test_counters_of_ended_workers_stay_and_their_gauges_go():
    totals = Totals()
    totals.replace(1, snapshot_of(2, record(), record()))
    totals.replace(2, snapshot_of(3, record()))
    totals.end(1)
    totals.end(1)
    totals.end(77)
    assert total(totals, "gateway_requests_total", **LABELS) == 3
    assert total(totals, "gateway_requests_in_flight") == 3
    totals.replace(1, snapshot_of(1, record()))  # its successor starts from nothing
    assert total(totals, "gateway_requests_total", **LABELS) == 4
    totals.end(1)
    totals.end(2)
    assert total(totals, "gateway_requests_total", **LABELS) == 4
    assert total(totals, "gateway_requests_in_flight") in (None, 0)
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
        assert [bound for bound, _ in buckets] == [*metrics.DURATION_BUCKETS, float("inf")]
        assert [number for _, number in buckets] == sorted(number for _, number in buckets)
        assert buckets[-1][1] == count == samples["gateway_request_duration_seconds_count", labels]
        assert samples["gateway_request_duration_seconds_sum", labels] == pytest.approx(summed)


def test_every_kind_of_metric_is_named_and_explained():
    totals = Totals()
    totals.replace(1, snapshot_of(0))
    families = {metric.name: metric for metric in totals.collect()}
    assert set(families) == {
        "gateway_requests", "gateway_request_duration_seconds", "gateway_time_to_first_token_seconds",
        "gateway_overhead_seconds", "gateway_tokens", "gateway_affinity_decisions", "gateway_upstream_requests",
        "gateway_requests_in_flight", "gateway_conversation_moves", "gateway_queue_wait_seconds", "gateway_degraded",
            "gateway_default_priced_requests",
    }  # fmt: skip
    assert all(metric.documentation.endswith(".") for metric in families.values())
    assert families["gateway_requests"].type == "counter"
    assert not [sample for metric in families.values() for sample in metric.samples if sample.name.endswith("_created")]


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
        assert samples.get(("gateway_requests_in_flight", frozenset()), 0.0) == sum(flying.values())
