"""What meters of all dialects share: what is known of an answer's usage, and where it stands in whole answers."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Annotated

import msgspec

from gateway.records import Usage

# A count that is none makes what holds it unreadable: better no usage, and an estimate, than a ledger gone wrong.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)] | None
MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,256})"')
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_LONGEST = 32 * 1024  # bytes of a usage object in the ends of a long answer
_HEAD = 1024  # bytes of a long answer in which its model stands, if it stands before the content
_first_value = json.JSONDecoder().raw_decode


class Meter(msgspec.Struct, eq=False):
    """What one answer used, as far as it is known yet.

    `started` once the answer has begun, `told_end` once the model has said why it stopped, `stopped` once the stream's
    last event was seen; `error` is the type of an error in the stream. `input_told` and `output_told` once the counts
    for good were told, `garbled` if some of what was told could not be read. What was written to caches lives for `ttl`
    seconds, as the request asked, where the answer does not say.
    """

    ttl: int = 300
    usage: Usage = msgspec.field(default_factory=Usage)
    model: str = ""
    started: bool = False
    told_end: bool = False
    stopped: bool = False
    input_told: bool = False
    output_told: bool = False
    garbled: bool = False
    error: str = ""
    passed_bytes: int = 0  # of content, for an estimate
    passed_deltas: int = 0

    @property
    def context(self) -> int:
        """Tokens that the conversation holds with this answer."""
        return self.usage.total_input + self.usage.output

    @property
    def known(self) -> bool:
        """Whether the answer has told all that it used: else there is an estimate in it."""
        return self.input_told and self.output_told and not self.garbled

    def read_json(self, body: bytes) -> bool:
        """Take usage from a whole JSON answer; False where it does not tell all of it."""
        try:
            self._read_answer(body)
        except UNREADABLE:
            return False
        return self.input_told and self.output_told and not self.garbled

    def read_message(self, body: bytes) -> bool:
        """Take usage from a JSON answer of Anthropic's that tells all of it; nothing was taken if it does not."""
        return False

    def read_ends(self, head: bytes, tail: bytes) -> bool:
        """Take usage from the ends of a JSON answer that was too long to hold."""
        match = MODEL.search(head, 0, _HEAD)
        if match is not None:
            self.model = match[1].decode(errors="replace")
        for part in (tail, head):
            position = part.rfind(b'"usage"')
            begin = part.find(b"{", position)
            if position < 0 or begin < 0:
                continue
            with suppress(ValueError, RecursionError):  # msgspec's errors are values too
                _, size = _first_value(part[begin : begin + _LONGEST].decode("latin-1"))
                self._read_usage(part[begin : begin + size])
                if self.known:
                    return True
        return False

    def _read_answer(self, body: bytes) -> None:
        raise NotImplementedError

    def _read_usage(self, usage: bytes) -> None:
        raise NotImplementedError
