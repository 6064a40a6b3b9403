"""Reading tokens from answers: a meter beside the stream, and the same for JSON.

Content is never parsed: only `message_start`, `message_delta`, `message_stop` and `error` events are. It does not know
prices, nor who asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, get_args

import msgspec

from gateway.core.wire.meter import UNREADABLE, Count, Meter
from gateway.core.wire.sse import events
from gateway.records import Iteration, Usage

_DELTA = b"event: content_block_delta"
_BYTES_A_TOKEN = 4.4
_COMPLETION = re.compile(rb'"completion"\s*:\s*"((?:[^"\\]|\\.)*)"')


class _Creation(msgspec.Struct):
    ephemeral_5m_input_tokens: Count = None
    ephemeral_1h_input_tokens: Count = None


class _Tokens(msgspec.Struct):
    input_tokens: Count = None
    output_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation_input_tokens: Count = None
    cache_creation: _Creation | None = None


class _Iteration(_Tokens):
    type: str = ""
    model: str | None = None


class _ServerTools(msgspec.Struct):
    web_search_requests: Count = None
    code_execution_requests: Count = None


class _Usage(_Tokens):
    inference_geo: str | None = None
    speed: str | None = None
    server_tool_use: _ServerTools | None = None
    iterations: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    model: str = ""
    usage: _Usage | None = None


class _Answer(_Message):
    type: str = ""


class _Error(msgspec.Struct):
    type: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_event = msgspec.json.Decoder(_Event).decode
_message = msgspec.json.Decoder(_Message).decode
_answer = msgspec.json.Decoder(_Answer).decode
_usage = msgspec.json.Decoder(_Usage).decode
_iterations = msgspec.json.Decoder(list[_Iteration] | None).decode

_APART = ("compaction", "advisor_message")  # iterations whose tokens the answer's own counts leave out
_FALLBACK = "fallback_message"  # the iteration of the model that answered in place of the one that was asked


def text_size(delta: bytes) -> int:
    """Bytes of the text that a delta brings: its last string. An escaped quote is not followed by a plain colon; what
    follows the text are braces, perhaps with blanks between them."""
    begin = delta.rfind(b'":"')
    if begin < 0:
        begin = delta.rfind(b'": "') + 1  # of another hand
    return delta.rfind(b'"') - begin - len(b'":"') if begin > 0 else 0


class UsageMeter(Meter):
    """Of Anthropic's answers. `started` by message_start or a JSON answer's usage, `stopped` by message_stop."""

    told: Usage = msgspec.field(default_factory=Usage)  # what the answer's own counts say, of all that is used
    written: int | None = None
    creation: _Creation | None = None
    iterations: Sequence[_Iteration] = ()

    @property
    def context(self) -> int:
        """Tokens that the conversation holds with this answer: what the last run of the model read and wrote."""
        for each in reversed(self.iterations) if self.iterations else ():
            if each.type not in _APART:
                last = self._usage_of(each)
                return last.total_input + last.output
        usage = self.usage
        return usage.input + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h + usage.output

    @staticmethod
    def matters(ready: bytes) -> bool:
        """Whether these events may hold anything that `see` wants. Text that looks alike does no harm."""
        return b'"message_' in ready or b"error" in ready

    def see(self, ready: bytes) -> int:
        """Read whole events; returns how many bytes count: all, or those up to the end of message_stop or an error."""
        for name, data, end in events(ready):
            if not data or b"content_block" in name:
                continue
            if b'"message_' not in data and b'"error"' not in data and name != b"error":
                continue
            try:
                event = _event(data)
            except UNREADABLE:
                event = self._legible(data)
            if event.type == "message_start" and event.message is not None:
                self.started = True
                self._take(event.message)
            elif event.type == "message_delta":
                if event.usage is not None:
                    self._update(event.usage)
                    self.output_told = self.output_told or event.usage.output_tokens is not None
                if isinstance(event.delta, dict) and event.delta.get("stop_reason"):
                    self.told_end = True
            elif event.type == "message_stop":
                self.stopped = True
                return end
            elif event.type == "error" or name == b"error" or (event.error is not None and not event.type):
                self.error = (event.error and event.error.type) or "api_error"
                return end
        return len(ready)

    def count(self, ready: bytes) -> None:
        """Note relayed content, for an estimate should the stream break off. Of whole events only deltas count."""
        if not ready.startswith(b"event: "):
            self.passed_bytes += len(ready)
        elif ready.startswith(_DELTA) and ready.rfind(b"event: ") == 0:
            self.passed_bytes += text_size(ready)
            self.passed_deltas += 1
        elif b"content_block_delta" in ready:
            for name, data, _ in events(ready):
                if name == b"content_block_delta":
                    self.passed_bytes += text_size(data)
                    self.passed_deltas += 1

    def count_completions(self, data: bytes) -> None:
        """Note text of a text completion, whole or in a stream, which tells no usage."""
        for text in _COMPLETION.findall(data):
            self.passed_bytes += len(text)
            self.passed_deltas += bool(text)

    def estimate(self) -> None:
        """Put the output at what passed, where the stream ended before it told."""
        if not self.output_told:
            self.usage.output = max(self.usage.output, int(self.passed_bytes / _BYTES_A_TOKEN), self.passed_deltas)

    def read_message(self, body: bytes) -> bool:
        """Take usage from a JSON answer, if that is a message and tells all of it; nothing was taken if not."""
        try:
            answer = _answer(body)
        except UNREADABLE:
            return False
        usage = answer.usage
        if answer.type != "message" or usage is None or usage.input_tokens is None or usage.output_tokens is None:
            return False
        self._take_answer(answer)
        return True

    def _read_answer(self, body: bytes) -> None:
        try:
            message = _message(body)
        except UNREADABLE:
            message = self._legible(body, whole=True).message or _Message()
        self._take_answer(message)

    def _take_answer(self, message: _Message) -> None:
        if message.usage is not None:
            self.started = True
            self.model = message.model
            self._update(message.usage)
            self.output_told = message.usage.output_tokens is not None

    def _read_usage(self, usage: bytes) -> None:
        try:
            seen = _usage(usage)
        except UNREADABLE:
            seen = _sound(msgspec.json.decode(usage), _Usage)
            self.garbled = True
        self._update(seen)
        self.started = True
        self.output_told = seen.output_tokens is not None

    def _legible(self, data: bytes, *, whole: bool = False) -> _Event:
        """What can be read of an event, or of a `whole` answer, that is not as it should be: a count that is none must
        not take the others with it."""
        try:
            event = msgspec.json.decode(data)
        except UNREADABLE:
            return _Event()
        self.garbled = True
        read: _Event = _sound({"message": event} if whole else event, _Event)
        return read

    def _take(self, message: _Message) -> None:
        self.model = message.model
        if message.usage is not None:
            self._update(message.usage)

    def _update(self, seen: _Usage) -> None:
        """Counts are cumulative: those present replace, those absent stay."""
        told = self.told
        if seen.inference_geo == "us":
            told.us = True
        if seen.speed == "fast":
            told.fast = True
        if seen.input_tokens is not None:
            told.input = seen.input_tokens
            self.input_told = True
        if seen.output_tokens is not None:
            told.output = seen.output_tokens
        if seen.cache_read_input_tokens is not None:
            told.cache_read = seen.cache_read_input_tokens
        if seen.cache_creation is not None:
            self.creation = seen.cache_creation
        if seen.cache_creation_input_tokens is not None:
            self.written = seen.cache_creation_input_tokens
        told.cache_write_5m, told.cache_write_1h = _writes(self.written, self.creation, self.ttl)
        tools = seen.server_tool_use
        if tools is not None:
            if tools.web_search_requests is not None:
                told.searches = tools.web_search_requests
            if tools.code_execution_requests is not None:
                told.executions = tools.code_execution_requests
        if len(seen.iterations) > 2:  # more than []
            try:
                self.iterations = _iterations(seen.iterations) or self.iterations
            except UNREADABLE:  # of a kind that is not known yet: what the answer's own counts say stands
                self.iterations = ()
        self.usage = self._with_iterations() if self.iterations else told

    def _with_iterations(self) -> Usage:
        """The sum of all iterations. What the answer's own counts have beyond those that they cover counts too."""
        told = self.told
        parts = [Iteration(each.model or "", self._usage_of(each)) for each in self.iterations]
        covered = [part.usage for each, part in zip(self.iterations, parts, strict=True) if each.type not in _APART]
        written = told.cache_write_5m + told.cache_write_1h - sum(_written(each) for each in covered)
        five, hour = _writes(max(0, written), None, self.ttl)
        rest = Usage(
            max(0, told.input - sum(each.input for each in covered)),
            max(0, told.cache_read - sum(each.cache_read for each in covered)),
            five, hour, max(0, told.output - sum(each.output for each in covered)), told.us, told.fast,
        )  # fmt: skip
        if rest.total_input or rest.output:
            parts.append(Iteration("", rest))
        for each in self.iterations:
            if each.type == _FALLBACK and each.model:
                self.model = each.model
        return msgspec.structs.replace(
            told,
            iterations=tuple(parts),
            input=sum(part.usage.input for part in parts),
            cache_read=sum(part.usage.cache_read for part in parts),
            cache_write_5m=sum(part.usage.cache_write_5m for part in parts),
            cache_write_1h=sum(part.usage.cache_write_1h for part in parts),
            output=sum(part.usage.output for part in parts),
        )

    def _usage_of(self, each: _Iteration) -> Usage:
        five, hour = _writes(each.cache_creation_input_tokens, each.cache_creation, self.ttl)
        return Usage(
            each.input_tokens or 0, each.cache_read_input_tokens or 0, five, hour, each.output_tokens or 0,
            self.told.us, self.told.fast,
        )  # fmt: skip


