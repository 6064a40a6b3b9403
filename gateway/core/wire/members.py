"""Cutting, replacing and putting in members of a body's top level; every other byte stays as it came.

It does not know what members are for, and never serialises what it was not given.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

import msgspec

_KEY = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*')
_END = re.compile(rb"[ \t\r\n]*([,}])")
_APART = "body and members do not belong together"
_NOTHING: Mapping[str, bytes] = {}


def edited(
    body: bytes,
    fields: Mapping[str, msgspec.Raw],
    cut: Container[str] = (),
    put: Mapping[str, bytes] = _NOTHING,
) -> bytes:
    """The body without the members that are `cut`, and with those that are `put`, whose values are finished JSON: in
    the place of one that is there, else at the front.

    `body` and `fields` are those of a Peek: each key of the top level once, in the order of the bytes. So a member is
    found by stepping over the keys and lengths before it, whatever stands in them. Raises ValueError where body and
    fields do not belong together.
    """
    whole = _compact(body, fields, cut, put)
    if whole is not None:
        return whole
    view, start = memoryview(body), body.index(b"{") + 1
    parts: list[bytes | memoryview] = []
    for name, finished in put.items():
        if name not in fields:
            parts += [b",", b'"%b":%b' % (name.encode(), finished)]
    position = close = start
    for number, (name, raw) in enumerate(fields.items(), 1):
        key = _KEY.match(body, position)
        end = None if key is None else _END.match(body, key.end() + len(raw))
        if key is None or end is None or (end[1] == b"}") != (number == len(fields)):
            raise ValueError(_APART)
        close = end.start(1)
        if (name in put or name in cut) and not (
            msgspec.json.decode(key[1]) == name and body.startswith(memoryview(raw), key.end())
        ):
            raise ValueError(_APART)
        if name in put:
            parts += [b",", view[position : key.end()], put[name], view[key.end() + len(raw) : close]]
        elif name not in cut:
            parts += [b",", view[position:close]]
        position = end.end()
    parts[:1] = [view[:start]]  # where the first comma would be
    parts.append(view[close:])
    return b"".join(parts)


def _compact(
    body: bytes, fields: Mapping[str, msgspec.Raw], cut: Container[str], put: Mapping[str, bytes]
) -> bytes | None:
    """The same of a body as SDKs write it, without blanks between its members: where these stand their lengths say.
    None of another one."""
    parts = [b'"%b":%b' % (name.encode(), finished) for name, finished in put.items() if name not in fields]
    kept = position = 1  # where the members that stay begin, and the next one
    for name, raw in fields.items():
        end = position + len(name) + len(raw) + 4
        if name in put or name in cut:
            key = b'"%b":' % name.encode(errors="replace")
            if not body.startswith(b"%b%b" % (key, raw), position):
                return None
            if kept < position:
                parts.append(body[kept : position - 1])
            if name in put:
                parts.append(key + put[name])
            kept = end
        position = end
    if position != len(body):
        return None
    if kept < position:
        parts.append(body[kept : position - 1])
    return b"{%b}" % b",".join(parts)
