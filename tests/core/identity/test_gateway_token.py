"""The gateway's own token: whoever has the key reads it, nobody else makes one."""

from __future__ import annotations

import base64

import pytest

from gateway.core.identity.gateway_token import LIFE, Grant, key_of, read, sign

NOW = 1_800_000_000
KEY, OTHER = key_of("s" * 32), key_of("t" * 32)
GRANT = Grant("k8s", "k8s/alice", "research", NOW + LIFE)


def test_a_token_says_what_was_granted_until_it_ends():
    token = sign(GRANT, KEY)
    assert token.startswith(b"gwt_")
    assert read(token, [KEY], NOW) == GRANT
    assert read(token, [KEY], NOW + LIFE - 1) == GRANT
    assert read(token, [KEY], NOW + LIFE) is None


def test_a_token_counts_while_its_secret_is_still_accepted():
    assert read(sign(GRANT, KEY), [OTHER, KEY], NOW) == GRANT
    assert read(sign(GRANT, KEY), [OTHER], NOW) is None


def test_the_key_is_not_the_secret_itself():
    assert b"s" * 32 != KEY != OTHER


def forged(token: bytes) -> list[bytes]:
    payload, _, mac = token.removeprefix(b"gwt_").partition(b".")
    richer = base64.urlsafe_b64encode(b'["k8s","k8s/bob","",9999999999]').rstrip(b"=")
    return [
        b"gwt_" + richer + b"." + mac, b"gwt_" + payload + b".", b"gwt_" + payload, b"gwt_", b"gwt_.",
        b"gwt_" + payload + b"." + mac[:-1], b"gwt_" + payload + b"." + mac + b"x", token.removeprefix(b"gwt_"),
        token + b"A" * 1024,
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(9))
def test_what_nobody_signed_is_no_token(index):
    assert read(forged(sign(GRANT, KEY))[index], [KEY], NOW) is None


def test_no_byte_of_a_token_can_be_changed():
    token = sign(GRANT, KEY)
    for place in range(len(token)):
        other = token[:place] + (b"A" if token[place : place + 1] != b"A" else b"B") + token[place + 1 :]
        assert read(other, [KEY], NOW) is None
