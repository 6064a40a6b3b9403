"""A recorded stream of requests: JSON lines of Mooncake's form, plain or gzip-compressed.

Each line is {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [block, ...]}; it may have a
"session_id", and a "block_size" in tokens, which holds for the lines after it too (512 until one says so). Other
members are ignored. The conversation is the session, else the first two blocks, or the one there is.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from gateway.lab.replay.policy import BLOCK, Request


class TraceError(ValueError):
    """The trace cannot be read; the message is one line that names the line and what to change."""


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]
    session_id: str | int | None = None
    block_size: int | None = None

    @property
    def conversation(self) -> bytes:
        if self.session_id is not None:
            return b"session:%b" % str(self.session_id).encode()
        return b":".join(b"%d" % block for block in self.hash_ids[:2])


class Prefixes:
    """Gives each block, together with all that come before it, one number: equal numbers mean equal prompts so far."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int], int] = {}

    def intern(self, blocks: Iterable[int]) -> tuple[int, ...]:
        numbers = self._numbers
        before = -1
        found = []
        for block in blocks:
            before = numbers.setdefault((before, block), len(numbers))
            found.append(before)
        return tuple(found)


def load(path: Path) -> list[Request]:
    """The requests in the order of arrival, the first at 0 s; `TraceError` in one line for anything else."""
    prefixes = Prefixes()
    lines: list[_Line] = []
    block = BLOCK
    decode = msgspec.json.Decoder(_Line).decode
    for number, text in _lines(path):
        try:
            line = decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TraceError(f"{path}: line {number}: {error}; {_FORM}") from None
        complaint = _complaint(line)
        if complaint:
            raise TraceError(f"{path}: line {number}: {complaint}")
        block = line.block_size = line.block_size or block
        lines.append(line)
    if not lines:
        raise TraceError(f"{path}: no requests in it; {_FORM}")
    first = min(line.timestamp for line in lines)
    requests = [
        Request(
            index=index,
            at=(line.timestamp - first) / 1000,
            conversation=line.conversation,
            blocks=prefixes.intern(line.hash_ids),
            input=line.input_length,
            output=line.output_length,
            block=line.block_size or block,
            session=line.session_id is not None,
        )
        for index, line in enumerate(lines)
    ]
    return sorted(requests, key=lambda request: request.at)


_FORM = 'each line must be {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [n, ...]}'


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path}: not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; name a trace, or use --synthetic") from None


def _complaint(line: _Line) -> str:
    if line.timestamp < 0:
        return "timestamp must not be negative"
    if line.input_length < 1:
        return "input_length must be at least 1"
    if line.output_length < 0:
        return "output_length must not be negative"
    if not line.hash_ids:
        return "hash_ids must name at least one block"
    if line.block_size is not None and line.block_size < 1:
        return "block_size must be at least 1"
    return ""
