"""OpenAI's chat completions: the same conversations, credentials, metering and broken streams, in another form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.rig import (
    ALICE,
    BOB,
    KEYS,
    MODEL,
    Answer,
    Gateway,
    Simulator,
    Wire,
    accounts_of,
    ask,
    assert_error,
    conversation,
    eventually,
    request,
)

PATH = "/v1/chat/completions"
PRICES = (1000, 5000)  # nano-dollars a token of input, of output


def chat(*turns: str, **fields: Any) -> dict[str, Any]:
    """A body; `turns` alternate between user and assistant."""
    roles = ("user", "assistant")
    said = [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns or ("Hello there",))]
    return {"model": MODEL, "max_completion_tokens": 64, "messages": said, **fields}


def chunks(answer: Answer) -> list[Any]:
    """The data of a stream's events; comments are left out."""
    blocks = answer.body.decode().split("\n\n")
    assert blocks.pop() == "", "half an event at the end"
    lines = [line for block in blocks for line in block.split("\n") if line.startswith("data: ")]
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with closing(openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=ALICE, max_retries=0)) as client:
        yield client


def usage_of(sim: Simulator, since: int) -> tuple[int, int]:
    [record] = sim.finished(since)
    return record["usage"]["input_tokens"], record["usage"]["output_tokens"]


def assert_accounted(line: dict[str, Any], tokens: tuple[int, int]) -> None:
    assert (line["endpoint"], line["caller"], line["model"]) == ("chat", "alice", MODEL)
    assert line["usage"] == {"input": tokens[0], "output": tokens[1]}
    assert line["cost_nano_usd"] == tokens[0] * PRICES[0] + tokens[1] * PRICES[1]
    assert "estimated" not in line


# -- Answers ----------------------------------------------------------------------------------------------------------


def test_the_sdk_reads_an_answer_whose_usage_is_accounted(gateway: Gateway, sim: Simulator, client: openai.OpenAI):
    since = sim.mark()
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, max_completion_tokens=64, messages=[{"role": "user", "content": "Hello"}]
    )
    answer = raw.parse()
    assert answer.choices[0].message.content and answer.usage is not None
    tokens = usage_of(sim, since)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == tokens
    assert_accounted(gateway.record(raw.headers["x-gateway-request-id"]), tokens)


def test_the_sdk_reads_a_stream_whose_usage_is_accounted(gateway: Gateway, sim: Simulator, client: openai.OpenAI):
    since = sim.mark()
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, max_completion_tokens=64, messages=[{"role": "user", "content": "Hello"}], stream=True,
        stream_options={"include_usage": True},
    ) as raw:  # fmt: skip
        seen = list(raw.parse())
        name = raw.headers["x-gateway-request-id"]
    text = "".join(choice.delta.content or "" for chunk in seen for choice in chunk.choices)
    assert text and seen[-1].usage is not None
    tokens = usage_of(sim, since)
    assert (seen[-1].usage.prompt_tokens, seen[-1].usage.completion_tokens) == tokens
    assert_accounted(gateway.record(name), tokens)


async def test_a_stream_that_does_not_count_is_estimated_and_passes_byte_for_byte(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    answer = await ask(gateway, chat(stream=True), conversation(), path=PATH)
    seen = chunks(answer)
    assert answer.ended and seen[-1] == "[DONE]" and not [each for each in seen[:-1] if each.get("usage")]
    input_tokens, output_tokens = usage_of(sim, since)
    line = gateway.record(answer.request_id)
    assert line["estimated"] is True
    assert line["cost_nano_usd"] > 0
    assert output_tokens / 3 < line["usage"]["output"] < output_tokens * 3
    assert input_tokens / 5 < line["usage"]["input"] < input_tokens * 12


async def test_bodies_reach_the_upstream_byte_for_byte(gateway: Gateway, sim: Simulator):
    body = b'{ "messages" : [{"role":"user","content":"caf\\u00e9 \xf0\x9f\x99\x82"}] ,"n":1.50, "model":"%b" }'
    since = sim.mark()
    assert (await ask(gateway, body % MODEL.encode(), path=PATH)).status == 200
    assert sim.records(since, bodies=True)[0]["body"] == body % MODEL.encode()


# -- Conversations ----------------------------------------------------------------------------------------------------


async def test_a_conversation_stays_on_its_account(launch: Callable[..., Gateway], sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 4))  # on which no other test has left load
    homes = set()
    for number in range(12):
        name = conversation()
        first = await ask(gateway, chat(f"Hello {number}"), name, path=PATH)
        assert (first.status, first.route) == (200, "new")
        for stream in (False, True, False):
            later = await ask(gateway, chat("Hello", "Well", "And then?", stream=stream), name, path=PATH)
            assert (later.route, later.account) == ("bound", first.account)
        homes.add(first.account)
    assert len(homes) > 1


async def test_a_conversation_is_the_callers_own(gateway: Gateway):
    name = conversation()
    assert (await ask(gateway, chat(), name, path=PATH)).route == "new"
    assert (await ask(gateway, chat(), name, path=PATH, key=BOB)).route == "new"


async def test_a_conversation_moves_when_its_account_is_out(gateway: Gateway, sim: Simulator):
    name = conversation()
    home = (await ask(gateway, chat(), name, path=PATH)).account
    fault = {"kind": "status", "value": 401, "account": home}
    for stream in (False, True):
        answer = await ask(gateway, chat("Hello", "Well", "Go on", stream=stream), name, path=PATH, fault=fault)
        assert answer.status == 200 and answer.account != home


