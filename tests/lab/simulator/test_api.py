"""Endpoints, credentials, validation, streams, limits, records: over real sockets, and with the real SDK."""

import asyncio
import gzip
import hashlib
import json
import re
from typing import Any

import anthropic
import httpx
import pytest

from gateway.data import load_catalogue
from gateway.lab.simulator import Account, Limits, Simulator, World
from tests.lab.simulator.simulator_kit import (
    MODEL,
    Clock,
    body,
    exchange,
    headers,
    request_bytes,
    text,
    unchunk,
    until,
    words,
)


@pytest.fixture
async def sim():
    async with Simulator(World.grid(accounts=3, workspaces=2)) as running:
        yield running


@pytest.fixture
async def client(sim):
    async with httpx.AsyncClient(base_url=sim.base_url) as made:
        yield made


def post(client, sim, data=None, account=0, path="/v1/messages", **more):
    return client.post(path, json=data or body(), headers=headers(sim.world.accounts[account], **more))


def test_a_grid_is_deterministic_and_deals_accounts_over_workspaces_and_organizations():
    world = World.grid(accounts=6, workspaces=4, organizations=2)
    assert world == World.grid(accounts=6, workspaces=4, organizations=2)
    assert [account.id for account in world][:2] == ["sim-account-1", "sim-account-2"]
    assert len({account.api_key for account in world}) == 6
    assert all(account.api_key.startswith("sk-ant-sim-") for account in world)
    owners = {account.workspace: account.organization for account in world}
    assert len(owners) == 4 and len(set(owners.values())) == 2
    with pytest.raises(ValueError, match="accounts >= workspaces"):
        World.grid(accounts=2, workspaces=3)


async def test_a_message_has_the_upstreams_shape_and_headers(sim, client):
    answer = await post(client, sim, path="/v1/messages?beta=true")
    assert answer.status_code == 200
    message = answer.json()
    assert message["type"] == "message" and message["role"] == "assistant" and message["model"] == MODEL
    assert message["stop_reason"] == "end_turn" and message["usage"]["output_tokens"] == 32
    assert message["usage"]["service_tier"] == "standard" and message["usage"]["inference_geo"] == "global"
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["anthropic-organization-id"] == "org-sim-1"
    assert answer.headers["anthropic-workspace-id"] == "wrkspc_sim_1"


async def test_the_answer_depends_on_the_question_alone(sim, client):
    first, again, other = [
        (await post(client, sim, body(question), account=account)).json()["content"]
        for account, question in ((0, "why"), (1, "why"), (0, "how"))
    ]
    assert first == again != other


async def test_max_tokens_bounds_the_answer_and_zero_is_a_cache_warm_up(sim, client):
    short = (await post(client, sim, body(max_tokens=5))).json()
    assert short["stop_reason"] == "max_tokens" and short["usage"]["output_tokens"] == 5
    none = (await post(client, sim, body(max_tokens=0))).json()
    assert none["content"] == [] and none["usage"]["output_tokens"] == 0


@pytest.mark.parametrize(
    "credential",
    [
        lambda a, b: [("x-api-key", a)],
        lambda a, b: [("Authorization", f"Bearer {a}")],
        lambda a, b: [("X-API-Key", a), ("authorization", f"bearer {a}")],
    ],
)
async def test_either_credential_header_is_accepted(sim, client, credential):
    head = credential(*[account.api_key for account in sim.world.accounts[:2]])
    answer = await client.post("/v1/messages", json=body(), headers=[*head, ("anthropic-version", "2023-06-01")])
    assert answer.status_code == 200
    assert sim.requests[-1].account == "sim-account-1"


