"""What reaches the upstream, what reaches the client, and what must reach neither."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from itertools import accumulate, pairwise
from typing import Any

import pytest

from tests.e2e.rig import (
    ALICE,
    BOB,
    KEYS,
    MODEL,
    Answer,
    Gateway,
    Simulator,
    Wire,
    ask,
    assert_error,
    blunt,
    conversation,
    message,
    parsed,
    request,
    until,
)

HELLO = b'"max_tokens":9,"messages":[{"role":"user","content":"Hello"}]'


async def forwarded(
    gateway: Gateway, sim: Simulator, body: Any = None, headers: Any = (), **options: Any
) -> tuple[Answer, dict[str, Any]]:
    """The answer to one request, and the one record of it that the upstream has."""
    since = sim.mark()
    answer = await ask(gateway, body, headers, **options)
    records = sim.records(since, bodies=True)
    assert len(records) == 1, (answer.status, answer.body[:300], records)
    return answer, records[0]


def values(record: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in record["headers"] if key.lower() == name]


# -- Bodies -----------------------------------------------------------------------------------------------------------

BODIES = {
    "odd spacing": b'\r\n\t { "model" :\n"%b" ,%b ,\n\t"x" : [ 1 , 2.50 , -0.0e+3 ] }  \n',
    "unknown fields": b'{"model":"%b",%b,"betas_of_tomorrow":{"a":[null,true,{"b":{}}]},"":0,"\xf0\x9f\x99\x82":1}',
    "unicode escapes": b'{"\\u006dodel":"%b",%b,"note":"\\u00e9\\ud83d\\ude42\\/\\u0000 caf\xc3\xa9"}',
    "duplicate nested keys": b'{"model":"%b",%b,"metadata":{"user_id":"a","user_id":"b"},"y":{"model":1,"model":2}}',
    "big numbers": b'{"model":"%b",%b,"n":123456789012345678901234567890,"f":1e400,"z":0.1000000000000000000001}',
}


@pytest.mark.parametrize("kind", BODIES)
async def test_a_body_reaches_the_upstream_byte_for_byte(kind: str, gateway: Gateway, sim: Simulator):
    body = BODIES[kind] % (MODEL.encode(), HELLO)
    answer, record = await forwarded(gateway, sim, body)
    assert answer.status == 200, answer.body
    assert record["body"] == body


async def test_a_body_of_two_megabytes_reaches_the_upstream_byte_for_byte(gateway: Gateway, sim: Simulator):
    body = json.dumps(message("naïve 🙂 " * 180_000, model="claude-opus-5-5"), ensure_ascii=False).encode()
    assert len(body) > 2_000_000
    answer, record = await forwarded(gateway, sim, body)
    assert answer.status == 200, answer.body
    assert record["body"] == body


@pytest.mark.parametrize("sizes", [(1, 699, 4000), (1,) * 3000, (40_000, 1, 1, 40_000, 1, 700, 20_000, 16_384, 16_383)])
async def test_a_chunked_body_reaches_the_upstream_byte_for_byte(
    sizes: tuple[int, ...], gateway: Gateway, sim: Simulator
):
    body = json.dumps(message("in pieces " * (sum(sizes) // 10))).encode()
    ends = [0, *accumulate(sizes), len(body)]
    parts = [body[begin:end] for begin, end in pairwise(ends) if end > begin]
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in parts)
    head = request(headers={"transfer-encoding": "chunked", "content-type": "application/json"}, method="POST")
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        await wire.send(head + chunks + b"0\r\n\r\n")
        assert (await wire.answer()).status == 200
    [record] = sim.records(since, bodies=True)
    assert record["body"] == body
    assert values(record, "transfer-encoding") == []
    assert values(record, "content-length") == [str(len(body))]


TRAILERS = {
    "a header": b"x-behind: 1",
    "a key": b"x-api-key: " + BOB.encode(),
    "a conversation": b"X-Conversation-Id: behind",
    "a version": b"anthropic-version: 2026-10-21",
}


@pytest.mark.parametrize("kind", TRAILERS)
async def test_what_stands_behind_a_chunked_body_is_no_header(kind: str, gateway: Gateway, sim: Simulator):
    body = json.dumps(message("with a trailer")).encode()
    chunks = b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (len(body), body, TRAILERS[kind])
    since = sim.mark()
    for key, status in ((ALICE, 200), (None, 401)):
        name = conversation()["X-Conversation-Id"]
        headers = {"transfer-encoding": "chunked", "x-conversation-id": name}
        async with Wire.open(gateway) as wire:
            await wire.send(request(headers=headers, method="POST", key=key) + chunks)
            answer = await wire.answer()
        assert answer.status == status
    [record] = sim.records(since, bodies=True)
    assert record["body"] == body
    assert values(record, "x-behind") == [] and values(record, "anthropic-version") == ["2023-06-01"]


async def test_a_body_where_none_belongs_does_not_disturb_the_next_request(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        await wire.send(request(b'{"a":1}', path="/v1/models", method="GET") + request(message()))
        assert [(await wire.answer()).status for _ in range(2)] == [200, 200]
    [record] = sim.records(since)  # models are listed by the gateway itself
    assert record["path"] == "/v1/messages"


async def test_a_request_may_come_byte_by_byte(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        for byte in request(message("slowly")):
            await wire.send(bytes([byte]))
        assert (await wire.answer()).status == 200
    assert json.loads(sim.records(since, bodies=True)[0]["body"]) == message("slowly")


async def test_a_body_of_count_tokens_reaches_the_upstream_byte_for_byte(gateway: Gateway, sim: Simulator):
    body = b'{ "model" : "%b", "messages":[{"role":"user","content":"Hello"}] , "new": 1 }' % MODEL.encode()
    answer, record = await forwarded(gateway, sim, body, path="/v1/messages/count_tokens")
    assert answer.json()["input_tokens"] > 0
    assert record["body"] == body


@pytest.mark.parametrize("text", [b"\\ud83d", b"\\ude42\\ud83d", b"\xff\xfe", b"\xed\xa0\xbd"])
async def test_text_that_is_no_unicode_is_refused_or_forwarded_as_it_is(text: bytes, gateway: Gateway, sim: Simulator):
    body = b'{"model":"%b",%b,"note":"%b"}' % (MODEL.encode(), HELLO, text)
    since = sim.mark()
    answer = await ask(gateway, body)
    records = sim.records(since, bodies=True)
    if answer.status == 200:
        assert [record["body"] for record in records] == [body]
    else:
        assert_error(answer, 400, "invalid_request_error")
        assert records == []


TWO_MODELS = {
    "plain": b'{"model":"%b",%b,"model":"claude-opus-5-5"}',
    "the same one twice": b'{"model":"%b",%b,"model":"%b"}',
    "escaped": b'{"model":"%b",%b,"\\u006d\\u006f\\u0064\\u0065\\u006c":"claude-opus-5-5"}',
    "escaped first": b'{"mod\\u0065l":"claude-opus-5-5","model":"%b",%b}',
}


@pytest.mark.parametrize("kind", TWO_MODELS)
async def test_a_body_with_two_models_is_refused(kind: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    name = MODEL.encode()
    body = TWO_MODELS[kind] % ((name, HELLO) if TWO_MODELS[kind].count(b"%b") == 2 else (name, HELLO, name))
    assert "model" in assert_error(await ask(gateway, body), 400, "invalid_request_error")
    assert sim.records(since) == []


async def test_any_other_key_that_stands_twice_is_refused_too(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    for name in (b"stream", b"messages", b"metadata", b"max_tokens"):
        body = b'{"model":"%b",%b,"%b":1,"%b":2}' % (MODEL.encode(), HELLO, name, name)
        assert_error(await ask(gateway, body), 400, "invalid_request_error")
    assert sim.records(since) == []


BROKEN = {
    "empty": b"",
    "no JSON": b"model=claude-haiku-4-5&max_tokens=9",
    "half an object": b'{"model":"claude-haiku-4-5","messages":[',
    "two objects": b'{"model":"claude-haiku-4-5",%b}{}' % HELLO,
    "no object": b'["claude-haiku-4-5"]',
    "NaN": b'{"model":"claude-haiku-4-5",%b,"temperature":NaN}' % HELLO,
    "no model": b"{%b}" % HELLO,
    "a model that is no text": b'{"model":["claude-haiku-4-5"],%b}' % HELLO,
    "an empty model": b'{"model":"",%b}' % HELLO,
    "a model with a line break": b'{"model":"claude\\nhaiku",%b}' % HELLO,
    "nested 100,000 deep": b'{"model":"claude-haiku-4-5","x":' + b"[" * 100_000 + b"]" * 100_000 + b"," + HELLO + b"}",
    "100,000 objects deep": b'{"x":' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_body_that_is_no_proper_json_is_a_400(kind: str, gateway: Gateway, sim: Simulator):
    answer = await ask(gateway, BROKEN[kind])
    assert_error(answer, 400, "invalid_request_error")
    assert (await ask(gateway, message())).status == 200


# -- Request headers --------------------------------------------------------------------------------------------------


async def test_headers_of_clients_reach_the_upstream_verbatim(gateway: Gateway, sim: Simulator):
    sent = [
        ("anthropic-version", "2026-10-21"),
        ("anthropic-beta", "files-api-2025-04-14,  context-1m-2025-08-07"),
        ("anthropic-beta", "something-new-2027-01-01"),
        ("anthropic-of-tomorrow", "yes; q=1"),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("user-agent", "Anthropic/Python 2.12.0"),
        ("x-app", "cli"),
        ("x-stainless-lang", "python"),
        ("x-stainless-timeout", "NOT_GIVEN"),
        ("x-stainless-retry-count", "0"),
        ("x-claude-code-session-id", "6f1c"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=1,b=2"),
        ("x-unknown", 'caf\u00e9 "quoted" \\ ~'),
        ("accept", "application/json"),
    ]
    raw = [(name, value.encode().decode("latin-1")) for name, value in sent]  # header bytes are the UTF-8 ones
    answer, record = await forwarded(gateway, sim, message(), sent)
    assert answer.status == 200
    names = {name for name, _ in sent}
    assert [(name.lower(), value) for name, value in record["headers"] if name.lower() in names] == raw


async def test_the_query_reaches_the_upstream_verbatim(gateway: Gateway, sim: Simulator):
    target = "/v1/messages?beta=true&x=%2F%20a+b&x=2&&empty="
    answer, record = await forwarded(gateway, sim, message(), path=target)
    assert (answer.status, record["path"]) == (200, target)
    target = "/v1/next_month?limit=2&&b=%2F"
    answer, record = await forwarded(gateway, sim, path=target)
    assert (answer.status, record["path"]) == (200, target)


async def test_what_tells_of_the_clients_network_or_of_the_gateway_stays_here(gateway: Gateway, sim: Simulator):
    private = {
        "cookie": "session=1",
        "forwarded": "for=10.0.0.1",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-host": "inside.test",
        "x-forwarded-of-tomorrow": "1",
        "x-gateway-account": "sim-account-1",
        "x-gateway-anything": "1",
        "via": "1.1 inside",
        "x-real-ip": "10.0.0.1",
        "proxy-authorization": "Basic eDp5",
        "te": "trailers",
        "anthropic-workspace-id": "wrkspc_of_somebody",
        "anthropic-user-profile-id": "uprof_of_somebody",
        "connection": "keep-alive, x-of-this-hop",
        "x-of-this-hop": "1",
        **conversation(),
    }
    answer, record = await forwarded(gateway, sim, message(), private)
    assert answer.status == 200
    got = {name.lower() for name, _ in record["headers"]}
    assert got & {name.lower() for name in private} <= {"connection"}
    assert "of-this-hop" not in str(record["headers"])
    assert values(record, "host") == [sim.base_url.removeprefix("http://")]


async def test_the_version_is_added_only_where_the_client_sent_none(gateway: Gateway, sim: Simulator):
    _, record = await forwarded(gateway, sim, message())
    assert values(record, "anthropic-version") == ["2023-06-01"]
    for version in ("2023-06-01", "2026-10-21"):
        _, record = await forwarded(gateway, sim, message(), {"Anthropic-Version": version})
        assert values(record, "anthropic-version") == [version]


async def test_compression_is_not_asked_for_where_usage_is_read(gateway: Gateway, sim: Simulator):
    answer, record = await forwarded(gateway, sim, message(), {"accept-encoding": "gzip, deflate, br, zstd"})
    assert values(record, "accept-encoding") == ["identity"]
    assert answer["content-encoding"] == "" and answer.json()["usage"]["output_tokens"] > 0


# -- Credentials ------------------------------------------------------------------------------------------------------

FORMS = {
    "x-api-key": [("x-api-key", ALICE)],
    "bearer": [("Authorization", f"Bearer {ALICE}")],
    "bearer in small letters": [("authorization", f"bearer   {ALICE}")],
    "bearer without a scheme": [("authorization", ALICE)],
    "two lines, one of them wrong": [("x-api-key", "sk-wrong"), ("x-api-key", ALICE)],
    "both": [("x-api-key", ALICE), ("authorization", f"Bearer {ALICE}")],
    "both, the other way round": [("authorization", f"Bearer {ALICE}"), ("x-api-key", ALICE)],
    "both, one of them wrong": [("x-api-key", "sk-wrong"), ("authorization", f"Bearer {ALICE}")],
    "both, one of them empty": [("x-api-key", ""), ("authorization", f"Bearer {ALICE}")],
    "both, of two callers": [("x-api-key", BOB), ("authorization", f"Bearer {ALICE}")],
}


@pytest.mark.parametrize("form", FORMS)
async def test_either_form_of_the_key_is_accepted_and_replaced_by_the_accounts(
    form: str, gateway: Gateway, sim: Simulator
):
    answer, record = await forwarded(gateway, sim, message(), FORMS[form], key=None)
    assert answer.status == 200
    [account] = [each for each in sim.accounts if each["id"] == answer.account]
    assert values(record, "x-api-key") + values(record, "authorization") == [account["api_key"]]
    assert not [key for key in (*KEYS, "sk-wrong") if key in json.dumps(record["headers"])]


WRONG: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "an empty key": [("x-api-key", "")],
    "an unknown key": [("x-api-key", "sk-" + "x" * 48)],
    "an unknown bearer": [("authorization", "Bearer sk-" + "x" * 48)],
    "another scheme": [("authorization", f"Basic {ALICE}")],
    "a beginning of a key": [("x-api-key", ALICE[:-1])],
    "a key with more behind it": [("x-api-key", ALICE + "x")],
    "an account's key": [("x-api-key", "sk-ant-sim-1-")],
}


@pytest.mark.parametrize("kind", WRONG)
async def test_without_a_valid_key_the_answer_is_401(kind: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    headers = WRONG[kind]
    if kind == "an account's key":
        headers = [("x-api-key", sim.accounts[0]["api_key"])]
    for body, path in ((message(), "/v1/messages"), (message(), "/v1/messages/count_tokens"), (None, "/v1/models")):
        answer = await ask(gateway, body, headers, key=None, path=path)
        assert_error(answer, 401, "authentication_error")
        assert answer.request_id == answer["request-id"]
    assert sim.records(since) == []


async def test_a_body_without_a_valid_key_is_not_read(gateway: Gateway):
    async with Wire.open(gateway) as wire:
        await wire.send(request(b"", {"x-api-key": "wrong"}, key=None).replace(b"length: 0", b"length: 31000000"))
        answer = await wire.answer()
        assert_error(answer, 401, "authentication_error")


# -- Ids of conversations ---------------------------------------------------------------------------------------------

BAD_IDS = {
    "a line feed": b"a\nb",
    "a carriage return": b"a\rb",
    "NUL": b"a\0b",
    "escape": b"a\x1bb",
    "delete": b"a\x7fb",
    "a tab": b"a\tb",
    "more than 8 KB": b"x" * 8193,
}


@pytest.mark.parametrize("kind", BAD_IDS)
def test_a_conversation_id_that_cannot_be_one_is_a_400(kind: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    data = request(message(), {"connection": "close"}).replace(
        b"\r\n\r\n", b"\r\nX-Conversation-Id: " + BAD_IDS[kind] + b"\r\n\r\n", 1
    )
    assert_error(parsed(blunt(gateway.port, data)), 400, "invalid_request_error")
    assert sim.records(since) == []


async def test_any_other_conversation_id_will_do(gateway: Gateway):
    for name in ("x" * 256, "gespräch 🙂 no. 1", "{}'\"; DROP", "%0d%0a"):
        routes = [(await ask(gateway, message(), {"x-conversation-id": name})).route for _ in range(2)]
        assert routes in (["new", "bound"], ["bound", "bound"])


async def test_two_different_conversation_ids_in_one_request_are_a_400(gateway: Gateway):
    headers = [("X-Conversation-Id", "one"), ("X-Conversation-Id", "two")]
    assert_error(await ask(gateway, message(), headers), 400, "invalid_request_error")


# -- Paths, methods, sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/messages/", "/v1/v1/messages", "/V1/MESSAGES", "/v1/Messages", "/v1/%6dessages",
     "/v1//messages", "/v1/files/../messages", "/v1/files/%2e%2e/x", "/v1/files/a%2fb", "/v1/models/", "/metrics",
     "/favicon.ico"],
)  # fmt: skip
async def test_a_path_that_is_not_served_is_a_404(path: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    for body in (None, message()):
        assert_error(await ask(gateway, body, path=path), 404, "not_found_error")
    assert sim.records(since) == []


@pytest.mark.parametrize("path", ["/v1/organizations/me", "/v1/organizations", "/v1/oauth/token"])
async def test_what_is_the_companys_own_is_refused(path: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    for body in (None, message()):
        assert_error(await ask(gateway, body, path=path), 403, "permission_error")
        assert_error(await ask(gateway, body, path=path, key=None), 401, "authentication_error")
    assert sim.records(since) == []


async def test_an_endpoint_of_next_month_passes_through(gateway: Gateway, sim: Simulator):
    accounts = set()
    for method, body in (("GET", None), ("POST", b"{}"), ("PUT", b'{"a": 1}'), ("PATCH", b"x"), ("DELETE", None)):
        answer = await ask(gateway, body, method=method, path="/v1/next_month/thing?x=1")
        assert answer.status == 200
        echo = answer.json()
        assert (echo["method"], echo["path"], echo["query"]) == (method, "/v1/next_month/thing", "x=1")
        assert echo["body_size"] == len(body or b"")
        accounts.add(answer.account)
    assert len(accounts) == 1  # the caller's home


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/messages"), ("DELETE", "/v1/messages"), ("PUT", "/v1/messages"), ("PATCH", "/v1/messages"),
     ("GET", "/v1/messages/count_tokens"), ("POST", "/v1/models"), ("DELETE", "/v1/models/claude-opus-5-5"),
     ("OPTIONS", "/v1/messages"), ("POST", "/healthz"), ("DELETE", "/readyz")],
)  # fmt: skip
async def test_another_method_than_the_one_served_is_a_405(method: str, path: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    assert_error(await ask(gateway, {}, method=method, path=path), 405, "invalid_request_error")
    assert sim.records(since) == []


async def test_the_root_says_what_this_is(gateway: Gateway):
    answer = await ask(gateway, path="/", key=None)
    assert answer.status == 200 and "point a client's base URL here" in answer.json()["message"]


@pytest.mark.parametrize("path", ["/healthz/", "/readyz/", "/api/hello/", "/healthz/x", "/v2/messages"])
async def test_a_path_that_is_nowhere_is_not_found_and_leads_nowhere_else(path: str, gateway: Gateway):
    answer = await ask(gateway, path=path)
    assert_error(answer, 404, "not_found_error")
    assert answer["location"] == ""


async def test_a_body_declared_too_large_is_refused_before_it_comes(tight: Gateway):
    async with Wire.open(tight) as wire:
        await wire.send(request(b"", method="POST").replace(b"length: 0", b"length: 1048577"))
        assert_error(await wire.answer(), 413, "request_too_large")


async def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(tight: Gateway):
    async with Wire.open(tight) as wire:
        await wire.send(request(headers={"transfer-encoding": "chunked"}, method="POST"))
        for _ in range(17):
            await wire.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert_error(await wire.answer(), 413, "request_too_large")
        await wire.send(b"10000\r\n" + b" " * 65536 + b"\r\n0\r\n\r\n")  # what follows is told apart from it
        assert (await wire.ask(message())).status == 200


@pytest.mark.parametrize(("key", "status"), [(ALICE, 413), ("sk-wrong", 401)], ids=["too large", "wrong key"])
async def test_a_client_that_sends_on_and_on_after_its_refusal_is_let_go(key: str, status: int, tight: Gateway):
    sent = 0
    async with Wire.open(tight) as wire:
        await wire.send(request(headers={"transfer-encoding": "chunked"}, method="POST", key=key))
        answer = asyncio.create_task(wire.answer())
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20:
                await wire.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
                await asyncio.sleep(0)  # a gateway that reads fast never makes us wait: let the answer be read too
        assert (await answer).status == status
    assert sent < 64 << 20


async def test_a_body_of_just_the_permitted_size_is_served(tight: Gateway, sim: Simulator):
    body = json.dumps(message()).encode()
    answer, record = await forwarded(tight, sim, body + b" " * (1024 * 1024 - len(body)))
    assert (answer.status, record["body_size"]) == (200, 1024 * 1024)


# -- The way back -----------------------------------------------------------------------------------------------------


async def test_answers_name_the_request_and_hide_the_account(gateway: Gateway, sim: Simulator):
    for body in (message(), message(stream=True)):
        answer, record = await forwarded(gateway, sim, body)
        assert answer["request-id"] == record["request_id"]
        assert answer.request_id.startswith("req_gw")
        assert answer["x-gateway-attempts"] == "1"
        assert answer.account == record["account"]
        assert_nothing_of_the_accounts(sim, answer)


def assert_nothing_of_the_accounts(sim: Simulator, answer: Answer) -> None:
    """No key, no organization, no workspace, no limits of theirs."""
    text = json.dumps(answer.headers) + answer.body.decode()
    for account in sim.accounts:
        for secret in (account["api_key"], account["organization"], account["workspace"]):
            assert secret not in text
    names = {name for name, _ in answer.headers}
    assert not names & {"anthropic-organization-id", "anthropic-workspace-id", "server", "set-cookie"}
    assert not [name for name in names if name.startswith(("anthropic-ratelimit", "anthropic-priority", "x-sim"))]


@pytest.mark.parametrize(
    "fault",
    ["status=401", "status=402", "status=403", "status=429", '{"kind":"status","value":429,"retry_after":3}',
     "enforced_spend_limit_reached", "ramp_limit_exceeded=3", "usage_limit", "low_credit", "status=529"],
)  # fmt: skip
async def test_errors_about_accounts_say_nothing_of_them(fault: str, gateway: Gateway, sim: Simulator):
    for stream in (False, True):
        answer = await ask(gateway, message(stream=stream), fault=fault)
        assert answer.status >= 400
        assert answer.json()["type"] == "error"
        assert_nothing_of_the_accounts(sim, answer)


# -- What is written down ---------------------------------------------------------------------------------------------


async def test_no_key_and_no_conversation_id_is_written_to_the_log(gateway: Gateway, sim: Simulator):
    name = "canary-of-a-conversation-9f3a"
    session = "canary-of-a-session-77c1"
    said = "canary-of-a-message-10aa"
    last = ""
    for fault in (None, "status=429", "status=401", "html=502", "cut=300", "reset", "status=500", "junk"):
        for key in (ALICE, "sk-canary-of-a-wrong-key"):
            for headers in ({"X-Conversation-Id": name}, {"x-claude-code-session-id": session}):
                sent = {**headers, "authorization": f"Bearer {key}"}
                async with Wire.open(gateway) as wire:
                    await wire.send(request(message(said, stream=True), sent, key=key, fault=fault))
                    answer = await wire.answer()
                last = answer.request_id
    blunt(gateway.port, request(message(), {"X-Conversation-Id": name + "\x01"}))
    await ask(gateway, {"model": said}, path=f"/v1/{name}?key={ALICE}")
    gateway.record(last)
    until(lambda: gateway.text().endswith("\n"))
    text = gateway.text() + gateway.err.read_text()
    secrets = [*KEYS, "canary", *(account["api_key"] for account in sim.accounts), gateway.config["secret"]]
    assert not [secret for secret in secrets if secret in text]
    assert all(isinstance(line, dict) for line in gateway.lines())


async def test_a_request_leaves_one_line_that_tells_all_but_secrets(gateway: Gateway, sim: Simulator):
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {**conversation(), "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    answer, record = await forwarded(gateway, sim, message("Tell me"), headers)
    line = gateway.record(answer.request_id)
    known = {
        "event": "request", "endpoint": "messages", "method": "POST", "status": 200, "caller": "alice",
        "team": "research", "model": MODEL, "account": answer.account, "route": "new", "attempts": 1,
        "upstream_request_id": record["request_id"], "trace_id": trace,
    }  # fmt: skip
    assert known.items() <= line.items()
    assert re.fullmatch("[0-9a-f]{12}", line["conversation"])
    usage = record["usage"]
    assert line["usage"] == {"input": usage["input_tokens"], "output": usage["output_tokens"]}
    assert line["cost_nano_usd"] == usage["input_tokens"] * 1000 + usage["output_tokens"] * 5000
