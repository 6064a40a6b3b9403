"""Keys of AWS from every source, each asked over a real socket."""

from __future__ import annotations

import calendar
import json
import os
import sys
import time
from pathlib import Path

import pytest

from gateway.upstream.credential import NotReady
from gateway.upstream.credentials import aws
from gateway.upstream.credentials.aws import AwsCredential, AwsKeys
from gateway.upstream.sigv4 import Signer
from tests.upstream.credentials.authority import Asked, Authority, had

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EMPTY = b"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has nothing of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def given(name: str, at: float, action: str = "AssumeRole") -> bytes:
    """What STS answers."""
    return (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
        f"<AccessKeyId>ASIA{name}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
        f"<SessionToken>token-{name}</SessionToken><Expiration>{stamp(at)}</Expiration></Credentials>"
        f"</{action}Result></{action}Response>"
    ).encode()


def credential(**keys: str) -> AwsCredential:
    return AwsCredential(AwsKeys(**keys), "eu-west-1", "bedrock")


def signed_by(lines: bytes, access: str, token: str = "") -> bool:
    """Whether these keys signed, by what the lines say and by signing again."""
    stamped = lines.split(b"x-amz-date: ", 1)[1][:16].decode()
    at = calendar.timegm(time.strptime(stamped, "%Y%m%dT%H%M%SZ"))
    signer = Signer(access, SECRET, token, "eu-west-1", "bedrock")
    return signer.lines(b"POST", b"host", b"/path", EMPTY, at) == lines


async def test_given_keys_sign_at_once_and_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    one = credential(access_key_id="AKIA1", secret_access_key=SECRET, session_token="t")
    assert signed_by(one.lines(b"POST", b"host", b"/path", b"{}"), "AKIA1", "t")
    assert (one.trouble, one.expires_at, await one.refresh()) == ("", None, False)


