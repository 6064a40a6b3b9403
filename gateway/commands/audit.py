"""`gateway audit`: who changed what of the running gateway, over its admin listener."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from gateway.commands.client import ConfigOption, JsonOption, TokenFileOption, UrlOption, admin_of, print_json
from gateway.commands.terminal import console, plain_table
from gateway.config.file import load_default_path

_COLUMNS = ("at", "who", "role", "what", "resource", "result", "changes", "from", "request")
_PAGE = 500  # entries asked for at a time


def audit(
    limit: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="So many, the latest.")] = 50,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who changed what by the admin API or the dashboard, on all gateways of the pool, the latest first."""
    admin = admin_of(config, url, token_file)
    entries: list[dict[str, Any]] = []
    before: str | None = ""
    while before is not None and len(entries) < limit:
        query = {"limit": min(_PAGE, limit - len(entries)), **({"before": before} if before else {})}
        answer = admin.ask("GET", f"audit?{urlencode(query)}")
        entries += answer["data"]
        before = answer.get("next")
    if as_json:
        print_json(entries)
        return
    table = plain_table(*_COLUMNS, keep=("at", "request"))
    for entry in entries:
        table.add_row(*_row(entry))
    console().print(table)


def _row(entry: dict[str, Any]) -> list[str]:
    changes = [f"{name}: {_value(was)} → {_value(now)}" for name, (was, now) in (entry.get("changes") or {}).items()]
    who = entry["who"] if entry.get("by") != "session" else f"{entry['who']} (browser)"
    status = entry["status"]
    result = "done" if status < 400 else "unknown (503)" if status == 503 else f"refused ({status})"
    return [
        _clock(entry["at"]), who, entry["role"], entry["action"], entry["resource"], result, "; ".join(changes),
        entry["address"], entry["id"],
    ]  # fmt: skip


def _value(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _clock(moment: str) -> str:
    """A time of the API as the clock here shows it."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"
