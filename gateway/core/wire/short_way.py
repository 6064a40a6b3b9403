"""The short way of most of a stream: segments of whole chunks that are one piece of content each leave as they came.

It takes no chunk apart, and writes by what it is given. What an event costs is mostly to have its stream's objects in
the processor's caches, where hundreds of streams take turns: here it is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.core.wire.meter import Meter
from gateway.core.wire.usage_meter import text_size

_DELTA_CHUNK = re.compile(rb"([0-9a-f]{1,6})\r\nevent: content_block_delta\ndata: [^\r\n]*\n\n\r\n")
_AT_MOST = 4096  # bytes of a chunk of which it is remembered how it begins
_beginnings: dict[int, bytes] = {}
_END = b'"}}\n\n\r\n'  # of most


class ShortWay:
    """Where whole chunks of an answer may go, framed as HTTP/1.1 does: to `write`, unless its reader is `closing` (has
    gone) or `full` (takes no more now). `deltas` and `size` are the pieces of content that went this way and the bytes
    of their texts."""

    __slots__ = ("_closing", "_seen", "_write", "deltas", "full", "size")

    def __init__(self, write: Callable[[bytes], None], closing: Callable[[], bool], full: bool = False) -> None:
        self._write = write
        self._closing = closing
        self.full = full
        self.deltas = self.size = self._seen = 0

    def take(self, segment: bytes) -> bool:
        """Pass the segment on if it is chunks that are one piece of content each; False if it must go another way."""
        size = len(segment)
        begins = _beginnings.get(size)
        if (
            not begins
            or not segment.startswith(begins)
            or not segment.endswith(_END)
            or segment.find(b"\n", len(begins)) != size - 4
            or segment.find(b"\r", len(begins)) != size - 2
        ):
            return self._take_several(segment)
        if self.full or self._closing():
            return False
        self._write(segment)
        self.deltas += 1
        begin = segment.rfind(b'":"')  # as text_size has it
        self.size += size - len(_END) - 3 - begin if begin > 0 else text_size(segment)
        return True

    def _take_several(self, segment: bytes) -> bool:
        count = delta_chunks(segment)
        if not count or self.full or self._closing():
            return False
        self._write(segment)
        self.deltas += count
        for chunk in segment.split(b"\n\n\r\n")[:-1]:
            self.size += text_size(chunk)
        return True

    def looked_at(self) -> bool:
        """Whether anything has gone this way since the last look."""
        before, self._seen = self._seen, self.deltas
        return self.deltas != before

    def tell(self, meter: Meter) -> None:
        """What has passed, for an estimate."""
        meter.passed_deltas += self.deltas
        meter.passed_bytes += self.size
        self.deltas = self.size = self._seen = 0


def _begins(size: int) -> bytes:
    """How a chunk of so many bytes, framing and all, begins if it holds one piece of content; b"" if it cannot."""
    for digits in range(1, 4):
        length = b"%x" % max(0, size - digits - 4)  # two line ends are of the framing
        if len(length) == digits:
            return length + b"\r\nevent: content_block_delta\ndata: "
    return b""


def delta_chunks(segment: bytes) -> int:
    """How many chunks these bytes are, if they are whole ones as HTTP/1.1 frames them, each of which holds one event, a
    piece of content; else 0."""
    begin = found = 0
    size = len(segment)
    while begin < size:
        match = _DELTA_CHUNK.match(segment, begin)
        if match is None or int(match[1], 16) != match.end() - match.end(1) - 4:
            return 0
        found += 1
        begin = match.end()
    if found == 1 and size <= _AT_MOST and size not in _beginnings:
        _beginnings[size] = _begins(size)
    return found
