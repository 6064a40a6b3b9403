"""Leaving out of a call what an account lacks."""

from __future__ import annotations

import json

import pytest

from gateway.core.routing.features import needs_of
from gateway.core.wire.peek import peek
from gateway.upstream.fitting import fitted
from gateway.upstream.provider import Call

BODY = (
    b'{"model":"m","max_tokens":1, "context_management" : {"edits":[]},"messages":[{"role":"user","content":[{'
    b'"type":"text","text":"\\"cache_control\\":{\\"scope\\":\\"global\\"}","cache_control":{"type":"ephemeral","ttl":"1h","scope":"global"}}'
    b',{"type":"text","text":"b","cache_control": {"scope":"global", "type":"ephemeral"}}]}]}'
)

BETA = b"anthropic-beta: "


def call(*lines: bytes, body: bytes = BODY) -> Call:
    return Call(b"POST", b"/v1/messages", list(lines), body, "m", peek=peek(body))


def test_what_lacks_nothing_is_the_same_call():
    whole = call(b"anthropic-beta: a\r\n")
    assert fitted(whole, frozenset()) is whole


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([b"anthropic-beta: a\r\n"], [b"anthropic-beta: a\r\n"]),
        ([b"anthropic-beta: a, gone,c\r\n"], [b"anthropic-beta: a,c\r\n"]),
        ([b"x: gone\r\n", b"anthropic-beta:gone\r\n"], [b"x: gone\r\n"]),
        ([BETA + b"gone-not\r\n", BETA + b"gone, b\r\n"], [BETA + b"gone-not\r\n", BETA + b"b\r\n"]),
    ],
)  # fmt: skip
def test_flags_are_left_out_of_the_lines(lines: list[bytes], kept: list[bytes]):
    changed = fitted(call(*lines), frozenset({"beta:gone"}))
    assert changed.lines == kept
    assert changed.body is BODY


def test_members_are_cut_and_every_other_byte_stays():
    changed = fitted(call(), frozenset({"field:context_management", "field:absent"}))
    assert changed.body == BODY.replace(b' "context_management" : {"edits":[]},', b"")
    assert changed.peek is not None
    assert changed.peek.body == changed.body
    assert "context_management" not in changed.peek.fields


def test_marks_are_taken_out_of_cache_control_alone():
    changed = fitted(call(b"content-encoding: gzip\r\n"), frozenset({"cache:scope", "cache:1h"}))
    assert isinstance(changed.body, bytes)
    blocks = json.loads(changed.body)["messages"][0]["content"]
    assert [each["cache_control"] for each in blocks] == [{"type": "ephemeral"}, {"type": "ephemeral"}]
    assert blocks[0]["text"] == '"cache_control":{"scope":"global"}'
    assert changed.lines == []  # the body is plain now
    assert changed.peek is not None
    assert "cache:scope" not in needs_of(changed.peek, [])


def test_an_hour_stays_where_only_the_scope_goes():
    changed = fitted(call(), frozenset({"cache:scope"}))
    assert isinstance(changed.body, bytes)
    assert json.loads(changed.body)["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
