"""A client's call as an account can take it: without the flags, members and marks that it lacks and may be left out."""

from __future__ import annotations

import re

import msgspec

from gateway.core.routing.features import BETA, FIELD
from gateway.core.wire.members import edited
from gateway.core.wire.peek import peek
from gateway.upstream.provider import Call

_BETAS = b"anthropic-beta:"
# A mark in a cache_control, behind another one or before it. Text that looks alike has its quotes escaped.
_IN_CACHE_CONTROL = rb'("cache_control"[ \t\r\n]*:[ \t\r\n]*\{)([^{}]*)\}'
_CACHE_CONTROL = re.compile(_IN_CACHE_CONTROL)
_MARKS = {
    "cache:scope": rb'"scope"[ \t\r\n]*:[ \t\r\n]*"[^"]*"',
    "cache:1h": rb'"ttl"[ \t\r\n]*:[ \t\r\n]*"1h"',
}


def fitted(call: Call, drops: frozenset[str]) -> Call:
    """The call without these needs; everything else of it stays byte for byte."""
    if not drops:
        return call
    lines = call.lines
    flags = {need[len(BETA) :].encode("latin-1") for need in drops if need.startswith(BETA)}
    if flags:
        lines = [kept for line in lines if (kept := _without(line, flags))]
    peeked = call.peek
    cut = {need[len(FIELD) :] for need in drops if need.startswith(FIELD)}
    marks = [_MARKS[need] for need in _MARKS if need in drops]
    if peeked is None or not (marks or cut.intersection(peeked.fields)):
        return msgspec.structs.replace(call, lines=lines)
    body = edited(peeked.body, peeked.fields, cut) if cut else peeked.body
    if marks:
        mark = b"|".join(marks)
        pattern = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*(?:%b)|(?:%b)[ \t\r\n]*,?[ \t\r\n]*" % (mark, mark))
        body = _CACHE_CONTROL.sub(lambda found: found[1] + pattern.sub(b"", found[2]) + b"}", body)
    fresh = peek(body)
    fresh.model = peeked.model  # an alias stands in the body that was read
    lines = [line for line in lines if not line.startswith(b"content-encoding:")]  # what was read is plain
    return msgspec.structs.replace(call, lines=lines, body=body, peek=fresh)


def _without(line: bytes, flags: set[bytes]) -> bytes:
    """A header line without these flags; nothing where none is left."""
    if not line.startswith(_BETAS):
        return line
    values = [value.strip() for value in line[len(_BETAS) :].split(b",")]
    kept = [value for value in values if value and value not in flags]
    if len(kept) == len(values):
        return line
    return _BETAS + b" " + b",".join(kept) + b"\r\n" if kept else b""
