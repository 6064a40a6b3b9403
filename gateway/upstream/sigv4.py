"""AWS Signature Version 4 of one request: host, time, the token if there is one, and the body's digest are signed.

As few headers as that are signed, so that nothing added later breaks a signature. A signature is good for five minutes
at its own path and body: every attempt needs one of its own. Does no I/O; the time is an argument.
"""

from __future__ import annotations

import hmac
import time
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote

LARGE = 16 * 1024
MAX_DIGESTS = 4
MAX_DIGESTED = 8 * 1024 * 1024


class Signer:
    """Signs with one set of keys, for one region and service. `token` is that of temporary keys, else empty."""

    __slots__ = (
        "_credential",
        "_day",
        "_headers",
        "_key",
        "_names",
        "_second",
        "_secret",
        "_stamp",
        "_suffix",
        "_token",
    )

    def __init__(self, access_key_id: str, secret_access_key: str, token: str, region: str, service: str) -> None:
        self._secret = b"AWS4" + secret_access_key.encode()
        self._suffix = f"/{region}/{service}/aws4_request".encode()
        self._credential = access_key_id.encode()
        self._token = token.encode()
        self._names = b"host;x-amz-date" + (b";x-amz-security-token" if token else b"")
        self._headers = b"x-amz-security-token: %b\r\n" % self._token if token else b""
        self._second = -1
        self._stamp = self._day = b""
        self._key = _keyed(b"")

    def lines(self, method: bytes, host: bytes, path: bytes, digest: bytes, now: float) -> bytes:
        """Finished header lines of a request. `host` is the host header's value, `path` as it is sent, with its query;
        `digest` that of the exact body, in hex; `now` unix seconds."""
        if int(now) != self._second:
            self._at(int(now))
        stamp = self._stamp
        token = b"x-amz-security-token:%b\n" % self._token if self._token else b""
        where, _, query = path.partition(b"?")
        canonical = b"%b\n%b\n%b\nhost:%b\nx-amz-date:%b\n%b\n%b\n%b" % (
            method, canonical_path(where), canonical_query(query) if query else b"", host, stamp, token, self._names,
            digest,
        )  # fmt: skip
        scope = self._day + self._suffix
        proof = self._key.copy()
        proof.update(b"AWS4-HMAC-SHA256\n%b\n%b\n%b" % (stamp, scope, sha256(canonical).hexdigest().encode()))
        return (
            b"x-amz-date: %b\r\n%bauthorization: AWS4-HMAC-SHA256 Credential=%b/%b, SignedHeaders=%b, Signature=%b\r\n"
        ) % (stamp, self._headers, self._credential, scope, self._names, proof.hexdigest().encode())

    def _at(self, second: int) -> None:
        self._second = second
        self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)).encode()
        day = self._stamp[:8]
        if day == self._day:
            return
        self._day = day
        key = hmac.digest(self._secret, day, "sha256")
        for part in self._suffix[1:].split(b"/"):
            key = hmac.digest(key, part, "sha256")
        self._key = _keyed(key)


def _keyed(key: bytes) -> hmac.HMAC:
    """To be copied: that is cheaper than to begin with the key."""
    return hmac.new(key, digestmod="sha256")


@lru_cache(maxsize=256)
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
            return sha256(body).hexdigest().encode()
        known = self._known.get(id(body))
        if known is not None:
            return known[1]
        digest = sha256(body).hexdigest().encode()
        if len(body) <= MAX_DIGESTED:
            self._size += len(body)
            self._known[id(body)] = (body, digest)
            while len(self._known) > MAX_DIGESTS or self._size > MAX_DIGESTED:
                oldest = next(iter(self._known))
                self._size -= len(self._known.pop(oldest)[0])
        return digest
