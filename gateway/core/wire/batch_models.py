"""The models that a batch names, read as it passes in pieces: those of its items, and those that these fall back to or
have as tools. Whatever else is called a model, in a tool's input say, is none.

It holds no more of the body than a key or a short value. JSON is not checked: that is the upstream's work. Keys must be
written plainly, which is another's to see to.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.core.wire.server_tools import DEFAULT
from gateway.errors import ApiError

_MODEL = "model"
_NAMED = {"model": _MODEL}
# Where models stand: objects by their keys, and lists.
_BODY = {"requests": [{"params": {"model": _MODEL, "fallbacks": [_NAMED], "tools": [_NAMED]}}]}
_LONGEST = 2048  # bytes of a string that may be a key or a model, with the blanks behind it
_BETWEEN = re.compile(rb'[^"{}\[\]]*+')
_DULL = re.compile(
    rb'(?:[^"{}\[\]]++|"(?!(?:requests|params|model|fallbacks|tools)")(?:[^"\\]++|\\.)*+")*+', re.DOTALL
)  # and nothing that tells where something stands


def _whole(depth: int) -> bytes:
    """What is between containers, and whole ones that are no deeper than that."""
    inner = rb"|[{\[]" + _whole(depth - 1) + rb"[}\]]" if depth else b""
    return rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+"' + inner + rb")*+"


_SKIPPED = re.compile(_whole(4), re.DOTALL)
_STRING = re.compile(rb'("(?:[^"\\]++|\\.)*+")[ \t\r\n]*+([:,\]}])', re.DOTALL)
_REST = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
_OPEN, _CLOSE = b"{[", b"}]"
_string = msgspec.json.Decoder(str).decode


class BatchModels:
    """Feed it the body's pieces, cut anywhere; `found` are the models so far."""

    __slots__ = ("_depth", "_inside", "_key", "_rest", "_stack", "found")

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._stack: list[Any] = [[_BODY]]  # what may stand in each container that is open
        self._depth = 0  # of containers in which no model can stand
        self._inside = False  # a long string
        self._key: str | None = None
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Read the next piece. Raises ApiError(400) for what is no JSON, as far as that is seen."""
        text = self._rest + data
        position = 0
        while position < len(text):
            if self._inside:
                after = self._leave(text, position)
            elif self._depth:
                after = self._skip(text, position)
            else:
                after = self._step(text, position)
            if after < 0:
                break
            position = after
        self._rest = text[position:]

    def _leave(self, text: bytes, position: int) -> int:
        """Go on to the end of a long string; -1 for a backslash that waits for what it escapes."""
        end = _REST.match(text, position).end()  # type: ignore[union-attr]
        if text[end : end + 1] == b'"':
            self._inside = False
            return end + 1
        return end if end > position else -1

    def _skip(self, text: bytes, position: int) -> int:
        """Go on to where the next container opens or closes."""
        end = _SKIPPED.match(text, position).end()  # type: ignore[union-attr]
        sign = text[end : end + 1]
        if sign == b'"':
            self._inside = True
        elif sign:
            self._depth += 1 if sign in _OPEN else -1
        return end + 1 if sign else end

    def _step(self, text: bytes, position: int) -> int:
        """Go on to a key, a value, or the beginning or end of a container, and read it; -1 where it has not come
        whole."""
        dull = _DULL if self._key is None else _BETWEEN
        begin = dull.match(text, position).end()  # type: ignore[union-attr]
        sign = text[begin : begin + 1]
        if sign == b'"':
            after = self._read_string(text, begin)
            return begin if position < begin > after else after
        if sign and sign in _OPEN:
            self._begin(sign)
        elif sign:
            if len(self._stack) > 1:
                self._stack.pop()
            self._key = None
        return begin + 1 if sign else begin

    def _read_string(self, text: bytes, begin: int) -> int:
        match = _STRING.match(text, begin)
        if match is None:
            if len(text) - begin <= _LONGEST:
                return -1
            end = _REST.match(text, begin + 1).end()  # type: ignore[union-attr]
            if end < len(text) and end - begin < _LONGEST // 2 and text[end : end + 1] == b'"':
                raise ApiError(400, "The request body is not valid JSON, or has too many blanks behind a key or value")
            self._inside, self._key = True, None
            return begin + 1
        if match[2] == b":":
            self._key = _decode(match[1])
        else:
            if self._within(b"") is _MODEL:
                self.found.add(_decode(match[1]))
            elif self._key == "fallbacks" and self._within(b"") and _decode(match[1]) == DEFAULT:
                self.found.add(DEFAULT)
            self._key = None
        return match.end(1)

    def _begin(self, sign: bytes) -> None:
        within = self._within(sign)
        if isinstance(within, dict if sign == b"{" else list):
            self._stack.append(within)
        else:
            self._depth = 1
        self._key = None

    def _within(self, sign: bytes) -> Any:
        """What may stand here."""
        around = self._stack[-1]
        return around[0] if isinstance(around, list) else around.get(self._key)


def _decode(literal: bytes) -> str:
    try:
        return _string(literal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return literal[1:-1].decode(errors="replace")
