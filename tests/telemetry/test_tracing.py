"""Traces and spans: what an upstream is told, what a collector gets, and that no request notices either."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind, StatusCode

from gateway.log import captured
from gateway.records import Finished, Usage
from gateway.telemetry import spans
from gateway.telemetry.spans import Spans, span_of
from gateway.telemetry.tracing import Trace, Tracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01".encode()
UNSAMPLED = f"00-{TRACE}-{SPAN}-00".encode()
RECORD = Finished(
    "req_1", 1_800_000_000.25, "messages", method="POST", status=200, caller="alice", team="research",
    model="claude-sonnet-4-5", answered_model="claude-sonnet-4-5-20250929", stream=True, account="team-a",
    route="bound", attempts=1, conversation="0123456789ab", upstream_request_id="req_up", trace_id=TRACE,
    span_id="00f067aa0ba902b7", parent_id=SPAN, cost_nano_usd=1_500_000_000,
    usage=Usage(input=10, cache_read=900, cache_write_5m=40, cache_write_1h=50, output=7), duration=1.5, ttft=0.25,
)  # fmt: skip


class Taken:
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Finished] = []
        self.closed = False

    def finished(self, record: Finished) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed = True


def proper(header: bytes | None) -> re.Match[str]:
    assert header is not None
    found = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])", header.decode())
    assert found is not None and int(found[1], 16) and int(found[2], 16)
    return found


# Trace context.


@pytest.mark.parametrize("given", [GIVEN, UNSAMPLED, b"01-" + GIVEN[3:] + b"-of-tomorrow"])
def test_without_spans_the_clients_trace_goes_on_as_it_came(given):
    assert Tracing(None).begin(given) == Trace(TRACE)


@pytest.mark.parametrize("exporter", [None, Taken()])
def test_a_trace_begins_where_the_client_has_none(exporter):
    tracing = Tracing(exporter)
    traces = [tracing.begin(b"") for _ in range(100)]
    for trace in traces:
        found = proper(trace.header)
        assert found[1] == trace.trace_id and not trace.parent_id
        assert (found[2], found[3]) == ((trace.span_id, "01") if exporter else (found[2], "00"))
        assert bool(trace.span_id) == (exporter is not None)
    assert len({trace.header for trace in traces}) == 100


def test_a_span_of_ours_is_the_clients_child_and_the_upstreams_parent():
    trace = Tracing(Taken()).begin(GIVEN)
    found = proper(trace.header)
    assert (found[1], found[2], found[3]) == (TRACE, trace.span_id, "01")
    assert (trace.trace_id, trace.parent_id, trace.broken) == (TRACE, SPAN, False)
    assert trace.span_id != SPAN


def test_what_the_client_does_not_sample_is_not_sampled_here():
    assert Tracing(Taken()).begin(UNSAMPLED) == Trace(TRACE)


@pytest.mark.parametrize(
    "given",
    [
        b"?", b"00", GIVEN + b"-more", GIVEN + b" ", GIVEN.upper(), b"ff" + GIVEN[2:],
        b"00-" + b"0" * 32 + b"-" + SPAN.encode() + b"-01", b"00-" + TRACE.encode() + b"-" + b"0" * 16 + b"-01",
        GIVEN[:-1], GIVEN.replace(b"-", b"_"), GIVEN + b"\xff", b"00-" + b"g" * 32 + GIVEN[35:],
    ],
)  # fmt: skip
@pytest.mark.parametrize("exporter", [None, Taken()])
def test_a_header_that_is_no_traceparent_begins_a_trace(given, exporter):
    trace = Tracing(exporter).begin(given)
    proper(trace.header)
    assert trace.broken and trace.trace_id != TRACE and not trace.parent_id


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_of_traces_that_begin_here_a_share_is_sampled(share):
    tracing = Tracing(Taken(), share)
    sampled = [trace for trace in (tracing.begin(b"") for _ in range(4000)) if trace.span_id]
    assert len(sampled) / 4000 == pytest.approx(share, abs=0.05)
    assert tracing.begin(GIVEN).span_id  # its client has chosen


def test_only_requests_that_have_a_span_are_exported():
    exporter = Taken()
    tracing = Tracing(exporter)
    tracing.finished(RECORD)
    tracing.finished(msgspec.structs.replace(RECORD, span_id=""))
    tracing.close()
    assert exporter.records == [RECORD] and exporter.closed
    Tracing(None).finished(RECORD)
    Tracing(None).close()


# Spans.


def attributes(**changes: Any) -> dict[str, Any]:
    return dict(span_of(msgspec.structs.replace(RECORD, **changes), Resource({})).attributes or {})


@pytest.mark.parametrize(
    ("provider", "name"),
    [("bedrock", "aws.bedrock"), ("vertex", "gcp.vertex_ai"), ("foundry", "azure.ai.inference"), ("", "anthropic"),
     ("aws-platform", "anthropic")],
)  # fmt: skip
def test_a_span_names_the_provider_as_the_conventions_do(provider: str, name: str):
    assert attributes(provider=provider)["gen_ai.provider.name"] == name


def test_a_span_says_what_the_conventions_for_generative_ai_say():
    span = span_of(RECORD, Resource({}))
    assert (span.name, span.kind) == ("chat claude-sonnet-4-5", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    assert (span.start_time, span.end_time) == (1_800_000_000_250_000_000, 1_800_000_001_750_000_000)
    assert span.context is not None and span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}") == (TRACE, RECORD.span_id)
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-sonnet-4-5", "gen_ai.request.stream": True,
        "gen_ai.response.model": "claude-sonnet-4-5-20250929", "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.conversation.id": "0123456789ab", "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 900, "gen_ai.usage.cache_creation.input_tokens": 90,
        "gateway.request_id": "req_1", "gateway.upstream_request_id": "req_up", "gateway.caller": "alice",
        "gateway.team": "research", "gateway.account": "team-a", "gateway.route": "bound", "gateway.attempts": 1,
        "gateway.outcome": "ok", "gateway.cost_usd": 1.5, "http.request.method": "POST",
        "http.response.status_code": 200,
    }  # fmt: skip


def test_input_tokens_include_cached_ones_which_anthropics_do_not():
    """Converted once: reads and writes are added to what Anthropic calls input_tokens, and stand beside it as well."""
    found = attributes(usage=Usage(input=10, cache_read=900, cache_write_5m=40, cache_write_1h=50, output=7))
    assert found["gen_ai.usage.input_tokens"] == 10 + 900 + 40 + 50
    assert attributes(usage=Usage(input=10, output=7))["gen_ai.usage.input_tokens"] == 10
    assert "gen_ai.usage.input_tokens" not in attributes(usage=Usage())


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"status": 429, "outcome": "error"}, "429"),
        ({"status": 404}, "404"),
        ({"status": 200, "outcome": "interrupted", "cause": "upstream"}, "upstream"),
        ({"status": 0, "outcome": "client_gone", "cause": "client"}, "client"),
    ],
)
def test_what_went_wrong_is_an_error_of_its_kind(fields, kind):
    span = span_of(msgspec.structs.replace(RECORD, **fields), Resource({}))
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == kind


@pytest.mark.parametrize(
    ("endpoint", "name", "kind"),
    [
        ("messages", "chat claude-sonnet-4-5", SpanKind.CLIENT),
        ("chat", "chat claude-sonnet-4-5", SpanKind.CLIENT),
        ("complete", "text_completion claude-sonnet-4-5", SpanKind.CLIENT),
        ("count_tokens", "count_tokens claude-sonnet-4-5", SpanKind.CLIENT),
        ("files", "POST files", SpanKind.SERVER),
    ],
)
def test_a_span_is_named_for_what_was_asked(endpoint, name, kind):
    span = span_of(msgspec.structs.replace(RECORD, endpoint=endpoint), Resource({}))
    assert (span.name, span.kind) == (name, kind)
    assert ("gen_ai.operation.name" in (span.attributes or {})) == (kind is SpanKind.CLIENT)
    assert span_of(msgspec.structs.replace(RECORD, parent_id=""), Resource({})).parent is None


# A collector.


class Collector:
    """An OTLP collector on a port of its own. It answers with `status`, while `open` is set."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status = 200
        self.open = threading.Event()
        self.open.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.open.wait(20)
                if collector.status == 200:
                    collector.requests.append(ExportTraceServiceRequest.FromString(body))
                    collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                    collector.paths.append(self.path)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def spans(self) -> list[Any]:
        """All spans that came."""
        return [
            span for request in list(self.requests) for each in request.resource_spans
            for scope in each.scope_spans for span in scope.spans
        ]  # fmt: skip

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def exporter(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Spans]]:
    """Makes exporters that look at their queue all the time."""
    monkeypatch.setattr(spans, "PAUSE", 0.01)
    monkeypatch.setattr(spans, "TIMEOUT", 0.5)
    monkeypatch.setattr(spans, "CLOSING", 1.0)
    made: list[Spans] = []

    def make(url: str = collector.url, headers: dict[str, str] | None = None) -> Spans:
        made.append(Spans(url, headers or {}, "host-1"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_a_collector_gets_every_span_with_who_sends_it(collector, exporter):
    sending = exporter(headers={"Authorization": "Bearer of-the-collector"})
    for number in range(1500):
        sending.finished(msgspec.structs.replace(RECORD, request_id=f"req_{number}", span_id=f"{number + 1:016x}"))
    until(lambda: len(collector.spans()) == 1500, "all spans")
    found = collector.spans()
    assert {int.from_bytes(span.span_id, "big") for span in found} == set(range(1, 1501))
    assert {(span.name, span.kind) for span in found} == {("chat claude-sonnet-4-5", 3)}  # 3: client
    assert found[0].parent_span_id.hex() == SPAN and found[0].trace_id.hex() == TRACE
    values = {each.key: each.value for each in found[0].attributes}
    assert values["gen_ai.usage.input_tokens"].int_value == 1000
    resource = {
        each.key: each.value.string_value for each in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert resource["service.name"] == "gateway" and resource["service.instance.id"] == "host-1"
    assert set(collector.paths) == {"/v1/traces"}
    assert {headers["authorization"] for headers in collector.headers} == {"Bearer of-the-collector"}


def test_the_environment_names_the_service(collector, exporter, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-gateway")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
    exporter(f"{collector.url}/v1/traces").finished(RECORD)
    until(collector.spans, "the span")
    resource = {
        each.key: each.value.string_value for each in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert resource["service.name"] == "our-gateway" and resource["deployment.environment.name"] == "staging"
    assert collector.paths == ["/v1/traces"]


def test_closing_sends_what_is_queued(collector, monkeypatch):
    monkeypatch.setattr(spans, "PAUSE", 60)
    sending = Spans(collector.url, {}, "host-1")
    for _ in range(700):
        sending.finished(RECORD)
    sending.close()
    assert len(collector.spans()) == 700


def test_a_collector_that_does_not_answer_holds_up_nobody_and_costs_bounded_memory(collector, exporter, monkeypatch):
    monkeypatch.setattr(spans, "MAX_QUEUED", 100)
    collector.open.clear()
    sending = exporter()
    for _ in range(1000):
        sending.finished(RECORD)  # returns at once, or this test never ends
    assert len(sending._records) <= 100
    with captured() as lines:
        collector.open.set()
        until(lambda: lines, "the line about what was lost")
    assert lines[0]["event"] == "spans lost" and 500 < lines[0]["lost"] < 1000
    until(lambda: len(collector.spans()) + lines[0]["lost"] == 1000, "all others")


@pytest.mark.parametrize("way", ["refuses", "is away"])
def test_a_collector_that_refuses_or_is_away_is_complained_of_once_and_asked_again(way, collector, exporter):
    with captured() as lines:
        if way == "refuses":
            collector.status = 403
            sending = exporter()
        else:
            sending = exporter("http://127.0.0.1:9", {"authorization": "Bearer canary"})
        for _ in range(3):
            sending.finished(RECORD)
            until(lambda: not sending._records, "the look at the queue")
        until(lambda: lines, "the complaint")
    assert len(lines) == 1 and lines[0]["log_level"] == "warning"
    assert lines[0]["reason"] and "canary" not in str(lines)
    if way == "refuses":
        collector.status = 200
        sending.finished(RECORD)
        until(collector.spans, "the span after it")
    assert sending._thread.is_alive()