# -- Credentials and headers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_the_accounts_key_is_a_bearer_token_and_nothing_else(header: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    sent = {header: ALICE if header == "x-api-key" else f"Bearer {ALICE}"}
    answer = await ask(gateway, chat(), sent, path=PATH, key=None)
    assert answer.status == 200
    [record] = sim.records(since)
    [account] = [each for each in sim.accounts if each["id"] == answer.account]
    keys = [
        (name.lower(), value) for name, value in record["headers"] if name.lower() in ("x-api-key", "authorization")
    ]
    assert keys == [("authorization", f"Bearer {account['api_key']}")]
    assert not [key for key in KEYS if key in json.dumps(record)]


async def test_no_limits_of_the_account_come_down(launch: Callable[..., Gateway], tmp_path: Path):
    sim = Simulator(tmp_path / "limited", 1, "--rpm", "100000", "--itpm", "10000000", "--otpm", "10000000")
    try:
        gateway = launch(accounts=accounts_of(sim))
        [account] = sim.accounts
        for body in (chat(), chat(stream=True)):
            direct = await ask(sim, body, {"authorization": f"Bearer {account['api_key']}"}, path=PATH, key=None)
            assert [name for name, _ in direct.headers if name.startswith("x-ratelimit-")]  # else this tests nothing
            answer = await ask(gateway, body, path=PATH)
            assert answer.status == 200
            assert not [name for name, _ in answer.headers if "ratelimit" in name or "organization" in name]
            text = json.dumps(answer.headers) + answer.body.decode()
            assert account["api_key"] not in text and account["organization"] not in text
    finally:
        assert sim.end() == 0


async def test_a_wrong_key_and_a_forbidden_method_are_refused(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    assert_error(await ask(gateway, chat(), path=PATH, key="sk-wrong"), 401, "authentication_error")
    assert_error(await ask(gateway, path=PATH), 405, "invalid_request_error")
    assert_error(await ask(gateway, b'{"messages":[]}', path=PATH), 400, "invalid_request_error")
    assert sim.records(since) == []


# -- Trouble ----------------------------------------------------------------------------------------------------------

BREAKS = [
    "cut=700",
    "cut=1200",
    "polite_end=2",
    "polite_end=4",
    "error_mid_stream=3",
    '{"kind":"cut","value":900,"reset":true}',
]


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_stream_that_breaks_off_ends_in_an_error_after_whole_chunks(
    fault: str, gateway: Gateway, sim: Simulator
):
    since = sim.mark()
    answer = await ask(gateway, chat(stream=True), conversation(), path=PATH, fault=fault)
    if answer.status == 200:
        seen = chunks(answer)
        assert answer.ended and seen[-1] != "[DONE]" and seen[-1]["error"]["message"]
        assert not [each for each in seen[:-1] if "error" in each]
    else:
        assert answer.status >= 500
    assert len(sim.finished(since)) == 1  # it may be billed: nobody else is asked
    line = gateway.record(answer.request_id)
    assert line["outcome"] in ("interrupted", "error")


@pytest.mark.parametrize("fault", ["cut=900", "polite_end=3", "error_mid_stream=3"])
def test_the_sdk_raises_for_a_stream_that_breaks_off(fault: str, client: openai.OpenAI):
    with (
        pytest.raises(openai.APIError),
        client.chat.completions.create(
            model=MODEL, max_completion_tokens=64, messages=[{"role": "user", "content": "Hello"}], stream=True,
            extra_headers={"x-sim-fault": fault},
        ) as stream,
    ):  # fmt: skip
        for _ in stream:
            pass


async def test_another_account_answers_while_nothing_has_been_said(gateway: Gateway, sim: Simulator):
    for fault in ("status=429", "status=401", "status=529"):
        name = conversation()
        home = (await ask(gateway, chat(), name, path=PATH)).account
        kind, _, value = fault.partition("=")
        struck = {"kind": kind, "value": int(value), "account": home}
        answer = await ask(gateway, chat(stream=True), name, path=PATH, fault=struck)
        assert answer.status == 200 and chunks(answer)[-1] == "[DONE]"
        gateway.mend()


async def test_silence_is_broken_by_comments_that_the_sdk_passes_over(gateway: Gateway, client: openai.OpenAI):
    with client.chat.completions.create(
        model=MODEL, max_completion_tokens=64, messages=[{"role": "user", "content": "Hello"}], stream=True,
        extra_headers={"x-sim-fault": "silence=2.5"},
    ) as stream:  # fmt: skip
        assert "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    answer = await ask(gateway, chat(stream=True), path=PATH, fault="silence=2.5")
    assert answer.body.startswith(b": ping\n\n") and chunks(answer)[-1] == "[DONE]"


async def test_a_client_that_goes_ends_its_stream_upstream(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        await wire.send(request(chat(stream=True), path=PATH, fault="slow=0.2"))
        head = await wire.head()
        await wire.until_events(2)
    await eventually(lambda: [each["aborted"] for each in sim.records(since)] == [True], "its end upstream")
    line = gateway.record(head.request_id)
    assert (line["outcome"], line["estimated"]) == ("client_gone", True)