@pytest.mark.parametrize(
    "credential",
    [
        lambda a, b: [],
        lambda a, b: [("x-api-key", "")],
        lambda a, b: [("x-api-key", "wrong")],
        lambda a, b: [("x-api-key", a), ("x-api-key", a)],
        lambda a, b: [("x-api-key", ""), ("authorization", f"Bearer {a}")],
        lambda a, b: [("x-api-key", a), ("authorization", f"Bearer {b}")],
        lambda a, b: [("authorization", f"Basic {a}")],
    ],
)
async def test_a_wrong_empty_doubled_or_contradictory_credential_is_a_401(sim, client, credential):
    head = credential(*[account.api_key for account in sim.world.accounts[:2]])
    answer = await client.post("/v1/messages", json=body(), headers=[*head, ("anthropic-version", "2023-06-01")])
    assert answer.status_code == 401
    error = answer.json()
    assert error["type"] == "error" and error["error"]["type"] == "authentication_error"
    assert error["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize(
    ("data", "status", "complaint"),
    [
        (b"{", 400, "not valid JSON"),
        (b"[]", 400, "Expected"),
        (b'{"messages":' + b"[" * 100_000, 400, ""),
        (b'{"x":' + b"[" * 100_000, 400, "JSON"),
        (b'{"max_tokens":1,"messages":[{"role":"user","content":"x"}]}', 400, "model: Field required"),
        (b'{"model":"%b","max_tokens":1}' % MODEL.encode(), 400, "messages: Field required"),
        (b'{"model":"%b","max_tokens":1,"messages":[]}' % MODEL.encode(), 400, "at least one message"),
        (json.dumps(body() | {"max_tokens": None}).encode(), 400, "max_tokens: Field required"),
        (json.dumps(body(max_tokens=64_001)).encode(), 400, "maximum allowed"),
        (json.dumps(body(max_tokens=-1)).encode(), 400, "max_tokens"),
        (json.dumps(body(model="claude-nine")).encode(), 404, "model: claude-nine"),
        (json.dumps(body("y" * 900_000)).encode(), 400, "prompt is too long"),
        (json.dumps(body({"role": "robot", "content": "x"})).encode(), 400, "messages"),
    ],
)
async def test_a_bad_body_is_refused_as_the_upstream_does(sim, client, data, status, complaint):
    answer = await client.post("/v1/messages", content=data, headers=headers(sim.world.accounts[0]))
    assert answer.status_code == status
    assert complaint in answer.json()["error"]["message"]


async def test_the_version_header_is_required_and_the_new_one_refuses_sampling_parameters(sim, client):
    account = sim.world.accounts[0]
    missing = await client.post("/v1/messages", json=body(), headers={"x-api-key": account.api_key})
    assert missing.status_code == 400 and "anthropic-version" in missing.json()["error"]["message"]
    warm = body(temperature=0.5, unheard_of={"a": 1})
    assert (await post(client, sim, warm)).status_code == 200
    new = headers(account) | {"anthropic-version": "2026-10-21"}
    assert (await client.post("/v1/messages", json=warm, headers=new)).status_code == 400


async def test_gzip_bodies_are_decoded_and_bombs_are_not(sim, client):
    account = sim.world.accounts[0]
    head = headers(account, content_encoding="gzip")
    answer = await client.post("/v1/messages", content=gzip.compress(json.dumps(body()).encode()), headers=head)
    assert answer.status_code == 200
    broken = await client.post("/v1/messages", content=b"nonsense", headers=head)
    assert broken.json()["error"]["details"]["error_code"] == "request_body_encoding_invalid"
    bomb = await client.post("/v1/messages", content=gzip.compress(b" " * (33 << 20)), headers=head)
    assert bomb.status_code == 413
    odd = await client.post("/v1/messages", content=b"x", headers=headers(account, content_encoding="br"))
    assert odd.json()["error"]["details"]["error_code"] == "request_body_encoding_unsupported"


async def test_count_tokens_agrees_with_the_usage_of_a_message(sim, client):
    data = body([text(words(100)), text("second")], system="s" * 40, tools=[{"name": "a", "input_schema": {}}])
    counted = await post(client, sim, data, path="/v1/messages/count_tokens")
    usage = (await post(client, sim, data)).json()["usage"]
    assert counted.json() == {"input_tokens": usage["input_tokens"]}
    assert sim.requests[0].usage is None


