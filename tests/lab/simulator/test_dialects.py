"""The OpenAI compatibility and the old Text Completions, with the real OpenAI client over real sockets."""

import json
from typing import Any

import httpx
import openai
import pytest

from gateway.lab.simulator import World
from tests.lab.simulator.simulator_kit import background, headers, last_finished

MODEL = "claude-sonnet-5"
ASK: Any = {"model": MODEL, "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why"}]}


@pytest.fixture
def sim():
    with background(World.grid(2)) as running:
        yield running


@pytest.fixture
def client(sim):
    key = sim.world.accounts[0].api_key
    with openai.OpenAI(api_key=key, base_url=f"{sim.base_url}/v1", max_retries=0) as made:
        yield made


def test_a_chat_is_answered_whole_and_counted_as_fresh_input(sim, client):
    answer = client.chat.completions.create(**ASK)
    assert answer.id.startswith("chatcmpl-") and answer.model == MODEL
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content
    assert answer.usage is not None and answer.usage.completion_tokens == 32
    record = last_finished(sim)
    assert record.usage is not None and record.usage["cache_read_input_tokens"] == 0
    assert record.usage["input_tokens"] == answer.usage.prompt_tokens
    [row] = sim.service.totals.as_list()
    assert row["account"] == "sim-account-1"
    assert row["completed"]["input_tokens"] == answer.usage.prompt_tokens
    assert row["completed"]["output_tokens"] == 32
    short = client.chat.completions.create(**ASK, max_tokens=3)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3


@pytest.mark.parametrize("wanted", [False, True])
def test_a_streamed_chat_says_the_same_and_its_usage_only_if_asked(client, wanted):
    whole = client.chat.completions.create(**ASK)
    options: Any = {"stream_options": {"include_usage": True}} if wanted else {}
    chunks = list(client.chat.completions.create(**ASK, stream=True, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert usages == ([whole.usage] if wanted else [])


def test_the_stream_has_data_lines_only_and_ends_with_done(sim):
    head = {"authorization": f"Bearer {sim.world.accounts[0].api_key}"}
    answer = httpx.post(f"{sim.base_url}/v1/chat/completions", json={**ASK, "stream": True}, headers=head)
    events = answer.text.strip().split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    assert events[-1] == "data: [DONE]"


def test_a_chat_wants_a_bearer_key(sim):
    account = sim.world.accounts[0]
    for head in (headers(account), {}, {"authorization": "Bearer wrong"}):
        refused = httpx.post(f"{sim.base_url}/v1/chat/completions", json=ASK, headers=head)
        assert refused.status_code == 401
        assert refused.json()["error"].keys() == {"message", "type", "param", "code"}


def test_limits_refuse_a_chat_and_are_told_in_its_own_headers(sim, client):
    sim.configure(requests_per_minute=1, input_tokens_per_minute=100_000)
    raw = client.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["x-ratelimit-limit-requests"] == "1" and raw.headers["x-ratelimit-remaining-requests"] == "0"
    assert raw.headers["x-ratelimit-limit-tokens"] == "100000" and raw.headers["x-ratelimit-reset-tokens"].endswith("s")
    assert not [name for name in raw.headers if name.startswith("anthropic-ratelimit")]
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**ASK)
    assert refused.value.type == "rate_limit_error" and int(refused.value.response.headers["retry-after"]) >= 1


def test_errors_and_faults_have_the_shape_of_the_openai_api(sim, client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="claude-nine", messages=ASK["messages"])
    sim.faults.add("status", 529, path="/v1/chat/completions", times=1)
    with pytest.raises(openai.InternalServerError) as struck:
        client.chat.completions.create(**ASK)
    assert struck.value.status_code == 529 and struck.value.type == "overloaded_error"
    head = {"authorization": f"Bearer {sim.world.accounts[0].api_key}"}
    for data in (b"{", b"[]", b"{}", b'{"messages":[{"role":"user","content":"x"}]}'):
        bad = httpx.post(f"{sim.base_url}/v1/chat/completions", content=data, headers=head)
        assert bad.status_code == 400 and bad.json()["error"]["type"] == "invalid_request_error"
        assert int(bad.headers["content-length"]) == len(bad.content)


def test_text_completions_still_answer(sim):
    data = {"model": MODEL, "prompt": "\n\nHuman: why\n\nAssistant:", "max_tokens_to_sample": 10}
    head, url = headers(sim.world.accounts[0]), f"{sim.base_url}/v1/complete"
    whole = httpx.post(url, json=data, headers=head).json()
    assert whole["type"] == "completion" and whole["stop_reason"] == "max_tokens"
    streamed = httpx.post(url, json={**data, "stream": True}, headers=head).text.strip().split("\n\n")
    events = [json.loads(event.partition("data: ")[2]) for event in streamed]
    assert "".join(event["completion"] for event in events) == whole["completion"]
    assert (last_finished(sim).usage or {})["output_tokens"] == 10
    refused = httpx.post(url, json={"model": MODEL}, headers=head)
    assert refused.status_code == 400 and refused.json()["type"] == "error"
    assert httpx.get(url, headers=head).status_code == 405
