"""Traces through a real gateway: the client's span, the gateway's, and what the upstream is told."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.rig import (
    MODEL,
    Answer,
    Gateway,
    Headers,
    Simulator,
    Wire,
    accounts_of,
    ask,
    at_once,
    conversation,
    eventually,
    message,
    request,
)
from tests.telemetry.test_tracing import Collector

Launch = Callable[..., Gateway]
SPAN = "b7ad6b7169203331"
TOKEN = "token-of-the-collector"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def traced(collector: Collector, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    tracing = {"endpoint": collector.url, "headers": {"authorization": f"Bearer {TOKEN}"}}
    config = {"accounts": accounts_of(simulator, 3), "tracing": tracing, "log": {"level": "debug"}}
    gateway = Gateway(tmp_path_factory.mktemp("traced"), config).start()
    yield gateway
    gateway.stop()


def values(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def span_of(collector: Collector, answer: Answer) -> Any:
    """The one span of a request."""

    def found() -> list[Any]:
        return [span for span in collector.spans() if values(span)["gateway.request_id"] == answer.request_id]

    await eventually(found, "the span")
    [span] = found()
    return span


async def asked(gateway: Gateway, sim: Simulator, headers: Headers, **options: Any) -> tuple[Answer, dict[str, str]]:
    """The answer, and the headers that the upstream got with the request."""
    since = sim.mark()
    answer = await ask(gateway, message(**options), headers)
    assert answer.status == 200
    [record] = sim.finished(since)
    return answer, {name.lower(): value for name, value in record["headers"]}


async def test_the_gateways_span_stands_between_the_clients_and_the_upstreams(
    traced: Gateway, collector: Collector, sim: Simulator
):
    trace = uuid.uuid4().hex
    headers = {**conversation(), "traceparent": f"00-{trace}-{SPAN}-01", "tracestate": "vendor=1"}
    answer, got = await asked(traced, sim, headers, stream=True)
    span = await span_of(collector, answer)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, SPAN)
    assert got["traceparent"] == f"00-{trace}-{span.span_id.hex()}-01"
    assert got["tracestate"] == "vendor=1"
    record = traced.record(answer.request_id)
    assert (record["trace_id"], record["span_id"], record["parent_id"]) == (trace, span.span_id.hex(), SPAN)
    found = values(span)
    assert span.name == f"chat {MODEL}" and span.kind == 3  # client
    assert found["gateway.account"] == answer.account and found["gateway.route"] == "new"
    assert found["gen_ai.usage.input_tokens"] == record["usage"]["input"]
    assert found["gen_ai.usage.output_tokens"] == record["usage"]["output"]
    assert found["gen_ai.response.time_to_first_chunk"] == pytest.approx(record["ttft"])
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(record["duration"] * 1e9, abs=2000)
    assert {headers["authorization"] for headers in collector.headers} == {f"Bearer {TOKEN}"}


async def test_a_trace_begins_here_where_the_client_has_none(traced: Gateway, collector: Collector, sim: Simulator):
    answer, got = await asked(traced, sim, conversation())
    span = await span_of(collector, answer)
    assert got["traceparent"] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    assert span.parent_span_id == b""


async def test_what_the_client_does_not_want_recorded_is_not(traced: Gateway, collector: Collector, sim: Simulator):
    given = f"00-{uuid.uuid4().hex}-{SPAN}-00"
    _, got = await asked(traced, sim, {"traceparent": given})
    assert got["traceparent"] == given
    answer, _ = await asked(traced, sim, {})
    await span_of(collector, answer)  # later than that
    assert given[3:35] not in {span.trace_id.hex() for span in collector.spans()}


@pytest.mark.parametrize("given", ["nonsense", "00-" + "0" * 32 + f"-{SPAN}-01"])
async def test_a_broken_trace_ends_at_the_gateway(given: str, traced: Gateway, collector: Collector, sim: Simulator):
    answer, got = await asked(traced, sim, {"traceparent": given, "tracestate": "vendor=1"})
    span = await span_of(collector, answer)
    assert got["traceparent"] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    assert "tracestate" not in got and span.parent_span_id == b""


async def test_requests_that_failed_or_were_left_have_their_span_too(
    traced: Gateway, collector: Collector, sim: Simulator
):
    refused = await ask(traced, message(), key="sk-wrong")
    broken = await ask(traced, message(stream=True), fault="error_mid_stream=5")
    listed = await ask(traced, path="/v1/models")
    async with Wire.open(traced) as wire:
        await wire.send(request(message(stream=True), fault="stall=3"))
        left = await wire.head()
        await wire.until_events(2)
    errors = [(await span_of(collector, answer)) for answer in (refused, broken, left)]
    assert [values(span)["error.type"] for span in errors] == ["401", "upstream", "client"]
    assert {span.status.code for span in errors} == {2}  # error
    span = await span_of(collector, listed)
    assert (span.name, span.kind, span.status.code) == ("GET models", 2, 0)  # server


async def test_nothing_that_is_traced_holds_words_keys_or_conversation_ids(
    traced: Gateway, collector: Collector, sim: Simulator
):
    body = message("canary-text", metadata={"user_id": "canary-user"})
    answer = await ask(traced, body, {"X-Conversation-Id": "canary-id", "user-agent": "canary-agent"})
    span = await span_of(collector, answer)
    assert values(span)["gen_ai.conversation.id"] == traced.record(answer.request_id)["conversation"]
    everything = "".join(map(str, collector.requests)) + traced.text()
    assert "canary" not in everything and "sk-" not in everything and TOKEN not in everything


async def test_without_tracing_the_clients_trace_goes_on_and_one_begins_where_there_is_none(
    gateway: Gateway, sim: Simulator
):
    given = f"00-{uuid.uuid4().hex}-{SPAN}-01"
    answer, got = await asked(gateway, sim, {"traceparent": given})
    assert got["traceparent"] == given
    record = gateway.record(answer.request_id)
    assert record["trace_id"] == given[3:35] and "span_id" not in record
    answer, got = await asked(gateway, sim, {})
    assert got["traceparent"].startswith("00-") and got["traceparent"].endswith("-00")
    assert gateway.record(answer.request_id)["trace_id"] == got["traceparent"][3:35]


async def test_a_collector_that_hangs_costs_no_request_anything_and_no_clean_end(
    launch: Launch, collector: Collector, sim: Simulator
):
    gateway = launch(accounts=accounts_of(sim, 2), tracing={"endpoint": collector.url})
    collector.open.clear()
    try:
        answers = await at_once(ask(gateway, message(), conversation()) for _ in range(100))
        assert {answer.status for answer in answers} == {200}
        gateway.stop()
    finally:
        collector.open.set()
