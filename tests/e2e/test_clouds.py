"""One pool over accounts of all clouds: what clients see, what is counted, and what happens when they fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import anthropic
import pytest

from tests.e2e.clients import claude_code, rigs
from tests.e2e.cloud_accounts import account_of, bedrock, foundry, mantle, platform, vertex
from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    ROOT,
    Answer,
    Gateway,
    Simulator,
    accounts_of,
    ask,
    assert_error,
    at_once,
    conversation,
    message,
    until,
)

MODEL = "claude-haiku-4-5"
# Each account serves a model of its own, so that a test chooses by model who answers.
MODELS = {
    "bedrock": "claude-haiku-4-5",
    "mantle": "claude-opus-4-7",
    "vertex": "claude-sonnet-4-6",
    "foundry": "claude-opus-4-5",
    "platform": "claude-opus-4-6",
}
UPSTREAM = {"bedrock": "sim-bedrock-1", "mantle": "sim-bedrock-1", "vertex": "sim-vertex-1",
            "foundry": "sim-foundry-1", "platform": "sim-aws-platform-1"}  # fmt: skip
TYPESCRIPT = ("@anthropic-ai/sdk", "sdk-old")  # of both generations
TOOLS: Any = [{"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Anthropic and all clouds; what they give lasts for seconds."""
    simulator = Simulator(tmp_path_factory.mktemp("sky"), 2, "--clouds", "1", "--token-seconds", "10")
    yield simulator
    assert simulator.end() == 0


def all_accounts(sky: Simulator, folder: Any) -> list[dict[str, Any]]:
    return [bedrock(sky), mantle(sky), vertex(sky, folder), foundry(sky, entra=True), platform(sky)]


