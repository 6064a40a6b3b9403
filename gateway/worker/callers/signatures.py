"""The keys of an issuer (a JSON Web Key Set), and whether one of them signed something.

Imported only where an issuer is configured: what it stands on takes a worker's memory and time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

MOST_BYTES = 1 << 20
MOST_KEYS = 64
_RSA_BITS = 2048  # at least
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_PUBLIC = ("kty", "n", "e", "crv", "x", "y")
_EDWARDS = ("EdDSA", "Ed25519")

_sets = msgspec.json.Decoder(dict[str, Any])


class PublicKey(msgspec.Struct, frozen=True):
    """One key: `id` is its `kid`, `only` the one algorithm that it may be used with, where it says so."""

    id: str | None
    only: str | None
    key: Key

    def fits(self, algorithm: str) -> bool:
        """Whether it is of the kind that the algorithm needs."""
        if self.only not in (None, algorithm):
            return False
        match self.key:
            case RSAKey():
                return algorithm[:2] in ("RS", "PS")
            case ECKey():
                return _CURVES.get(algorithm) == self.key.curve_name
            case OKPKey():
                return algorithm in _EDWARDS and self.key.curve_name == "Ed25519"
        return False

    def signed(self, algorithm: str, text: bytes, signature: bytes) -> bool:
        """Whether this is its signature of the text by an algorithm that it fits."""
        # The list of the library would warn of EdDSA, whose name says too little of the curve; `fits` has looked.
        return JWSRegistry.algorithms[algorithm].verify(text, signature, self.key)


class KeySet:
    """Keys for signatures. A set with none that can be used is none."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self._keys = tuple(keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and self._ids() == other._ids()

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._keys)

    def _ids(self) -> set[tuple[str | None, str]]:
        return {(key.id, key.key.thumbprint()) for key in self._keys}

    def any_for(self, algorithm: str) -> bool:
        """Whether a signature by this algorithm could be right."""
        return any(key.fits(algorithm) for key in self._keys)

    def find(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        """The key of that id, if the algorithm fits it; without an id the only one that fits."""
        fitting = [key for key in self._keys if key_id in (None, key.id) and key.fits(algorithm)]
        return fitting[0] if len(fitting) == 1 or (fitting and key_id is not None) else None


def parse_keys(data: bytes) -> KeySet:
    """The keys of a JSON Web Key Set that may check signatures; others are passed over, secret ones too. Raises
    ValueError."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES} bytes")
    try:
        listed = _sets.decode(data).get("keys")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(listed, list):
        raise ValueError("not a JSON Web Key Set: it has no list of keys")
    if len(listed) > MOST_KEYS:
        raise ValueError(f"more than {MOST_KEYS} keys")
    keys = KeySet(key for each in listed if (key := _key(each)) is not None)
    if not len(keys):
        raise ValueError("has no key that can check a signature")
    return keys


def _key(given: Any) -> PublicKey | None:
    if not isinstance(given, dict) or given.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        if given.get("use", "sig") != "sig" or "verify" not in given.get("key_ops", ["verify"]):
            return None
        with warnings.catch_warnings():  # of a key too short, which is passed over
            warnings.simplefilter("ignore")
            key = JWKRegistry.import_key({name: given[name] for name in _PUBLIC if name in given})
        if isinstance(key, RSAKey) and key.get_op_key("verify").key_size < _RSA_BITS:
            return None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return PublicKey(_word(given, "kid"), _word(given, "alg"), key)


def _word(given: dict[str, Any], name: str) -> str | None:
    value = given.get(name)
    return value if isinstance(value, str) else None
