"""AWS Signature Version 4 of one request: host, time, the token if there is one, and the body's digest are signed.

As few headers as that are signed, so that nothing added later breaks a signature. A signature is good for five minutes
at its own path and body: every attempt needs one of its own. Does no I/O; the time is an argument.
"""

from __future__ import annotations

import hmac
import time
from binascii import hexlify
from functools import lru_cache
from hashlib import sha256
from typing import Protocol, Self
from urllib.parse import quote

LARGE = 16 * 1024
MAX_DIGESTS = 4
MAX_DIGESTED = 8 * 1024 * 1024


class Hash(Protocol):
    """A hash that is under way."""

    def copy(self) -> Self: ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class Signer:
    """Signs with one set of keys, for one region and service. `token` is that of temporary keys, else empty."""

    __slots__ = ("_before", "_begin", "_day", "_headers", "_inner", "_names", "_outer", "_second", "_secret", "_signed",
                 "_suffix", "_token", "_who")  # fmt: skip

    def __init__(self, access_key_id: str, secret_access_key: str, token: str, region: str, service: str) -> None:
        self._secret = b"AWS4" + secret_access_key.encode()
        self._suffix = f"/{region}/{service}/aws4_request".encode()
        self._who = access_key_id.encode()
        self._names = b"host;x-amz-date" + (b";x-amz-security-token" if token else b"")
        self._headers = b"x-amz-security-token: %b\r\n" % token.encode() if token else b""
        self._token = b"x-amz-security-token:%b\n" % token.encode() if token else b""
        self._second = -1
        self._day = self._signed = self._before = self._begin = b""
        self._inner, self._outer = _keyed(b"")

    def lines(self, method: bytes, host: bytes, path: bytes, digest: bytes, now: float) -> bytes:
        """Finished header lines of a request. `host` is the host header's value, `path` as it is sent, with its query;
        `digest` that of the exact body, in hex; `now` unix seconds."""
        if int(now) != self._second:
            self._at(int(now))
        canonical = b"%b%b%b" % (_canonical(method, host, path), self._signed, digest)
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(self._before + hexlify(sha256(canonical).digest()))
        outer.update(inner.digest())
        return b"%b%b\r\n" % (self._begin, hexlify(outer.digest()))

    def _at(self, second: int) -> None:
        """Write what is the same in each request of one second."""
        self._second = second
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)).encode()
        scope = stamp[:8] + self._suffix
        self._signed = b"x-amz-date:%b\n%b\n%b\n" % (stamp, self._token, self._names)
        self._before = b"AWS4-HMAC-SHA256\n%b\n%b\n" % (stamp, scope)
        self._begin = (
            b"x-amz-date: %b\r\n%bauthorization: AWS4-HMAC-SHA256 Credential=%b/%b, SignedHeaders=%b, Signature="
        ) % (stamp, self._headers, self._who, scope, self._names)
        if stamp[:8] != self._day:
            self._day = stamp[:8]
            key = hmac.digest(self._secret, self._day, "sha256")
            for part in self._suffix[1:].split(b"/"):
                key = hmac.digest(key, part, "sha256")
            self._inner, self._outer = _keyed(key)


_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def _keyed(key: bytes) -> tuple[Hash, Hash]:
    """HMAC's two halves, each to be copied: that is cheaper than to begin with the key (RFC 2104)."""
    block = key.ljust(64, b"\0")
    return sha256(block.translate(_INNER)), sha256(block.translate(_OUTER))


@lru_cache(maxsize=256)
def _canonical(method: bytes, host: bytes, path: bytes) -> bytes:
    """What a signature of such a request begins with: its first line, and its host."""
    where, _, query = path.partition(b"?")
    return b"%b\n%b\n%b\nhost:%b\n" % (method, canonical_path(where), canonical_query(query) if query else b"", host)


def canonical_path(path: bytes) -> bytes:
    """The path, escaped as it is sent, once more: dots and doubled slashes resolved, `/` and `~` kept."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    whole = b"/" + b"/".join(parts)
    if parts and path.endswith(b"/"):
        whole += b"/"
    return quote(whole, safe="/~").encode()


def canonical_query(query: bytes) -> bytes:
    """The parameters, escaped as they are sent, sorted."""
    pairs = sorted(pair.partition(b"=")[::2] for pair in query.split(b"&"))
    return b"&".join(b"%b=%b" % pair for pair in pairs)


class Digests:
    """The SHA-256 of bodies in hex; of large ones the latest are remembered, for a request's next attempt.

    A body is known again as the very same object: it is held for that.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, bytes]] = {}
        self._size = 0

    def of(self, body: bytes) -> bytes:
        """Its digest."""
        if len(body) < LARGE:
            return hexlify(sha256(body).digest())
        known = self._known.get(id(body))
        if known is not None:
            return known[1]
        digest = hexlify(sha256(body).digest())
        if len(body) <= MAX_DIGESTED:
            self._size += len(body)
            self._known[id(body)] = (body, digest)
            while len(self._known) > MAX_DIGESTS or self._size > MAX_DIGESTED:
                oldest = next(iter(self._known))
                self._size -= len(self._known.pop(oldest)[0])
        return digest
