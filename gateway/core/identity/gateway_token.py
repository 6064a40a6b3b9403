"""The gateway's own short-lived token: who somebody was found to be, under a key that nobody else has.

`gwt_`, the payload, a dot, and its HMAC-SHA256, both in base64url. Every gateway with the same secret reads it, and
asks nobody.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable

import msgspec

PREFIX = b"gwt_"
LIFE = 3600  # seconds
_MOST_BYTES = 1024
_LABEL = b"gateway token 1"


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """What a token says: by which rule (the issuer's id in the configuration) its bearer is which caller of which team
    ("" for none), until when (Unix seconds)."""

    rule: str
    caller: str
    team: str
    until: int


_read = msgspec.json.Decoder(Grant).decode


def key_of(secret: str) -> bytes:
    """The key for tokens alone, derived from a secret of the configuration."""
    return hmac.digest(secret.encode(), _LABEL, "sha256")


def sign(grant: Grant, key: bytes) -> bytes:
    """The token."""
    payload = urlsafe_b64encode(msgspec.json.encode(grant)).rstrip(b"=")
    return PREFIX + payload + b"." + _mac(payload, key)


def read(token: bytes, keys: Iterable[bytes], now: float) -> Grant | None:
    """What a token says that one of `keys` signed and that counts at `now` (Unix seconds)."""
    if len(token) > _MOST_BYTES or not token.startswith(PREFIX):
        return None
    payload, _, mac = token[len(PREFIX) :].partition(b".")
    if not any(hmac.compare_digest(_mac(payload, key), mac) for key in keys):
        return None
    try:
        grant = _read(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (binascii.Error, msgspec.MsgspecError):
        return None
    return grant if now < grant.until else None


def _mac(payload: bytes, key: bytes) -> bytes:
    return urlsafe_b64encode(hmac.digest(key, payload, "sha256")).rstrip(b"=")
