"""Requests that look like an SDK's: its headers, a body of a usual size, one of a set of conversations."""

from __future__ import annotations

import random

import msgspec

from gateway.lab.bench.jobs import BODY_BYTES, Target

CONVERSATIONS = 500
_LARGE_CONVERSATIONS = 4  # so that their bodies need not much memory

_HEAD = (
    "POST %s/v1/messages HTTP/1.1\r\n"
    "host: %s:%d\r\n"
    "accept: application/json\r\n"
    "accept-encoding: gzip, deflate\r\n"
    "connection: keep-alive\r\n"
    "user-agent: Anthropic/Python 2.1.0\r\n"
    "x-stainless-lang: python\r\n"
    "x-stainless-package-version: 2.1.0\r\n"
    "x-stainless-os: Linux\r\n"
    "x-stainless-arch: x64\r\n"
    "x-stainless-runtime: CPython\r\n"
    "x-stainless-runtime-version: 3.13.5\r\n"
    "x-stainless-async: async:asyncio\r\n"
    "x-stainless-retry-count: 0\r\n"
    "x-stainless-timeout: 600\r\n"
    "anthropic-version: 2023-06-01\r\n"
    "x-api-key: %s\r\n"
    "x-conversation-id: %s\r\n"
    "content-type: application/json\r\n"
    "content-length: %d\r\n"
    "\r\n"
)
_LINE = "The cache keeps what all turns of a conversation have in common; only the new part is paid in full."


def requests(target: Target, *, stream: bool, size: int = BODY_BYTES) -> list[bytes]:
    """One whole request for each conversation, all with the same body of `size` bytes; the tenants share them out."""
    body = _body(target.model, stream, size)
    chance = random.Random(target.model)
    made = []
    for number in range(CONVERSATIONS if size <= BODY_BYTES else _LARGE_CONVERSATIONS):
        key, name = target.keys[number % len(target.keys)], f"{chance.getrandbits(128):032x}"
        head = _HEAD % (target.path, target.host, target.port, key, name, len(body))
        made.append(head.encode() + body)
    return made


def _body(model: str, stream: bool, size: int) -> bytes:
    cached = {"type": "ephemeral"}
    messages: list[dict[str, object]] = []
    body = {
        "model": model,
        "max_tokens": 1024,
        "system": [{"type": "text", "text": "You answer briefly.", "cache_control": cached}],
        "messages": messages,
        "stream": stream,
    }
    turns = 2 if size <= BODY_BYTES else 100  # a large one is a long conversation
    share = size // (turns + 1)
    for turn in range(turns):
        role = "assistant" if turn % 2 else "user"
        messages.append({"role": role, "content": [{"type": "text", "text": _text(share)}]})
    last = {"type": "text", "text": "", "cache_control": cached}
    messages.append({"role": "user", "content": [last]})
    last["text"] = _text(max(1, size - len(msgspec.json.encode(body))))
    return msgspec.json.encode(body)


def _text(size: int) -> str:
    """`size` bytes of JSON text once encoded: a line break counts two."""
    line = _LINE
    text = (line + "\n") * (size // (len(line) + 2))
    return text + line[: size - len(text) - text.count("\n")]
