"""Cutting a byte stream into whole server-sent events, without looking into them.

Bytes leave as they came. What is not yet a whole event is held, up to 64 KiB; a longer event passes in pieces (`raw`)
and a copy of it is kept for the usage meter, up to 1 MiB. It does not know event names or JSON.
"""

from __future__ import annotations

import re

MAX_HELD = 64 * 1024
MAX_COPY = 1024 * 1024

# A blank line in any of the three line endings. A lone CR at the very end may yet become CRLF, so it does not count.
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n|\Z))")
_OVERLAP = 3  # bytes of a boundary that may already have been seen


class EventSplitter:
    """Feed it segments; it returns what may be relayed now."""

    __slots__ = ("_copy", "_held", "_tail", "long_event", "raw")

    def __init__(self) -> None:
        self._held = bytearray()
        self._copy: bytearray | None = None
        self._tail = b""
        self.raw = False
        self.long_event: bytes | None = None

    @property
    def held(self) -> int:
        """Bytes of an unfinished event that were not relayed."""
        return len(self._held)

    @property
    def busy(self) -> bool:
        """Whether it is inside an event."""
        return bool(self._held) or self.raw

    def feed(self, data: bytes) -> bytes:
        """The whole events that `data` completes (b"" if none); in `raw` mode also pieces of an unfinished one.

        `long_event` is set for the caller to take when an event that passed in pieces has ended.
        """
        if not self._held and not self.raw:
            if data.endswith(b"\n\n"):
                return data
            return self._hold(data, 0)
        if self.raw:
            return self._pass_on(data)
        return self._hold(data, max(0, len(self._held) - _OVERLAP))

    def finish(self) -> bytes:
        """At the end of the stream: a last event whose blank line could have gone on (CR, CR), else b""."""
        held = bytes(self._held)
        if not held.endswith((b"\r\r", b"\n\r")):
            return b""
        self._held.clear()
        return held

    def _hold(self, data: bytes, start: int) -> bytes:
        held = self._held
        held += data
        end = _last_boundary(held, start)
        ready = bytes(held[:end])
        del held[:end]
        if len(held) > MAX_HELD:
            self.raw = True
            self._copy = bytearray(held)
            self._tail = bytes(held[-_OVERLAP:])
            ready += bytes(held)
            held.clear()
        return ready

    def _pass_on(self, data: bytes) -> bytes:
        joined = self._tail + data
        match = _BOUNDARY.search(joined)
        if match is None:
            self._tail = joined[-_OVERLAP:]
            self._keep(data)
            return data
        end = match.end() - len(self._tail)
        self._keep(data[:end])
        if self._copy is not None:
            self.long_event = bytes(self._copy)
        self.raw = False
        self._copy = None
        rest = data[end:]
        return data[:end] + (self.feed(rest) if rest else b"")

    def _keep(self, piece: bytes) -> None:
        if self._copy is not None:
            self._copy += piece
            if len(self._copy) > MAX_COPY:
                self._copy = None


def _last_boundary(held: bytearray, start: int) -> int:
    """The index behind the last blank line at or after `start`, 0 where there is none."""
    end = held.rfind(b"\n\n", start) + 2
    if end == 1:
        end = 0
    if held.find(b"\r", start) >= 0:
        for match in _BOUNDARY.finditer(held, start):
            end = max(end, match.end())
    return end


def events(data: bytes) -> list[tuple[bytes, bytes, int]]:
    """Whole events as (event name, data, index behind the event). Comments and unknown fields are left out."""
    found = []
    position = 0
    if b"\r" in data:
        for match in _BOUNDARY.finditer(data):
            found.append((*_fields(data[position : match.start()]), match.end()))
            position = match.end()
    else:
        while (end := data.find(b"\n\n", position)) >= 0:
            found.append((*_fields(data[position:end]), end + 2))
            position = end + 2
    if position < len(data):
        found.append((*_fields(data[position:]), len(data)))
    return found


def _fields(block: bytes) -> tuple[bytes, bytes]:
    first, _, value = block.partition(b"\ndata: ")
    if value and first.startswith(b"event: ") and b"\n" not in value and b"\n" not in first and b"\r" not in block:
        return first[7:], value  # as every server writes it
    name = b""
    lines = []
    for line in block.splitlines():
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value
        elif field == b"data":
            lines.append(value)
    return name, b"\n".join(lines)
