"""Ids of account-bound objects that a message brings: its container, files made in it, and itself within a thread.

They live where the answer came from. It does not know whose they are. What a model writes into a tool's input is no
object, whatever its key.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core.wire.sse import events

CreatedId = tuple[str, str]  # kind (`container`, `files`, `thread`), id


class _Container(msgspec.Struct):
    id: str = ""


class _Delta(msgspec.Struct):
    container: _Container | None = None


class _Message(msgspec.Struct):
    id: str = ""
    container: _Container | None = None
    content: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct):
    message: _Message | None = None
    delta: _Delta | None = None
    content_block: msgspec.Raw = msgspec.Raw()


_message = msgspec.json.Decoder(_Message).decode
_event = msgspec.json.Decoder(_Event).decode
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def hints(part: bytes) -> bool:
    """Whether this part of an answer may bring any. Text that looks alike does no harm."""
    return b'"container"' in part or b'"file_id"' in part


def in_message(body: bytes, threaded: bool) -> list[CreatedId]:
    """Of a whole JSON answer; `threaded` if it belongs to a thread."""
    try:
        message = _message(body)
        found = _of(message, threaded)
        if b'"file_id"' in bytes(message.content):
            for block in msgspec.json.decode(message.content):
                _files(block, found)
    except _BROKEN:
        return []
    return found


def in_events(ready: bytes, threaded: bool) -> list[CreatedId]:
    """Of whole events of a stream."""
    found: list[CreatedId] = []
    for name, data, _ in events(ready):
        starts = b"message_start" in name or b'"message_start"' in data
        if not hints(data) and not (threaded and starts):
            continue
        try:
            event = _event(data)
            if event.message is not None:
                found += _of(event.message, threaded)
            if event.delta is not None and event.delta.container is not None and event.delta.container.id:
                found.append(("container", event.delta.container.id))
            if b'"file_id"' in bytes(event.content_block):
                _files(msgspec.json.decode(event.content_block), found)
        except _BROKEN:
            continue
    return found


def _of(message: _Message, threaded: bool) -> list[CreatedId]:
    found: list[CreatedId] = []
    if message.container is not None and message.container.id:
        found.append(("container", message.container.id))
    if threaded and message.id:
        found.append(("thread", message.id))
    return found


def _files(block: Any, found: list[CreatedId]) -> None:
    """Files that a block of results shows."""
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str) or not (kind.endswith("_tool_result") or kind == "container_upload"):
        return
    rest = [block]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            file = value.get("file_id")
            if isinstance(file, str) and file:
                found.append(("files", file))
            rest += value.values()
        elif isinstance(value, list):
            rest += value
