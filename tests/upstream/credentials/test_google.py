"""Tokens of Google from every source, each asked over a real socket."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway.upstream.credential import NotReady
from gateway.upstream.credentials.google import SCOPES, GoogleCredential
from tests.upstream.credentials.authority import Asked, Authority, had

IMPERSONATE = "/v1/projects/-/serviceAccounts/sa@p.iam.gserviceaccount.com:generateAccessToken"
TOKEN = "ya29.c.c0ASRK0Ga-the-token-of-a-test"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has nothing of Google."""
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_", "GCLOUD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def key_file(key: rsa.RSAPrivateKey, token_uri: str) -> str:
    """A service account's key file; its key has several lines."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    told = {"type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": pem,
            "client_email": "sa@p.iam.gserviceaccount.com", "client_id": "1", "token_uri": token_uri}  # fmt: skip
    return json.dumps(told, indent=2)


def token(seconds: int = 3600, value: str = TOKEN) -> bytes:
    return json.dumps({"access_token": value, "expires_in": seconds, "token_type": "Bearer"}).encode()


def claims(assertion: str, key: rsa.RSAPrivateKey) -> dict[str, Any]:
    """What a signed assertion says; raises unless that key signed it."""
    signed, _, signature = assertion.rpartition(".")

    def decoded(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    key.public_key().verify(decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    said: dict[str, Any] = json.loads(decoded(signed.split(".")[1]))
    return said


async def test_a_service_account_signs_for_its_token(key: rsa.RSAPrivateKey) -> None:
    async with Authority(lambda asked: (200, token())) as google:
        one = GoogleCredential(key_file(key, f"{google.url}/token"))
        assert await had(one) == f"authorization: Bearer {TOKEN}\r\n".encode()
    said = claims(google.asked[0].form["assertion"], key)
    assert (said["iss"], said["scope"]) == ("sa@p.iam.gserviceaccount.com", SCOPES[0])
    assert one.expires_at is not None
    assert 3000 < one.expires_at - time.time() <= 3600


@pytest.mark.parametrize("impersonates", [False, True])
async def test_workload_identity_exchanges_the_token_of_its_file(impersonates: bool, tmp_path: Path) -> None:
    subject = tmp_path / "subject"
    subject.write_text("jwt-of-the-pod")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))

    def answer(asked: Asked) -> tuple[int, bytes]:
        if asked.path == IMPERSONATE:
            return 200, json.dumps({"accessToken": TOKEN, "expireTime": stamp}).encode()
        return 200, token(value="federated" if impersonates else TOKEN)

    async with Authority(answer) as google:
        told = {"type": "external_account", "audience": "//iam.googleapis.com/projects/1/x", "token_url":
                f"{google.url}/sts", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "credential_source": {"file": str(subject)}}  # fmt: skip
        if impersonates:
            told["service_account_impersonation_url"] = f"{google.url}{IMPERSONATE}"
        assert TOKEN.encode() in await had(GoogleCredential(json.dumps(told)))
    assert google.asked[0].form["subject_token"] == "jwt-of-the-pod"
    if impersonates:
        assert google.asked[1].headers["authorization"] == "Bearer federated"


async def test_without_a_key_file_a_machine_asks_its_metadata_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(asked: Asked) -> tuple[int, bytes]:
        if "/token" in asked.path:
            return 200, token()
        if "universe" in asked.path:
            return 404, b""
        return 200, b'{"email":"sa@p","scopes":["x"],"aliases":["default"]}' if "recursive" in asked.path else b"p"

    async with Authority(answer) as machine:
        monkeypatch.delenv("NO_GCE_CHECK")
        host = machine.url.removeprefix("http://")
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        monkeypatch.setenv("GCE_METADATA_IP", host)
        from google.auth.compute_engine import _metadata

        monkeypatch.setattr(_metadata, "_METADATA_ROOT", f"http://{host}/computeMetadata/v1/", raising=False)
        monkeypatch.setattr(_metadata, "_METADATA_IP_ROOT", f"http://{host}", raising=False)
        assert TOKEN.encode() in await had(GoogleCredential())
    assert any("/service-accounts/" in asked.path for asked in machine.asked)


async def test_without_a_key_file_the_environment_names_one(
    key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Authority(lambda asked: (200, token())) as google:
        (tmp_path / "sa.json").write_text(key_file(key, f"{google.url}/token"))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "sa.json"))
        assert TOKEN.encode() in await had(GoogleCredential())


async def test_a_key_file_that_the_environment_names_is_read_anew_at_each_refresh(
    key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Authority(lambda asked: (200, token(value=asked.path[1:]))) as google:
        file = tmp_path / "sa.json"
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        one = GoogleCredential()
        for name in ("first", "second"):
            file.write_text(key_file(key, f"{google.url}/{name}"))
            one._asked = 0.0
            assert await one.refresh()
            assert one.lines(b"POST", b"host", b"/path", b"") == f"authorization: Bearer {name}\r\n".encode()


async def test_a_token_that_is_to_expire_is_fetched_anew_ahead_of_it(key: rsa.RSAPrivateKey) -> None:
    async with Authority(lambda asked: (200, token(3))) as google:
        one = GoogleCredential(key_file(key, f"{google.url}/token"))
        await one.start()
        await google.until_asked(2)
        await one.close()


@pytest.mark.parametrize("case", ["refused", "no json", "odd type", "half a key", "no credentials", "away"])
async def test_what_is_wrong_is_said_in_words_without_secrets(case: str, key: rsa.RSAPrivateKey) -> None:
    refusal = b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}'
    async with Authority(lambda asked: (400, refusal)) as google:
        whole = key_file(key, f"{google.url}/token")
        texts = {"refused": whole, "no json": whole[:-2], "odd type": '{"type":"x"}', "half a key": whole.replace(
            "KEY-----", ""), "no credentials": "", "away": key_file(key, "http://127.0.0.1:1/token")}  # fmt: skip
        one = GoogleCredential(texts[case])
        assert not await one.refresh()
    words = {
        "refused": "Google gives no token: invalid_grant: Invalid JWT Signature.",
        "no json": "are no JSON",
        "odd type": "of a type that is not known",
        "half a key": "cannot be used",
        "no credentials": "default credentials were not found",
        "away": "Google gives no token",
    }
    assert words[case] in one.trouble
    assert json.loads(whole)["private_key"].split("\n")[1] not in one.trouble
    with pytest.raises(NotReady):
        one.lines(b"POST", b"host", b"/path", b"{}")


async def test_without_google_auth_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("google.auth")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    one = GoogleCredential()
    assert not await one.refresh()
    assert one.trouble == "tokens that Google gives need google-auth: pip install 'conversation-gateway[google]'"
