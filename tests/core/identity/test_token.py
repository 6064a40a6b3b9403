"""A token taken apart, and what its claims must say."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.identity.token import (
    LEEWAY,
    LIFE,
    MOST_BYTES,
    WrongToken,
    check_claims,
    looks_like_token,
    parse,
)

NOW = 1_800_000_000.0
GOOD = {"iss": "https://issuer", "sub": "alice", "aud": "gateway", "exp": NOW + 60}


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def text(head: object, body: object, signature: bytes = b"signature") -> bytes:
    parts = (json.dumps(head).encode(), json.dumps(body).encode(), signature)
    return b".".join(map(encoded, parts))


def test_a_token_is_taken_apart_into_what_it_says_and_what_is_signed():
    token = text({"alg": "RS256", "kid": "k1", "typ": "JWT"}, GOOD)
    parsed = parse(token)
    assert (parsed.algorithm, parsed.key, parsed.issuer, parsed.claims) == ("RS256", "k1", "https://issuer", GOOD)
    assert (parsed.signed, parsed.signature) == (token.rpartition(b".")[0], b"signature")


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_tokens_of_these_types_are_read(kind):
    assert parse(text({"alg": "RS256", "typ": kind}, GOOD)).key is None


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (text({"alg": "RS256", "crit": ["exp"], "exp": 1}, GOOD), "extension"),
        (text({"alg": "RS256", "crit": []}, GOOD), "extension"),
        (text({"alg": "RS256", "crit": None}, GOOD), "extension"),
        (text({"alg": "RS256", "b64": False}, GOOD), "extension"),
        (text({"alg": "RS256", "typ": "logout+jwt"}, GOOD), "another type"),
        (text({"alg": "RS256", "typ": "dpop+jwt"}, GOOD), "another type"),
        (text({"kid": "k1"}, GOOD), "cannot be read"),
        (text({"alg": None}, GOOD), "cannot be read"),
        (text({"alg": "RS256", "kid": 7}, GOOD), "cannot be read"),
        (text([], GOOD), "cannot be read"),
        (text({"alg": "RS256"}, [GOOD]), "cannot be read"),
        (text({"alg": "RS256"}, {"sub": "alice"}), "no issuer"),
        (text({"alg": "RS256"}, {"iss": ["https://issuer"]}), "no issuer"),
        (text({"alg": "RS256"}, GOOD) + b"=", "cannot be read"),
        (text({"alg": "RS256"}, GOOD) + b"\n", "cannot be read"),
        (text({"alg": "RS256"}, GOOD) + b"+", "cannot be read"),
        (text({"alg": "RS256"}, GOOD) + b"!", "cannot be read"),
        (b"eyJ.\xff.", "cannot be read"),
        (text({"alg": "RS256"}, {**GOOD, "more": "x" * MOST_BYTES}), f"longer than {MOST_BYTES}"),
        (
            encoded(b'{"alg":"none","alg":"RS256"}') + b"." + encoded(json.dumps(GOOD).encode()) + b".c2ln",
            "cannot be read",
        ),
        (encoded(b'{"alg":"RS256"}') + b"." + encoded(b'{"iss":"a","\\u0069ss":"b"}') + b".c2ln", "cannot be read"),
        (encoded(b'{"alg":"RS256"}') + b"." + encoded(b'{"iss":"a","x":{"y":1,"y":2}}') + b".c2ln", "cannot be read"),
        (encoded(b'{"alg":"RS256"}') + b"." + encoded(json.dumps(GOOD).encode()) + b".c2lnMB", "cannot be read"),
        (encoded(b'{"alg":"RS256"}') + b"." + encoded(b"[" * 4000) + b".c2ln", "cannot be read"),
    ],
)
def test_what_is_no_token_is_refused(token, words):
    with pytest.raises(WrongToken, match=words):
        parse(token)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_harm_than_to_be_refused(data):
    with pytest.raises(WrongToken):
        parse(b"eyJ" + data)


def test_a_token_is_told_from_a_key():
    assert looks_like_token(text({"alg": "RS256"}, GOOD))
    assert not looks_like_token(b"sk-" + b"A" * 48)
    assert not looks_like_token(b"eyJ.only")


@pytest.mark.parametrize("audience", ["gateway", ["other", "gateway"], ["gateway"]])
def test_claims_count_until_their_end_and_a_little(audience):
    assert check_claims({**GOOD, "aud": audience}, ("gateway",), NOW) == NOW + 60 + LEEWAY
    assert check_claims({**GOOD, "exp": NOW - LEEWAY + 1}, ("gateway",), NOW) == NOW + 1
    assert check_claims({**GOOD, "nbf": NOW + LEEWAY, "iat": NOW + LEEWAY}, ("gateway",), NOW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aud": "other"}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": "gateway2"}, "audience"),
        ({"aud": {"gateway": 1}}, "audience"),
        ({"aud": [["gateway"]]}, "audience"),
        ({"exp": None}, "no end"),
        ({"exp": NOW - LEEWAY}, "expired"),
        ({"exp": "1900000000"}, "no time"),
        ({"exp": True}, "no time"),
        ({"exp": 1e300}, "no time"),
        ({"exp": NOW + LIFE + LEEWAY + 1}, "24 hours"),
        ({"nbf": NOW + LEEWAY + 1}, "not valid yet"),
        ({"nbf": "now"}, "no time"),
        ({"iat": NOW + LEEWAY + 1}, "not valid yet"),
        ({"sub": None}, "subject"),
        ({"sub": ""}, "subject"),
        ({"sub": 7}, "subject"),
    ],
)
def test_claims_that_are_wrong_are_refused(changes, words):
    with pytest.raises(WrongToken, match=words):
        check_claims({**GOOD, **changes}, ("gateway",), NOW)
