"""OpenAI's SDK, told of the gateway by base URL and key alone; its script is `clients/python/openai_journey.py`."""

from __future__ import annotations

import json
import sys
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.clients import rigs
from tests.e2e.rig import MODEL, Gateway, Simulator


@pytest.fixture(scope="module")
def seen(shared_gateway: Gateway, simulator: Simulator) -> dict[str, Any]:
    shared_gateway.mend()
    simulator.clear()
    accounts = len(shared_gateway.config["accounts"])
    simulator.fault("status", 429, path="/v1/chat/completions", times=accounts, retry_after=2)
    env = {"CONVERSATION": uuid4().hex}
    script = rigs.HERE / "python" / "openai_journey.py"
    try:
        printed = rigs.run([sys.executable, script], shared_gateway.base_url, shared_gateway.api_key, env)
    finally:
        simulator.clear()
        shared_gateway.mend()
    found: dict[str, Any] = json.loads(printed)
    return found


def step(seen: dict[str, Any], name: str) -> Any:
    assert "failed" not in seen[name], seen[name]["failed"]
    return seen[name]


def test_a_chat_is_answered_on_its_conversations_account(seen: dict[str, Any]):
    chat = step(seen, "chat")
    assert chat["text"].strip()
    assert (chat["role"], chat["finish_reason"]) == ("assistant", "stop")
    assert chat["model"].startswith(MODEL)
    assert chat["prompt_tokens"] > 0 and chat["completion_tokens"] > 0
    assert chat["total_tokens"] == chat["prompt_tokens"] + chat["completion_tokens"]
    assert chat["account"] and chat["route"] == "new"


def test_a_streamed_chat_says_the_same_and_counts_only_if_asked(seen: dict[str, Any]):
    stream = step(seen, "stream")
    assert stream["text"] == stream["counted_text"] == stream["whole"] != ""
    assert stream["finish_reasons"] == ["stop"]
    assert stream["uncounted"] is True
    [usage] = stream["usage_chunks"]
    assert usage["choices"] == 0 and usage["completion_tokens"] > 0


def test_models_are_listed_and_retrieved(seen: dict[str, Any]):
    models = step(seen, "models")
    assert any(model.startswith(MODEL) for model in models["all"])
    assert models["retrieved"].startswith(MODEL)


def test_errors_are_of_the_classes_that_the_api_causes(seen: dict[str, Any]):
    errors = step(seen, "errors")
    found = {name: (error["class"], error["status"]) for name, error in errors.items()}
    assert found == {
        "bad_key": ("AuthenticationError", 401),
        "not_found": ("NotFoundError", 404),
        "bad_request": ("BadRequestError", 400),
        "overloaded": ("InternalServerError", 529),
        "rate_limited": ("RateLimitError", 429),
    }


def test_a_refused_chat_is_repeated_when_retry_after_has_passed(seen: dict[str, Any]):
    retry = step(seen, "retry")
    assert retry["text"].strip() and retry["retries"] == 1


def test_a_streamed_chat_that_breaks_off_is_an_error(seen: dict[str, Any]):
    for fault, error in step(seen, "broken").items():
        assert "returned" not in error, (fault, error)
