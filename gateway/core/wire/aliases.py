"""The operator's own names of models: the one change of a body that they ask for.

It does not know which names are allowed, nor what the models are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

_KEY = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*')
_COMMA = re.compile(rb"[ \t\r\n]*,")


def with_model(body: bytes, fields: Mapping[str, msgspec.Raw], model: str) -> bytes:
    """The body with `model` as the value of its top-level key "model", and every other byte as it was.

    `body` and `fields` are those of a Peek: each key of the top level once, in the order of the bytes. So the value is
    found by stepping over the keys and lengths before it, whatever stands in them: a tool may well have a "model" of
    its own. Raises ValueError where body and fields do not belong together, or there is no such key.
    """
    position = body.index(b"{") + 1
    for name, raw in fields.items():
        key = _KEY.match(body, position)
        if key is None:
            break
        start, end = key.end(), key.end() + len(raw)
        if name == "model":
            if msgspec.json.decode(key[1]) != name or body[start:end] != bytes(raw):
                break
            return b"".join((memoryview(body)[:start], msgspec.json.encode(model), memoryview(body)[end:]))
        comma = _COMMA.match(body, end)
        if comma is None:
            break
        position = comma.end()
    raise ValueError("no such model in this body")
