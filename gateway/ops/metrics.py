"""Metrics: an ordinary registry in each worker, and one picture of all of them at the supervisor.

A worker's numbers travel as snapshots; what a worker had counted when it ended is kept, so totals never fall. Labels
are bounded: models that the catalogue does not know are `other`, and no label ever holds a key, user, conversation or
request id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.ops.tallies import Counters, Histograms
from gateway.records import ITEMS, Finished

TTFT_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120)
DURATION_BUCKETS = (0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900)
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1)
QUEUE_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 100)
OTHER = "other"
METERED = ("messages", "chat")  # endpoints whose answers are tokens
_MAX_CHILDREN = 4096  # label combinations kept at hand

Update = Callable[[Finished, float], None]


class WorkerMetrics:
    """What one worker counts. `normal(model)` names a model for labels; `in_flight()` and `store_away()` are read
    at each snapshot."""

    def __init__(
        self, normal: Callable[[str], str], in_flight: Callable[[], int], store_away: Callable[[], bool]
    ) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=False)
        self._normal = normal
        self._models: dict[str, str] = {}
        self._updates: dict[tuple[str | int | bool, ...], Update] = {}
        self._upstream_children: dict[tuple[str, str, str], Callable[[], None]] = {}
        self._requests = Counters(
            "gateway_requests", "Requests by the status the client saw (499: it left before an answer).",
            ("endpoint", "model", "team", "code"), registry,
        )  # fmt: skip
        self._duration = Histograms(
            "gateway_request_duration_seconds", "From the request's head to the last byte of its answer.",
            ("endpoint", "model", "stream"), DURATION_BUCKETS, registry,
        )  # fmt: skip
        self._ttft = Histograms(
            "gateway_time_to_first_token_seconds", "From the request's head to the first byte of a 200 answer.",
            ("model",), TTFT_BUCKETS, registry,
        )  # fmt: skip
        self._overhead = Histograms(
            "gateway_overhead_seconds", "The gateway's own share of the time to the first byte of an answer.",
            ("phase",), OVERHEAD_BUCKETS, registry,
        )  # fmt: skip
        self._tokens = Counters(
            "gateway_tokens", "Tokens by price class; total input is the sum of all types but output.",
            ("type", "model", "account"), registry,
        )  # fmt: skip
        self._routes = Counters(
            "gateway_affinity_decisions", "How the account was found, as in the x-gateway-route header.",
            ("route",), registry,
        )  # fmt: skip
        self._upstream = Counters(
            "gateway_upstream_requests", "Exchanges with accounts by status, or by what went wrong before one came.",
            ("account", "model", "code"), registry,
        )  # fmt: skip
        self._unpriced = Counters(
            "gateway_default_priced_requests", "Answers of models whose price nobody knows, by model.",
            ("model",), registry,
        )  # fmt: skip
        self._moves = Counters(
            "gateway_conversation_moves", "Conversations bound to another workspace than before, by reason.",
            ("reason",), registry,
        )  # fmt: skip
        self._queued = Histograms(
            "gateway_queue_wait_seconds", "What requests waited for limits and slots, of those that did.",
            ("result",), QUEUE_BUCKETS, registry,
        )  # fmt: skip
        degraded = Gauge(
            "gateway_degraded", "Worker processes in a mode that is not normal.", ("mode",), registry=registry
        )
        degraded.labels("store").set_function(lambda: float(store_away()))
        gauge = Gauge("gateway_requests_in_flight", "Requests being served now.", registry=registry)
        gauge.set_function(lambda: float(in_flight()))

    def model(self, name: str) -> str:
        """The label of a model: its catalogue id, `other`, or "" for none."""
        label = self._models.get(name)
        if label is None:
            label = self._normal(name) if name else ""
            if len(self._models) < _MAX_CHILDREN:
                self._models[name] = label
        return label

    def forget_models(self) -> None:
        """The catalogue has changed: look names of models up again."""
        self._models.clear()
        self._updates.clear()
        self._upstream_children.clear()

    def moved(self, reason: str) -> None:
        """Count a conversation that was bound to another workspace."""
        self._moves.labels(reason).inc()

    def upstream_answered(self, account: str, model: str, code: str) -> None:
        """Count one exchange with an account."""
        key = (account, self.model(model), code)
        increment = self._upstream_children.get(key)
        if increment is None:
            increment = self._upstream_children[key] = self._upstream.labels(*key).inc
        increment()

    def observe(self, record: Finished, admit_time: float) -> None:
        """Count one finished request; `admit_time` is seconds spent on the store before it was sent."""
        key = (
            record.endpoint, self.model(record.model), record.team, record.status, record.stream, record.account,
            record.route,
        )  # fmt: skip
        update = self._updates.get(key)
        if update is None:
            if len(self._updates) >= _MAX_CHILDREN:
                self._updates.clear()
            update = self._updates[key] = self._update_for(record, key[1])
        update(record, admit_time)
        if record.priced_by_default:
            self._unpriced.labels(key[1]).inc()
        if record.queued:
            self._queued.labels("served" if record.status == 200 else "refused").observe(record.queued)

    def _update_for(self, record: Finished, model: str | int | bool) -> Update:
        """One function with all label children of this kind of request at hand: they cost more to find than to use."""
        if record.endpoint == ITEMS:
            return self._token_update(record, model)
        requests = self._requests.labels(record.endpoint, model, record.team, str(record.status or 499)).inc
        duration = self._duration.labels(record.endpoint, model, "true" if record.stream else "false").observe
        admit, total = self._overhead.labels("admit").observe, self._overhead.labels("total").observe
        route = self._routes.labels(record.route).inc
        if record.status != 200 or not record.attempts or record.endpoint not in METERED:

            def count_only(record: Finished, admit_time: float) -> None:
                requests()
                route()
                duration(record.duration)

            return count_only

        ttft = self._ttft.labels(model).observe
        tokens = self._token_update(record, model)

        def count_answer(record: Finished, admit_time: float) -> None:
            requests()
            route()
            duration(record.duration)
            ttft(record.ttft)
            admit(admit_time)
            total(record.overhead)
            tokens(record, admit_time)

        return count_answer

    def _token_update(self, record: Finished, model: str | int | bool) -> Update:
        """Counts the tokens of an answer."""
        tokens = {
            kind: self._tokens.labels(kind, model, record.account).inc
            for kind in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
        }
        read, write_5m, write_1h = tokens["cache_read"], tokens["cache_write_5m"], tokens["cache_write_1h"]
        fresh, output = tokens["input"], tokens["output"]

        def count_tokens(record: Finished, admit_time: float) -> None:
            usage = record.usage
            fresh(usage.input)
            output(usage.output)
            if usage.cache_read:
                read(usage.cache_read)
            if usage.cache_write_5m:
                write_5m(usage.cache_write_5m)
            if usage.cache_write_1h:
                write_1h(usage.cache_write_1h)

        return count_tokens

    def snapshot(self) -> bytes:
        """All numbers of this worker, for `Totals.replace`."""
        return _encode(list(families(self.registry.collect())))


class Family(msgspec.Struct, array_like=True):
    """One metric family; `samples` are (name, label names and values in order, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, tuple[tuple[str, str], ...], float]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Family]).decode


