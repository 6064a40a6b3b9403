"""Reading usage out of a batch's results beside their download: JSONL, one result a line, of any length.

It does not know which batch they belong to, nor prices.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec

from gateway.core.spending.pricing import Bill
from gateway.core.wire.created_ids import CreatedId, hints, in_message
from gateway.core.wire.usage_meter import UsageMeter
from gateway.records import Usage

MAX_LINE = 8 * 1024 * 1024  # bytes held of one line
_WIDTH = 9  # numbers kept of one


class _Result(msgspec.Struct):
    type: str = ""
    message: msgspec.Raw = msgspec.Raw()


class _Line(msgspec.Struct):
    result: _Result


_line = msgspec.json.Decoder(_Line).decode


class Metered(msgspec.Struct):
    """What results of one model used together, and nano-dollars of what each cost and saved by itself."""

    usage: Usage
    cost: int = 0
    savings: int = 0


class ResultsTap:
    """Feed it what passes; `bill` says what one result cost. The first `skip` lines were metered before, by an earlier
    download: they only count.

    `lines` are the whole lines seen; `unread` how many beyond `skip` may have used something that could not be read;
    `created_ids` are of objects that the messages brought.
    """

    __slots__ = ("_bill", "_counts", "_held", "_long", "_models", "_skip", "created_ids", "lines", "unread")

    def __init__(self, bill: Callable[[str, Usage], Bill], skip: int = 0) -> None:
        self._bill = bill
        self.lines = 0
        self.unread = 0
        self.created_ids: list[CreatedId] = []
        self._models: dict[str, int] = {}  # model -> its number
        self._counts = array("q")  # of each succeeded line: its number, its model's, tokens by class, cost and savings
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

    def metered(self, skip: int = 0) -> dict[str, Metered]:
        """The sum of every succeeded result beyond `skip` lines, by the model that answered."""
        found: dict[str, Metered] = {}
        names = list(self._models)
        for start in range(0, len(self._counts), _WIDTH):
            line, model, fresh, read, write_5m, write_1h, output, cost, saved = self._counts[start : start + _WIDTH]
            if line > skip:
                sums = found.setdefault(names[model], Metered(Usage()))
                sums.cost += cost
                sums.savings += saved
                total = sums.usage
                total.input += fresh
                total.cache_read += read
                total.cache_write_5m += write_5m
                total.cache_write_1h += write_1h
                total.output += output
        return found

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
        if hints(line):
            self.created_ids += in_message(bytes(result.message), False)
        meter = UsageMeter()
        meter.read_json(result.message)
        if meter.garbled or not meter.started:
            self.unread += 1
            if meter.usage == Usage():
                return
        model, used = self._models.setdefault(meter.model, len(self._models)), meter.usage
        cost, savings, _ = self._bill(meter.model, used)
        self._counts.extend((
            self.lines, model, used.input, used.cache_read, used.cache_write_5m, used.cache_write_1h, used.output,
            cost, savings,
        ))  # fmt: skip
