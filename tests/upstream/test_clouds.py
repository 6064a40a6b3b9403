"""What goes to each cloud, byte for byte, and what comes back of it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from gateway.core.routing.outcomes import Outcome
from gateway.core.wire.peek import peek
from gateway.data import load_catalogue
from gateway.records import Usage
from gateway.upstream.bedrock import Frames, geography
from gateway.upstream.clouds import nameless
from gateway.upstream.provider import Call, Outgoing
from gateway.upstream.settings import Settings
from gateway.upstream.transport import Interrupted
from tests.journeys.clouds import corrupt, fails, framed
from tests.journeys.journey import whole_stream
from tests.upstream.samples import AWS, AZURE, BEARER, GOOGLE, KEYS, SAMPLES, SECRET, names, opened

MODEL = "claude-haiku-4-5"
LINES = [
    b"accept-encoding: identity\r\n", b"content-type: application/json\r\n", b"anthropic-version: 2023-06-01\r\n",
    b"anthropic-beta: context-1m-2025-08-07, interleaved-thinking-2025-05-14\r\n", b"x-amz-date: forged\r\n",
    b"x-goog-user-project: somebody\r\n", b"api-key: forged\r\n", b"x-other: 1\r\n",
]  # fmt: skip
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"


def call(text: str, *, path: bytes = b"/v1/messages?beta=true", endpoint: str = "messages") -> Call:
    peeked = peek(text.encode())
    return Call(
        b"POST", path, [*LINES], peeked.body, peeked.model, peeked.stream, endpoint=endpoint, peek=peeked
    )  # fmt: skip


BODY = '{"model":"claude-haiku-4-5", "max_tokens":1,"stream":true , "messages":[{"role":"user","content":"hé"}]}'
COUNT = '{"model":"claude-haiku-4-5","messages":[]}'


def names_of(sent: Outgoing) -> set[str]:
    return {line.partition(b":")[0].decode() for line in sent.headers.splitlines()}


def own(settings: Settings, **model_names: str) -> Settings:
    return msgspec.structs.replace(settings, names=names(dict(model_names)))


def test_bedrock_has_the_model_in_the_path_and_betas_in_the_body():
    sent = opened("bedrock with a key").prepare(call(BODY))
    assert sent.path == b"/model/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke-with-response-stream"
    betas = b'"anthropic_beta":["context-1m-2025-08-07","interleaved-thinking-2025-05-14"]'
    rest = ' "max_tokens":1, "messages":[{"role":"user","content":"hé"}]}'.encode()
    assert sent.body == b'{"anthropic_version":"bedrock-2023-05-31",' + betas + b"," + rest
    assert names_of(sent) == {"accept-encoding", "content-type", "authorization"}
    assert f"authorization: Bearer {SECRET}\r\n".encode() in sent.headers
    plain = BODY.replace('"stream":true , ', "")
    assert opened("bedrock with a key").prepare(call(plain)).path.endswith(b"v1:0/invoke")


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_an_arn_is_one_segment_of_the_path(region: str):
    settings = msgspec.structs.replace(own(BEARER, **{MODEL: ARN}), region=region)
    sent = opened("bedrock", settings).prepare(call(BODY))
    segments = sent.path.split(b"/")
    assert segments[1:3] == [b"model", ARN.replace("/", "%2F").encode()]
    assert len(segments) == 4


@pytest.mark.parametrize(
    ("name", "service"),
    [("bedrock", "bedrock"), ("bedrock/mantle", "bedrock-mantle"), ("aws-platform", "aws-external-anthropic")],
)
def test_what_aws_gets_is_signed_as_botocore_signs_it(name: str, service: str):
    settings = own(AWS, **{MODEL: ARN}) if name == "bedrock" else AWS
    sent = opened(name, settings).prepare(call(BODY))
    assert isinstance(sent.body, bytes)
    headers = dict(line.split(": ", 1) for line in sent.headers.decode().splitlines())
    request = AWSRequest("POST", f"https://aws.test{sent.path.decode()}", {"Host": "aws.test"}, sent.body)
    request.context["timestamp"] = headers["x-amz-date"]
    request.headers["X-Amz-Date"] = headers["x-amz-date"]
    request.headers["X-Amz-Security-Token"] = KEYS.session_token
    signing = SigV4Auth(
        Credentials(KEYS.access_key_id, KEYS.secret_access_key, KEYS.session_token), service, "us-east-1"
    )
    canonical = signing.canonical_request(request)
    signature = signing.signature(signing.string_to_sign(request, canonical), request)
    assert headers["authorization"].endswith(f"Signature={signature}")
    assert headers["x-amz-security-token"] == KEYS.session_token
    age = datetime.now(UTC) - datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert age.total_seconds() < 300
    assert urlsplit(request.url).query == ("" if name == "bedrock" else "beta=true")


def test_bedrock_counts_by_the_base_id_with_max_tokens_put_in():
    provider = opened("bedrock with a key")
    sent = provider.prepare(call(COUNT, path=b"/v1/messages/count_tokens", endpoint="count_tokens"))
    assert sent.path == b"/model/anthropic.claude-haiku-4-5-20251001-v1:0/count-tokens"
    assert isinstance(sent.body, bytes)
    inner = json.loads(base64.b64decode(json.loads(sent.body)["input"]["invokeModel"]["body"]))
    assert inner["max_tokens"] == 1 and inner["anthropic_version"] == "bedrock-2023-05-31"
    assert "model" not in inner
    assert sent.whole is not None and sent.whole(b'{"inputTokens":12}') == b'{"input_tokens":12}'
    assert sent.whole(b"what?") == b"what?"
    assert provider.serves("count_tokens", MODEL) and not provider.serves("count_tokens", "claude-opus-4-8")


def test_mantle_has_a_name_of_its_own_and_all_else_as_it_came():
    sent = opened("bedrock/mantle with a key").prepare(call(BODY))
    assert sent.path == b"/anthropic/v1/messages?beta=true"
    assert sent.body == BODY.replace('"claude-haiku-4-5"', '"anthropic.claude-haiku-4-5"').encode()
    assert names_of(sent) == {
        "accept-encoding", "content-type", "anthropic-version", "anthropic-beta", "authorization"
    }  # fmt: skip
    count = '{"model":"claude-haiku-4-5","max_tokens":5,"temperature":1,"messages":[]}'
    counted = opened("bedrock/mantle with a key").prepare(
        call(count, path=b"/v1/messages/count_tokens", endpoint="count_tokens")
    )
    assert counted.body == b'{"model":"anthropic.claude-haiku-4-5","messages":[]}'


def test_google_has_the_model_in_the_path_and_stream_in_the_body():
    sent = opened("vertex").prepare(call(BODY))
    models = b"/v1/projects/project-1/locations/global/publishers/anthropic/models/"
    assert sent.path == models + b"claude-haiku-4-5@20251001:streamRawPredict"
    rest = BODY.partition(",")[2].encode()
    assert sent.body == b'{"anthropic_version":"vertex-2023-10-16",' + rest
    assert names_of(sent) == {"accept-encoding", "content-type", "anthropic-beta", "authorization"}
    counted = opened("vertex").prepare(call(COUNT, path=b"/v1/messages/count_tokens", endpoint="count_tokens"))
    assert counted.path == models + b"count-tokens:rawPredict"
    assert isinstance(counted.body, bytes)
    assert json.loads(counted.body)["model"] == "claude-haiku-4-5@20251001"


def test_foundry_has_a_deployment_and_all_else_as_it_came():
    sent = opened("foundry").prepare(call(BODY))
    assert (sent.path, sent.body) == (b"/v1/messages?beta=true", BODY.encode())
    assert names_of(sent) == {"accept-encoding", "content-type", "anthropic-version", "anthropic-beta", "api-key"}
    assert f"api-key: {SECRET}\r\n".encode() in sent.headers and b"forged" not in sent.headers
    renamed = opened("foundry", own(AZURE, **{MODEL: "mine"})).prepare(call(BODY))
    assert renamed.body == BODY.replace("claude-haiku-4-5", "mine").encode()


def test_the_platform_has_a_workspace_and_all_else_as_it_came():
    sent = opened("aws-platform with a key").prepare(call(BODY))
    assert (sent.path, sent.body) == (b"/v1/messages?beta=true", BODY.encode())
    assert b"anthropic-workspace-id: wrkspc_01\r\n" in sent.headers
    assert f"x-api-key: {SECRET}\r\n".encode() in sent.headers and b"x-amz-date" not in sent.headers
    assert opened("aws-platform with a key").complete and not opened("aws-platform").complete


def test_a_body_that_came_encoded_goes_to_a_cloud_in_plain():
    sent = opened("foundry").prepare(
        msgspec.structs.replace(call(BODY), body=b"\x1f\x8b...", lines=[*LINES, b"content-encoding: gzip\r\n"])
    )
    assert sent.body == BODY.encode() and "content-encoding" not in names_of(sent)


@pytest.mark.parametrize("name", ["bedrock", "bedrock/mantle", "vertex", "foundry"])
@pytest.mark.parametrize("model", ["claude-../../x", "claude-a b", "claude-x?y", "gpt-9", "claude-" + "x" * 300])
def test_a_model_of_a_client_s_invention_is_served_nowhere(name: str, model: str):
    assert not opened(name).serves("messages", model)


@pytest.mark.parametrize(
    ("region", "profile"),
    [
        ("us-east-1", "us"), ("eu-central-1", "eu"), ("us-gov-west-1", "us-gov"), ("ap-northeast-1", "jp"),
        ("ap-northeast-3", "jp"), ("ap-southeast-2", "au"), ("ap-southeast-4", "au"), ("ap-south-1", "apac"),
        ("sa-east-1", "global"),
    ],
)  # fmt: skip
def test_the_profile_is_the_region_s_geography(region: str, profile: str):
    assert geography(region) == profile


# Streams.

EVENTS = whole_stream("Good ", "evening", ", all.")
FRAMES = b"".join(map(framed, EVENTS))


def read(data: bytes, *cuts: int) -> tuple[bytes, str]:
    """What becomes of a stream that comes in these pieces, and what is wrong with it."""
    decoder = Frames()
    found = b""
    try:
        for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
            found += decoder.feed(data[begin:end])
        found += decoder.end()
    except Interrupted as error:
        return found, str(error)
    return found, ""


def said(stream: bytes) -> list[Any]:
    return [json.loads(each.partition(b"data: ")[2]) for each in stream.split(b"\n\n") if each]


def test_a_stream_of_frames_is_the_same_events_wherever_it_is_split():
    whole, trouble = read(FRAMES)
    assert trouble == "" and said(whole) == said(b"".join(EVENTS))
    assert b"invocationMetrics" not in whole
    for cut in range(len(FRAMES)):
        assert read(FRAMES, cut) == (whole, "")


def test_a_stream_of_frames_cut_anywhere_is_not_whole():
    whole, _ = read(FRAMES)
    for cut in range(len(FRAMES)):
        found, trouble = read(FRAMES[:cut])
        assert trouble and whole.startswith(found)


def test_a_corrupt_frame_ends_the_stream_after_what_was_whole():
    for count in range(len(EVENTS)):
        data = b"".join(map(framed, EVENTS[:count])) + corrupt() + framed(EVENTS[count])
        decoder = Frames()
        found = b""
        with pytest.raises(Interrupted):
            for at in range(len(data)):
                found += decoder.feed(data[at : at + 1])
        assert said(found) == said(b"".join(EVENTS[:count]))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", "rate_limit_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("internalServerException", "api_error"),
        ("modelStreamErrorException", "api_error"),
        ("modelTimeoutException", "timeout_error"),
        ("validationException", "invalid_request_error"),
        ("something", "api_error"),
    ],
)
def test_an_exception_in_a_stream_is_an_error_of_anthropic_s_and_shows_no_account(name: str, kind: str):
    found, trouble = read(framed(EVENTS[0]) + fails(name, f"at {ARN}"))
    assert trouble == ""
    error = said(found)[-1]
    assert error["type"] == "error" and error["error"]["type"] == kind
    assert "arn:aws" not in error["error"]["message"] and error["error"]["message"]


# Errors.


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (f"User: {ARN} may not", "User: … may not"),
        ("see https://console.aws.amazon.com/x for 123456789012", "see … for …"),
        ("The model returned the following errors: prompt is too long: 200001 tokens > 200000 maximum",
         "prompt is too long: 200001 tokens > 200000 maximum"),
        ("Permission on 'projects/p-1/locations/x'", "Permission on '…'"),
        ("of hidden-host.test", "of …"),
    ],
)  # fmt: skip
def test_names_are_left_out_of_messages(message: str, wanted: str):
    assert nameless(message, ("hidden-host.test",)) == wanted


def test_a_limit_of_a_day_closes_for_hours():
    body = b'{"message":"Too many tokens per day, please wait before trying again."}'
    found = opened("bedrock").refusal(429, [(b"x-amzn-errortype", b"ThrottlingException:http://x")], body, "r")
    assert (found.outcome, found.status, found.retry_after) == (Outcome.LIMITED, 429, 3600.0)
    assert opened("vertex").refusal(429, [], b"", "r").retry_after is None
    assert GOOGLE.project == "project-1"


@pytest.mark.parametrize(
    ("name", "changes", "model", "factor"),
    [
        ("bedrock", {}, MODEL, 1.1),
        ("bedrock", {"profile": "global"}, MODEL, 1.0),
        ("bedrock", {"profile": "none"}, MODEL, 1.0),
        ("bedrock", {"region": "us-gov-west-1"}, "claude-opus-4-8", 1.2),
        ("bedrock", {}, "claude-sonnet-4", 1.0),
        ("bedrock/mantle", {}, MODEL, 1.1),
        ("vertex", {"region": "global"}, MODEL, 1.0),
        ("vertex", {"region": "eu"}, MODEL, 1.1),
        ("vertex", {"region": "europe-west1"}, "claude-3-5-haiku", 1.0),
        ("foundry", {}, MODEL, 1.0),
        ("aws-platform", {}, MODEL, 1.0),
    ],
)
def test_what_a_region_costs_more(name: str, changes: dict[str, Any], model: str, factor: float):
    settings = msgspec.structs.replace(SAMPLES[name], **changes)
    assert opened(name, settings).premium(model) == factor


def test_the_step_in_the_price_of_long_prompts_is_met_at_bedrock_with_its_factor():
    catalogue, model = load_catalogue(), "claude-haiku-5-5"
    factor = opened("bedrock").premium(model)
    short, long = (catalogue.bill(model, Usage(input=each, output=10)).times(factor) for each in (100_000, 100_001))
    assert short.cost == (100_000 * 100 + 10 * 500) * 11 // 10
    assert long.cost == (100_001 * 500 + 10 * 2_500) * 11 // 10
    assert not short.by_default and not long.by_default


def test_operators_are_told_what_a_client_does_not_see_without_secrets():
    body = json.dumps({"message": f"User: {ARN} with {KEYS.secret_access_key} and\n{'k' * 40} may not"}).encode()
    headers = [(b"x-amzn-errortype", b"AccessDeniedException")]
    found = opened("bedrock").refusal(403, headers, body, "r")
    assert found.reason.startswith("User: arn:aws:bedrock")
    assert KEYS.secret_access_key not in found.reason and "kkk" not in found.reason and "\n" not in found.reason
    assert b"arn:aws" not in (found.body or b"")
    shown = opened("bedrock").refusal(400, [], b'{"message":"messages.0: wrong"}', "r")
    assert (shown.reason, b"messages.0: wrong" in (shown.body or b"")) == ("", True)
