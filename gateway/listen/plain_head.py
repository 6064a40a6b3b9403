"""The short way of most request heads: those that are so plain that every parser reads them alike.

A head is plain if it lies whole in one segment, each of its lines is `name: value` in visible ASCII with one blank
behind the colon, it tells its length once, and nothing in it changes how it is framed. Everything else is the parser's.
A client says most lines alike in all its requests: these are remembered together, its own ones are taken out before.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Any

import msgspec

_REQUEST = re.compile(rb"POST (/[A-Za-z0-9/._~-]*)(?:\?([A-Za-z0-9/._~=&%-]*))? HTTP/1\.1")
_LINE = re.compile(rb"([A-Za-z0-9-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
_VALUE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_is_value = _VALUE.fullmatch
_LENGTH = re.compile(rb"[0-9]{1,10}")
# What says how a request is framed, or what becomes of its connection.
_OTHERWISE = frozenset(
    b"transfer-encoding connection expect upgrade proxy-connection http2-settings trailer te".split()
)
# What clients say alike in all their requests, and is nobody's secret.
_ALIKE = re.compile(
    rb"(?:host|accept(?:-encoding|-language)?|user-agent|content-type|connection|anthropic-(?:version|beta)|x-app"
    rb"|anthropic-dangerous-direct-browser-access|x-stainless-[a-z-]+)\Z"
)
# What is a request's or a caller's own, beside the conversation's id.
_LENGTH_NAME = b"content-length"
_OWN = (
    _LENGTH_NAME, b"x-api-key", b"authorization", b"traceparent", b"x-claude-code-session-id",
    b"x-claude-code-agent-id", b"idempotency-key", b"cookie", b"x-request-id", b"x-amzn-trace-id", b"tracestate",
    b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-host", b"x-real-ip", b"via",
)  # fmt: skip
_MAX_KNOWN = 1024
_LONGEST = 2048  # bytes of lines that are remembered

Header = tuple[bytes, bytes]


class Known(msgspec.Struct, eq=False):
    """What many requests say alike: path and query, and headers. `read` is what whoever serves them makes of these, for
    the conversation header of this name. What is not `kept` may be somebody's own."""

    target: Header
    headers: list[Header]
    kept: bool = False
    read: tuple[bytes, Any] = b"", None


class Shape(msgspec.Struct, eq=False):
    """How a head is written: it says what is `known`, then, by its name, a value of its own behind each of these
    `parts` (name, text, size of that), and has this `end`."""

    known: Known
    parts: list[tuple[bytes, bytes, int]]
    end: bytes


class PlainHead(msgspec.Struct, eq=False):
    """`own` are the headers that its `shape` does not tell; `size` bytes of head, `length` of body. It came `at` that
    time (perf_counter seconds)."""

    shape: Shape
    own: list[Header]
    length: int
    size: int
    at: float

    @property
    def headers(self) -> list[Header]:
        return self.shape.known.headers + self.own


class PlainHeads:
    """Reads them for one listener; `conversation` is the name of the header that tells whose conversation it is."""

    def __init__(self, conversation: str) -> None:
        self._own = {name: name for name in (*_OWN, conversation.lower().encode())}
        names = b"|".join(sorted(map(_in_any_case, self._own)))
        self._lines = re.compile(rb"\r\n(" + names + rb"): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)(?=\r\n)")
        self._known: dict[bytes, Known] = {}
        self._latest: Shape | None = None

    def read(self, segment: bytes, most: int, shape: Shape | None = None) -> PlainHead | None:
        """The head with which a segment begins, if it is plain and has at most `most` bytes, and no other request
        follows; else None. It is read at a glance if it has this `shape`, which the one before had."""
        shape = shape or self._latest
        head = self._alike(segment, shape) if shape is not None else None
        if head is None:
            head = self._read(segment)
            if head is None:
                return None
            if head.shape.known.kept:
                self._latest = head.shape
        return head if head.size - 4 <= most and 0 <= len(segment) - head.size <= head.length else None

    @staticmethod
    def _alike(segment: bytes, shape: Shape) -> PlainHead | None:
        own: list[Header] = []
        end = length = 0
        for name, part, size in shape.parts:
            if not segment.startswith(part, end):
                return None
            begin = end + size
            end = segment.find(b"\r\n", begin)
            value = segment[begin:end]
            if name is _LENGTH_NAME:
                if not value.isdigit() or len(value) > 10:
                    return None
                length = int(value)
            elif not _is_value(value):
                return None
            own.append((name, value))
        if not segment.startswith(shape.end, end):
            return None
        return PlainHead(shape, own, length, end + len(shape.end), perf_counter())

    def _read(self, segment: bytes) -> PlainHead | None:
        """The same of a head of any shape; it has a length."""
        end = segment.find(b"\r\n\r\n")
        if end < 0:
            return None
        parts = self._lines.split(segment[: end + 2])
        alike = b"".join(parts[::3])
        known = self._known.get(alike) or self._learn(alike)
        if known is None:
            return None
        written = parts[1::3]
        names, values = [self._own[name.lower()] for name in written], parts[2::3]
        if names.count(_LENGTH_NAME) != 1:
            return None
        length = values[names.index(_LENGTH_NAME)]
        if not _LENGTH.fullmatch(length):
            return None
        pieces = [b"%b\r\n%b: " % pair for pair in zip(parts[::3], written, strict=False)]
        shape = Shape(known, list(zip(names, pieces, map(len, pieces), strict=True)), parts[-1] + b"\r\n")
        return PlainHead(shape, list(zip(names, values, strict=True)), int(length), end + 4, perf_counter())

    def _learn(self, alike: bytes) -> Known | None:
        """What these lines say, remembered if others may say the same; None if they are not plain."""
        request, *lines = alike[:-2].split(b"\r\n")
        match = _REQUEST.fullmatch(request)
        if match is None:
            return None
        target = match[1], match[2] or b""
        headers: list[Header] = []
        keep = len(alike) <= _LONGEST
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                return None
            name, value = match[1].lower(), match[2]
            if name in self._own or (name in _OTHERWISE and (name, value) != (b"connection", b"keep-alive")):
                return None
            keep = keep and _ALIKE.match(name) is not None
            headers.append((name, value))
        known = Known(target, headers, keep)
        if keep:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[alike] = known
        return known


def _in_any_case(name: bytes) -> bytes:
    """A pattern for it. Letters of either case are listed: a pattern that ignores case takes several times as long."""
    text = name.decode("latin-1")
    return "".join(f"[{c.upper()}{c}]" if c.isalpha() else re.escape(c) for c in text).encode("latin-1")
