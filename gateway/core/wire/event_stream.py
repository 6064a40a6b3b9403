"""AWS's binary event stream (`application/vnd.amazon.eventstream`), and Bedrock's answers in it as server-sent events.

A frame is: length of the whole, length of the headers, CRC-32 of these eight bytes, headers, payload, CRC-32 of all
before it; numbers are big-endian and unsigned. Frames do not align with segments. Knows no account and no provider's
rules; what an exception means to a client its caller may say.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

import msgspec

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
MAX_HEADERS = 128 * 1024
# The format allows 24 MiB; no event of a message comes near this.
MAX_PAYLOAD = 4 * 1024 * 1024

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_OVERHEAD = _PRELUDE.size + _CRC.size
_REMEMBERED = 512  # bytes of headers: those of ordinary frames are always the same

HeaderValue = bool | int | bytes | str


class FrameError(ValueError):
    """Bytes that are no event stream; says what is wrong with them, without showing them."""


class Message(NamedTuple):
    """One frame. Header values are bool, int (a timestamp: milliseconds), bytes (a UUID: 16 of them) or str."""

    headers: Mapping[str, HeaderValue]
    payload: bytes


class FrameDecoder:
    """Feed it segments; it returns the frames that are whole, checked. It holds one unfinished frame at most.

    `error` says what was wrong with the stream, "" if nothing was; behind that nothing is read any more.
    """

    __slots__ = ("_held", "_needed", "error")

    def __init__(self) -> None:
        self._held = bytearray()
        self._needed = _PRELUDE.size
        self.error = ""

    @property
    def held(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Message]:
        """The frames that `data` completes; those before a broken one too."""
        found: list[Message] = []
        if self.error:
            return found
        held = self._held
        if held:
            held += data
            if len(held) < self._needed:
                return found
            data = bytes(held)
            held.clear()
        at, end = 0, len(data)
        try:
            while True:
                left = end - at
                if left < _PRELUDE.size:
                    self._needed = _PRELUDE.size
                    break
                total, size, crc = _PRELUDE.unpack_from(data, at)
                _check_prelude(data[at : at + 8], total, size, crc)
                if left < total:
                    self._needed = total
                    break
                close = at + total - _CRC.size
                if crc32(data[at:close]) != _CRC.unpack_from(data, close)[0]:
                    raise FrameError("a frame's checksum does not fit")
                body = at + _PRELUDE.size + size
                headers = data[at + _PRELUDE.size : body]
                found.append(Message(_known(headers) if size <= _REMEMBERED else _headers(headers), data[body:close]))
                at += total
        except FrameError as error:
            self.error = str(error)
            return found
        if at < end:
            held += data[at:]
        return found


def _check_prelude(sizes: bytes, total: int, headers: int, crc: int) -> None:
    if crc32(sizes) != crc:
        raise FrameError("a prelude's checksum does not fit")
    if headers > MAX_HEADERS or not 0 <= total - headers - _OVERHEAD <= MAX_PAYLOAD:
        raise FrameError(f"a frame of {total} bytes, {headers} of them headers")


# Header types: their number, and the shape of those that are numbers.
_TRUE, _FALSE, _BYTES, _STRING, _UUID = 0, 1, 6, 7, 9
_NUMBERS = {2: struct.Struct(">b"), 3: struct.Struct(">h"), 4: struct.Struct(">i"), 5: struct.Struct(">q"),
            8: struct.Struct(">q")}  # fmt: skip


def _headers(data: bytes) -> Mapping[str, HeaderValue]:
    found: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(data):
            at, name = _piece(data, at + 1, data[at])
            key, kind = str(name, "utf-8"), data[at]
            at += 1
            value: HeaderValue
            if kind in (_TRUE, _FALSE):
                value = kind == _TRUE
            elif kind in _NUMBERS:
                value = _NUMBERS[kind].unpack_from(data, at)[0]
                at += _NUMBERS[kind].size
            elif kind == _UUID:
                at, value = _piece(data, at, 16)
            elif kind in (_BYTES, _STRING):
                at, raw = _piece(data, at + 2, data[at] << 8 | data[at + 1])
                value = str(raw, "utf-8") if kind == _STRING else raw
            else:
                raise FrameError(f"a header of the unknown type {kind}")
            if key in found:
                raise FrameError("a header that comes twice")
            found[key] = value
    except (IndexError, struct.error, UnicodeDecodeError):
        raise FrameError("headers that end too early or are no text") from None
    return found


_known = lru_cache(maxsize=64)(_headers)


def _piece(data: bytes, at: int, size: int) -> tuple[int, bytes]:
    end = at + size
    if end > len(data):
        raise IndexError
    return end, data[at:end]


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame, its headers strings."""
    lines = b"".join(
        struct.pack(">B", len(key)) + key + struct.pack(">BH", _STRING, len(value)) + value
        for key, value in ((name.encode(), text.encode()) for name, text in headers.items())
    )
    sizes = struct.pack(">II", len(lines) + len(payload) + _OVERHEAD, len(lines))
    frame = b"%b%b%b%b" % (sizes, _CRC.pack(crc32(sizes)), lines, payload)
    return frame + _CRC.pack(crc32(frame))