async def test_models_are_listed_in_pages_and_only_those_of_the_account(client, sim):
    head = headers(sim.world.accounts[0])
    seen: list[str] = []
    after = ""
    while True:
        page = (await client.get(f"/v1/models?limit=7{after}", headers=head)).json()
        seen += [model["id"] for model in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = f"&after_id={page['last_id']}"
    assert sorted(seen) == sorted(model.listed_id for model in load_catalogue())
    back = (await client.get(f"/v1/models?limit=2&before_id={seen[5]}", headers=head)).json()
    assert [model["id"] for model in back["data"]] == seen[3:5] and back["has_more"]
    assert (await client.get("/v1/models?limit=0", headers=head)).status_code == 400
    one = await client.get("/v1/models/claude-opus-4-5-20251101", headers=head)
    assert one.json()["id"] == "claude-opus-4-5-20251101"
    assert (await client.get("/v1/models/nothing", headers=head)).status_code == 404


async def test_an_account_without_a_model_answers_404_for_it():
    world = World((Account("a", "key-a", "w", "o", models=("claude-haiku-4-5",)),))
    async with Simulator(world) as sim, httpx.AsyncClient(base_url=sim.base_url) as client:
        assert (await post(client, sim)).status_code == 404
        assert (await post(client, sim, body(model="claude-haiku-4-5-20251001"))).status_code == 200
        listed = await client.get("/v1/models", headers=headers(world.accounts[0]))
        assert [model["id"] for model in listed.json()["data"]] == ["claude-haiku-4-5-20251001"]


async def test_the_warm_up_probe_needs_no_credential_and_other_paths_are_404(sim, client):
    assert (await client.head("/api/hello")).status_code == 200
    other = await client.get("/v1/nothing", headers=headers(sim.world.accounts[0]))
    assert other.status_code == 404 and other.json()["error"]["type"] == "not_found_error"
    assert (await client.get("/v1/messages", headers=headers(sim.world.accounts[0]))).status_code == 405


def parse_events(data: bytes) -> list[tuple[str, dict]]:
    found = []
    for block in data.decode().split("\n\n"):
        if block:
            name, payload = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(payload.removeprefix("data: "))))
    return found


async def test_a_stream_has_every_event_in_order_and_the_text_of_the_json_answer(sim, client):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    tools = [{"name": "look", "input_schema": {"properties": {"q": {"type": "string"}}, "required": ["q"]}}]
    data = body("please use the tool", thinking=thinking, tools=tools)
    plain = (await post(client, sim, data)).json()
    answer = await post(client, sim, data | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = parse_events(answer.content)
    names = [name for name, _ in events]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-2:] == ["message_delta", "message_stop"]
    assert all(name == data["type"] for name, data in events)
    start = events[0][1]["message"]["usage"]
    assert {name: start[name] for name in start if name != "output_tokens"} == {
        name: plain["usage"][name] for name in start if name != "output_tokens"
    }
    joined = {"thinking_delta": "", "text_delta": "", "input_json_delta": "", "signature_delta": ""}
    for _, event in events:
        if event["type"] == "content_block_delta":
            joined[event["delta"]["type"]] += next(v for k, v in event["delta"].items() if k != "type")
    thought, said, called = plain["content"]
    assert joined["thinking_delta"] == thought["thinking"] and joined["signature_delta"] == thought["signature"]
    assert joined["text_delta"] == said["text"]
    assert json.loads(joined["input_json_delta"]) == called["input"] and "q" in called["input"]
    delta = events[-2][1]
    assert delta["delta"]["stop_reason"] == plain["stop_reason"] == "tool_use"
    assert delta["usage"]["output_tokens"] == plain["usage"]["output_tokens"]


async def test_no_tool_is_called_for_a_tool_result_or_when_told_not_to(sim, client):
    tools = [{"name": "look", "input_schema": {}}]
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "use the tool"}]
    assert (await post(client, sim, body(result, tools=tools))).json()["stop_reason"] == "end_turn"
    none = body("use the tool", tools=tools, tool_choice={"type": "none"})
    assert (await post(client, sim, none)).json()["stop_reason"] == "end_turn"
    forced = body("hi", tools=[{"name": "a"}, *tools], tool_choice={"type": "tool", "name": "look"})
    assert (await post(client, sim, forced)).json()["content"][-1]["name"] == "look"


