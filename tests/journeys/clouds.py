"""How accounts on clouds speak in journeys: the same answers as Anthropic's in each cloud's own form."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.wire.event_stream import chunk, encode, exception
from tests.journeys.http import Answer, Asked
from tests.journeys.journey import MODEL, as_json, good, stream, usual, whole_stream

BEDROCK = {"provider": "bedrock", "region": "us-east-1", "aws_account": "123456789012", "price_factor": 1}
MANTLE = {**BEDROCK, "api": "mantle"}
VERTEX = {"provider": "vertex", "region": "global", "project": "secret-project"}
FOUNDRY = {"provider": "foundry"}
PLATFORM = {"provider": "aws-platform", "region": "us-east-1", "workspace_id": "wrkspc_secret"}
METRICS = {"inputTokenCount": 9999, "outputTokenCount": 9999, "invocationLatency": 7}
FRAMES = (("content-type", "application/vnd.amazon.eventstream"), ("x-amzn-requestid", "aws-request"))


def framed(event: bytes) -> bytes:
    """A server-sent event as a frame of Bedrock's; the last one has Bedrock's own account of the request."""
    data = json.loads(event.partition(b"data: ")[2])
    if data["type"] == "message_stop":
        data["amazon-bedrock-invocationMetrics"] = METRICS
    return chunk(json.dumps(data, separators=(",", ":")).encode())


def frames(*events: bytes, gap: float = 0.1, **more: Any) -> Answer:
    """A stream of Bedrock's: these events, or frames as they are."""
    pieces = ((gap, framed(each) if each.startswith(b"event: ") else each) for each in events)
    return Answer(200, FRAMES, tuple(pieces), chunked=True, **more)


def fails(name: str, message: str) -> bytes:
    """The frame of an exception."""
    return exception(name, message)


def corrupt() -> bytes:
    """A frame whose checksum is wrong."""
    frame = encode({":message-type": "event", ":event-type": "chunk"}, b'{"bytes":""}')
    return frame[:-1] + bytes([frame[-1] ^ 1])


def aws(status: int, name: str, message: str) -> Answer:
    """An error of AWS's."""
    headers = (
        ("content-type", "application/json"), ("x-amzn-errortype", f"{name}:http://internal.amazon.com/coral/x/"),
        ("x-amzn-requestid", "aws-request"),
    )  # fmt: skip
    return Answer(status, headers, ((0.0, json.dumps({"message": message}).encode()),))


def google(status: int, word: str, message: str, listed: bool = False) -> Answer:
    """An error of Google's, which a stream has in a list."""
    said: Any = {"error": {"code": status, "status": word, "message": message}}
    return Answer(
        status, (("content-type", "application/json"),), ((0.0, json.dumps([said] if listed else said).encode()),)
    )


def answer(asked: Asked) -> Answer:
    """What an account answers that has no other orders, in the form of whoever it is."""
    path = asked.path
    if path.startswith("/model/"):
        if path.endswith("/count-tokens"):
            return as_json(200, {"inputTokens": 7})
        return frames(*whole_stream(model=MODEL)) if path.endswith("-stream") else good(model=MODEL)
    if path.startswith("/v1/projects/"):
        if path.endswith("count-tokens:rawPredict"):
            return as_json(200, {"input_tokens": 7})
        return stream(*whole_stream(model=MODEL)) if path.endswith(":streamRawPredict") else good(model=MODEL)
    if path.startswith("/anthropic/"):
        asked = Asked(asked.account, asked.at, asked.method, path.removeprefix("/anthropic"), body=asked.body)
    return usual(asked)


# What clouds hear of a body: members that are not the client's, or not as the client wrote them.
_NAMED = frozenset({"model", "stream", "anthropic_version", "anthropic_beta", "max_tokens", "temperature"})


def same(sent: bytes, heard: bytes) -> bool:
    """Whether a cloud has heard what a client sent, but for the members that are named otherwise there."""
    try:
        one, other = json.loads(sent), json.loads(heard)
    except ValueError:
        return sent == heard
    if isinstance(other, dict) and "input" in other:
        return True  # of a count, whose body is in base64
    rest = [{name: value for name, value in each.items() if name not in _NAMED} for each in (one, other)]
    return rest[0] == rest[1]