def families(metrics: Iterable[Metric]) -> Iterator[Family]:
    """Collected metrics as plain data; creation timestamps, which cannot be added up, are left out."""
    for metric in metrics:
        samples = [
            (sample.name, tuple(sample.labels.items()), sample.value)
            for sample in metric.samples
            if not sample.name.endswith("_created")
        ]
        yield Family(metric.name, metric.type, metric.documentation, samples)


class Totals(Collector):
    """The sum over all workers, those that have ended included (but for gauges, which end with them)."""

    def __init__(self) -> None:
        self._live: dict[int, list[Family]] = {}
        self._ended: dict[str, Family] = {}

    def replace(self, worker: int, snapshot: bytes) -> None:
        """The latest numbers of a worker."""
        self._live[worker] = _decode(snapshot)

    def end(self, worker: int) -> None:
        """A worker has ended: keep what it had counted."""
        last = self._live.pop(worker, [])
        kept = [family if family.kind != "gauge" else Family(family.name, "gauge", family.help, []) for family in last]
        self._ended = _sum([list(self._ended.values()), kept])

    def collect(self) -> Iterator[Metric]:
        for family in _sum([list(self._ended.values()), *self._live.values()]).values():
            metric = Metric(family.name, family.help, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def _sum(parts: list[list[Family]]) -> dict[str, Family]:
    sums: dict[str, tuple[Family, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
    for part in parts:
        for family in part:
            _, values = sums.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                values[name, labels] = values.get((name, labels), 0.0) + value
    return {
        name: Family(name, family.kind, family.help, [(*key, value) for key, value in values.items()])
        for name, (family, values) in sums.items()
    }