async def test_omitted_thinking_shows_a_signature_only(sim, client):
    answer = (await post(client, sim, body(thinking={"type": "adaptive", "display": "omitted"}))).json()
    assert answer["content"][0]["thinking"] == "" and answer["content"][0]["signature"]


async def test_a_paced_stream_is_one_chunk_an_event_and_the_whole_answer():
    async with Simulator(World.grid(1), ttft=0.01, ttft_sigma=0.2, tokens_per_second=4000) as sim:
        raw, _ = await exchange(sim, request_bytes(sim, body(stream=True)), until=b"0\r\n\r\n")
        data, ended = unchunk(raw)
        assert ended and parse_events(data)[-1][0] == "message_stop"
        assert len(re.findall(rb"\r\n[0-9a-f]+\r\nevent: ", raw)) == data.count(b"event: ")
        plain, _ = await exchange(sim, request_bytes(sim, body()), until=b'"end_turn"')
        assert plain.startswith(b"HTTP/1.1 200")
        assert [record.completed for record in sim.requests] == [True, True]


async def test_a_long_stream_waits_for_a_slow_reader(sim):
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port, limit=4096)
    writer.write(request_bytes(sim, body(stream=True), "endless=64"))
    await reader.readline()
    (serving,) = sim._open.values()
    await until(lambda: not serving.writable)
    assert not sim.requests[0].finished
    assert serving.transport.get_write_buffer_size() < 512 * 1024
    rest = b""
    while b"0\r\n\r\n" not in rest:
        rest = rest[-100:] + await reader.read(1 << 20)
    assert sim.requests[0].finished
    writer.close()
    await writer.wait_closed()


async def test_pipelined_requests_are_answered_in_order_and_expect_gets_its_continue(sim):
    ones = [request_bytes(sim, body(f"question {n}", stream=n % 2 == 0)) for n in range(6)]
    raw, _ = await exchange(sim, b"".join(ones) + b"HEAD /api/hello HTTP/1.1\r\nconnection: close\r\n\r\n")
    ids = re.findall(rb"\r\nrequest-id: (\S+)", raw)
    assert [one.decode() for one in ids] == [record.request_id for record in sim.requests]
    assert len(ids) == 7
    expecting = request_bytes(sim, body()).replace(b"host: sim", b"host: sim\r\nexpect: 100-continue")
    raw, _ = await exchange(sim, expecting, until=b"end_turn")
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"]
)
async def test_what_is_no_http_request_gets_a_400_and_a_closed_connection(sim, junk):
    raw, ending = await exchange(sim, junk)
    assert raw.startswith(b"HTTP/1.1 400") and ending == "eof"


async def test_a_body_over_the_limit_is_a_413_before_it_has_all_arrived():
    async with Simulator(World.grid(1), max_body=1000) as sim:
        raw, _ = await exchange(sim, b"POST /v1/messages HTTP/1.1\r\ncontent-length: 9999\r\n\r\n" + b"x" * 2000)
        assert raw.startswith(b"HTTP/1.1 413") and b"request_too_large" in raw


# Limits.


async def test_input_limits_count_fresh_and_written_tokens_but_not_reads():
    clock = Clock()
    async with (
        Simulator(World.grid(1), clock=clock, input_tokens_per_minute=5000) as sim,
        httpx.AsyncClient(base_url=sim.base_url) as client,
    ):
        data = body("hi", system=[text(words(3000), "5m")])
        first = await post(client, sim, data)
        assert first.headers["anthropic-ratelimit-input-tokens-limit"] == "5000"
        assert first.headers["anthropic-ratelimit-input-tokens-remaining"] == "2000"
        assert first.headers["anthropic-ratelimit-tokens-remaining"] == "2000"
        reset = first.headers["anthropic-ratelimit-input-tokens-reset"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reset)
        assert "anthropic-ratelimit-requests-limit" not in first.headers
        for _ in range(5):
            assert (await post(client, sim, data)).status_code == 200
        refused = await post(client, sim, body(words(3000, "other")))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "13"  # 1,007 tokens are missing, 5,000 a minute come in
        assert "organization's (org-sim-1) rate limit of 5,000 input tokens" in refused.json()["error"]["message"]
        clock.now += 13
        assert (await post(client, sim, body(words(3000, "other")))).status_code == 200


