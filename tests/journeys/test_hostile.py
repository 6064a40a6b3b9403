"""Requests that are none, or meant badly: refused in Anthropic's words, before any account is asked."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from tests.journeys.driver import KEYS, Rig
from tests.journeys.journey import MODEL, Ask, Journey, Want, ask, journey, message

SMALL = {"limits": {"max_body_mb": 0.01}}  # 10,485 bytes
KEY = f"x-api-key: {KEYS['alice']}\r\n".encode()


def refused(status: int, kind: str = "invalid_request_error", says: str = "", **record: Any) -> Want:
    """By the gateway, before anybody was asked."""
    return Want(
        status=status,
        error=kind,
        says=says,
        attempts=0,
        used=(0, 0),
        money=0,
        record={"outcome": "error", "attempts": 0, "account": "", **record},
    )


def hostile(name: str, body: bytes, want: Want, **more: Any) -> Journey:
    asked = more.pop("asked", "")
    fields = {word: more.pop(word) for word in list(more) if word in Ask.__dataclass_fields__}
    return journey(name, Ask(want, body=body, **fields), asked=asked, **more)


GOOD = json.dumps(message()).encode()
NOT_JSON = refused(400, says="not valid JSON")
SERVED = Want(by="a", attempts=1, used=(100, 20))
TWICE = refused(400, says="more than once")

BODIES = [
    hostile("an empty body is no request", b"", NOT_JSON),
    hostile("half a body is no request", GOOD[:-20], NOT_JSON),
    hostile("what follows a body is refused", GOOD + b"{}", NOT_JSON),
    hostile("a list is no request", b"[]", NOT_JSON),
    hostile("null is no request", b"null", NOT_JSON),
    hostile("a string is no request", b'"model"', NOT_JSON),
    hostile("bytes that are no UTF-8 are refused", b'{"model": "\xff\xfe"}', refused(400)),
    hostile("NaN is no JSON", b'{"model": "' + MODEL.encode() + b'", "top_p": NaN}', NOT_JSON),
    hostile("a body without a model is refused", b'{"max_tokens": 1}', refused(400, says="model: Field required")),
    hostile("a model that is a number is refused", b'{"model": 5}', refused(400, says="model:")),
    hostile("a model without a name is refused", b'{"model": ""}', refused(400, says="model:")),
    hostile("a model of 257 characters is refused", b'{"model": "' + b"m" * 257 + b'"}', refused(400, says="model:")),
    hostile("a model with a line break is refused", b'{"model": "a\\nb"}', refused(400, says="model:")),
    hostile("two models are refused", b'{"model": "claude-haiku-4-5", "model": "claude-opus-4-5"}', TWICE),
    hostile("two models of the same name are refused", b'{"model": "x", "model": "x"}', TWICE),
    hostile(
        "a second model whose key is spelled with an escape is refused", b'{"model": "x", "mod\\u0065l": "y"}', TWICE
    ),
    hostile("any key that stands twice is refused", b'{"model": "x", "stream": true, "stream": false}', TWICE),
    hostile(
        "a key that stands twice deeper down is the upstream's to judge",
        GOOD[:-1] + b', "metadata": {"a": 1, "a": 2}}',
        SERVED,
        asked="a",
    ),
    hostile(
        "a reference that can be read in two ways is refused",
        b'{"model": "x", "container": {"id": "c1", "id": "c2"}}',
        refused(400),
    ),
    hostile(
        "a body of 257 keys is refused",
        json.dumps({"model": MODEL, **{f"k{n}": n for n in range(256)}}).encode(),
        refused(400, says="more than 256 keys"),
    ),
    hostile(
        "a number of a million digits is the upstream's to judge",
        GOOD[:-1] + b', "n": ' + b"9" * 1_000_000 + b"}",
        Want(by="a"),
        asked="a",
    ),
    hostile(
        "a list within 100,000 lists is refused",
        GOOD[:-1] + b', "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        NOT_JSON,
    ),
    hostile("half of a surrogate pair is refused", GOOD[:-1] + b', "n": "\\ud800"}', NOT_JSON),
    hostile("a request for no stream at all is served", GOOD[:-1] + b', "stream": "yes"}', SERVED, asked="a"),
]

TOO_LARGE = refused(413, "request_too_large", says="larger than")
BIG = GOOD[:-1] + b" " * 11_000 + b"}"
BOMB = gzip.compress(b" " * 1_000_000)
SIZES = [
    hostile("a body that is larger than allowed is refused", BIG, TOO_LARGE, config=SMALL),
    hostile(
        "a body of just the size that is allowed is served",
        GOOD[:-1] + b" " * (10_485 - len(GOOD)) + b"}",
        SERVED,
        config=SMALL,
        asked="a",
    ),
    journey(
        "a body that says it is too large is refused before it comes",
        Ask(refused(413, "request_too_large"), headers=(("content-length", "9000000"),), pieces=((0.0, b"{"),)),
        config=SMALL,
        asked="",
    ),
    journey(
        "a body that does not say that it is too large is refused as it comes",
        Ask(
            refused(413, "request_too_large"),
            headers=(("transfer-encoding", "chunked"),),
            pieces=tuple((0.1, b"1000\r\n" + b" " * 0x1000 + b"\r\n") for _ in range(4)),
        ),
        config=SMALL,
        asked="",
    ),
    journey(
        "a body in chunks is served",
        Ask(
            SERVED,
            headers=(("transfer-encoding", "chunked"),),
            pieces=(
                (0.1, b"%x\r\n" % 20 + GOOD[:20] + b"\r\n"),
                (1.0, b"%x\r\n" % (len(GOOD) - 20) + GOOD[20:] + b"\r\n0\r\n\r\n"),
            ),
        ),
        asked="a",
    ),
    hostile(
        "a compressed body is served", gzip.compress(GOOD), SERVED, headers=(("content-encoding", "gzip"),), asked="a"
    ),
    hostile(
        "a deflated body is served", zlib.compress(GOOD), SERVED, headers=(("content-encoding", "deflate"),), asked="a"
    ),
    hostile(
        "a body that is compressed badly is refused",
        gzip.compress(GOOD)[:-12] + b"x" * 12,
        refused(400),
        headers=(("content-encoding", "gzip"),),
    ),
    hostile(
        "a body that swells is refused",
        BOMB,
        refused(413, "request_too_large"),
        headers=(("content-encoding", "gzip"),),
        config=SMALL,
    ),
    hostile(
        "a compressed body in which a key stands twice is refused",
        gzip.compress(b'{"model": "x", "model": "y"}'),
        TWICE,
        headers=(("content-encoding", "gzip"),),
    ),
    hostile(
        "an encoding that nobody knows is refused",
        GOOD,
        refused(400, says="Content-Encoding"),
        headers=(("content-encoding", "rot13"),),
    ),
    hostile(
        "an encoding within an encoding is refused",
        GOOD,
        refused(400, says="Content-Encoding"),
        headers=(("content-encoding", "gzip, br"),),
    ),
    hostile(
        "two encodings are refused",
        GOOD,
        refused(400, says="content-encoding: given twice"),
        headers=(("content-encoding", "gzip"), ("content-encoding", "identity")),
    ),
    hostile(
        "no more bodies are held than there is room for",
        GOOD[:-1] + b" " * 90_000 + b"}",
        refused(529, "overloaded_error", throttled="gateway", limit="memory"),
        config={"limits": {"max_held_mb": 0.05}},
    ),
]

POST = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n"
LONG_ID = "i" * 8193
HEADS = [
    journey(
        "a conversation id of 8 KB is served",
        ask(want=SERVED, conversation=None, headers=(("x-conversation-id", LONG_ID[1:]),)),
        pool={"a": {}},
    ),
    journey(
        "a conversation id of 257 bytes is refused",
        ask(want=refused(400, says="x-conversation-id"), conversation=None, headers=(("x-conversation-id", LONG_ID),)),
        asked="",
    ),
    journey(
        "two conversation ids are refused",
        ask(
            want=refused(400, says="given twice"),
            conversation=None,
            headers=(("x-conversation-id", "one"), ("x-conversation-id", "two")),
        ),
        asked="",
    ),
    journey(
        "the same conversation id twice is served",
        ask(want=SERVED, conversation=None, headers=(("x-conversation-id", "one"), ("x-conversation-id", "one"))),
        pool={"a": {}},
    ),
    journey(
        "a conversation id that is no UTF-8 is one all the same",
        ask(want=SERVED, conversation=None, headers=(("x-conversation-id", "\xff\xfe"),)),
        pool={"a": {}},
    ),
    journey(
        "a length that is given twice is no request",
        Ask(
            Want(status=400, error="invalid_request_error", record=None),
            raw=b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        ),
        asked="",
        wire=True,
    ),
    journey(
        "a length beside chunks is no request",
        Ask(
            Want(status=400, error="invalid_request_error", record=None),
            raw=POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        asked="",
        wire=True,
    ),
    journey(
        "a transfer coding beside chunked is refused",
        Ask(
            refused(400, says="Transfer-Encoding"),
            raw=b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n"
            + KEY
            + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        asked="",
    ),
    journey(
        "a request without a host is refused",
        Ask(refused(400, says="host"), raw=b"POST /v1/messages HTTP/1.1\r\n" + KEY + b"content-length: 0\r\n\r\n"),
        asked="",
    ),
    journey(
        "a request for two hosts is refused",
        Ask(
            refused(400, says="host"),
            raw=b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nhost: b\r\n" + KEY + b"content-length: 0\r\n\r\n",
        ),
        asked="",
    ),
    journey(
        "rubbish is no request",
        Ask(Want(status=400, error="invalid_request_error", record=None), raw=b"\x16\x03\x01\x02\x00"),
        asked="",
        wire=True,
    ),
    journey(
        "an answer before rubbish is settled, though its connection was reset as it ended",
        Ask(
            replace(SERVED, record={"outcome": "ok"}),
            body=GOOD,
            raw=POST + KEY + b"content-length: %d\r\n\r\n%b\x16\x03" % (len(GOOD), GOOD),
        ),
        pool={"a": {}},
        wire=True,
    ),
    journey(
        "an absolute target is refused",
        Ask(
            Want(status=400, error="invalid_request_error", record=None),
            raw=b"GET http://elsewhere.test/v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        ),
        asked="",
        wire=True,
    ),
    journey(
        "a line break in a header is no header",
        Ask(
            Want(status=400, error="invalid_request_error", record=None),
            raw=b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b\nc\r\n\r\n",
        ),
        asked="",
        wire=True,
    ),
    journey(
        "a head of more than 64 KiB is refused",
        Ask(
            Want(status=431, error="request_too_large", record=None),
            raw=b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 70_000 + b"\r\n\r\n",
        ),
        asked="",
        wire=True,
    ),
    journey(
        "100,000 headers are refused",
        Ask(
            Want(status=431, error="request_too_large", record=None),
            raw=b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
        ),
        asked="",
        wire=True,
    ),
    journey(
        "a head that never ends is not waited for",
        Ask(
            Want(status=408, error="timeout_error", record=None, within=(10, 12)),
            raw=b"GET /healthz HTTP/1.1\r\nhost: x\r\n",
        ),
        asked="",
        wire=True,
    ),
    journey(
        "a body that never comes is not waited for",
        Ask(
            Want(
                status=408,
                error="timeout_error",
                within=(30, 33),
                used=(0, 0),
                record={"status": 0, "outcome": "client_gone", "attempts": 0, "account": ""},
            ),
            headers=(("content-length", "200"),),
            pieces=((0.0, b"{"),),
        ),
        asked="",
        wire=True,
    ),
]


@pytest.mark.parametrize("journey", BODIES + SIZES + HEADS, ids=str)
def test_hostile_requests(journey: Journey, rig: Rig):
    rig.play(journey)
