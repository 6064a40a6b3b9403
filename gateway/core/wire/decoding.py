"""Undoing a request body's content encoding, within a limit: a bomb costs no more than that.

It decodes a copy for the gateway's own reading, and does not know what the bytes mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO

from gateway.errors import ApiError

MAX_CODINGS = 3  # one around the other
MAX_MEMBERS = 10_000  # of one gzip body: each costs a new inflater

_STEP = 64 * 1024  # bytes that go into an inflater, or come out of it, at once
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's wbits
_CODINGS = {b"gzip": True, b"x-gzip": True, b"deflate": False}


class Decoder:
    """Feed it the body's pieces. `encoding` is the value of Content-Encoding, `limit` how many bytes may come out.

    Raises ApiError: 400 `request_body_encoding_unsupported` at once, 400 `request_body_encoding_invalid` for what is
    broken or truncated, 413 `request_body_too_large_after_decoding`. After one of them it is of no more use.
    """

    __slots__ = ("_inflaters", "_left")

    def __init__(self, encoding: bytes, limit: int) -> None:
        names = [name.strip().lower() for name in encoding.split(b",")]
        names = [name for name in names if name and name != b"identity"]
        for name in names:
            if name not in _CODINGS:
                raise _unsupported(f"{name[:64].decode('latin-1')!r} is none of gzip, deflate and identity")
        if len(names) > MAX_CODINGS:
            raise _unsupported(f"it has more than {MAX_CODINGS} codings")
        # The list is in the order in which they were applied. A coding in the middle may not give more than the limit
        # either, though what it holds may decode to less.
        self._inflaters = [_Inflater(_CODINGS[name], limit) for name in reversed(names)]
        self._left = limit

    def feed(self, data: bytes) -> bytes:
        """What this piece decodes to, as far as it is known by now; it may be b""."""
        if not self._inflaters:
            self._left = _less(self._left, data)
            return data
        out = BytesIO()  # its value is handed over without a copy
        for start in range(0, len(data), _STEP):
            self._inflate(data[start : start + _STEP], 0, out)
        return out.getvalue()

    def finish(self) -> None:
        """To be called at the body's end: raises if it came too early."""
        for inflater in self._inflaters:
            inflater.finish()

    def _inflate(self, data: bytes, index: int, out: BytesIO) -> None:
        last = index + 1 == len(self._inflaters)
        for piece in self._inflaters[index].feed(data):
            if last:
                out.write(piece)
            else:
                self._inflate(piece, index + 1, out)


def decode(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A whole body, decoded; errors are those of Decoder."""
    decoder = Decoder(encoding, limit)
    decoded = decoder.feed(body)
    decoder.finish()
    return decoded


class _Inflater:
    """One coding: gzip with any number of members, or deflate, with zlib's frame or without as some clients send it."""

    __slots__ = ("_gzip", "_left", "_members", "_stream")

    def __init__(self, gzip: bool, limit: int) -> None:
        self._gzip = gzip
        self._left = limit
        self._members = 0
        self._stream = zlib.decompressobj(_GZIP)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` gives, in steps. It should be small itself: zlib copies what a step has left of it."""
        while data:
            if self._members == 0 or self._stream.eof:
                self._open(data)
            piece = b""
            while data or len(piece) == _STEP:  # a full step may have left something inside
                try:
                    piece = self._stream.decompress(data, _STEP)
                except zlib.error as error:
                    raise _invalid(str(error)) from None
                self._left = _less(self._left, piece)
                if piece:
                    yield piece
                data = self._stream.unconsumed_tail
                if self._stream.eof:
                    data = self._stream.unused_data
                    break

    def finish(self) -> None:
        if self._members == 0 or not self._stream.eof:
            raise _invalid("it ends too early")

    def _open(self, data: bytes) -> None:
        self._members += 1
        if self._gzip:
            if self._members > MAX_MEMBERS:
                raise _invalid(f"it has more than {MAX_MEMBERS} members")
            self._stream = zlib.decompressobj(_GZIP)
        elif self._members > 1:
            raise _invalid("something follows behind its end")
        else:
            # A zlib frame begins with an 8 in these bits; in a raw stream they would be padding that is always 0.
            self._stream = zlib.decompressobj(_ZLIB if data[0] & 0x0F == 8 else _RAW)


def _less(left: int, piece: bytes) -> int:
    left -= len(piece)
    if left < 0:
        raise ApiError(
            413, "The request body is too large once it is decoded", code="request_body_too_large_after_decoding"
        )
    return left


def _unsupported(why: str) -> ApiError:
    return ApiError(400, f"Content-Encoding: {why}", code="request_body_encoding_unsupported")


def _invalid(why: str) -> ApiError:
    return ApiError(
        400, f"The request body is not what its Content-Encoding says: {why}", code="request_body_encoding_invalid"
    )
