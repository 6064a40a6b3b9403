"""Ids of objects that a Messages body needs at the account it goes to: files, containers, custom skills, a thread.

Isolation between tenants rests on it, so what cannot be read in exactly one way is refused; what merely has a wrong
shape is the upstream's to refuse. Ids that only stand there as text are no references: tool inputs and schemas, what
code execution has put out, `diagnostics`. It does not know who owns what.
"""

from __future__ import annotations

import json
import re
from typing import Any

from gateway.core.wire.peek import Peek
from gateway.errors import ApiError

# A letter of `file_id` as an escape, which no encoder writes: the key might be spelled with it.
_ESCAPED = re.compile(rb"\\u00(?:6[69cC45]|5[fF])")
MAX_ID = 256  # characters

_FIELDS = ("messages", "system", "container", "thread")
_HOLDERS = ("source", "file")  # keys whose objects name a file that is read, in Anthropic's form and OpenAI's
MAX_REFERENCES = 1000


def references(peek: Peek) -> frozenset[str]:
    """The ids. Raises ApiError(400) for a field that two parsers could read in two ways, or that is nested too deeply.

    A body that has no such key costs a search for it.
    """
    fields, body = peek.fields, peek.body
    named = "container" in fields or "thread" in fields or b'"file_id"' in peek.words
    if not named and not (peek.escapes and _ESCAPED.search(body)):
        return frozenset()
    values = {name: _decode(name, bytes(fields[name])) for name in _FIELDS if name in fields}
    found: set[str] = set()
    _from_container(values.get("container"), found)
    thread = values.get("thread")
    if isinstance(thread, dict) and thread.get("type") == "continue":
        _add(thread.get("previous_message_id"), found)
    rest: list[Any] = [values.get("system"), values.get("messages")]
    while rest:  # no recursion: a result may hold documents, which hold images
        value = rest.pop()
        if isinstance(value, list):
            rest += value
        elif isinstance(value, dict):
            kind = value.get("type")
            if kind == "container_upload":
                _add(value.get("file_id"), found)
            for name in _HOLDERS:
                holder = value.get(name)
                if isinstance(holder, dict):
                    _add(holder.get("file_id"), found)
            rest += [each for name, each in value.items() if name != "input" or not str(kind).endswith("tool_use")]
    if len(found) > MAX_REFERENCES:
        raise ApiError(400, f"The request names more than {MAX_REFERENCES} files, containers or skills")
    return frozenset(found)


def _from_container(container: Any, found: set[str]) -> None:
    if not isinstance(container, dict):
        _add(container, found)
        return
    _add(container.get("id"), found)
    for skill in _objects(container.get("skills")):
        if skill.get("type") != "anthropic":
            _add(skill.get("skill_id"), found)


def _add(value: Any, found: set[str]) -> None:
    if isinstance(value, str) and value:
        if len(value) > MAX_ID or not value.isprintable():  # a lone surrogate is not printable
            raise ApiError(
                400, f"An id of a file, container, skill or message has at most {MAX_ID} printable characters"
            )
        found.add(value)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _decode(name: str, raw: bytes) -> Any:
    try:
        # Numbers are of no interest here, and an integer of many digits would be an error.
        return json.loads(raw.decode(), object_pairs_hook=_only_once, parse_int=float)
    except RecursionError:
        raise ApiError(400, f"{name}: it is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"{name}: it is not valid JSON: {error}") from None


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ApiError(400, f"{name[:256]}: this key stands more than once in one object")
            seen.add(name)
    return read
