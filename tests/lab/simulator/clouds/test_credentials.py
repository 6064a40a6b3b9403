"""Signatures are made again and compared; tokens are given for a while and expire."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import Any

import anthropic
import httpx
import pytest
from botocore.exceptions import ClientError

from gateway.lab.simulator import Simulator, World
from gateway.lab.simulator.clouds import sigv4
from gateway.lab.simulator.credentials import Credentials, Seen
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.request import Request
from gateway.upstream.credentials.aws import AwsCredential, AwsKeys
from gateway.upstream.credentials.entra import EntraApp, EntraCredential
from gateway.upstream.sigv4 import Signer
from tests.lab.simulator.clouds.cloud_kit import MODEL, NAMES, PROFILE, account, boto, client
from tests.lab.simulator.simulator_kit import background

NOW = 1_796_000_000.0
BODY = b'{"a":1}'
ASK: Any = {"max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def sim():
    with background(World.grid(1).with_clouds(), token_seconds=60.0) as running:
        yield running


def refused(sim: Simulator, **keys: str) -> str:
    with boto(sim, **keys) as bedrock, pytest.raises(ClientError) as raised:
        bedrock.invoke_model(modelId=PROFILE, body="{}")
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    code: str = raised.value.response["Error"]["Code"]
    return code


def test_keys_that_are_wrong_unknown_or_have_a_foreign_token_are_refused(sim):
    assert refused(sim, aws_secret_access_key="wrong") == "InvalidSignatureException"
    assert refused(sim, aws_access_key_id="AKIAUNKNOWN") == "UnrecognizedClientException"
    assert refused(sim, aws_session_token="token") == "UnrecognizedClientException"


def test_keys_of_a_role_sign_until_they_expire(sim):
    one, _ = account(sim, "bedrock")
    keys = sigv4.Keys("secret", "token", 1e12)
    sim.service.credentials.lend("ASIA1", keys, one)
    lent = {"aws_access_key_id": "ASIA1", "aws_secret_access_key": "secret", "aws_session_token": "token"}
    with boto(sim, **lent) as bedrock:
        bedrock.invoke_model(modelId=PROFILE, body=json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK}))
    assert refused(sim, **lent | {"aws_session_token": "other"}) == "UnrecognizedClientException"
    sim.service.credentials.lend("ASIA1", keys._replace(expires_at=1.0), one)
    assert refused(sim, **lent) == "ExpiredTokenException"


@pytest.mark.parametrize("which", NAMES)
def test_a_key_of_another_account_is_refused(sim, which):
    with client(sim, which) as cloud:
        wrong = {"api_key": "sk-wrong"} if which in ("bedrock", "foundry") else {}
        if which == "vertex":
            cloud.access_token = "wrong"
        elif not wrong:
            cloud.aws_secret_key = "wrong"
        asked = cloud.with_options(**wrong) if wrong else cloud
        with pytest.raises((anthropic.AuthenticationError, anthropic.PermissionDeniedError)):
            asked.messages.create(model=NAMES[which], **ASK)


def test_accounts_at_clouds_are_not_anthropics(sim):
    head = {"x-api-key": sim.world["sim-foundry-1"].api_key, "anthropic-version": "2023-06-01"}
    assert httpx.post(f"{sim.base_url}/v1/messages", json={"model": MODEL, **ASK}, headers=head).status_code == 401
    head["x-api-key"] = sim.world["sim-account-1"].api_key
    for path in ("/anthropic/v1/messages", f"/model/{PROFILE}/invoke"):
        assert httpx.post(sim.base_url + path, json={"model": MODEL, **ASK}, headers=head).status_code in (401, 403)


def world() -> Credentials:
    return Credentials(World.grid(1).with_clouds())


def signed(path: str = "/model/a%3Ab/invoke?x=1", at: float = NOW, **change: Any) -> tuple[Request, Seen]:
    """A request that the account's keys sign, and what its headers say."""
    cloud = World.grid(1).with_clouds()["sim-bedrock-1"].cloud
    assert cloud is not None
    signer = Signer(cloud.access_key_id, cloud.secret_access_key, "", change.get("region", "us-east-1"),
                    change.get("service", "bedrock"))  # fmt: skip
    lines = signer.lines(b"POST", b"host", path.encode(), sha256(BODY).hexdigest().encode(), at)
    headers = [(b"host", change.get("host", b"host"))]
    headers += [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])]
    request = Request("POST", change.get("sent", path), headers + change.get("more", []), change.get("body", BODY))
    return request, world().read(request.headers)


def test_what_the_gateway_signs_is_accepted():
    request, seen = signed()
    assert world().of_aws(request, seen, "bedrock", "bedrock", NOW)[0].id == "sim-bedrock-1"


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"{}"}, {"sent": "/model/a:b/invoke?x=1"}, {"sent": "/model/a%3Ab/invoke"}, {"host": b"other"},
        {"region": "eu-west-1"}, {"service": "bedrock-mantle"}, {"at": NOW - 400}, {"at": NOW + 400},
        {"more": [(b"x-amz-date", b"20260101T000000Z")]}, {"more": [(b"x-api-key", b"sk-other")]},
        {"more": [(b"x-amz-content-sha256", b"0" * 64)]},
    ],
)  # fmt: skip
def test_whatever_is_changed_behind_a_signature_breaks_it(change):
    request, seen = signed(**change)
    with pytest.raises(ApiError) as raised:
        world().of_aws(request, seen, "bedrock", "bedrock", NOW)
    assert raised.value.error_code in ("InvalidSignatureException", "IncompleteSignatureException")