async def test_limits_belong_to_an_organization_and_class():
    world = World.grid(accounts=3, workspaces=3, organizations=2)
    async with (
        Simulator(world, clock=Clock(), requests_per_minute=1) as sim,
        httpx.AsyncClient(base_url=sim.base_url) as client,
    ):
        status = [
            (await post(client, sim, body(model=model), account=account)).status_code
            for account, model in (
                (0, MODEL),
                (2, "claude-sonnet-4-6"),
                (1, MODEL),
                (0, "claude-opus-4-5"),
                (2, "claude-opus-4-8"),
            )
        ]
        assert status == [200, 429, 200, 200, 429]


async def test_output_is_debited_as_produced_and_may_go_below_zero():
    clock = Clock()
    world = World(World.grid(1).accounts, limits={"org-sim-1": Limits(output_tokens=30)})
    async with Simulator(world, clock=clock) as sim, httpx.AsyncClient(base_url=sim.base_url) as client:
        assert (await post(client, sim)).status_code == 200
        assert (await post(client, sim)).headers["retry-after"] == "6"
        clock.now += 6
        assert (await post(client, sim)).status_code == 200


async def test_beyond_its_slots_the_upstream_is_overloaded():
    async with (
        Simulator(World.grid(1), slots=1) as sim,
        httpx.AsyncClient(base_url=sim.base_url) as client,
    ):
        sim.faults.add("silence", 3600, times=1)
        task = asyncio.create_task(post(client, sim))
        await until(lambda: sim.requests)
        assert (await post(client, sim)).status_code == 529
        task.cancel()
        await until(lambda: sim.requests[0].finished)
        assert (await post(client, sim)).status_code == 200


# Records and the control plane.


async def test_requests_are_recorded_as_received(sim, client):
    data = json.dumps(body()).encode()
    head = headers(sim.world.accounts[1], X_Odd_Case="1")
    await client.post("/v1/messages?beta=true", content=data, headers=head)
    (seen,) = (await client.get("/_sim/requests?bodies=1")).json()
    assert (seen["account"], seen["workspace"], seen["organization"]) == ("sim-account-2", "wrkspc_sim_2", "org-sim-2")
    assert seen["path"] == "/v1/messages?beta=true" and ["X-Odd-Case", "1"] in seen["headers"]
    assert seen["body_sha256"] == hashlib.sha256(data).hexdigest() and seen["body_size"] == len(data)
    assert seen["completed"] and not seen["aborted"] and seen["status"] == 200 and seen["model"] == MODEL
    assert sim.requests[0].body == data
    assert (await client.get("/_sim/requests?since=1")).json() == []


async def test_records_and_bodies_are_bounded():
    async with (
        Simulator(World.grid(1), keep_requests=5, keep_bodies=2) as sim,
        httpx.AsyncClient(base_url=sim.base_url) as client,
    ):
        for _ in range(8):
            await post(client, sim)
        assert [record.n for record in sim.requests] == [4, 5, 6, 7, 8]
        assert [record.body is not None for record in sim.requests[:]] == [False, False, False, True, True]


async def test_usage_is_totalled_apart_for_completed_aborted_and_cut_answers(sim, client):
    await post(client, sim)
    sim.faults.add("stall", 5, times=1)
    await exchange(sim, request_bytes(sim, body(stream=True)), until=b"content_block_delta")
    await exchange(sim, request_bytes(sim, body(stream=True), "cut=700"))
    await until(lambda: all(record.finished for record in sim.requests))
    (row,) = (await client.get("/_sim/usage")).json()["data"]
    assert (row["account"], row["class"]) == ("sim-account-1", "sonnet-4.5+")
    assert [row[name]["requests"] for name in ("completed", "aborted", "cut")] == [1, 1, 1]
    assert row["completed"]["output_tokens"] == 32
    assert 0 < row["aborted"]["output_tokens"] < 32
    assert sim.requests[1].aborted and not sim.requests[1].completed


