"""Signatures: byte for byte those of botocore, over paths, regions, tokens and days."""

from __future__ import annotations

import datetime
from hashlib import sha256
from unittest import mock
from urllib.parse import quote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.sigv4 import LARGE, MAX_DIGESTED, MAX_DIGESTS, Digests, Signer, canonical_path

NOW = 1_796_000_000.25
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"


def by_botocore(
    signer: tuple[str, str, str, str, str], method: str, host: str, path: str, body: bytes, now: float
) -> dict[str, str]:
    access, secret, token, region, service = signer
    request = AWSRequest(method, f"https://{host}{path}", data=body)
    at = datetime.datetime.fromtimestamp(int(now), datetime.UTC)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=at):
        botocore.auth.SigV4Auth(Credentials(access, secret, token or None), service, region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def ours(signer: Signer, method: str, host: str, path: str, body: bytes, now: float) -> dict[str, str]:
    digest = sha256(body).hexdigest().encode()
    lines = signer.lines(method.encode(), host.encode(), path.encode(), digest, now)
    assert lines.endswith(b"\r\n")
    return dict(line.split(": ", 1) for line in lines.decode().rstrip("\r\n").split("\r\n"))


words = st.text("ABCDEFGHIJKLMNOPabcdefgh0123456789+/=", min_size=1, max_size=40)
models = st.one_of(
    st.sampled_from(["us.anthropic.claude-haiku-4-5-20251001-v1:0", ARN]),
    st.text(min_size=1, max_size=30).filter(lambda text: text not in (".", "..")),
)
paths = st.builds(
    lambda model, safe, end: f"/model/{quote(model.encode(), safe=safe)}/{end}",
    models,
    st.sampled_from(["", ":", ":;", "~"]),
    st.sampled_from(["invoke", "invoke-with-response-stream", "count-tokens", ".", "../x", "/", ""]),
)
queries = st.lists(
    st.tuples(st.sampled_from(["beta", "b", "a%20b"]), st.sampled_from(["true", "", "x%2Fy"])), max_size=3
).map(lambda pairs: "?" + "&".join(f"{name}={value}" for name, value in pairs) if pairs else "")
signers = st.tuples(
    words, words, st.one_of(st.just(""), words), st.sampled_from(["us-east-1", "eu-west-1", "us-gov-west-1"]),
    st.sampled_from(["bedrock", "bedrock-mantle", "aws-external-anthropic"]),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(signers, st.sampled_from(["POST", "GET"]), paths, queries, st.binary(max_size=300), st.integers(0, 2**31))
def test_headers_are_those_of_botocore(
    signer: tuple[str, str, str, str, str], method: str, path: str, query: str, body: bytes, now: int
) -> None:
    host = f"bedrock-runtime.{signer[3]}.amazonaws.com"
    assert ours(Signer(*signer), method, host, path + query, body, now) == by_botocore(
        signer, method, host, path + query, body, now
    )


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        ("/model/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke",
         "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke"),
        ("/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke",
         "/model/us.anthropic.claude-haiku-4-5-20251001-v1%253A0/invoke"),
        ("/model/arn:aws:x:application-inference-profile%2Fabc/invoke",
         "/model/arn%3Aaws%3Ax%3Aapplication-inference-profile%252Fabc/invoke"),
    ],
)  # fmt: skip
def test_a_path_is_escaped_once_more_than_it_is_sent(sent: str, canonical: str) -> None:
    assert canonical_path(sent.encode()) == canonical.encode()


def test_one_signer_signs_over_seconds_days_and_back() -> None:
    keys = ("AKID", "secret", "", "us-east-1", "bedrock")
    signer = Signer(*keys)
    for now in (NOW, NOW + 0.5, NOW + 1, NOW + 86_400, NOW, 0.0):
        args = ("POST", "host:8080", "/model/a/invoke", b"{}", now)
        assert ours(signer, *args) == by_botocore(keys, *args)


def test_a_large_body_is_digested_once_and_held_within_bounds() -> None:
    digests = Digests()
    body = bytes(LARGE)
    assert digests.of(body) == sha256(body).hexdigest().encode()
    assert digests.of(body) is digests.of(body)
    assert digests.of(bytes(10)) == sha256(bytes(10)).hexdigest().encode()
    for number in range(3 * MAX_DIGESTS):
        other = bytes([number + 1]) * LARGE
        assert digests.of(other) == sha256(other).hexdigest().encode()
    assert len(digests._known) == MAX_DIGESTS
    digests.of(bytes(MAX_DIGESTED))
    assert digests._size <= MAX_DIGESTED
    digests.of(bytes(MAX_DIGESTED + 1))
    assert digests._size == sum(len(held) for held, _ in digests._known.values()) <= MAX_DIGESTED