def test_google_and_entra_give_tokens_for_what_they_know_and_only_in_the_right_scope(sim):
    def asked(iss: str, scope: str) -> httpx.Response:
        claims = base64.urlsafe_b64encode(json.dumps({"iss": iss, "scope": scope}).encode()).decode().rstrip("=")
        return httpx.post(f"{sim.base_url}/token", data={"assertion": f"h.{claims}.s"})

    one, cloud = account(sim, "vertex")
    scope = "https://www.googleapis.com/auth/cloud-platform"
    assert asked(cloud.client_email, "other").status_code == asked("nobody", scope).status_code == 400
    given = asked(cloud.client_email, scope).json()
    assert given["expires_in"] == 60
    with client(sim, "vertex") as vertex:
        vertex.access_token = given["access_token"]
        vertex.messages.create(model=NAMES["vertex"], **ASK)
        sim.service.credentials.lend_token(given["access_token"], 1.0, one)
        with pytest.raises(anthropic.AuthenticationError) as raised:
            vertex.messages.create(model=NAMES["vertex"], **ASK)
    assert raised.value.response.json()["error"]["status"] == "UNAUTHENTICATED"
    _, app = account(sim, "foundry")
    form = {"client_id": app.client_id, "client_secret": app.client_secret, "scope": "https://ai.azure.com/.default"}
    url = f"{sim.base_url}/tenant/oauth2/v2.0/token"
    token = httpx.post(url, data=form).json()["access_token"]
    assert httpx.post(url, data=form | {"scope": "x"}).status_code == 401
    assert httpx.post(url, data=form | {"client_secret": "x"}).status_code == 401
    head = {"authorization": f"Bearer {token}", "anthropic-version": "2023-06-01"}
    answer = httpx.post(f"{sim.base_url}/anthropic/v1/messages", json={"model": MODEL, **ASK}, headers=head)
    assert answer.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_googles_platform_are_its_own_and_come_in_an_array_on_streams(sim, stream):
    one, cloud = account(sim, "vertex")
    method = "streamRawPredict" if stream else "rawPredict"
    root = f"{sim.base_url}/v1/projects/{cloud.project}/locations/{cloud.region}/publishers/anthropic/models"
    body = {"anthropic_version": "vertex-2023-10-16", "stream": stream, **ASK}
    head = {"authorization": f"Bearer {one.api_key}"}

    def ask(url: str, **change: Any) -> Any:
        answer = httpx.post(url, json=body | change, headers=head)
        told = answer.json()
        assert isinstance(told, list) is (stream and "type" not in told)
        return answer.status_code, (told[0] if isinstance(told, list) else told)

    status, told = ask(f"{root}/claude-none:{method}")
    assert (status, told["error"]["status"]) == (404, "NOT_FOUND")
    status, told = ask(f"{root}/claude-haiku-4-5@20251001:{method}".replace(cloud.project, "other"))
    assert (status, told["error"]["status"]) == (403, "PERMISSION_DENIED")
    sim.faults.add("status", 429, times=1)
    status, told = ask(f"{root}/claude-haiku-4-5@20251001:{method}")
    assert (status, told["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    status, told = ask(f"{root}/claude-haiku-4-5@20251001:{method}", max_tokens=10**9)
    assert (status, told["type"], told["error"]["type"]) == (400, "error", "invalid_request_error")


@pytest.mark.parametrize("web", [False, True])
async def test_what_sts_gives_a_role_signs_for_its_account(sim, web, monkeypatch, tmp_path):
    _, cloud = account(sim, "bedrock")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sim.base_url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    keys = AwsKeys(cloud.access_key_id, cloud.secret_access_key, role_arn=cloud.role_arn)
    if web:
        (tmp_path / "token").write_text("a-jwt")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", cloud.role_arn)
        keys = AwsKeys()
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK}).encode()
    credential = AwsCredential(keys, "us-east-1", "bedrock")
    assert await credential.refresh(), credential.trouble
    path = f"/model/{PROFILE}/invoke"
    lines = credential.lines(b"POST", sim.base_url.removeprefix("http://").encode(), path.encode(), body)
    head = dict(line.split(": ", 1) for line in lines.decode().splitlines())
    async with httpx.AsyncClient() as plain:
        answer = await plain.post(sim.base_url + path, content=body, headers=head)
    assert (answer.status_code, answer.json()["type"]) == (200, "message")
    wrong = AwsCredential(AwsKeys(cloud.access_key_id, "wrong", role_arn=cloud.role_arn), "us-east-1", "bedrock")
    assert not await wrong.refresh()
    assert "InvalidSignatureException" in wrong.trouble


async def test_entra_gives_our_application_a_token(sim):
    _, cloud = account(sim, "foundry")
    credential = EntraCredential(EntraApp("tenant", cloud.client_id, cloud.client_secret, authority=sim.base_url))
    assert await credential.refresh(), credential.trouble
    assert credential.lines(b"", b"", b"", b"").startswith(b"authorization: Bearer sim")