async def test_reset_forgets_what_it_is_told_to(sim, client):
    data = body("hi", system=[text(words(2000), "5m")])
    await post(client, sim, data)
    sim.faults.add("status", 500)
    await client.post("/_sim/reset", json={"records": False, "cache": False})
    assert len(sim.requests) == 1
    assert (await post(client, sim, data)).json()["usage"]["cache_read_input_tokens"] > 0
    await client.post("/_sim/reset")
    assert len(sim.requests) == 0
    assert (await post(client, sim, data)).json()["usage"]["cache_read_input_tokens"] == 0
    assert (await client.post("/_sim/reset", json={"all": True})).status_code == 400


async def test_connections_are_counted(sim, client):
    for _ in range(3):
        await post(client, sim)
    await exchange(sim, request_bytes(sim, body()), until=b"end_turn")
    await until(lambda: len(sim._open) == 1)
    report = (await client.get("/_sim/connections")).json()
    assert (report["open"], report["accepted"]) == (1, 2)
    assert sorted((one["open"], one["requests"]) for one in report["connections"]) == [(False, 1), (True, 4)]


async def test_static_mode_answers_without_looking():
    async with (
        Simulator(World.grid(1), static=True, static_events=10) as sim,
        httpx.AsyncClient(base_url=sim.base_url) as client,
    ):
        plain = await client.post("/anything", content=b"junk")
        assert plain.json()["usage"]["output_tokens"] == 32
        stream = await client.post("/v1/messages", content=b'{"stream":true}')
        deltas = [name for name, _ in parse_events(stream.content) if name == "content_block_delta"]
        assert len(deltas) == 10
        sim.configure(tokens_per_second=1)  # has no effect on what is canned
        assert (await client.post("/v1/messages", content=b'{"stream":true}')).content == stream.content


# The real SDK.


async def test_the_sdk_sees_messages_streams_tools_and_error_classes(sim):
    key = sim.world.accounts[0].api_key
    client: Any = anthropic.AsyncAnthropic(base_url=sim.base_url, api_key=key, max_retries=0)
    async with client as sdk:
        ask: Any = {
            "model": "claude-sonnet-5",
            "max_tokens": 200,
            "messages": [{"role": "user", "content": "please use the tool"}],
        }
        tools: Any = [{"name": "look", "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}}}]
        message = await sdk.messages.create(**ask)
        async with sdk.messages.stream(**ask) as stream:
            streamed = await stream.get_final_message()
        assert streamed.content[0].text == message.content[0].text
        assert streamed.usage.output_tokens == message.usage.output_tokens
        async with sdk.messages.stream(**ask, tools=tools) as stream:
            called = await stream.get_final_message()
        assert called.stop_reason == "tool_use" and called.content[-1].input.keys() == {"q"}
        counted = await sdk.messages.count_tokens(model="claude-sonnet-5", messages=ask["messages"])
        assert counted.input_tokens == message.usage.input_tokens
        assert len([model async for model in sdk.models.list(limit=5)]) == len(list(load_catalogue()))
        expected = {
            400: anthropic.BadRequestError,
            401: anthropic.AuthenticationError,
            403: anthropic.PermissionDeniedError,
            404: anthropic.NotFoundError,
            429: anthropic.RateLimitError,
            500: anthropic.InternalServerError,
            529: anthropic.InternalServerError,
        }
        for status, kind in expected.items():
            sim.faults.add("status", status, times=1)
            with pytest.raises(kind) as caught:
                await sdk.messages.create(**ask)
            assert caught.value.request_id == sim.requests[-1].request_id
        sim.faults.add("error_mid_stream", 4, times=1)
        with pytest.raises(anthropic.APIStatusError):
            async with sdk.messages.stream(**ask) as stream:
                await stream.get_final_message()