@pytest.fixture(scope="module")
def apart(sky: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of which each account serves a model of its own."""
    folder = tmp_path_factory.mktemp("apart")
    accounts = [account | {"models": [MODELS[account["id"]]]} for account in all_accounts(sky, folder)]
    gateway = Gateway(folder, {"accounts": accounts}).start()
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def together(sky: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway over one account of each cloud and one of Anthropic's."""
    folder = tmp_path_factory.mktemp("together")
    accounts = [bedrock(sky), vertex(sky, folder), foundry(sky, entra=True), platform(sky), *accounts_of(sky, 1)]
    gateway = Gateway(folder, {"accounts": accounts}).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def pool(sky: Simulator, together: Gateway) -> Iterator[Gateway]:
    together.mend()
    yield together
    sky.clear()


def plain(value: Any) -> Any:
    """Without ids, which differ, and with the model's name as the client wrote it, which clouds date."""
    text = re.sub(r'"(msg|toolu|req)_[A-Za-z0-9_]+"', '"ID"', json.dumps(value))
    return json.loads(re.sub(r'("model": "claude-[a-z]+-\d-\d)-\d{8}', r"\1", text))


def turns(client: anthropic.Anthropic, model: str, streamed: bool) -> list[Any]:
    """A conversation with thinking, an image, a tool and its result: each answer, or its events."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    messages: list[Any] = [{"role": "user", "content": [image, {"type": "text", "text": "Use the tool."}]}]
    system: Any = [{"type": "text", "text": "be brief " * 4000, "cache_control": {"type": "ephemeral"}}]
    found = []
    for _ in range(3):
        asked: Any = {"model": model, "max_tokens": 2000, "system": system, "messages": messages, "tools": TOOLS,
                      "thinking": {"type": "adaptive"}}  # fmt: skip
        if streamed:
            with client.messages.stream(**asked) as stream:
                found.append([plain(event.to_dict()) for event in stream])
                answer = stream.get_final_message()
        else:
            answer = client.messages.create(**asked)
            found.append(plain(answer.to_dict()))
        messages.append({"role": "assistant", "content": [block.to_dict() for block in answer.content]})
        calls = [block.id for block in answer.content if block.type == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": each, "content": "seen"} for each in calls]
        messages.append({"role": "user", "content": results or "Go on."})
    return found


def answered(sky: Simulator, mark: int, count: int) -> list[dict[str, Any]]:
    """The requests since then that a model has answered, once there are so many; others ask for tokens meanwhile."""

    def found() -> list[dict[str, Any]]:
        records = [record for record in sky.records(mark) if record["model"] is not None]
        return records if len(records) >= count and all(record["finished"] for record in records) else []

    records: list[dict[str, Any]] = until(found, f"{count} answers")
    return records


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_conversation_is_answered_as_by_an_account_of_anthropics(
    apart: Gateway, sky: Simulator, name: str, streamed: bool
) -> None:
    mark = sky.mark()
    headers = {"x-conversation-id": f"{name} {streamed} {time.time_ns()}"}
    with anthropic.Anthropic(base_url=apart.base_url, api_key=ALICE, max_retries=0, default_headers=headers) as ours:
        answers = turns(ours, MODELS[name], streamed)
    records = answered(sky, mark, 3)
    assert {record["account"] for record in records} == {UPSTREAM[name]}
    assert all(record["usage"]["cache_read_input_tokens"] > 0 for record in records[1:])
    sky.control("POST", "reset", {"records": False, "faults": False, "cache": True, "limits": False})
    with anthropic.Anthropic(base_url=sky.base_url, api_key=sky.accounts[0]["api_key"], max_retries=0) as native:
        assert answers == turns(native, MODELS[name], streamed)


@pytest.mark.parametrize("name", MODELS)
def test_claude_code_uses_its_tools_at_every_cloud(apart: Gateway, sky: Simulator, name: str, tmp_path: Path) -> None:
    mark = sky.mark()
    first = claude_code.say(apart, tmp_path, "Please use the tool.", model=MODELS[name])
    second = claude_code.say(apart, tmp_path, "A last word", "--continue", model=MODELS[name])
    assert [block["name"] for block in claude_code.blocks(first, "tool_use")] == ["Read"]
    assert claude_code.result(first)["session_id"] == claude_code.result(second)["session_id"]
    records = [record for record in answered(sky, mark, 3) if record["usage"] is not None]
    assert {(record["status"], record["account"]) for record in records} == {(200, UPSTREAM[name])}
    assert all(record["usage"]["cache_read_input_tokens"] > 0 for record in records[1:])


def talk(gateway: Gateway, package: str, models: list[str], words: int) -> list[list[dict[str, Any]]]:
    """What the TypeScript SDK saw of conversations with these models, turn by turn."""
    asked = [{"id": uuid4().hex, "model": model, "words": words} for model in models]
    command: list[str | Path] = ["node", rigs.node() / "conversations.mjs", package]
    printed = rigs.run(command, gateway.base_url, ALICE, {"CONVERSATIONS": json.dumps(asked)})
    found: list[list[dict[str, Any]]] = json.loads(printed)
    for turns in found:
        assert [turn["calls"] for turn in turns] == [["look"], [], [], []]
        assert turns[0]["stop_reason"] == "tool_use" and all(turn["text"] for turn in turns[1:])
        assert all(turn["pieces"] in (None, turn["text"]) for turn in turns)
    return found


@pytest.mark.parametrize("package", TYPESCRIPT)
def test_the_typescript_sdk_talks_to_every_cloud(apart: Gateway, package: str) -> None:
    found = talk(apart, package, [*MODELS.values()], 4000)
    for name, turns in zip(MODELS, found, strict=True):
        assert [turn["account"] for turn in turns] == [name] * 4
        assert all(turn["read"] > 0 for turn in turns[1:]), name


@pytest.mark.parametrize("package", TYPESCRIPT)
def test_conversations_of_the_typescript_sdk_keep_their_accounts_over_clouds(pool: Gateway, package: str) -> None:
    found = talk(pool, package, [MODEL] * 12, 1)
    accounts = [{turn["account"] for turn in turns} for turns in found]
    assert all(len(each) == 1 for each in accounts)
    assert len(set.union(*accounts)) > 1


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_counted_and_never_inferred(apart: Gateway, sky: Simulator, name: str) -> None:
    mark = sky.mark()
    with anthropic.Anthropic(base_url=apart.base_url, api_key=ALICE, max_retries=0) as client:
        counted = client.messages.count_tokens(model=MODELS[name], messages=[{"role": "user", "content": "How many?"}])
    assert counted.input_tokens > 0
    assert [record["usage"] for record in answered(sky, mark, 1)] == [None]


def usage(gateway: Gateway, by: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    answer = gateway.get(f"/admin/v1/usage?group_by={by}", admin=True, headers=headers)
    return {row[by]: row for row in answer.json()["data"]}


async def test_exchanges_and_states_say_at_which_provider(apart: Gateway) -> None:
    for name, model in MODELS.items():
        answer = await ask(apart, message(f"where {name}", model=model))
        assert (answer.status, answer.account) == (200, name)
    metrics = apart.metrics()
    for account in apart.config["accounts"]:
        labels = {"account": account["id"], "provider": account["provider"]}
        assert metrics.total("gateway_upstream_requests_total", **labels, code="200") > 0
        assert metrics.total("gateway_account_state", **labels) == 1
    assert metrics.total("gateway_upstream_requests_total", provider="anthropic") == 0


async def test_usage_is_what_the_clouds_have_counted(sky: Simulator, apart: Gateway) -> None:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    before = usage(apart, "account")
    mark = sky.mark()
    for name, model in MODELS.items():
        for stream in (False, True):
            answer = await ask(apart, message(f"count {name}", model=model, stream=stream))
            assert (answer.status, answer.account) == (200, name)
    records = answered(sky, mark, 2 * len(MODELS))

    def counted() -> bool:
        after = usage(apart, "account")
        return all(
            after.get(name, {}).get(each, 0) - before.get(name, {}).get(each, 0)
            == sum(one["usage"][each] for one in records if one["model"].startswith(MODELS[name]))
            for name in MODELS
            for each in names
        )

    until(counted, "usage as the simulator counted it")


FAILING: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "throttled": ("status", 429, {}),
    "away": ("status", 503, {}),
    "denied": ("status", 403, {"message": "You don't have access to the model with the specified model ID."}),
    "failed": ("status", 500, {}),
    "page": ("html", 404, {}),
}
OF_AWS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "no quota": ("status", 400, {"error_code": "ServiceQuotaExceededException"}),
    "not ready": ("status", 429, {"error_code": "ModelNotReadyException"}),
    "expired": ("status", 403, {"error_code": "ExpiredTokenException"}),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "case"),
    [
        *((name, case) for name in ("bedrock", "vertex", "foundry") for case in FAILING),
        *(("bedrock", c) for c in OF_AWS),
    ],
)
async def test_what_fails_at_one_cloud_another_answers(
    sky: Simulator, pool: Gateway, name: str, case: str, stream: bool
) -> None:
    kind, value, fields = (FAILING | OF_AWS)[case]
    sky.fault(kind, value, account=UPSTREAM[name], **fields)
    for number in range(8):
        answer = await ask(pool, message(f"{case} {name} {number} {stream}", model=MODEL, stream=stream))
        assert answer.status == 200, answer.body
        assert answer.account != name
        assert not stream or answer.events[-1][0] == "message_stop"


async def test_an_exception_before_the_first_event_sends_the_request_elsewhere(sky: Simulator, pool: Gateway) -> None:
    sky.fault("error_mid_stream", 0, account=UPSTREAM["bedrock"], error_code="throttlingException")
    for number in range(8):
        answer = await ask(pool, message(f"exception first {number}", model=MODEL, stream=True))
        assert answer.status == 200, answer.body
        assert (answer.account != "bedrock", answer.events[-1][0]) == (True, "message_stop")


@pytest.mark.parametrize(("kind", "value"), [("corrupt", 0), ("cut", 20)])
async def test_a_stream_that_breaks_before_its_first_event_is_an_error_as_at_anthropic(
    sky: Simulator, apart: Gateway, kind: str, value: int
) -> None:
    sky.fault(kind, value, account=UPSTREAM["bedrock"], times=1)
    answer = await ask(apart, message(f"{kind} at once", model=MODELS["bedrock"], stream=True))
    assert_error(answer, 502, "api_error")
    apart.mend()


BREAKS: dict[str, tuple[str, int]] = {
    "cut": ("cut", 1500),
    "ended early": ("polite_end", 5),
    "told": ("error_mid_stream", 5),
    "corrupt": ("corrupt", 4),  # frames have checksums at Bedrock alone
}


@pytest.mark.parametrize(
    ("name", "case"),
    [("bedrock", "corrupt"), *product(("bedrock", "vertex", "foundry"), ("cut", "ended early", "told"))],
)
async def test_a_stream_that_breaks_later_ends_in_one_error_event(
    sky: Simulator, apart: Gateway, name: str, case: str
) -> None:
    kind, value = BREAKS[case]
    sky.fault(kind, value, account=UPSTREAM[name], times=1)
    answer = await ask(apart, message(f"{kind} {name}", model=MODELS[name], stream=True))
    found = [event for event, _ in answer.events]
    assert (answer.status, found[0], found[-1], found.count("error")) == (200, "message_start", "error", 1)
    assert "message_stop" not in found
    sky.clear()
    apart.mend()


async def test_credentials_that_expire_under_load_are_never_noticed(sky: Simulator, apart: Gateway) -> None:
    """Tokens last 10 s; these requests go on until there have been others."""
    mark = sky.mark()
    while len([record for record in sky.records(mark) if record["path"].endswith("/token")]) < 4:
        for name in ("vertex", "foundry"):
            answer = await ask(apart, message(f"expiry {time.monotonic_ns()}", model=MODELS[name]))
            assert (answer.status, answer.account) == (200, name)
    assert all(record["status"] == 200 for record in sky.records(mark))


async def test_a_flag_that_bedrock_refuses_is_left_out_and_remembered(sky: Simulator, apart: Gateway) -> None:
    mark = sky.mark()
    flags = {"anthropic-beta": "nobody-knows-2026-01-01,interleaved-thinking-2025-05-14,oauth-2025-04-20"}
    for number in range(3):
        answer = await ask(apart, message(f"flags {number}", model=MODELS["bedrock"]), flags)
        assert (answer.status, answer.account) == (200, "bedrock"), answer.body
    records = sky.records(mark, bodies=True)
    sent = [json.loads(record["body"]).get("anthropic_beta", []) for record in records if "/model/" in record["path"]]
    assert [record["status"] for record in records if "/model/" in record["path"]] == [400, 200, 200, 200]
    assert not [each for each in sent if "oauth-2025-04-20" in each]
    assert all(flags == ["interleaved-thinking-2025-05-14"] for flags in sent[1:])


async def test_clients_notice_nothing_while_clouds_fail_in_every_way_at_once(sky: Simulator, pool: Gateway) -> None:
    """Of one Bedrock limited, a Google that refuses its token, a Foundry away for a while and a platform that fails its
    model, and of flags that some of them refuse, while conversations go on."""
    sky.fault("status", 429, account=UPSTREAM["bedrock"], times=6)
    sky.fault("status", 401, account=UPSTREAM["vertex"], times=2)
    sky.fault("status", 503, account=UPSTREAM["foundry"], times=3)
    sky.fault("status", 403, account=UPSTREAM["platform"], times=3)
    flags = {"anthropic-beta": "nobody-knows-2026-01-02"}

    async def talk(name: str) -> list[Answer]:
        said, found = [f"all at once {name}"], []
        headers = {**conversation(), **(flags if int(name) % 3 == 0 else {})}
        for turn in range(4):
            stream = (int(name) + turn) % 2 == 0
            answer = await ask(pool, message(*said, model=MODEL, stream=stream), headers)
            found.append(answer)
            said += [f"answer {turn}", f"turn {turn}"]
        return found

    for answers in await at_once((talk(str(number)) for number in range(30)), 10):
        for answer in answers:
            assert answer.status == 200, answer.body
            assert answer["content-type"].startswith("application/json") or answer.events[-1][0] == "message_stop"


@pytest.mark.parametrize(("name", "status"), [("vertex", 401), ("foundry", 401)])
async def test_a_token_that_is_refused_is_fetched_anew_and_the_request_repeated(
    sky: Simulator, apart: Gateway, name: str, status: int
) -> None:
    sky.fault("status", status, account=UPSTREAM[name], path="/v1/messages", times=1)
    answer = await ask(apart, message(f"refused {name}", model=MODELS[name]))
    assert (answer.status, answer.account) == (200, name)
    apart.mend()


async def test_what_clouds_say_of_accounts_reaches_no_client(sky: Simulator, apart: Gateway) -> None:
    told = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/x of projects/sim-project-1"
    for name in ("bedrock", "vertex"):
        for status in (400, 403, 404, 429, 500, 503):
            sky.fault("status", status, account=UPSTREAM[name], message=told, times=1)
            answer = await ask(apart, message(f"{status} {name}", model=MODELS[name]))
            shown = answer.body + repr(answer.headers).encode()
            assert answer.json()["type"] in ("error", "message")
            for secret in (b"123456789012", b"sim-project-1", b"arn:aws"):
                assert secret not in shown
            assert answer["request-id"]
            sky.clear()
            apart.mend()


@pytest.mark.parametrize("web", [False, True])
async def test_keys_of_a_role_expire_under_load_and_are_never_missed(
    sky: Simulator, launch: Callable[..., Gateway], tmp_path: Path, web: bool
) -> None:
    """As a pod has them or as others assume them; they last 10 s, and requests go on until there have been more."""
    cloud = account_of(sky, "bedrock")["cloud"]
    named = {name: cloud[name] for name in ("access_key_id", "secret_access_key", "role_arn")}
    environment = [f"AWS_ENDPOINT_URL_STS={sky.base_url}", "AWS_EC2_METADATA_DISABLED=true"]
    if web:
        (tmp_path / "token").write_text("a-token-of-the-pod")
        environment += [f"AWS_WEB_IDENTITY_TOKEN_FILE={tmp_path}/token", f"AWS_ROLE_ARN={cloud['role_arn']}"]
    mark = sky.mark()
    gateway = launch(prefix=("env", *environment), accounts=[bedrock(sky, aws={} if web else named)])
    gateway.line("a credential is at hand")
    while len([record for record in sky.records(mark) if record["path"] == "/"]) < 3:
        for stream in (False, True):
            answer = await ask(gateway, message(f"role {time.monotonic_ns()}", model=MODEL, stream=stream))
            assert (answer.status, answer.account) == (200, "bedrock"), answer.body
    records = sky.records(mark)
    assert all(record["status"] == 200 for record in records)
    keys = {header[1].partition("Credential=")[2][:20] for record in records for header in record["headers"]
            if header[0].lower() == "authorization" and record["path"] != "/"}  # fmt: skip
    assert len(keys) >= 2 and all(key.startswith("ASIA") for key in keys)


async def test_a_credential_that_cannot_be_had_is_said_and_others_serve(
    sky: Simulator, launch: Callable[..., Gateway]
) -> None:
    wrong = foundry(sky, entra=True)
    wrong["entra"]["client_secret"] = "a-secret-of-yesterday"
    gateway = launch(accounts=[wrong, *accounts_of(sky, 1)])
    for number in range(8):
        answer = await ask(gateway, message(f"without {number}", model=MODEL))
        assert (answer.status, answer.account) == (200, "sim-account-1")
    line = gateway.line("a credential cannot be had anew")
    assert (line["account"], line["level"]) == ("foundry", "warning")
    assert "refuses with 401: invalid_client" in line["reason"]
    assert "a-secret-of-yesterday" not in gateway.text()


def secrets_of(sky: Simulator) -> set[str]:
    """All that proves who calls: what accounts are configured with, and what they were given meanwhile."""
    found = {account["api_key"] for account in sky.accounts}
    for account in sky.accounts:
        cloud = account.get("cloud") or {}
        found |= {cloud.get(name, "") for name in ("secret_access_key", "client_secret")}
    for record in sky.records(0):
        headers = {name.lower(): value for name, value in record["headers"]}
        found.add(headers.get("authorization", "").removeprefix("Bearer "))
        found.add(headers.get("authorization", "").rpartition("Signature=")[2])
        found.add(headers.get("x-amz-security-token", ""))
    return {secret for secret in found if len(secret) > 8}


@pytest.mark.parametrize("which", ["apart", "together"])
def test_no_secret_of_a_cloud_is_told_or_kept(sky: Simulator, which: str, request: pytest.FixtureRequest) -> None:
    gateway: Gateway = request.getfixturevalue(which)
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    pages = ("/metrics", "/admin/v1/accounts", "/admin/v1/pool", "/admin/v1/overview", "/admin/v1/requests")
    told = [gateway.get(page, admin=True, headers=headers).body for page in pages]
    command = [sys.executable, "-m", "gateway", "config", "show", "--config", str(gateway.folder / "gateway.yaml")]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    kept = [path.read_bytes() for path in (gateway.folder / "data").rglob("*") if path.is_file()]
    everything = b"".join([gateway.text().encode(), shown, *told, *kept])
    assert b"sim-project-1" in shown and kept
    secrets = secrets_of(sky)
    assert len(secrets) > 20
    assert not [secret for secret in secrets if secret.encode() in everything]
    key = json.loads((gateway.folder / "key.json").read_text())["private_key"]
    assert key.split("\n")[1].encode() not in everything
