"""The clients people really use, unchanged but for the URL and the key: SDKs, the documented examples, Claude Code.

`gateway_url` is a running gateway before simulated accounts, with the attributes `base_url` and `api_key`.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anthropic
import pytest
from anthropic.types import MessageParam

from tests.e2e.clients import rigs

MODEL = "claude-haiku-4-5"
HELLO: list[MessageParam] = [{"role": "user", "content": "Hello"}]

# -- Other languages: each rig goes through the same journeys and prints what it saw ----------------------------------

SDKS: dict[str, Callable[[], list[str | Path]]] = {
    "typescript": lambda: ["node", rigs.node() / "messages.mjs"],
    "go v1": lambda: [rigs.go("sdk1")],
    "go v2": lambda: [rigs.go("sdk2")],
}


@pytest.mark.parametrize("sdk", SDKS)
def test_sdk_finds_anthropic_behind_the_gateway(sdk: str, gateway_url: Any):
    out = rigs.run(SDKS[sdk](), gateway_url.base_url, gateway_url.api_key, {"CONVERSATION": uuid4().hex})
    seen = json.loads(out)
    for answer in (seen["message"], seen["stream"]):
        assert answer["text"].strip()
        assert answer["stop_reason"] in ("end_turn", "max_tokens")
        assert answer["input_tokens"] > 0 and answer["output_tokens"] > 0
    assert seen["deltas"] > 0
    assert seen["account"]
    assert seen["request_id"]
    assert seen["input_tokens"] > 0
    assert any(model.startswith(MODEL) for model in seen["models"])
    for name, status, kind in [
        ("not_found", 404, "not_found_error"),
        ("bad_request", 400, "invalid_request_error"),
        ("bad_key", 401, "authentication_error"),
    ]:
        assert (seen[name]["status"], seen[name]["type"]) == (status, kind)
        assert seen[name]["request_id"]
    if sdk == "typescript":
        classes = [seen[name]["class"] for name in ("not_found", "bad_request", "bad_key")]
        assert classes == ["NotFoundError", "BadRequestError", "AuthenticationError"]


# -- The documented examples, as they stand ---------------------------------------------------------------------------


def test_documented_curl_example(gateway_url: Any):
    rigs.need("curl")
    answer = json.loads(rigs.run(["sh", rigs.HERE / "curl" / "seed.sh"], gateway_url.base_url, gateway_url.api_key))
    assert answer["type"] == "message"
    assert answer["content"][0]["text"]


EXAMPLES: dict[str, Callable[[], list[str | Path]]] = {
    "python": lambda: [sys.executable, rigs.HERE / "python" / "seed_example.py"],
    "go": lambda: [rigs.go("seed")],
}


@pytest.mark.parametrize("language", EXAMPLES)
def test_documented_example(language: str, gateway_url: Any):
    printed = rigs.run(EXAMPLES[language](), gateway_url.base_url, gateway_url.api_key)
    reply, usage = printed.split("Token usage:")
    assert "error" not in reply
    assert reply.split("Assistant reply:")[1].strip()
    assert "Input tokens: " in usage and "Output tokens: " in usage


# -- Claude Code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credential", ["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"])
def test_claude_code_continues_its_conversation(credential: str, gateway_url: Any, tmp_path: Path):
    program = rigs.claude()
    work = tmp_path / "work"
    work.mkdir()
    env = {
        "HOME": str(tmp_path),
        "ANTHROPIC_BASE_URL": gateway_url.base_url,
        credential: gateway_url.api_key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }

    def say(prompt: str, *flags: str) -> dict[str, Any]:
        command: list[str | Path] = [program, "-p", prompt, "--output-format", "json", *flags]
        turn = json.loads(rigs.run(command, gateway_url.base_url, gateway_url.api_key, env, cwd=work))
        assert turn["is_error"] is False
        assert turn["result"].strip()
        assert turn["usage"]["output_tokens"] > 0
        return turn

    first = say("Hello there")
    second = say("And once more", "--continue")
    third = say("A last word", "--resume", first["session_id"])
    assert second["session_id"] == third["session_id"] == first["session_id"]
    for warm in (second, third):  # one account all along: what the first turn wrote is read from its cache
        assert warm["usage"]["cache_read_input_tokens"] > 0


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(gateway_url: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway_url.base_url, api_key=gateway_url.api_key, max_retries=0) as client:
        yield client


def test_python_message(client: anthropic.Anthropic):
    message = client.messages.create(model=MODEL, max_tokens=64, messages=HELLO)
    assert message.content[0].type == "text"
    assert message.content[0].text
    assert message.usage.output_tokens > 0
    assert message._request_id


def test_python_conversation_stays_on_one_account(client: anthropic.Anthropic):
    headers = {"X-Conversation-Id": uuid4().hex}
    seen = []
    for _ in range(4):
        raw = client.messages.with_raw_response.create(
            model=MODEL, max_tokens=64, messages=HELLO, extra_headers=headers
        )
        seen.append((raw.headers["x-gateway-account"], raw.headers["x-gateway-route"]))
    assert len({account for account, _ in seen}) == 1
    assert [route for _, route in seen] == ["new", "bound", "bound", "bound"]


def test_python_stream_helper(client: anthropic.Anthropic):
    with client.messages.stream(model=MODEL, max_tokens=64, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert message.content[0].type == "text"
    assert message.content[0].text == text != ""
    assert message.stop_reason in ("end_turn", "max_tokens")


def test_python_raw_stream_is_a_whole_message(client: anthropic.Anthropic):
    with client.messages.create(model=MODEL, max_tokens=64, messages=HELLO, stream=True) as events:
        types = [event.type for event in events]
    assert types[0] == "message_start" and types[-1] == "message_stop"
    assert "content_block_delta" in types


def test_python_count_tokens_and_models(client: anthropic.Anthropic):
    assert client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens > 0
    models = [model.id for model in client.models.list()]
    assert any(model.startswith(MODEL) for model in models)
    assert client.models.retrieve(models[0]).id == models[0]


def test_python_errors_are_those_of_the_api(client: anthropic.Anthropic):
    with pytest.raises(anthropic.NotFoundError) as not_found:
        client.messages.create(model="claude-none-1", max_tokens=64, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError) as bad_request:
        client.messages.create(model=MODEL, max_tokens=64, messages=[])
    with pytest.raises(anthropic.AuthenticationError) as bad_key:
        client.with_options(api_key="sk-wrong").messages.create(model=MODEL, max_tokens=64, messages=HELLO)
    for caught, kind in [
        (not_found, "not_found_error"),
        (bad_request, "invalid_request_error"),
        (bad_key, "authentication_error"),
    ]:
        body: Any = caught.value.body
        assert body["error"]["type"] == kind
        assert caught.value.request_id == body["request_id"] != ""


async def test_python_async_client(gateway_url: Any):
    async with anthropic.AsyncAnthropic(base_url=gateway_url.base_url, auth_token=gateway_url.api_key) as client:
        message = await client.messages.create(model=MODEL, max_tokens=64, messages=HELLO)
        assert message.content[0].type == "text" and message.content[0].text
        async with client.messages.stream(model=MODEL, max_tokens=64, messages=HELLO) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            assert text and (await stream.get_final_message()).stop_reason in ("end_turn", "max_tokens")
