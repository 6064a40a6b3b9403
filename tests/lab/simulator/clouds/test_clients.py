"""The official clients of the clouds accept the simulator: whole answers, streams, tools, counts and errors."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import anthropic
import msgspec
import pytest
from botocore.eventstream import ChecksumMismatch
from botocore.exceptions import ClientError, EventStreamError

from gateway.lab.simulator import World
from tests.lab.simulator.clouds.cloud_kit import BASE, MODEL, NAMES, PROFILE, account, boto, client
from tests.lab.simulator.simulator_kit import background, last_finished, sdk_of, words

ALL = list(NAMES)
ASK: Any = {"max_tokens": 1000, "messages": [{"role": "user", "content": "use the tool, please"}]}
TOOLS: Any = [{"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}]


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def running():
    with background(World.grid(1).with_clouds()) as sim:
        yield sim


@pytest.fixture
def sim(running):
    yield running
    running.configure(requests_per_minute=None)
    running.reset()


def content(message: Any) -> list[dict[str, Any]]:
    return [block.to_dict() for block in message.content]


@pytest.mark.parametrize("which", ALL)
def test_an_answer_says_what_anthropics_own_does_whole_and_streamed(sim, which):
    ask = ASK | {"tools": TOOLS, "thinking": {"type": "enabled", "budget_tokens": 500}}
    with sdk_of(sim) as native, client(sim, which) as cloud:
        expected = native.messages.create(model=MODEL, **ask)
        message = cloud.messages.create(model=NAMES[which], **ask)
        record = last_finished(sim)
        with cloud.messages.stream(model=NAMES[which], **ask) as stream:
            streamed = stream.get_final_message()
    assert content(message) == content(expected) == content(streamed)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.usage.output_tokens == streamed.usage.output_tokens == expected.usage.output_tokens
    assert (record.account, record.completed) == (account(sim, which)[0].id, True)
    tags = {"bedrock": "msg_bdrk_", "signed": "msg_bdrk_", "mantle": "msg_bdrk_", "vertex": "msg_vrtx_"}
    assert message.id.startswith(tags.get(which, "msg_"))


@pytest.mark.parametrize("which", ["bedrock", "signed", "vertex", "foundry"])
def test_caches_belong_to_the_account_and_are_read_back(sim, which):
    system: Any = [{"type": "text", "text": words(5000, which), "cache_control": {"type": "ephemeral"}}]
    with client(sim, which) as cloud:
        first = cloud.messages.create(model=NAMES[which], system=system, **ASK).usage
        second = cloud.messages.create(model=NAMES[which], system=system, **ASK).usage
    assert first.cache_creation_input_tokens == second.cache_read_input_tokens > 4000
    seen = last_finished(sim).usage
    assert seen is not None and seen["cache_read_input_tokens"] == second.cache_read_input_tokens


@pytest.mark.parametrize("which", ["mantle", "vertex", "foundry", "platform"])
def test_tokens_are_counted(sim, which):
    with sdk_of(sim) as native, client(sim, which) as cloud:
        expected = native.messages.count_tokens(model=MODEL, messages=ASK["messages"])
        assert cloud.messages.count_tokens(model=NAMES[which], messages=ASK["messages"]) == expected
    assert last_finished(sim).usage is None


def test_the_platform_on_aws_has_the_whole_api_and_its_objects_are_its_own(sim):
    one, _ = account(sim, "platform")
    keyed = anthropic.AnthropicAWS(
        api_key=one.api_key, aws_region="us-east-1", workspace_id=one.workspace, base_url=sim.base_url, max_retries=0
    )
    with sdk_of(sim) as native, client(sim, "platform") as signed, keyed:
        assert keyed.models.list().data == signed.models.list().data == native.models.list().data
        file = keyed.beta.files.upload(file=("a.txt", b"text", "text/plain"))
        assert keyed.beta.files.retrieve_metadata(file.id).id == file.id
        with pytest.raises(anthropic.NotFoundError):
            native.beta.files.retrieve_metadata(file.id)


@pytest.mark.parametrize("which", ALL)
@pytest.mark.parametrize("streamed", [False, True])
def test_limits_and_faults_are_the_errors_that_clients_know(sim, which, streamed):
    ask = {"model": NAMES[which], "stream": streamed, **ASK}
    with client(sim, which) as cloud:
        sim.faults.add("status", 400, times=1)
        with pytest.raises(anthropic.BadRequestError):
            cloud.messages.create(**ask)
        sim.configure(requests_per_minute=1)
        cloud.messages.create(**ask)
        with pytest.raises(anthropic.RateLimitError) as raised:
            cloud.messages.create(**ask)
    headers = raised.value.response.headers
    assert not [name for name in headers if name.startswith("anthropic-ratelimit")]
    assert ("retry-after" in headers) is (which == "platform")


def test_boto3_invokes_streams_and_counts(sim):
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK})
    with boto(sim) as bedrock:
        answer = bedrock.invoke_model(modelId=PROFILE, body=body)
        message = json.loads(answer["body"].read())
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        assert headers["x-amzn-bedrock-output-token-count"] == str(message["usage"]["output_tokens"])
        stream = bedrock.invoke_model_with_response_stream(modelId=PROFILE, body=body)
        events = [json.loads(event["chunk"]["bytes"]) for event in stream["body"]]
        inner = {"invokeModel": {"body": body}}
        counted = bedrock.count_tokens(modelId=BASE, input=inner)
    assert events[0]["type"] == "message_start"
    assert not [event for event in events if event["type"] == "ping"]
    text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    assert text == message["content"][0]["text"]
    metrics = events[-1]["amazon-bedrock-invocationMetrics"]
    assert metrics["outputTokenCount"] == message["usage"]["output_tokens"]
    assert counted["inputTokens"] == metrics["inputTokenCount"] == message["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("model", "change", "name", "said"),
    [
        (BASE, {}, "ValidationException", "on-demand throughput isn't supported"),
        ("us.anthropic.claude-none", {}, "ResourceNotFoundException", "model"),
        ("nobody.model", {}, "ValidationException", "identifier is invalid"),
        (PROFILE, {"model": "x"}, "ValidationException", "model: Extra inputs are not permitted"),
        (PROFILE, {"stream": True}, "ValidationException", "stream: Extra inputs are not permitted"),
        (PROFILE, {"anthropic_version": "2023-06-01"}, "ValidationException", "anthropic_version"),
        (PROFILE, {"anthropic_beta": ["oauth-2025-04-20"]}, "ValidationException", "invalid beta flag"),
        (PROFILE, {"messages": [{"role": "user", "content": words(250_000)}]}, "ValidationException", "too long"),
    ],
)
def test_bedrock_refuses_in_its_own_words(sim, model, change, name, said):
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK, **change})
    with boto(sim) as bedrock, pytest.raises(ClientError) as raised:
        bedrock.invoke_model(modelId=model, body=body)
    assert raised.value.response["Error"]["Code"] == name
    assert said in raised.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("code", "name", "status"),
    [("ServiceQuotaExceededException", "ServiceQuotaExceededException", 400),
     ("ModelNotReadyException", "ModelNotReadyException", 429), (None, "ThrottlingException", 429)],
)  # fmt: skip
def test_faults_name_the_exception(sim, code, name, status):
    sim.faults.add("status", status, account="sim-bedrock-1", error_code=code, message="for the test", times=1)
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK})
    with boto(sim) as bedrock, pytest.raises(ClientError) as raised:
        bedrock.invoke_model(modelId=PROFILE, body=body)
    assert raised.value.response["Error"] == {"Code": name, "Message": "for the test"}
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


@pytest.mark.parametrize("events", [0, 3])
def test_an_exception_ends_a_stream_anywhere(sim, events):
    sim.faults.add("error_mid_stream", events, error_code="throttlingException", times=1)
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK})
    seen: list[Any] = []
    with boto(sim) as bedrock:
        stream = bedrock.invoke_model_with_response_stream(modelId=PROFILE, body=body)
        with closing(stream["body"]) as read, pytest.raises(EventStreamError) as raised:
            seen.extend(event for event in read)
    assert raised.value.response["Error"]["Code"] == "throttlingException"
    assert len(seen) == max(0, events - 1)  # one of them was a ping, which Bedrock has not


def test_a_frame_is_corrupted_on_command(sim):
    sim.faults.add("corrupt", 2, times=1)
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK})
    with boto(sim) as bedrock:
        stream = bedrock.invoke_model_with_response_stream(modelId=PROFILE, body=body)
        with closing(stream["body"]) as read, pytest.raises(ChecksumMismatch):
            list(read)


def test_an_arn_and_a_deployment_are_names_of_the_accounts_own():
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
    world = World.grid(1).with_clouds()
    names = {arn: "claude-opus-4-7", "mine": "claude-opus-4-7"}
    replace = msgspec.structs.replace
    accounts = tuple(one if one.cloud is None else replace(one, cloud=replace(one.cloud, names=names)) for one in world)
    with background(World(accounts)) as sim:
        for which, name in (("signed", arn), ("bedrock", arn), ("foundry", "mine")):
            with client(sim, which) as cloud:
                assert cloud.messages.create(model=name, **ASK).model == "claude-opus-4-7"
        with boto(sim) as bedrock:
            bedrock.invoke_model(modelId=arn, body=json.dumps({"anthropic_version": "bedrock-2023-05-31", **ASK}))
