"""The chat meter: what a stream of chunks used, wherever it is cut, and errors that OpenAI's SDK raises."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.wire.chat_meter import PING, ChatMeter, error_event, matters
from gateway.core.wire.sse import EventSplitter
from gateway.errors import ApiError
from gateway.records import Usage

RUNS = settings(deadline=None, max_examples=150)
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def chunk(content: str | None = None, *, spaced: bool = False, **fields: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    data: dict[str, Any] = {
        "id": "msg_011CZkZAtmR3yMPDzynEDxu7",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
        "created": 1763600000,
        "model": "claude-opus-5-5",
        "object": "chat.completion.chunk",
        "usage": None,
    }
    text = json.dumps({**data, **fields}, separators=None if spaced else (",", ":"), ensure_ascii=False)
    return f"data: {text}\n\n".encode()


DONE = b"data: [DONE]\n\n"
LAST = chunk(choices=[], usage=USAGE)


def relay(segments: list[bytes]) -> tuple[bytes, ChatMeter]:
    """What reaches the client, and the meter beside it, as the relay connects splitter and meter."""
    splitter, meter = EventSplitter(), ChatMeter()
    out = b""
    for segment in segments:
        ready = splitter.feed(segment)
        if splitter.long_event is not None:
            if matters(splitter.long_event):
                meter.see(splitter.long_event)
            splitter.long_event = None
        if matters(ready):
            size = meter.see(ready)
            if meter.stopped:
                return out + ready[:size], meter
        meter.count(ready)
        out += ready
    return out, meter


EVIL = st.sampled_from([
    "hi", "data: [DONE]\n\n", "[DONE]", '{"usage":{"prompt_tokens":7}}', '"prompt_tokens"', '{"error":{"type":"x"}}',
    "\r\n\r\n", "é\u2028", "x" * 70_000,
])  # fmt: skip


@RUNS
@given(
    st.lists(EVIL, max_size=5), st.booleans(), st.booleans(), st.lists(st.integers(0, 9999), max_size=12), st.booleans()
)
def test_usage_and_relayed_bytes_are_the_same_for_any_partition(contents, told, spaced, where, after):
    stream = b"".join(chunk(each, spaced=spaced) for each in contents)
    if told:
        stream += chunk(choices=[], usage={**USAGE, "prompt_tokens_details": {"cached_tokens": 60}}, spaced=spaced)
    stream += DONE
    whole = stream + (LAST if after else b"")
    points = sorted({each * len(whole) // 10_000 for each in where})
    out, meter = relay([whole[a:b] for a, b in zip([0, *points], [*points, len(whole)], strict=True)])
    assert out == stream
    assert meter.stopped and not meter.error
    assert meter.started is told
    assert meter.usage == (Usage(input=40, cache_read=60, output=20) if told else Usage())
    assert meter.model == ("claude-opus-5-5" if contents or told else "")
    assert meter.passed_bytes == len(stream)


def test_most_chunks_need_no_decoding():
    assert not matters(chunk("hello") + chunk(None, usage=None) + PING)
    assert matters(LAST) and matters(DONE) and matters(b'data: {"error":{}}\n\n')


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (USAGE, Usage(input=100, output=20)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30}},
         Usage(input=10, cache_read=60, cache_write_5m=30, output=20)),
        ({**USAGE, "prompt_tokens_details": None, "completion_tokens_details": {}}, Usage(input=100, output=20)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 500, "cache_write_tokens": 500}},
         Usage(cache_read=100, output=20)),
    ],
)  # fmt: skip
def test_cached_tokens_are_part_of_the_prompt(usage, expected):
    meter = ChatMeter()
    assert meter.read_json(json.dumps({"model": "claude-x", "choices": [], "usage": usage}).encode())
    assert (meter.usage, meter.started, meter.model) == (expected, True, "claude-x")
    meter = ChatMeter()
    meter.see(chunk(choices=[], usage=usage))
    assert (meter.usage, meter.started) == (expected, True)
    tail = json.dumps({"choices": ["x" * 500, '"usage":{"prompt_tokens":1}'], "usage": usage, "id": {}}).encode()
    meter = ChatMeter()
    assert meter.read_ends(b"{", tail[300:])
    assert (meter.usage, meter.started) == (expected, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"\xff", b'{"usage":null}', b'{"usage":{"prompt_tokens":-1}}', b'{"usage":' + b"[" * 5000],
)
def test_an_answer_without_usage_has_none(body):
    meter = ChatMeter()
    assert not meter.read_json(body)
    assert not meter.read_ends(body, body)
    assert (meter.usage, meter.started) == (Usage(), False)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b'data: {"error":{"message":"busy","type":"overloaded_error","code":null}}\n\n', "overloaded_error"),
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n', "overloaded_error"),
        (b'data: {"error": {}}\n\n', "api_error"),
        (b'data: {"error":{"type":null}}\n\n', "api_error"),
        (b'data: {"error":"broken"}\n\n', "api_error"),
        (b'data: {"error":null}\n\n', ""),
    ],
)
def test_an_error_in_the_stream_is_noted_by_its_type(event, kind):
    meter = ChatMeter()
    assert meter.see(chunk("a") + event) == len(chunk("a") + event)
    assert meter.error == kind
    assert not meter.stopped


JUNK = st.binary(max_size=200) | st.lists(
    st.sampled_from([b'"usage"', b'"usage":{', b'"prompt_tokens":', b"1", b"{", b"}", b"[DONE]", b'"', b"\xff", b"\\",
                     b",", b"data: ", b'"error":', b"\n\n", b"null", b"9" * 5000, b'"model":"']), max_size=25,
).map(b"".join)  # fmt: skip


@RUNS
@given(JUNK)
def test_whatever_an_upstream_says_nothing_is_raised(junk):
    meter = ChatMeter()
    assert meter.see(junk) <= len(junk)
    meter.count(junk)
    meter.read_json(junk)
    meter.read_ends(junk, junk)
    meter.estimate()
    counts = [getattr(meter.usage, name) for name in Usage.__struct_fields__ if name != "iterations"]
    assert all(0 <= count <= 2**53 for count in counts) and not meter.usage.iterations


def test_output_is_put_at_the_text_that_passed_where_no_usage_was_told():
    text = "eight ch" * 2000  # 4,000 tokens at four bytes each
    pieces = [text[i : i + 12] for i in range(0, len(text), 12)]
    meter = ChatMeter()
    for piece in pieces:
        meter.count(chunk(piece))
    meter.estimate()
    assert 3500 < meter.usage.output < 4500
    meter.usage.output = 9999
    meter.estimate()
    assert meter.usage.output == 9999
    _, meter = relay([b"".join(chunk(piece) for piece in pieces) + DONE])
    meter.estimate()
    assert not meter.started
    assert 3500 < meter.usage.output < 4500


def stream_with_sdk(body: bytes) -> list[str | None]:
    """What OpenAI's SDK reads of a stream."""
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    with httpx2.Client(transport=httpx2.MockTransport(lambda _: answer)) as http:
        client = openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=http, max_retries=0)
        stream = client.chat.completions.create(model="m", messages=[], stream=True)
        return [each.choices[0].delta.content for each in stream if each.choices]


def test_openais_sdk_reads_pings_as_nothing_and_raises_the_error_event():
    assert stream_with_sdk(chunk("a") + PING + chunk("b") + PING + DONE) == ["a", "b"]
    event = error_event(ApiError(529, "Busy: é", code="some_code"), "req_7")
    with pytest.raises(openai.APIError) as caught:
        stream_with_sdk(chunk("a") + event)
    assert caught.value.message == "Busy: é"
    assert (caught.value.type, caught.value.code, caught.value.param) == ("overloaded_error", "some_code", None)
    assert json.loads(event.removeprefix(b"data: ")) == {
        "error": {"message": "Busy: é", "type": "overloaded_error", "param": None, "code": "some_code"},
        "request_id": "req_7",
    }
    meter = ChatMeter()
    meter.see(event)
    assert meter.error == "overloaded_error"
