"""A signed token (JWS in compact form) taken apart, and what its claims must say by RFC 7519, 8725 and 9068.

It believes nothing: nobody has looked at the signature yet. Words of errors never repeat what a token says.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from typing import Any

import msgspec

MOST_BYTES = 8192
LIFE = 86_400.0  # seconds ahead that a token may end
LEEWAY = 30.0  # seconds that the issuer's clock may be wrong
_TYPES = ("jwt", "at+jwt", "application/at+jwt")  # in lower case
_ALPHABET = re.compile(rb"[A-Za-z0-9_-]+")


class WrongToken(Exception):
    """It is none that counts; the words are for whoever sent it."""


class Token(msgspec.Struct, frozen=True):
    """What a token says of itself. `signed` are the bytes that `signature` is of."""

    algorithm: str
    key: str | None  # the id of the key that signed it
    issuer: str
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: str | None = None
    crit: Any = msgspec.UNSET
    b64: Any = msgspec.UNSET


_header = msgspec.json.Decoder(_Header).decode
_claims = msgspec.json.Decoder(dict[str, Any]).decode


def looks_like_token(credential: bytes) -> bool:
    """Whether it can be none of our keys: those have no dots."""
    return credential.startswith(b"eyJ") and credential.count(b".") == 2


def parse(text: bytes) -> Token:
    """Take it apart. Raises WrongToken."""
    if len(text) > MOST_BYTES:
        raise WrongToken(f"The token is longer than {MOST_BYTES} bytes.")
    signed, _, signature = text.rpartition(b".")
    head, _, body = signed.partition(b".")
    try:
        head_text, body_text = _decode(head), _decode(body)
        header, claims, mac = _header(head_text), _claims(body_text), _decode(signature)
        for each in (head_text, body_text):
            json.loads(each, object_pairs_hook=_once)
    except (ValueError, RecursionError):  # msgspec's and base64's errors are ValueErrors too
        raise WrongToken("The token cannot be read.") from None
    if header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
        raise WrongToken("The token demands an extension that is not supported.")
    if header.typ is not None and header.typ.lower() not in _TYPES:
        raise WrongToken("The token is of another type than JWT or at+jwt.")
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise WrongToken("The token names no issuer.")
    return Token(header.alg, header.kid, issuer, claims, signed, mac)


def _decode(part: bytes) -> bytes:
    """base64url without padding, in the only form that its bytes have. Raises ValueError."""
    if not _ALPHABET.fullmatch(part):
        raise ValueError
    found = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if urlsafe_b64encode(found).rstrip(b"=") != part:  # bits that mean nothing: one token would be many
        raise ValueError
    return found


def _once(members: list[tuple[str, Any]]) -> None:
    """Raise ValueError where two have one name: another reader might believe the first."""
    if len({name for name, _ in members}) < len(members):
        raise ValueError


def check_claims(claims: dict[str, Any], audiences: Collection[str], now: float) -> float:
    """Until when (Unix seconds) the token counts, for one of these audiences. Raises WrongToken."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise WrongToken("The token names no subject.")
    given = claims.get("aud")
    named = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if not any(isinstance(each, str) and each in audiences for each in named):
        raise WrongToken("The token is for another audience.")
    until = _time(claims, "exp")
    if until is None:
        raise WrongToken("The token has no end (exp).")
    if until + LEEWAY <= now:
        raise WrongToken("The token has expired.")
    if until > now + LIFE + LEEWAY:
        raise WrongToken(f"The token ends more than {LIFE / 3600:.0f} hours from now.")
    for name in ("nbf", "iat"):
        since = _time(claims, name)
        if since is not None and since > now + LEEWAY:
            raise WrongToken(f"The token is not valid yet ({name}).")
    return until + LEEWAY


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise WrongToken(f"The token's {name} is no time.")
    return float(value)
