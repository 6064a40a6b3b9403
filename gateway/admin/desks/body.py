"""Bodies of requests, which say their values as the configuration file does. It knows no field by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.config.rules import BAD, Reader, Rule
from gateway.config.source import Entry, Node, Problem
from gateway.errors import ApiError

_ROOM = b" " * 6  # behind a body: without it half a surrogate pair near the end is taken for a body cut short


class _Json(Reader):
    """Reads what came as JSON: nothing in it is an expression."""

    def scalar(self, node: Node, path: str, secret: bool = False) -> tuple[Any, bool]:
        return node.value, False


def read(body: bytes, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """The fields of a JSON object, each checked by its rule; one that is null is None. Raises ApiError 400."""
    try:
        given = msgspec.json.decode(body + _ROOM) if body else None
        nodes = {name: _node(value) for name, value in given.items()} if isinstance(given, dict) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The body is not valid JSON: {_flaw(error)}") from None
    if nodes is None:
        raise ApiError(400, "The body must be a JSON object")
    unknown = [name for name in nodes if name not in rules]
    if unknown:
        names = ", ".join(sorted(unknown)[:10])[:200]
        raise ApiError(400, f"Unknown fields: {names}; known are {', '.join(rules)}")
    problems: list[Problem] = []
    reader = _Json({}, problems)
    values = {
        name: None if node.value is None else rules[name].read(reader, node, name) for name, node in nodes.items()
    }
    if problems or BAD in values.values():
        raise ApiError(400, "; ".join(f"{each.path} {each.message}" for each in problems[:10]))
    return values


def _flaw(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0]


def _node(value: Any) -> Node:
    """A value as the configuration's rules read it."""
    if isinstance(value, dict):
        return Node(0, {name: Entry(0, _node(item)) for name, item in value.items()})
    return Node(0, [_node(item) for item in value] if isinstance(value, list) else value)
