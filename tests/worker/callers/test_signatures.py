"""An issuer's key set: which keys are taken from it, and which signatures they find right."""

from __future__ import annotations

import json

import pytest
from joserfc.jws import JWSRegistry

from gateway.worker.callers.signatures import MOST_KEYS, parse_keys
from tests.minting import ec, edwards, encoded, key_set, rsa

TEXT = b"signed text"
RSA, EC, ED = rsa("rsa"), ec("ec"), edwards("ed")


def signature(key, algorithm):
    return JWSRegistry.algorithms[algorithm].sign(TEXT, key)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *((RSA, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        (EC, "ES256"), (ec("ec", "P-384"), "ES384"), (ec("ec", "P-521"), "ES512"), (ED, "EdDSA"), (ED, "Ed25519"),
    ],
)  # fmt: skip
def test_a_signature_is_right_for_its_text_and_its_key_alone(key, algorithm):
    found = parse_keys(key_set(key)).find(key.kid, algorithm)
    assert found is not None
    right = signature(key, algorithm)
    assert found.signed(algorithm, TEXT, right)
    assert not found.signed(algorithm, TEXT + b".", right)
    assert not found.signed(algorithm, TEXT, right[:-1] + bytes([right[-1] ^ 1]))
    assert not found.signed(algorithm, TEXT, b"")


@pytest.mark.parametrize(
    ("kid", "algorithm"),
    [("rsa", "ES256"), ("rsa", "EdDSA"), ("rsa", "HS256"), ("rsa", "none"), ("ec", "RS256"), ("ec", "ES384"),
     ("ed", "ES256"), ("other", "RS256")],
)  # fmt: skip
def test_no_key_is_used_with_an_algorithm_that_it_is_not_for(kid, algorithm):
    assert parse_keys(key_set(RSA, EC, ED)).find(kid, algorithm) is None


def test_a_key_that_names_its_algorithm_is_used_with_no_other():
    keys = parse_keys(key_set(RSA, alg="RS256"))
    assert keys.find("rsa", "RS256") is not None
    assert keys.find("rsa", "PS256") is keys.find("rsa", "RS512") is None


def test_without_an_id_the_only_fitting_key_is_meant():
    assert parse_keys(key_set(RSA, EC)).find(None, "RS256") is not None
    assert parse_keys(key_set(RSA, rsa("two"))).find(None, "RS256") is None


def test_keys_that_cannot_check_a_signature_are_passed_over():
    unfit = [
        {**rsa("enc").as_dict(private=False), "use": "enc"},
        {**rsa("ops").as_dict(private=False), "key_ops": ["encrypt"]},
        {"kty": "RSA", "kid": "short", "e": "AQAB", "n": encoded(b"\xc1" * 128)},
        {"kty": "oct", "kid": "oct", "k": encoded(b"x" * 32)},
        {"kty": "RSA", "kid": "broken", "n": "?", "e": "AQAB"},
        {"kty": "new"},
        {**rsa("odd").as_dict(private=False), "key_ops": 7},
        "nonsense",
    ]
    keys = parse_keys(json.dumps({"keys": [*unfit, RSA.as_dict(private=False)]}).encode())
    assert len(keys) == 1
    assert keys.find("oct", "HS256") is keys.find("short", "RS256") is keys.find("enc", "RS256") is None


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"x" * (1 << 21), b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
     json.dumps({"keys": [RSA.as_dict(private=False)] * (MOST_KEYS + 1)}).encode()],
)  # fmt: skip
def test_what_is_no_set_of_keys_is_an_error(data):
    with pytest.raises(ValueError):
        parse_keys(data)


def test_sets_are_equal_that_hold_the_same_keys():
    assert parse_keys(key_set(RSA, EC)) == parse_keys(key_set(EC, RSA))
    assert parse_keys(key_set(RSA)) != parse_keys(key_set(rsa("rsa")))
