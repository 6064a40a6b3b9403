"""Fifty virtual keys as PostgreSQL exports LiteLLM's table of them."""

from __future__ import annotations

import csv
import io
from hashlib import sha256
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "litellm"
TEAMS = [f"8f1c0d5e-000{number}" for number in (1, 2, 3, 5)]
COLUMNS = [
    "token", "key_name", "key_alias", "soft_budget_cooldown", "spend", "expires", "models", "aliases", "config",
    "user_id", "team_id", "permissions", "max_parallel_requests", "metadata", "blocked", "tpm_limit", "rpm_limit",
    "max_budget", "budget_duration", "budget_reset_at", "allowed_cache_controls", "model_spend", "model_max_budget",
    "budget_id", "organization_id", "created_at", "created_by", "updated_at", "updated_by",
]  # fmt: skip


def key_of(name: str) -> str:
    """What the owner of a virtual key sends."""
    return f"sk-{name}-0123456789"


def row(alias: str, **columns: Any) -> dict[str, Any]:
    return {
        "token": sha256(key_of(alias).encode()).hexdigest(), "key_name": "sk-...6789", "key_alias": alias,
        "soft_budget_cooldown": "f", "spend": "0", "models": "{}", "aliases": "{}", "config": "{}",
        "permissions": "{}", "metadata": "{}", "model_spend": "{}", "model_max_budget": "{}",
        "allowed_cache_controls": "{}", "created_at": "2026-01-01 00:00:00", **columns,
    }  # fmt: skip


SPECIAL = [
    row("alice", team_id=TEAMS[0], spend="3.25", models="{claude-sonnet-4-5}", rpm_limit="60",
        max_parallel_requests="5", max_budget="50", budget_duration="30d", expires="2030-06-01 12:00:00",
        metadata='{"cost_center": "42"}'),
    row("bob", team_id=TEAMS[0], models="{all-team-models}", metadata='{"tags": ["a", "b"]}'),
    row("carol", models="{small-models}", max_budget="7", budget_duration="1d"),
    row("Dora Smith", user_id="dora", tpm_limit="100000", aliases='{"x": "fast"}'),
    row("erin", models="{gpt-4o}"),
    row("frank", models='{gpt-4o,"claude-opus-4-8"}', model_max_budget='{"gpt-4o": 5}'),
    row("blocked", blocked="t"),
    row("intern", team_id="8f1c0d5e-0004"),
    row("broke", max_budget="0", budget_duration="30d"),
    {**row("dated", models="{claude-haiku-4-5-20251001}"), "key_alias": "", "user_id": "dated@acme.example"},
]  # fmt: skip
ROWS = [*SPECIAL, *(row(f"dev-{number:02}", team_id=TEAMS[number % 4]) for number in range(40))]


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *sorted({name for row in rows for name in row} - set(COLUMNS))])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
