"""Claude Code without a terminal (`claude -p`), and how to read what it reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.clients import rigs
from tests.e2e.rig import MODEL, Gateway

Report = list[dict[str, Any]]  # the lines of the program's own report, the last one its result


def say(
    gateway: Gateway, home: Path, prompt: str, *flags: str, credential: str = "ANTHROPIC_API_KEY", model: str = MODEL
) -> Report:
    """Says a prompt with further flags, at home in `home`."""
    work = home / "work"
    work.mkdir(exist_ok=True)
    env = {
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": gateway.base_url,
        credential: gateway.api_key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }
    # One tool is offered, so that one is the first: it is the one that the simulated model calls.
    options = ["--model", model, "--tools", "Read", "--output-format", "stream-json", "--verbose", *flags]
    printed = rigs.run([rigs.claude(), "-p", prompt, *options], gateway.base_url, gateway.api_key, env, cwd=work)
    return [json.loads(line) for line in printed.splitlines()]


def result(report: Report) -> dict[str, Any]:
    last = report[-1]
    assert (last["type"], last["is_error"]) == ("result", False), last
    assert last["result"].strip()
    return last


def blocks(report: Report, kind: str) -> list[dict[str, Any]]:
    """The content blocks of one kind that a turn went through."""
    said = [line["message"]["content"] for line in report if line["type"] in ("assistant", "user")]
    return [block for content in said if isinstance(content, list) for block in content if block["type"] == kind]
