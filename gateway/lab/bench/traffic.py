"""Requests that look like an SDK's: its headers, a body of a usual size, one of a set of conversations."""

from __future__ import annotations

import random

import msgspec

from gateway.lab.bench.jobs import Target

CONVERSATIONS = 500
BODY_BYTES = 2048

_HEAD = (
    "POST /v1/messages HTTP/1.1\r\n"
    "host: 127.0.0.1:%d\r\n"
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


def requests(target: Target, *, stream: bool) -> list[bytes]:
    """One whole request for each conversation, all with the same body of BODY_BYTES."""
    body = _body(target.model, stream, BODY_BYTES)
    chance = random.Random(target.model)
    names = [f"{chance.getrandbits(128):032x}" for _ in range(CONVERSATIONS)]
    return [(_HEAD % (target.port, target.key, name, len(body))).encode() + body for name in names]


def large_request(target: Target, size: int) -> bytes:
    """A request with a body of `size` bytes: a long conversation of many turns."""
    body = _body(target.model, False, size, turns=100)
    return (_HEAD % (target.port, target.key, "large", len(body))).encode() + body


def _body(model: str, stream: bool, size: int, turns: int = 2) -> bytes:
    cached = {"type": "ephemeral"}
    messages: list[dict[str, object]] = []
    body = {
        "model": model,
        "max_tokens": 1024,
        "system": [{"type": "text", "text": "You answer briefly.", "cache_control": cached}],
        "messages": messages,
        "stream": stream,
    }
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
