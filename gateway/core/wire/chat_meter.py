"""OpenAI's chat completions as this gateway reads and speaks them: usage, the end of a stream, errors.

Content is never parsed: only chunks that hold usage or an error are. It does not know prices, nor who asked.
"""

from __future__ import annotations

import msgspec

from gateway.core.wire.meter import MODEL, UNREADABLE, Count, Meter
from gateway.core.wire.sse import events
from gateway.errors import ApiError

PING = b": ping\n\n"

_DONE = b"[DONE]"
_CHUNK_OVERHEAD = 222  # bytes of a chunk around its text: id, created, model, object, one choice and some nulls
_BYTES_A_TOKEN = 4


class _Details(msgspec.Struct):
    cached_tokens: Count = None
    cache_write_tokens: Count = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count = None
    completion_tokens: Count = None
    prompt_tokens_details: _Details | None = None


class _Error(msgspec.Struct):
    type: str | None = None


class _Completion(msgspec.Struct):
    """A whole answer, or a chunk of one."""

    model: str = ""
    usage: _Usage | None = None
    error: _Error | str | None = None


_completion = msgspec.json.Decoder(_Completion).decode
_usage = msgspec.json.Decoder(_Usage).decode
_encode = msgspec.json.Encoder().encode


def error_event(error: ApiError, request_id: str) -> bytes:
    """An error as one whole event, for a stream whose head is already out: OpenAI's SDKs raise it as APIError."""
    told = {"message": error.message, "type": error.kind, "param": None, "code": error.code}
    return b"data: " + _encode({"error": told, "request_id": request_id}) + b"\n\n"


def matters(ready: bytes) -> bool:
    """Whether these events may hold anything that `ChatMeter.see` wants. Text that looks alike does no harm."""
    return b'"prompt_tokens"' in ready or _DONE in ready or b'"error"' in ready


class ChatMeter(Meter):
    """Of OpenAI's answers. `started` in a stream by a chunk near its end, if at all; `stopped` by [DONE], which nothing
    but pings follows: nothing is `told_end`."""

    matters = staticmethod(matters)

    def see(self, ready: bytes) -> int:
        """Read whole events; returns how many bytes count: all, or those up to the end of [DONE]. The latter are
        counted already."""
        for _, data, end in events(ready):
            if data.strip() == _DONE:
                self.stopped = True
                self.count(ready[:end])
                return end
            if b'"prompt_tokens"' not in data and b'"error"' not in data:
                continue
            try:
                chunk = _completion(data)
            except UNREADABLE:
                continue
            if chunk.error is not None:
                self.error = (isinstance(chunk.error, _Error) and chunk.error.type) or "api_error"
            elif chunk.usage is not None:
                self._take(chunk, chunk.usage)
        return len(ready)

    def count(self, ready: bytes) -> None:
        """Note relayed content, for an estimate should the stream not tell its usage."""
        self.passed_bytes += len(ready)
        self.passed_deltas += ready.count(b"\n\n")
        if not self.model and (match := MODEL.search(ready)):
            self.model = match[1].decode(errors="replace")

    def estimate(self) -> None:
        """Put the output at what passed, where the stream ended without telling: a chunk is a token at least."""
        if self.output_told:
            return
        text = self.passed_bytes - self.passed_deltas * _CHUNK_OVERHEAD
        self.usage.output = max(self.usage.output, text // _BYTES_A_TOKEN, self.passed_deltas)

    def _read_answer(self, body: bytes) -> None:
        answer = _completion(body)
        if answer.usage is not None:
            self._take(answer, answer.usage)
            self.started = True

    def _read_usage(self, usage: bytes) -> None:
        self._update(_usage(usage))

    def _take(self, told: _Completion, usage: _Usage) -> None:
        self.model = told.model or self.model
        self._update(usage)

    def _update(self, seen: _Usage) -> None:
        """Counts are cumulative: those present replace, those absent stay. The prompt's count includes what was read
        from a cache or written to it."""
        usage, details = self.usage, seen.prompt_tokens_details or _Details()
        if seen.completion_tokens is not None:
            usage.output = seen.completion_tokens
            self.output_told = True
        if seen.prompt_tokens is not None:
            usage.cache_read = min(details.cached_tokens or 0, seen.prompt_tokens)
            written = min(details.cache_write_tokens or 0, seen.prompt_tokens - usage.cache_read)
            usage.cache_write_5m, usage.cache_write_1h = (0, written) if self.ttl == 3600 else (written, 0)
            usage.input = seen.prompt_tokens - usage.cache_read - written
            self.started = self.input_told = True