# What Bedrock puts into frames.

# Bedrock's own account of the request, in the last event: usage is told by the events before it already.
METRICS = "amazon-bedrock-invocationMetrics"

# The exceptions of a stream, as `error.type` names them at Anthropic.
ERROR_TYPES = {
    "throttlingexception": "rate_limit_error",
    "servicequotaexceededexception": "rate_limit_error",
    "serviceunavailableexception": "overloaded_error",
    "modelnotreadyexception": "overloaded_error",
    "modeltimeoutexception": "timeout_error",
    "validationexception": "invalid_request_error",
    "accessdeniedexception": "permission_error",
    "resourcenotfoundexception": "not_found_error",
}


class StreamException(NamedTuple):
    """What ended a stream: the exception's name or code in AWS's words, and its message, which may name accounts."""

    name: str
    message: str


def plain_error(exception: StreamException) -> bytes:
    """Anthropic's error JSON of an exception, in words that name nothing of the account."""
    kind = ERROR_TYPES.get(exception.name.lower(), "api_error")
    error = {"type": kind, "message": "The model's provider ended the stream with an error."}
    return _encode({"type": "error", "error": error})


class _Chunk(msgspec.Struct, gc=False):
    event: bytes = msgspec.field(name="bytes")  # base64 in the JSON


class _Typed(msgspec.Struct, gc=False):
    type: str


class _Told(msgspec.Struct, gc=False):
    message: str = ""


_chunk = msgspec.json.Decoder(_Chunk).decode
_typed = msgspec.json.Decoder(_Typed).decode
_told = msgspec.json.Decoder(_Told).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

_TYPE_FIRST = re.compile(rb'\{"type":"([a-z_]{1,64})"')
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MARK = METRICS.encode()


class ServerSentEvents:
    """Feed it the segments of a streamed answer of Bedrock; it returns whole server-sent events.

    `error` makes the JSON of an `error` event of an exception. `exception` is the one that came. `trouble` says that
    the stream is broken, "" while it is not: nothing more comes then. Only `end` tells whether the answer is whole.
    """

    __slots__ = ("_error", "_frames", "_over", "exception", "trouble")

    def __init__(self, error: Callable[[StreamException], bytes] = plain_error) -> None:
        self._frames = FrameDecoder()
        self._error = error
        self._over = False
        self.exception: StreamException | None = None
        self.trouble = ""

    @property
    def held(self) -> int:
        """Bytes of an unfinished frame."""
        return self._frames.held

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes, b"" if none."""
        if self._ended():
            return b""
        events = []
        for headers, payload in self._frames.feed(data):
            try:
                events.append(self._event(headers, payload))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self.trouble = "an event that cannot be read"
                break
            if self._ended():
                break
        else:
            self.trouble = self._frames.error
        return events[0] if len(events) == 1 else b"".join(events)

    def end(self) -> str:
        """The stream has ended: "" if with the message's last event or an error, else what is wrong."""
        if self._over:
            return ""
        return self.trouble or "the stream ended before the message did"

    def _ended(self) -> bool:
        return self._over or bool(self.trouble)

    def _event(self, headers: Mapping[str, HeaderValue], payload: bytes) -> bytes:
        if headers.get(":message-type") != "event":
            return self._excepted(headers, payload)
        if headers.get(":event-type") != "chunk":
            return b""
        data = _chunk(payload).event
        match = _TYPE_FIRST.match(data)
        name = match[1] if match is not None else _name(data)
        if name == b"message_stop" or name == b"error":
            self._over = True
        if _MARK in data or name == b"message_stop":
            data = _without_metrics(data, name)
        if b"\n" in data or b"\r" in data:  # between tokens of the JSON, where a space does as well
            data = data.replace(b"\r", b" ").replace(b"\n", b" ")
        return b"event: %b\ndata: %b\n\n" % (name, data)

    def _excepted(self, headers: Mapping[str, HeaderValue], payload: bytes) -> bytes:
        self._over = True
        name = headers.get(":exception-type") or headers.get(":error-code") or ""
        message = headers.get(":error-message") or _message(payload)
        self.exception = StreamException(str(name), str(message))
        return b"event: error\ndata: %b\n\n" % self._error(self.exception)


def _name(data: bytes) -> bytes:
    name = _typed(data).type
    if _NAME.fullmatch(name) is None:
        raise msgspec.ValidationError("an event's type that is no name")
    return name.encode()


def _message(payload: bytes) -> str:
    try:
        return _told(payload).message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _without_metrics(data: bytes, name: bytes) -> bytes:
    """The event without what Bedrock adds to it, as it came where there is nothing of that."""
    told = _object(data)
    added = (METRICS, "usage") if name == b"message_stop" else (METRICS,)
    if not any(key in told for key in added):
        return data
    return _encode({key: value for key, value in told.items() if key not in added})


_CHUNK_HEADERS = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}


def chunk(event: bytes) -> bytes:
    """The frame of one event of a message, given as its JSON."""
    return encode(_CHUNK_HEADERS, _encode(_Chunk(event)))


def exception(name: str, message: str) -> bytes:
    """The frame of an exception, which ends a stream."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return encode(headers, _encode({"message": message}))
