"""What the shell offers for ids on TAB: those that the configuration file names. Nothing is asked over a network,
no expression is expanded, and whatever is wrong with the file means no offers rather than a message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from gateway.config.file import load_default_path, parse, read_text
from gateway.config.source import ConfigError, Node, Problem


def accounts(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of accounts."""
    return _offers(context, incomplete, ("accounts", "id"))


def organizations(context: typer.Context, incomplete: str) -> list[str]:
    """Organizations of accounts."""
    return _offers(context, incomplete, ("accounts", "organization"))


def callers(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of callers."""
    return _offers(context, incomplete, ("keys", "id"))


def teams(context: typer.Context, incomplete: str) -> list[str]:
    """Teams: those that have limits and those that callers are in."""
    return _offers(context, incomplete, ("teams", "id"), ("keys", "team"))


def _offers(context: typer.Context, incomplete: str, *places: tuple[str, str]) -> list[str]:
    """The values under these keys of the file's lists that begin as what was typed."""
    path = Path(context.params.get("config") or load_default_path)
    problems: list[Problem] = []
    try:
        root = parse(read_text(path), str(path), problems)
    except (ConfigError, OSError):
        return []
    found = {value for place in places for value in _values(root, *place)}
    return sorted(value for value in found if value.startswith(incomplete))


def _values(root: Node, section: str, field: str) -> Iterator[str]:
    listed = root.value.get(section) if isinstance(root.value, dict) else None
    items = listed.node.value if listed is not None else None
    for item in items if isinstance(items, list) else ():
        entry = item.value.get(field) if isinstance(item.value, dict) else None
        value = entry.node.value if entry is not None else None
        if isinstance(value, str) and "${" not in value:
            yield value
