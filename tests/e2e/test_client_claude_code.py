"""Claude Code itself, without a terminal (`claude -p`): what its sessions do, and where each of its requests went."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import claude_code
from tests.e2e.clients.claude_code import Report, blocks, result
from tests.e2e.rig import MODEL, Gateway, Simulator, until

Say = Callable[..., Report]


@pytest.fixture(params=["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"])
def credential(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def say(gateway: Gateway, sim: Simulator, tmp_path: Path) -> Say:
    """Says a prompt with further flags."""
    return partial(claude_code.say, gateway, tmp_path)


def of_session(records: list[dict[str, Any]], session: str) -> list[dict[str, Any]]:
    return [record for record in records if ["x-claude-code-session-id", session] in record["headers"]]


def test_a_session_with_tools_stays_on_one_account(credential: str, say: Say, sim: Simulator):
    since = sim.mark()
    first = say("Please use the tool.", credential=credential)
    second = say("Use the tool once more.", "--continue", credential=credential)
    third = say("A last word", "--resume", first[-1]["session_id"], credential=credential)
    for report in (first, second):  # the call, then what the tool said, then an answer to that
        [call], [answered] = blocks(report, "tool_use"), blocks(report, "tool_result")
        assert call["name"] == "Read"
        assert answered["tool_use_id"] == call["id"]
        assert result(report)["num_turns"] == 2
    assert blocks(third, "tool_use") == []
    assert len({result(report)["session_id"] for report in (first, second, third)}) == 1

    asked = of_session(sim.records(since), first[-1]["session_id"])
    assert [record["status"] for record in asked] == [200] * 5
    assert len({record["account"] for record in asked}) == 1
    for record in asked[1:]:  # what each request has written is read by the next
        assert record["usage"]["cache_read_input_tokens"] > 0


def test_models_are_discovered_and_the_context_is_counted(say: Say, gateway: Gateway, sim: Simulator):
    seen = len(gateway.lines())
    since = sim.mark()
    session = result(say("Hello there"))["session_id"]
    report = result(say("/context", "--continue"))
    assert "Tokens" in report["result"]

    def discovered() -> list[dict[str, Any]]:
        return [line for line in gateway.lines()[seen:] if line.get("endpoint") == "models"]

    assert {line["status"] for line in until(discovered, "the discovery of models")} == {200}
    counted = [one for one in of_session(sim.records(since), session) if "count_tokens" in one["path"]]
    assert len(counted) > 5
    assert {record["status"] for record in counted} == {200}


def test_a_limit_at_every_account_is_waited_for(say: Say, gateway: Gateway, sim: Simulator):
    sim.fault("status", 429, model=MODEL, times=len(gateway.config["accounts"]), retry_after=1)
    report = say("Hello there")
    result(report)
    [retry] = [line for line in report if line.get("subtype") == "api_retry"]
    assert (retry["error_status"], retry["error"]) == (429, "rate_limit")
    assert retry["retry_delay_ms"] >= 1000


@pytest.mark.parametrize(("kind", "value"), [("cut", 900), ("error_mid_stream", 5), ("polite_end", 5)])
def test_a_stream_that_breaks_off_is_asked_for_again(kind: str, value: int, say: Say, sim: Simulator):
    since = sim.mark()
    sim.fault(kind, value, path="/v1/messages", times=1)
    report = result(say("Hello there"))
    asked = of_session(sim.records(since), report["session_id"])
    assert [record["fault"] for record in asked] == [kind, None]
    assert len({record["account"] for record in asked}) == 1
    assert asked[1]["completed"] is True
