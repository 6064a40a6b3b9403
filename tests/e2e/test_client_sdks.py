"""Anthropic's SDKs, both generations of each, unchanged but for the URL and the key.

Each runs one script against a gateway and prints what it saw; the scripts are `clients/python/journey.py`,
`clients/node/journey.mjs` and `clients/go/sdk/main.go`. Here is what they all must have seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import anthropic
import pytest

from tests.e2e.clients import rigs
from tests.e2e.rig import MODEL, Gateway, Simulator

LIMITED_MODEL = "claude-opus-5-5"  # for the step `retry`: asked for by nobody else in a script
OLD, NEW = "2023-06-01", "2026-10-21"  # what each generation sends as anthropic-version


class Sdk(NamedTuple):
    """`errors` are the names of the classes for 401, 404, 400, 413, 529 and 429; `broken` that of an error event."""

    command: Callable[[], list[str | Path]]
    version: str
    errors: tuple[str, ...]
    broken: str


_PYTHON = rigs.HERE / "python" / "journey.py"
_COMMON = ("AuthenticationError", "NotFoundError", "BadRequestError")
_GO = ("*apierror.Error",) * 6
SDKS = {
    "python 2": Sdk(
        lambda: [sys.executable, _PYTHON],
        NEW,
        (*_COMMON, "ContentTooLargeError", "OverloadedError", "RateLimitError"),
        "APIStatusError",
    ),
    "python 1": Sdk(
        lambda: [rigs.python(), _PYTHON],
        OLD,
        (*_COMMON, "RequestTooLargeError", "OverloadedError", "RateLimitError"),
        "APIStatusError",
    ),
    "typescript 1": Sdk(
        lambda: ["node", rigs.node() / "journey.mjs", "@anthropic-ai/sdk"],
        NEW,
        (*_COMMON, "ContentTooLargeError", "OverloadedError", "RateLimitError"),
        "APIError",
    ),
    "typescript 0": Sdk(  # has no class of its own for 413 and 529
        lambda: ["node", rigs.node() / "journey.mjs", "sdk-old"],
        OLD,
        (*_COMMON, "APIError", "InternalServerError", "RateLimitError"),
        "APIError",
    ),
    "go 2": Sdk(lambda: [rigs.go("sdk")], NEW, _GO, _GO[0]),
    "go 1": Sdk(lambda: [rigs.go("sdk1")], OLD, _GO, _GO[0]),
}


class Journey(NamedTuple):
    """`seen` is what the client printed, `records` what the simulated upstream was asked meanwhile."""

    sdk: Sdk
    seen: dict[str, Any]
    records: list[dict[str, Any]]
    gateway: Gateway

    def step(self, name: str) -> Any:
        """What the client saw in one step; fails if the step did not come to its end."""
        seen = self.seen[name]
        assert "failed" not in seen, seen["failed"]
        return seen


@pytest.fixture(scope="module", params=SDKS)
def journey(request: pytest.FixtureRequest, shared_gateway: Gateway, simulator: Simulator) -> Journey:
    sdk = SDKS[request.param]
    command = sdk.command()
    shared_gateway.mend()
    simulator.clear()
    simulator.fault("status", 429, model=LIMITED_MODEL, times=len(shared_gateway.config["accounts"]), retry_after=2)
    since = simulator.mark()
    env = {"CONVERSATION": uuid4().hex, "LIMITED_MODEL": LIMITED_MODEL}
    try:
        printed = rigs.run(command, shared_gateway.base_url, shared_gateway.api_key, env)
    finally:
        simulator.clear()
        shared_gateway.mend()
    return Journey(sdk, json.loads(printed), simulator.records(since), shared_gateway)


def assert_answer(answer: dict[str, Any]) -> None:
    assert answer["text"].strip()
    assert answer["stop_reason"] in ("end_turn", "max_tokens")
    assert answer["input_tokens"] > 0 and answer["output_tokens"] > 0


def assert_not_found(error: dict[str, Any]) -> None:
    assert (error.get("status"), error.get("type")) == (404, "not_found_error"), error
    assert error["request_id"]


# -- Messages ---------------------------------------------------------------------------------------------------------


def test_a_message_is_answered_and_its_conversation_stays(journey: Journey):
    seen = journey.step("messages")
    assert_answer(seen)
    assert seen["request_id"]
    assert seen["account"] == seen["next_account"] != ""
    assert seen["next_route"] == "bound"


def test_the_text_of_a_stream_is_that_of_its_final_message(journey: Journey):
    seen = journey.step("stream")
    assert_answer(seen)
    assert len(seen["pieces"]) > 1
    assert "".join(seen["pieces"]) == seen["text"]
    assert seen["events"][0] == "message_start" and seen["events"][-1] == "message_stop"
    assert "content_block_delta" in seen["events"]


def test_a_tool_is_called_and_its_result_answered(journey: Journey):
    seen = journey.step("tools")
    assert seen["stop_reason"] == "tool_use"
    assert seen["call"]["name"] == "get_weather"
    assert set(seen["call"]["input"]) == {"place", "days"}
    assert seen["streamed"] == seen["call"]
    assert_answer(seen["answer"])


def test_tokens_are_counted(journey: Journey):
    assert journey.step("count_tokens")["input_tokens"] > 0


def test_the_beta_namespace_works(journey: Journey):
    seen = journey.step("beta")
    assert_answer(seen)
    assert seen["counted"] > 0


def test_text_completions_work_where_the_sdk_still_has_them(journey: Journey):
    seen = journey.seen.get("complete", {"dropped": True})  # the scripts in Python and Go have no such step
    assert "failed" not in seen, seen["failed"]
    assert seen.get("dropped") or seen["text"].strip()


def test_each_generation_reaches_the_upstream_as_itself(journey: Journey):
    own = [dict(record["headers"]) for record in journey.records]
    own = [headers for headers in own if headers.get("user-agent", "").lower().startswith("anthropic/")]
    assert len(own) > 10
    assert {headers["anthropic-version"] for headers in own} == {journey.sdk.version}
    assert not any("x-conversation-id" in headers for headers in own)


# -- Models -----------------------------------------------------------------------------------------------------------


def test_models_are_listed_page_by_page_and_retrieved(journey: Journey):
    seen = journey.step("models")
    assert len(seen["page"]) == 2
    assert seen["all"][:2] == seen["page"] and len(seen["all"]) > 4
    assert len(set(seen["all"])) == len(seen["all"])
    assert any(model.startswith(MODEL) for model in seen["all"])
    assert "Haiku" in seen["retrieved"]
    assert_not_found(seen["unknown"])


# -- Batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_made_and_its_results_read_by_the_sdk(journey: Journey):
    seen = journey.step("batches")
    assert (seen["created"], seen["ended"], seen["succeeded"]) == ("in_progress", "ended", 3)
    assert set(seen["results"]) == {"one", "two", "three"}
    for answer in seen["results"].values():
        assert_answer(answer)
    assert seen["listed"] is True


def test_the_address_of_results_is_the_gateways(journey: Journey):
    address = journey.step("batches")["results_url"]
    assert address.startswith(f"{journey.gateway.base_url}/v1/messages/batches/msgbatch_")
    assert address.endswith("/results")


def test_a_batch_is_cancelled_and_deleted(journey: Journey):
    seen = journey.step("batches")
    assert seen["cancelled"] in ("canceling", "ended")
    assert seen["deleted"] == "message_batch_deleted"
    assert_not_found(seen["gone"])
    assert seen["left"] is True


# -- Files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_uploaded_used_and_found_again(journey: Journey):
    seen = journey.step("files")
    expected = {"name": "day.txt", "size": seen["size"], "mime": "text/plain"}
    assert seen["uploaded"] == seen["metadata"] == expected
    assert_answer(seen["used"])
    assert seen["used"]["route"] == "pinned"
    assert seen["downloaded"]["text"] == "The word of the day is heliotrope.\n" * 3


def test_files_are_listed_page_by_page(journey: Journey):
    assert journey.step("files")["listed"] is True


def test_a_deleted_file_is_gone(journey: Journey):
    seen = journey.step("files")
    assert seen["deleted"] == ["file_deleted", "file_deleted"]
    assert_not_found(seen["gone"])
    assert_not_found(seen["gone_content"])


# -- Trouble ----------------------------------------------------------------------------------------------------------

EXPECTED = {
    "bad_key": (401, "authentication_error"),
    "not_found": (404, "not_found_error"),
    "bad_request": (400, "invalid_request_error"),
    "too_large": (413, "request_too_large"),
    "overloaded": (529, "overloaded_error"),
    "rate_limited": (429, "rate_limit_error"),
}


def test_errors_are_of_the_classes_that_the_api_causes(journey: Journey):
    seen = journey.step("errors")
    for (name, (status, kind)), expected in zip(EXPECTED.items(), journey.sdk.errors, strict=True):
        error = seen[name]
        assert (error["class"], error["status"], error["type"]) == (expected, status, kind), (name, error)
        assert error["request_id"], name


def test_a_refused_request_is_repeated_when_retry_after_has_passed(journey: Journey):
    seen = journey.step("retry")
    assert_answer(seen)
    assert seen["retries"] == 1  # one that comes too early is refused again


def test_a_stream_that_breaks_off_is_an_error_and_never_a_message(journey: Journey):
    seen = journey.step("broken")
    assert len(seen) == 3
    for fault, ways in seen.items():
        for way in ("helper", "raw"):
            error = ways.get(way, ways["raw"])
            assert "returned" not in error, (fault, way, error)
            assert error["class"] == journey.sdk.broken, (fault, way, error)
            assert error["type"] == ("overloaded_error" if fault.startswith("error") else "api_error")
            assert error["request_id"]


# -- In this process --------------------------------------------------------------------------------------------------


async def test_the_asynchronous_client_works_with_a_bearer_token(gateway_url: Any):
    async with anthropic.AsyncAnthropic(base_url=gateway_url.base_url, auth_token=gateway_url.api_key) as client:
        said: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello"}]
        message = await client.messages.create(model=MODEL, max_tokens=64, messages=said)
        assert message.content[0].type == "text" and message.content[0].text
        async with client.messages.stream(model=MODEL, max_tokens=64, messages=said) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            assert text and (await stream.get_final_message()).stop_reason in ("end_turn", "max_tokens")
