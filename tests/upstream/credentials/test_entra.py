"""Tokens of Entra ID, asked for over a real socket."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gateway.upstream.credential import NotReady
from gateway.upstream.credentials.entra import SCOPE, EntraApp, EntraCredential
from tests.upstream.credentials.authority import Authority, had

TOKEN = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.of.a-test"
SECRET = "0aZ8Q~the-secret-of-an-application"


def token(seconds: float = 3599, value: str = TOKEN) -> bytes:
    return json.dumps({"token_type": "Bearer", "expires_in": seconds, "access_token": value}).encode()


def app(authority: str, **more: str) -> EntraApp:
    return EntraApp("tenant", "client", authority=authority, **({"client_secret": SECRET} | more))


async def test_an_application_shows_its_secret() -> None:
    async with Authority(lambda asked: (200, token())) as entra:
        one = EntraCredential(app(entra.url))
        assert await had(one) == f"authorization: Bearer {TOKEN}\r\n".encode()
    asked = entra.asked[0]
    assert (asked.method, asked.path) == ("POST", "/tenant/oauth2/v2.0/token")
    assert asked.form == {
        "grant_type": "client_credentials", "client_id": "client", "client_secret": SECRET, "scope": SCOPE
    }  # fmt: skip
    assert one.expires_at is not None
    assert 3500 < one.expires_at - time.time() <= 3599


async def test_a_federated_token_is_read_anew_at_each_refresh(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("jwt-1\n")
    async with Authority(lambda asked: (200, token(value=f"for-{asked.form['client_assertion']}"))) as entra:
        one = EntraCredential(app(entra.url, client_secret="", federated_token_file=str(file)))
        assert await one.refresh()
        assert one.lines(b"POST", b"h", b"/", b"") == b"authorization: Bearer for-jwt-1\r\n"
        file.write_text("jwt-2")
        one._asked = 0.0
        assert await one.refresh()
        assert one.lines(b"POST", b"h", b"/", b"") == b"authorization: Bearer for-jwt-2\r\n"
    assert entra.asked[0].form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert "client_secret" not in entra.asked[0].form


async def test_a_token_that_is_to_expire_is_fetched_anew_ahead_of_it() -> None:
    async with Authority(lambda asked: (200, token(2))) as entra:
        one = EntraCredential(app(entra.url))
        await one.start()
        await entra.until_asked(3)
        await one.close()


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (401, b'{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided: '
              + SECRET.encode() + b'"}', "refuses with 401: invalid_client AADSTS7000215"),
        (200, b"<html>", "refuses with 200: no token in its answer"),
        (200, token(value="a\r\nx: y"), "a token that is none"),
        (500, b"[" * 100_000, "refuses with 500"),
    ],
    ids=["refused", "html", "split", "deep"],
)  # fmt: skip
async def test_what_is_wrong_is_said_in_words_without_secrets(status: int, answer: bytes, words: str) -> None:
    async with Authority(lambda asked: (status, answer)) as entra:
        one = EntraCredential(app(entra.url))
        assert not await one.refresh()
    assert words in one.trouble
    assert SECRET not in one.trouble
    with pytest.raises(NotReady):
        one.lines(b"POST", b"h", b"/", b"")


async def test_an_authority_that_is_away_and_a_file_that_is_not_there_are_said() -> None:
    one = EntraCredential(app("http://127.0.0.1:1"))
    assert not await one.refresh()
    assert "http://127.0.0.1:1 cannot be asked" in one.trouble
    two = EntraCredential(app("http://127.0.0.1:1", federated_token_file="/nowhere/token"))
    assert not await two.refresh()
    assert two.trouble == "file '/nowhere/token' cannot be read: No such file or directory"