def _sound(value: Any, kind: type[Any]) -> Any:
    """What is as it should be of a `value` that is not altogether, as a struct of this kind."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind) if isinstance(value, dict) else ():
        part = value.get(field.name)
        inner = [each for each in get_args(field.type) if isinstance(each, type) and issubclass(each, msgspec.Struct)]
        if part is None or field.name == "iterations":
            continue
        if inner:
            if isinstance(part, dict):
                found[field.name] = _sound(part, inner[0])
            continue
        with suppress(msgspec.ValidationError):
            found[field.name] = msgspec.convert(part, field.type)
    return kind(**found)


def _written(usage: Usage) -> int:
    return usage.cache_write_5m + usage.cache_write_1h


def _writes(total: int | None, split: _Creation | None, ttl: int) -> tuple[int, int]:
    """Tokens written to caches for five minutes and for an hour; those of which `split` says nothing live as the
    request asked."""
    five = split.ephemeral_5m_input_tokens if split is not None else None
    hour = split.ephemeral_1h_input_tokens if split is not None else None
    if total is None:
        return five or 0, hour or 0
    if hour is not None and (five is None or five + hour > total):
        return max(0, total - hour), hour
    five, hour = five or 0, hour or 0
    rest = max(0, total - five - hour)
    return (five, hour + rest) if ttl == 3600 else (five + rest, hour)
