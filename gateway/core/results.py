"""Reading usage out of a batch's results beside their download: JSONL, one result a line, of any length.

It does not know which batch they belong to, nor prices.
"""

from __future__ import annotations

import msgspec

from gateway.core.usage import UsageMeter
from gateway.records import Usage

MAX_LINE = 8 * 1024 * 1024  # bytes held of one line


class _Result(msgspec.Struct):
    type: str = ""
    message: msgspec.Raw = msgspec.Raw()


class _Line(msgspec.Struct):
    result: _Result


_line = msgspec.json.Decoder(_Line).decode


class ResultsTap:
    """Feed it what passes. The first `skip` lines were metered before, by an earlier download: they only count.

    `lines` are the whole lines seen; `usages` the sum of every succeeded result beyond `skip`, by the model that
    answered; `unread` how many lines beyond it may have used something that could not be read.
    """

    __slots__ = ("_held", "_long", "_skip", "lines", "unread", "usages")

    def __init__(self, skip: int = 0) -> None:
        self.lines = 0
        self.usages: dict[str, Usage] = {}
        self.unread = 0
        self._skip = skip
        self._held = bytearray()
        self._long = False

    def feed(self, data: bytes) -> None:
        """Read the lines that `data` completes."""
        *whole, rest = data.split(b"\n")
        for line in whole:
            if self._held or self._long or len(line) > MAX_LINE:
                self._hold(line)
                line = bytes(self._held)
            self._read(line)
            self._held.clear()
            self._long = False
        self._hold(rest)

    def finish(self) -> None:
        """At the end of the download: its last line may have no newline. Half a result is no line."""
        rest = bytes(self._held)
        self._held.clear()
        try:
            _line(rest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        self._read(rest)

    def _hold(self, piece: bytes) -> None:
        if self._long or len(self._held) + len(piece) > MAX_LINE:
            self._long = True
            self._held.clear()
        else:
            self._held += piece

    def _read(self, line: bytes) -> None:
        if not self._long and not line.strip():
            return
        self.lines += 1
        if self.lines <= self._skip:
            return
        try:
            result = _line(line).result
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.unread += 1
            return
        if result.type != "succeeded":
            return
        meter = UsageMeter()
        if not meter.read_json(result.message):
            self.unread += 1
            return
        total, used = self.usages.setdefault(meter.model, Usage()), meter.usage
        total.input += used.input
        total.cache_read += used.cache_read
        total.cache_write_5m += used.cache_write_5m
        total.cache_write_1h += used.cache_write_1h
        total.output += used.output