async def test_a_profile_is_read_anew_at_each_refresh(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[prod]\naws_access_key_id = AKIA1\naws_secret_access_key = {SECRET}\n")
    one = credential(config_profile="prod")
    assert await one.refresh()
    assert signed_by(one.lines(b"POST", b"host", b"/path", b"{}"), "AKIA1")
    assert one.expires_at is None
    file.write_text(f"[prod]\naws_access_key_id = AKIA2\naws_secret_access_key = {SECRET}\n")
    one._fetched._asked = 0.0
    assert await one.refresh()
    assert signed_by(one.lines(b"POST", b"host", b"/path", b"{}"), "AKIA2")


@pytest.mark.parametrize("base", ["given", "profile"])
async def test_a_role_is_assumed_at_sts_with_the_keys_at_hand(
    base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(f"[prod]\naws_access_key_id = AKIA1\naws_secret_access_key = {SECRET}\n")
    keys = {"access_key_id": "AKIA1", "secret_access_key": SECRET} if base == "given" else {"config_profile": "prod"}
    expires = int(time.time()) + 3600
    async with Authority(lambda asked: (200, given("1", expires))) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        one = credential(role_arn="arn:aws:iam::1:role/x", external_id="ext", **keys)
        assert signed_by(await had(one), "ASIA1", "token-1")
    assert one.expires_at == expires
    form = sts.asked[0].form
    assert (form["Action"], form["RoleArn"], form["ExternalId"]) == ("AssumeRole", "arn:aws:iam::1:role/x", "ext")
    assert "Credential=AKIA1/" in sts.asked[0].headers["authorization"]


async def test_web_identity_is_taken_from_its_file_at_each_refresh(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("jwt-1")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/pod")

    def answer(asked: Asked) -> tuple[int, bytes]:
        return 200, given(asked.form["WebIdentityToken"], time.time() + 3600, "AssumeRoleWithWebIdentity")

    async with Authority(answer) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        one = credential()
        assert await one.refresh()
        assert signed_by(one.lines(b"POST", b"host", b"/path", b"{}"), "ASIAjwt-1", "token-jwt-1")
        token.write_text("jwt-2")
        one._fetched._asked = 0.0
        assert await one.refresh()
        assert signed_by(one.lines(b"POST", b"host", b"/path", b"{}"), "ASIAjwt-2", "token-jwt-2")
    assert sts.asked[0].form["RoleArn"] == "arn:aws:iam::1:role/pod"


async def test_an_instance_asks_its_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    expires = int(time.time()) + 6 * 3600
    role = {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIA1", "SecretAccessKey": SECRET,
            "Token": "t", "Expiration": stamp(expires)}  # fmt: skip

    def answer(asked: Asked) -> tuple[int, bytes]:
        if asked.path == "/latest/api/token":
            return (200, b"session") if asked.method == "PUT" else (405, b"")
        if asked.headers.get("x-aws-ec2-metadata-token") != "session":
            return 401, b""
        return 200, json.dumps(role).encode() if asked.path.endswith("/my-role") else b"my-role"

    async with Authority(answer) as service:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        one = credential()
        assert signed_by(await had(one), "ASIA1", "t")
    assert one.expires_at == expires


async def test_a_container_asks_its_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    role = {"AccessKeyId": "ASIA1", "SecretAccessKey": SECRET, "Token": "t", "Expiration": stamp(time.time() + 3600)}
    async with Authority(lambda asked: (200, json.dumps(role).encode())) as agent:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/role")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "for-the-agent")
        assert signed_by(await had(credential()), "ASIA1", "t")
    assert agent.asked[0].headers["authorization"] == "for-the-agent"


async def test_keys_that_are_to_expire_are_fetched_anew_ahead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Authority(lambda asked: (200, given(str(len(sts.asked)), time.time() + 3))) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        one = credential(access_key_id="AKIA1", secret_access_key=SECRET, role_arn="arn:aws:iam::1:role/x")
        await one.start()
        await sts.until_asked(2)
        await one.close()


@pytest.mark.parametrize("case", ["refused", "away", "empty", "profile", "web"])
async def test_what_is_wrong_is_said_in_words_without_secrets(
    case: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = (
        "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/u is not "
        f"authorized, with {SECRET}</Message></Error></ErrorResponse>"
    ).encode()
    keys = {"access_key_id": "AKIA1", "secret_access_key": SECRET, "role_arn": "arn:aws:iam::1:role/x"}
    async with Authority(lambda asked: (403, refusal)) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        if case == "away":
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
        if case == "web":
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", __file__)
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/pod")
            keys = {}
        if case in ("empty", "profile"):
            keys = {} if case == "empty" else {"config_profile": "none"}
        one = credential(**keys)
        assert not await one.refresh()
    words = {
        "refused": "AWS refuses AssumeRole: AccessDenied: User: arn:aws:iam::1:user/u is not authorized",
        "web": "AWS refuses AssumeRoleWithWebIdentity: AccessDenied",
        "away": "EndpointConnectionError: Could not connect to the endpoint URL",
        "empty": "default chain finds no keys",
        "profile": "The config profile (none) could not be found",
    }
    assert words[case] in one.trouble
    assert SECRET not in one.trouble
    assert not caplog.records
    with pytest.raises(NotReady) as raised:
        one.lines(b"POST", b"host", b"/path", b"{}")
    assert SECRET not in str(raised.value)


async def test_without_botocore_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)
    one = credential()
    assert not await one.refresh()
    assert one.trouble == "keys that AWS gives need botocore: pip install 'conversation-gateway[aws]'"


def test_only_keys_that_must_be_asked_for_need_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "find_spec", lambda name: None)
    fixed = {"access_key_id": "a", "secret_access_key": "b"}
    assert aws.missing(AwsKeys(**fixed)) == ""
    assert aws.missing(AwsKeys(**fixed, role_arn="c")) == aws.missing(AwsKeys()) == aws.MISSING
