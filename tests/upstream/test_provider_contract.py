"""What every provider keeps to, whatever its wire looks like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.routing.outcomes import Outcome
from gateway.core.wire.peek import peek
from gateway.upstream.credential import NotReady
from gateway.upstream.provider import Call, Provider
from gateway.upstream.providers import PROVIDERS
from gateway.worker.endpoints import TABLE
from tests.upstream.samples import FETCHED, KEYS, SAMPLES, SECRET, opened

MODEL = "claude-haiku-4-5-20251001"
LINES = [
    b"accept-encoding: identity\r\n", b"content-type: application/json\r\n", b"anthropic-version: 2023-06-01\r\n",
    b"user-agent: a\r\n",
]  # fmt: skip
TOKEN = KEYS.session_token
ENDPOINTS = sorted({row.name for rows in TABLE.values() for row in rows} | {"other"})
ERROR_BODIES = [
    None,
    b"",
    b"<html>no JSON</html>",
    b'{"message":"arn:aws:bedrock:us-east-1:123456789012:x"}',
    b'[{"error":{"code":429,"message":"projects/p","status":"RESOURCE_EXHAUSTED"}}]',
    json.dumps({"type": "error", "error": {"type": "api_error", "message": f"with {SECRET} or {TOKEN}"}}).encode(),
]


@pytest.fixture(params=sorted(SAMPLES))
def provider(request: pytest.FixtureRequest) -> Provider:
    return opened(request.param)


def message(**more: Any) -> Call:
    body = json.dumps({"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **more})
    peeked = peek(body.encode())
    return Call(b"POST", b"/v1/messages", [*LINES], peeked.body, MODEL, peeked.stream, endpoint="messages", peek=peeked)


def test_each_row_has_a_sample():
    assert {name.partition(" ")[0] for name in SAMPLES} == set(PROVIDERS)


def test_a_message_goes_out_with_the_credential_once_and_leaves_the_call_as_it_was(provider: Provider):
    call = message(stream=True)
    before = (call.method, call.path, [*call.lines], call.body)
    sent = provider.prepare(call)
    again = provider.prepare(call)
    assert (call.method, call.path, call.lines, call.body) == before
    assert (sent.method, sent.path, sent.body) == (again.method, again.path, again.body)
    assert sent.method == b"POST" and sent.path.startswith(b"/")
    assert sent.headers.endswith(b"\r\n") and b"\r\n\r\n" not in sent.headers
    names = [line.partition(b":")[0] for line in sent.headers.splitlines()]
    assert len({*names} & {b"x-api-key", b"api-key", b"authorization"}) == 1
    assert len(names) == len(set(names)), "no header stands twice"
    assert not {*names} & {b"host", b"content-length", b"connection", b"transfer-encoding"}
    for line in (b"user-agent: a", b"accept-encoding: identity", b"content-type: application/json"):
        assert line in sent.headers.splitlines()


@pytest.mark.parametrize("name", FETCHED)
def test_without_a_credential_nothing_is_written(name: str):
    with pytest.raises(NotReady):
        opened(name, FETCHED[name]).prepare(message())


def test_it_serves_messages_and_says_of_every_endpoint_whether_it_does(provider: Provider):
    assert provider.serves("messages", MODEL)
    served = {name for name in ENDPOINTS if provider.serves(name, MODEL)}
    assert provider.complete == (served == set(ENDPOINTS))
    assert all(isinstance(provider.serves(name, ""), bool) for name in ENDPOINTS)


@pytest.mark.parametrize("body", ERROR_BODIES)
@pytest.mark.parametrize("status", [300, 400, 401, 402, 403, 404, 405, 408, 413, 424, 429, 500, 502, 503, 504, 529])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_error_is_a_good_answer_or_shows_what_is_the_account_s(name: str, status: int, body: bytes | None):
    provider = opened(name)
    found = provider.refusal(status, [(b"content-type", b"application/json")], body, "req_1")
    assert found.outcome is not Outcome.SERVED
    assert 300 <= found.status < 600
    for secret in SAMPLES[name].hidden:
        assert secret.encode() not in (found.body or b"")
    if provider.head is not None and not provider.tells_limits and found.body is not None and found.body is not body:
        said = json.loads(found.body)
        assert said["type"] == "error" and said["error"]["type"] and said["error"]["message"]
        assert said["request_id"] == "req_1"
    if provider.head is not None:
        assert b"123456789012" not in (found.body or b"") and b"projects/p" not in (found.body or b"")


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(300, 599))
def test_whatever_an_error_says_it_is_told(body: bytes, status: int):
    for name in SAMPLES:
        assert opened(name).refusal(status, [], body, "req_1").outcome is not Outcome.SERVED


def test_headers_of_an_answer_hide_whose_account_it_is(provider: Provider):
    told = [
        (b"content-type", b"application/json"), (b"retry-after", b"7"), (b"x-amzn-requestid", b"aws-1"),
        (b"x-amzn-bedrock-input-token-count", b"7"), (b"x-ms-region", b"East US"), (b"x-vertex-ai-project", b"p-1"),
    ]  # fmt: skip
    found = told if provider.head is None else provider.head(told)
    assert (b"retry-after", b"7") in found and (b"content-type", b"application/json") in found
    if provider.head is not None and not provider.tells_limits:
        assert not {b"x-amzn-bedrock-input-token-count", b"x-ms-region", b"x-vertex-ai-project"} & {*dict(found)}


def test_the_probe_costs_nothing(provider: Provider):
    asked = provider.probe(1)
    assert asked.method == b"GET" and asked.body == b""
    assert asked.headers.endswith(b"\r\n")
