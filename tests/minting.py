"""Tokens as issuers sign them, and as they would not: any header, any claims, any key."""

from __future__ import annotations

import base64
import hmac
import json
from time import time
from typing import Any

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

ISSUER = "https://issuer.example"
AUDIENCE = "gateway"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def rsa(kid: str = "k1", bits: int = 2048) -> RSAKey:
    return RSAKey.generate_key(bits, {"kid": kid}, auto_kid=False)


def ec(kid: str = "k1", curve: str = "P-256") -> ECKey:
    return ECKey.generate_key(curve, {"kid": kid}, auto_kid=False)


def edwards(kid: str = "k1") -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": kid}, auto_kid=False)


def key_set(*keys: Key, **more: Any) -> bytes:
    """A JSON Web Key Set of their public halves; `more` stands in each."""
    return json.dumps({"keys": [{**key.as_dict(private=False), **more} for key in keys]}).encode()


def claims_of(**changes: Any) -> dict[str, Any]:
    """Those of a good token; a change to None leaves one out."""
    now = int(time())
    good = {"iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600, **changes}
    return {name: value for name, value in good.items() if value is not None}


def mint(key: Key | bytes, claims: dict[str, Any] | None = None, algorithm: str = "RS256", **header: Any) -> bytes:
    """A token signed by `key`, or with a secret; a header of None leaves one out."""
    head = {"alg": algorithm, "kid": "k1" if isinstance(key, bytes) else key.kid, "typ": "JWT", **header}
    head = {name: value for name, value in head.items() if value is not None}
    body = json.dumps(claims_of() if claims is None else claims).encode()
    return sealed(json.dumps(head).encode(), body, key, algorithm)


def sealed(head: bytes, body: bytes, key: Key | bytes, algorithm: str) -> bytes:
    """A token of these very bytes."""
    signed = f"{encoded(head)}.{encoded(body)}".encode()
    if isinstance(key, bytes):
        signature = hmac.digest(key, signed, "sha256")
    else:
        signature = JWSRegistry.algorithms[algorithm].sign(signed, key)
    return signed + b"." + encoded(signature).encode()
