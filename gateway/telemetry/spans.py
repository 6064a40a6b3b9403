"""Spans: one of each finished request, by OpenTelemetry's conventions for generative AI, sent by OTLP over HTTP.

A thread makes and sends them, so that neither a slow collector nor a missing one is noticed by requests: what it cannot
take in time is counted and dropped. Needs the extra otel. It knows nothing of requests but their records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

import gateway
from gateway import log
from gateway.records import Finished

MAX_QUEUED = 8192  # records that wait for their turn
BATCH = 512  # spans sent at once
PAUSE = 1.0  # seconds between looks at the queue
TIMEOUT = 5.0  # seconds for the collector, repetitions included
CLOSING = 2.0  # seconds for what is left at the end
COMPLAIN_EVERY = 60.0  # seconds
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("gateway", gateway.__version__)
_NANO = 1_000_000_000
# Endpoint -> gen_ai.operation.name. What is not here is no call of a model, and a span of the kind that servers have.
OPERATIONS = {"messages": "chat", "chat": "chat", "complete": "text_completion", "count_tokens": "count_tokens"}
# Attribute -> what a record says of it; "", False and 0 are left out.
ATTRIBUTES: tuple[tuple[str, Callable[[Finished], str | int | float | bool]], ...] = (
    ("gen_ai.request.model", lambda record: record.model),
    ("gen_ai.request.stream", lambda record: record.stream),
    ("gen_ai.response.model", lambda record: record.answered_model),
    ("gen_ai.conversation.id", lambda record: record.conversation),  # the digest, never the client's id
    ("gateway.request_id", lambda record: record.request_id),
    ("gateway.upstream_request_id", lambda record: record.upstream_request_id),
    ("gateway.caller", lambda record: record.caller),
    ("gateway.team", lambda record: record.team),
    ("gateway.account", lambda record: record.account),
    ("gateway.route", lambda record: record.route),
    ("gateway.reason", lambda record: record.reason),
    ("gateway.attempts", lambda record: record.attempts),
    ("gateway.failover", lambda record: record.failover),
    ("gateway.outcome", lambda record: record.outcome),
    ("gateway.queued", lambda record: record.queued),
    ("gateway.overhead", lambda record: record.overhead),
    ("gateway.cost_usd", lambda record: record.cost_nano_usd / _NANO),
    ("gateway.cache_savings_usd", lambda record: record.savings_nano_usd / _NANO),
    ("http.request.method", lambda record: record.method),
    ("http.response.status_code", lambda record: record.status),
)


class Spans:
    """Sends to the collector at `endpoint`, with these further headers. `instance` names this process."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], instance: str) -> None:
        url = endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces"
        self._said = _Said()
        self._exporter = OTLPSpanExporter(url, headers=headers, timeout=TIMEOUT)
        self._resource = _resource(instance)
        self._records: deque[Finished] = deque()
        self._lost = 0
        self._complain_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def finished(self, record: Finished) -> None:
        """Queue the span of this record."""
        if len(self._records) < MAX_QUEUED:
            self._records.append(record)
        else:
            self._lost += 1

    def close(self) -> None:
        """Send what is queued, for at most CLOSING seconds."""
        self._stop.set()
        self._thread.join(CLOSING)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while not self._stop.wait(PAUSE):
            self._send()
        self._send()

    def _send(self) -> None:
        records = self._records
        while records:
            batch = [records.popleft() for _ in range(min(BATCH, len(records)))]
            try:
                sent = self._exporter.export([span_of(record, self._resource) for record in batch])
            except Exception as error:  # whatever it was, the thread lives on
                self._said.last, sent = repr(error), SpanExportResult.FAILURE
            if sent is not SpanExportResult.SUCCESS:
                self._lost += len(batch)
                break  # the others wait: the collector may be back with the next look
        if self._lost and time.monotonic() >= self._complain_at:
            self._complain_at = time.monotonic() + COMPLAIN_EVERY
            lost, self._lost = self._lost, 0
            log.warning("spans lost", lost=lost, reason=self._said.last)


class _Said(logging.Handler):
    """What the exporter said last, which has a line for each failure and each repetition: ours is one a minute."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        said = logging.getLogger("opentelemetry")
        said.handlers, said.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()[:300]


def _resource(instance: str) -> Resource:
    """Who sends; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say it better."""
    own = {"service.name": "gateway", "service.version": gateway.__version__, "service.instance.id": instance}
    return Resource(own).merge(OTELResourceDetector().detect())


def span_of(record: Finished, resource: Resource) -> ReadableSpan:
    """The span of a record that has one."""
    operation = OPERATIONS.get(record.endpoint)
    trace = int(record.trace_id, 16)
    parent = SpanContext(trace, int(record.parent_id, 16), True, _SAMPLED) if record.parent_id else None
    start = round(record.at * 1e6) * 1000  # whole microseconds: it is a float of some 0.2
    ok = record.outcome == "ok" and record.status < 400
    return ReadableSpan(
        f"{operation} {record.model}".rstrip() if operation else f"{record.method} {record.endpoint}",
        SpanContext(trace, int(record.span_id, 16), False, _SAMPLED),
        parent,
        resource,
        _attributes(record, operation),
        kind=SpanKind.CLIENT if operation else SpanKind.SERVER,
        status=Status(StatusCode.UNSET if ok else StatusCode.ERROR),
        start_time=start,
        end_time=start + round(record.duration * 1e6) * 1000,
        instrumentation_scope=_SCOPE,
    )


# As the conventions for generative AI call them.
_PROVIDERS = {"bedrock": "aws.bedrock", "vertex": "gcp.vertex_ai", "foundry": "azure.ai.inference"}


def _attributes(record: Finished, operation: str | None) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {}
    if operation:
        found["gen_ai.operation.name"] = operation
        found["gen_ai.provider.name"] = _PROVIDERS.get(record.provider, "anthropic")
    for name, read in ATTRIBUTES:
        value = read(record)
        if value:
            found[name] = value
    usage = record.usage
    if usage.output or usage.total_input:  # here input includes what caches had, unlike Anthropic's input_tokens
        found["gen_ai.usage.input_tokens"] = usage.total_input
        found["gen_ai.usage.output_tokens"] = usage.output
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cache_read
        found["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_write_5m + usage.cache_write_1h
    if record.stream and record.ttft:
        found["gen_ai.response.time_to_first_chunk"] = record.ttft
    if record.outcome != "ok" or record.status >= 400:
        found["error.type"] = record.cause or str(record.status)
    return found
