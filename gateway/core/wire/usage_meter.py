"""Reading tokens from answers: a meter beside the stream, and the same for JSON.

Content is never parsed: only `message_start`, `message_delta`, `message_stop` and `error` events are. It does not know
prices, nor who asked.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.core.wire.sse import events
from gateway.records import Usage

_DELTA = b"event: content_block_delta"
_BYTES_A_TOKEN = 4.4


# A count that is none makes its event unreadable: better no usage, and an estimate, than a ledger gone wrong.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)] | None


class _Creation(msgspec.Struct):
    ephemeral_5m_input_tokens: _Count = None
    ephemeral_1h_input_tokens: _Count = None


class _Usage(msgspec.Struct):
    input_tokens: _Count = None
    output_tokens: _Count = None
    cache_read_input_tokens: _Count = None
    cache_creation_input_tokens: _Count = None
    cache_creation: _Creation | None = None
    inference_geo: str | None = None
    speed: str | None = None


class _Message(msgspec.Struct):
    model: str = ""
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    type: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_event = msgspec.json.Decoder(_Event).decode
_message = msgspec.json.Decoder(_Message).decode
_usage = msgspec.json.Decoder(_Usage).decode


def _text_size(delta: bytes) -> int:
    """Bytes of the text that a delta brings: its last string. An escaped quote is not followed by a plain colon; what
    follows the text are braces, perhaps with blanks between them."""
    begin = delta.rfind(b'":"')
    return delta.rfind(b'"') - begin - len(b'":"') if begin >= 0 else 0


class UsageMeter:
    """What one answer used, as far as it is known yet.

    `started` once the input is known (message_start, or a JSON answer's usage), `stopped` once message_stop was seen;
    `error` is the type of an `error` event.
    """

    __slots__ = ("error", "model", "passed_bytes", "passed_deltas", "started", "stopped", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self.model = ""
        self.started = False
        self.stopped = False
        self.error = ""
        self.passed_bytes = 0
        self.passed_deltas = 0

    @staticmethod
    def matters(ready: bytes) -> bool:
        """Whether these events may hold anything that `see` wants. Text that looks alike does no harm."""
        return b'"message_' in ready or b'"error"' in ready

    def see(self, ready: bytes) -> int:
        """Read whole events; returns how many bytes count: all, or those up to the end of message_stop."""
        for name, data, end in events(ready):
            if not data or b"content_block" in name:
                continue
            if b'"message_' not in data and b'"error"' not in data:
                continue
            try:
                event = _event(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if event.type == "message_start" and event.message is not None:
                self.started = True
                self._take(event.message)
            elif event.type == "message_delta" and event.usage is not None:
                self._update(event.usage)
            elif event.type == "message_stop":
                self.stopped = True
                return end
            elif event.type == "error":
                self.error = (event.error and event.error.type) or "api_error"
        return len(ready)

    def count(self, ready: bytes) -> None:
        """Note relayed content, for an estimate should the stream break off. Of whole events only deltas count."""
        if not ready.startswith(b"event: "):
            self.passed_bytes += len(ready)
        elif ready.startswith(_DELTA) and ready.rfind(b"event: ") == 0:
            self.passed_bytes += _text_size(ready)
            self.passed_deltas += 1
        else:
            for name, data, _ in events(ready):
                if name == b"content_block_delta":
                    self.passed_bytes += _text_size(data)
                    self.passed_deltas += 1

    def estimate(self) -> None:
        """Put the output at what passed, where the stream ended before it told."""
        self.usage.output = max(self.usage.output, int(self.passed_bytes / _BYTES_A_TOKEN), self.passed_deltas)

    def read_json(self, body: bytes) -> bool:
        """Take usage from a whole JSON answer; False where it holds none."""
        try:
            message = _message(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if message.usage is None:
            return False
        self.started = True
        self._take(message)
        return True

    def read_ends(self, head: bytes, tail: bytes) -> bool:
        """Take usage from the ends of a JSON answer that was too long to hold."""
        for part in (tail, head):
            position = part.rfind(b'"usage"')
            begin = part.find(b"{", position)
            if position < 0 or begin < 0:
                continue
            depth = 0
            for index in range(begin, min(len(part), begin + 4096)):
                depth += (part[index] == 0x7B) - (part[index] == 0x7D)
                if depth == 0:
                    try:
                        self._update(_usage(part[begin : index + 1]))
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                        break
                    self.started = True
                    return True
        return False

    def _take(self, message: _Message) -> None:
        self.model = message.model
        if message.usage is not None:
            self._update(message.usage)

    def _update(self, seen: _Usage) -> None:
        """Counts are cumulative: those present replace, those absent stay."""
        usage = self.usage
        if seen.inference_geo == "us":
            usage.us = True
        if seen.speed == "fast":
            usage.fast = True
        if seen.input_tokens is not None:
            usage.input = seen.input_tokens
        if seen.output_tokens is not None:
            usage.output = seen.output_tokens
        if seen.cache_read_input_tokens is not None:
            usage.cache_read = seen.cache_read_input_tokens
        if seen.cache_creation is not None and seen.cache_creation.ephemeral_1h_input_tokens is not None:
            usage.cache_write_1h = seen.cache_creation.ephemeral_1h_input_tokens
        if seen.cache_creation_input_tokens is not None:
            usage.cache_write_5m = max(0, seen.cache_creation_input_tokens - usage.cache_write_1h)
        elif seen.cache_creation is not None and seen.cache_creation.ephemeral_5m_input_tokens is not None:
            usage.cache_write_5m = seen.cache_creation.ephemeral_5m_input_tokens
