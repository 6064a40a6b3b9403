"""How an HTTP/2 upstream leaves its connection, which httpx does not understand.

By RFC 9113, 6.8, a GOAWAY names the last stream that the upstream has taken or may yet take. Those up to it are served
to their end; those beyond it have not been looked at. httpx gives up both kinds: it reads nothing after a GOAWAY, and
sends by itself again what lies beyond. So GOAWAY is taken out of what the upstream sends before httpx sees it. Only
what httpx offers is used: its trace tells the network stream, whose `read` is replaced on that one object.
"""

from __future__ import annotations

import ssl
from typing import Any

_HEAD = 9  # bytes before the payload of a frame
_HEADERS, _GOAWAY = 1, 7  # types of frames
_SHORTEST, _LONGEST = 8, 1 << 14  # bytes of a GOAWAY
_STREAM = 0x7FFF_FFFF  # the bits that number a stream
_MOST = 1 << 16  # bytes to read at once
_AT_ONCE = 0.1  # seconds in which what lies in a socket can be read


class Unprocessed(Exception):
    """The upstream has left, and has done nothing with the request."""


class Farewell:
    """Reads in the place of one connection's network stream, with one request at a time on the connection."""

    def __init__(self, network: Any) -> None:
        self.leaving = False  # the upstream takes no further request
        self._network = network
        self._read = network.read
        network.read = self.read
        self._stream = 0  # of the request
        self._answered = False  # or at least begun to be
        self._refused = False
        self._held = b""  # the beginning of a frame that is to be seen whole
        self._rest = 0  # bytes to come of the frame that is passing
        self._ready = b""  # what has come while no request was under way

    def expect(self, stream: int) -> None:
        """A request goes out as this stream."""
        self._stream = stream
        self._answered = False

    async def left(self) -> bool:
        """Whether the upstream has left the idle connection, which httpx would find out after it has written."""
        try:
            while not self.leaving:
                data = self._at_hand()
                if data is None:
                    if not self._network.get_extra_info("is_readable"):
                        return False
                    data = await self._read(_MOST, _AT_ONCE)
                if not data:
                    return True
                self._ready += self._sift(data)
        except Exception:  # of no common base; the connection is of no use, whatever it was
            return True
        return True

    def _at_hand(self) -> bytes | None:
        """What TLS has taken from the socket and nobody has read; None if there is nothing."""
        try:
            return self._network.get_extra_info("ssl_object").read(_MOST)  # type: ignore[no-any-return]
        except ssl.SSLWantReadError:
            return None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come but GOAWAY; b"" at the end. Raises Unprocessed when what came before it has been read."""
        if self._ready:
            data, self._ready = self._ready, b""
            return data
        while not self._refused:
            data = await self._read(max_bytes, timeout)
            if not data or (data := self._sift(data)):
                return data
        raise Unprocessed("the upstream has left without taking the request")

    def _sift(self, data: bytes) -> bytes:
        data = self._held + data
        kept = []
        at = 0
        while at < len(data):
            if not self._rest:
                size = self._farewell(data, at)
                if size is None:
                    break
                at += size
                continue
            kept.append(data[at : at + self._rest])
            at += len(kept[-1])
            self._rest -= len(kept[-1])
        self._held = data[at:]
        return b"".join(kept)

    def _farewell(self, data: bytes, at: int) -> int | None:
        """The size of the GOAWAY that begins here; 0 for another frame, which passes. None if too little has come."""
        if len(data) - at < _HEAD:
            return None
        length, kind = int.from_bytes(data[at : at + 3]), data[at + 3]
        stream = int.from_bytes(data[at + 5 : at + _HEAD]) & _STREAM
        if kind == _GOAWAY and not stream and _SHORTEST <= length <= _LONGEST:
            if len(data) - at < _HEAD + length:
                return None
            if self._hear(data[at + _HEAD : at + _HEAD + length]):
                return _HEAD + length
        elif kind == _HEADERS and stream == self._stream:
            self._answered = True
        self._rest = _HEAD + length
        return 0

    def _hear(self, payload: bytes) -> bool:
        """Whether httpx need not know: one that leaves for an error, and not before the request, breaks off."""
        self.leaving = True
        last, error = int.from_bytes(payload[:4]) & _STREAM, int.from_bytes(payload[4:8])
        if last < self._stream and not self._answered:
            self._refused = True
        return self._refused or not error


def farewell(network: Any) -> Farewell | None:
    """Listens to what TLS has just been made on, if HTTP/2 is spoken there."""
    tls = network.get_extra_info("ssl_object")
    return Farewell(network) if tls is not None and tls.selected_alpn_protocol() == "h2" else None
