"""What a client sees when accounts fail: another account's answer, or an error that says nothing of accounts."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.rig import (
    ADMIN_TOKEN,
    CALLERS,
    WAIT_SECONDS,
    Answer,
    Gateway,
    Simulator,
    accounts_of,
    ask,
    assert_error,
    at_once,
    conversation,
    eventually,
    free_port,
    message,
)

Launch = Callable[..., Gateway]
ERIN = "sk-" + "Er1n0" * 9 + "one"  # may use one model only


@pytest.fixture(scope="module")
def limping(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four accounts, the first of which refuses connections; they serve Claude's models only."""
    accounts = accounts_of(simulator, 4, models=["claude-*"])
    accounts[0]["base_url"] = f"http://127.0.0.1:{free_port()}"
    keys = [*CALLERS, {"id": "erin", "key": ERIN, "models": ["claude-haiku-*"]}]
    gateway = Gateway(tmp_path_factory.mktemp("limping"), {"accounts": accounts, "keys": keys}).start()
    yield gateway
    gateway.stop()


def on(account: str, kind: str, value: Any = None, **fields: Any) -> dict[str, Any]:
    """A fault of one account."""
    return {"kind": kind, "value": value, "account": account, **fields}


def plain(body: bytes) -> bytes:
    return re.sub(rb"req_[0-9a-z]+", b"ID", body)


def assert_retry_after(answer: Answer, low: int = 1, high: int = 60) -> None:
    assert low <= int(answer["retry-after"]) <= high
    assert answer["retry-after-ms"] == "" and answer["x-should-retry"] == ""


# -- Never sent -------------------------------------------------------------------------------------------------------


async def test_an_account_that_refuses_connections_is_never_noticed(limping: Gateway, sim: Simulator):
    dead = sim.accounts[0]["id"]
    names = [conversation() for _ in range(40)]
    firsts = await at_once(ask(limping, message(stream=number % 2 == 0), name) for number, name in enumerate(names))
    seconds = await at_once(ask(limping, message(), name) for name in names)
    for first, second in zip(firsts, seconds, strict=True):
        assert (first.status, second.status) == (200, 200)
        assert first.account == second.account != dead
        assert (first.route, second.route) == ("new", "bound")
        assert second["x-gateway-attempts"] == "1"
    assert {answer["x-gateway-attempts"] for answer in firsts} == {"1", "2"}


async def test_refused_connections_do_not_use_up_the_retries(limping: Gateway, sim: Simulator):
    living = [account["id"] for account in sim.accounts[1:4]]
    for _ in range(10):  # the dead account is somewhere in the rank of each
        limping.mend()
        since = sim.mark()
        answer = await ask(limping, message(), conversation(), fault=[on(each, "status", 500) for each in living])
        assert_error(answer, 500, "api_error")
        asked = {record["account"] for record in sim.records(since)}
        assert len(asked) == len(sim.records(since)) == 2 and asked <= set(living)  # one, and one detour


# -- Sent, and answered with trouble ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "stream"), [(529, False), (500, True)])
async def test_trouble_of_the_moment_makes_a_detour_and_the_next_turn_is_home_again(
    status: int, stream: bool, gateway: Gateway, sim: Simulator
):
    name = conversation()
    body = message(stream=stream)
    home = (await ask(gateway, body, name)).account
    since = sim.mark()
    away, again = [await ask(gateway, body, name, fault=on(home, "status", status)) for _ in range(2)]
    assert (away.status, away.ended) == (200, True)
    assert (away.route, away["x-gateway-attempts"]) == ("detour", "2")
    assert again.account == away.account  # where its last detour has left a cache
    assert [record["account"] for record in sim.records(since)] == [home, away.account] * 2
    back = await ask(gateway, body, name)
    assert (back.account, back.route) == (home, "bound")


@pytest.mark.parametrize(("status", "stream"), [(429, True), (401, False)])
async def test_trouble_that_lasts_moves_the_conversation_for_good_and_nobody_else_asks(
    status: int, stream: bool, gateway: Gateway, sim: Simulator
):
    name = conversation()
    body = message(stream=stream)
    home = (await ask(gateway, body, name)).account
    answer = await ask(gateway, body, name, fault=on(home, "status", status, retry_after=30))
    assert (answer.status, answer.ended) == (200, True)
    assert (answer.route, answer["x-gateway-attempts"]) == ("moved", "2")
    since = sim.mark()
    again = await ask(gateway, body, name)
    assert (again.account, again.route) == (answer.account, "bound")
    if status != 401:  # whose probe says that all is well
        others = await at_once(ask(gateway, message(), conversation()) for _ in range(12))
        assert {other.status for other in others} == {200}
        assert home not in {record["account"] for record in sim.records(since)}


async def test_an_account_in_trouble_costs_no_retry_as_long_as_another_is_left(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    answer = await ask(gateway, message(), conversation(), fault="status=401")
    assert (answer.status, answer["x-gateway-attempts"]) == (529, "4")
    assert len({record["account"] for record in sim.records(since)}) == 4


@pytest.mark.parametrize("status", [529, 500])
async def test_no_more_than_one_detour_is_made(status: int, gateway: Gateway, sim: Simulator):
    for body in (message(), message(stream=True)):
        since = sim.mark()
        answer = await ask(gateway, body, conversation(), fault=f"status={status}")
        assert answer["x-gateway-attempts"] == "2"
        assert len({record["account"] for record in sim.records(since)}) == len(sim.records(since)) == 2


async def test_every_account_is_asked_once_where_all_are_limited_and_none_after_that(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    first = await ask(gateway, message(), fault={"kind": "status", "value": 429, "retry_after": 20})
    assert (first.status, first["x-gateway-attempts"]) == (429, "4")
    assert len({record["account"] for record in sim.records(since)}) == len(sim.records(since)) == 4
    second = await ask(gateway, message())
    assert (second.status, second["x-gateway-attempts"]) == (429, "0")
    assert_retry_after(second, 15, 20)
    assert len(sim.records(since)) == 4


async def test_other_endpoints_fail_over_too(gateway: Gateway, sim: Simulator):
    path = "/v1/messages/count_tokens"
    count = {"model": message()["model"], "messages": message()["messages"]}
    home = (await ask(gateway, count, path=path)).account
    answer = await ask(gateway, count, path=path, fault=on(home, "status", 500))
    assert answer.status == 200 and answer.account != home


# -- When nobody is left ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [None, 7, 7200])
async def test_where_all_are_limited_the_answer_is_429_and_its_wait_is_short(
    seconds: float | None, gateway: Gateway, sim: Simulator
):
    since = sim.mark()
    for stream in (False, True):
        fault = {"kind": "status", "value": 429, "retry_after": seconds}
        answer = await ask(gateway, message(stream=stream), fault=fault)
        text = assert_error(answer, 429, "rate_limit_error")
        assert "org-sim" not in text
        if seconds is None:  # what nobody explains, and two say alike, is about the request: it passes, but for names
            assert len(sim.records(since)) <= 2 * (1 + stream) and "rate limit" in text
        else:
            assert "organization" not in text
            assert_retry_after(answer)
        if seconds == 7:
            assert answer["retry-after"] == "7"


@pytest.mark.parametrize("kind", ["enforced_spend_limit_reached", "low_credit"])
async def test_an_account_without_money_is_passed_over(kind: str, gateway: Gateway, sim: Simulator):
    name = conversation()
    home = (await ask(gateway, message(), name)).account
    answer = await ask(gateway, message(), name, fault=on(home, kind))
    assert answer.status == 200 and answer.account != home


@pytest.mark.parametrize("kind", ["low_credit", "status=401"])
async def test_trouble_with_every_accounts_credential_or_money_is_a_529(kind: str, gateway: Gateway, sim: Simulator):
    for stream in (False, True):
        answer = await ask(gateway, message(stream=stream), fault=kind)
        text = assert_error(answer, 529, "overloaded_error")
        assert not re.search("key|credit|billing|usage|organization", text, re.IGNORECASE)
        assert "none is in service" in text
        assert_retry_after(answer)
        # Only the operator is told what is wrong with them.
        assert gateway.record(answer.request_id)["cause"] == ("credential" if kind == "status=401" else "billing")


async def test_a_529_says_what_keeps_the_accounts_from_serving(launch: Launch, sim: Simulator):
    away = [{**each, "base_url": f"http://127.0.0.1:{free_port()}"} for each in accounts_of(sim, 2)]
    small = {**accounts_of(sim, 3)[2], "id": "small", "models": ["claude-opus-5"], "max_concurrency": 1}
    gateway = launch(accounts=[*({**each, "models": ["claude-haiku-*"]} for each in away), small])
    for _ in range(4):  # before and after it is known of them
        answer = await ask(gateway, message())
        assert "the upstream cannot be reached" in assert_error(answer, 529, "overloaded_error")
        assert gateway.record(answer.request_id)["cause"] == "unreachable"
    since = sim.mark()
    held = asyncio.create_task(ask(gateway, message(model="claude-opus-5"), fault="silence=30"))
    await eventually(lambda: sim.records(since), "the held request")
    busy = await ask(gateway, message(model="claude-opus-5"))
    assert "all are busy" in assert_error(busy, 529, "overloaded_error")
    assert gateway.record(busy.request_id)["cause"] == "busy"
    held.cancel()
    gateway.get(
        "/admin/v1/accounts/small", admin=True, headers={"authorization": f"Bearer {ADMIN_TOKEN}"}, method="PATCH",
        body=b'{"state": "draining"}',
    )  # fmt: skip
    async with asyncio.timeout(WAIT_SECONDS):
        while (answer := await ask(gateway, message(model="claude-opus-5"), conversation())).status == 200:
            pass
    assert "none is in service" in assert_error(answer, 529, "overloaded_error")
    assert gateway.record(answer.request_id)["cause"] == "draining"


async def test_a_529_of_all_passes_with_a_short_wait(gateway: Gateway, sim: Simulator):
    answer = await ask(gateway, message(), fault={"kind": "status", "value": 529, "retry_after": 7200})
    assert_error(answer, 529, "overloaded_error")
    assert_retry_after(answer)
    assert gateway.record(answer.request_id)["cause"] == "overloaded"


# -- Not repeated -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "stream"), [("reset", True), ("refuse", False), ("junk", False)])
async def test_a_request_left_without_an_answer_is_a_502_and_was_sent_once(
    fault: str, stream: bool, gateway: Gateway, sim: Simulator
):
    name = conversation()
    home = await ask(gateway, message(), name)
    since = sim.mark()
    assert_error(await ask(gateway, message(stream=stream), name, fault=fault), 502, "api_error")
    assert [record["account"] for record in sim.records(since)] == [home.account]
    after = await ask(gateway, message(), name)
    assert (after.account, after.route) == (home.account, "bound")


async def test_a_connection_that_the_upstream_has_closed_meanwhile_is_not_used_again(gateway: Gateway, sim: Simulator):
    name = conversation()
    for _ in range(10):
        assert (await ask(gateway, message(), name, fault="close_delimited")).status == 200
        assert (await ask(gateway, message(), name)).status == 200


# -- What is the client's own affair ----------------------------------------------------------------------------------

OWN: dict[str, dict[str, Any]] = {
    "no messages": {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []},
    "no max_tokens": {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Hello"}]},
    "too much output": message(max_tokens=1_000_000),
    "too long a prompt": message("word " * 200_000),
    "a wrong role": {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "poet", "content": "O"}]},
    "five breakpoints": message(
        system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}} for _ in range(5)]
    ),
    "an unknown model": message(model="claude-none-1"),
}


@pytest.mark.parametrize("kind", OWN)
async def test_an_error_about_the_request_passes_byte_for_byte(kind: str, gateway: Gateway, sim: Simulator):
    for stream in (False, True):
        body = {**OWN[kind], "stream": stream}
        expected = await ask(sim, body, {"anthropic-version": "2023-06-01"}, key=sim.accounts[0]["api_key"])
        answer = await ask(gateway, body)
        assert answer.status == expected.status in (400, 404)
        assert plain(answer.body) == plain(expected.body)
        assert answer["request-id"] == answer.json()["request_id"] != ""


async def test_any_other_client_error_passes_byte_for_byte(gateway: Gateway, sim: Simulator):
    since = sim.mark()
    fault = {"kind": "status", "value": 409, "message": "Über dies & das", "error_code": "of_tomorrow"}
    answer = await ask(gateway, message(), fault=fault)
    assert answer.status == 409 and answer.ended
    assert answer.json()["error"]["details"] == {"error_code": "of_tomorrow"}
    assert answer.json()["error"]["message"] == "Über dies & das"
    assert len(sim.records(since)) == 1


async def test_a_model_that_one_account_may_not_use_is_served_by_another(gateway: Gateway, sim: Simulator):
    name = conversation()
    home = (await ask(gateway, message(), name)).account
    answer = await ask(gateway, message(), name, fault=on(home, "status", 403))
    assert (answer.status, answer["x-gateway-attempts"]) == (200, "2")


async def test_a_model_that_no_account_serves_is_not_found(limping: Gateway, sim: Simulator):
    since = sim.mark()
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        assert "gpt-4" in assert_error(await ask(limping, message(model="gpt-4"), path=path), 404, "not_found_error")
    assert sim.records(since) == []


async def test_a_model_that_a_key_may_not_use_is_forbidden(limping: Gateway, sim: Simulator):
    since = sim.mark()
    answer = await ask(limping, message(model="claude-opus-5-5"), key=ERIN)
    assert "claude-opus-5-5" in assert_error(answer, 403, "permission_error")
    assert sim.records(since) == []
    assert (await ask(limping, message(), key=ERIN)).status == 200


# -- Answers that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "stream"), [(200, False), (429, True), (502, False)])
async def test_a_page_of_html_becomes_a_json_error(status: int, stream: bool, gateway: Gateway, sim: Simulator):
    answer = await ask(gateway, message(stream=stream), fault=f"html={status}")
    assert answer.status == (502 if status == 200 else status)
    assert answer["content-type"].startswith("application/json") and answer.ended
    body = answer.json()
    assert body["type"] == "error" and body["error"]["type"] and body["request_id"]
    assert b"<" not in answer.body


@pytest.mark.parametrize("target", ["elsewhere", "itself"])
async def test_a_redirect_is_not_followed_and_becomes_a_json_error(target: str, gateway: Gateway, sim: Simulator):
    since = sim.mark()
    url = f"{sim.base_url}/v1/messages" if target == "itself" else "http://127.0.0.1:1/"
    for body, path in ((message(), "/v1/messages"), (None, "/v1/next_month")):
        answer = await ask(gateway, body, path=path, fault=[{"kind": "redirect", "value": url}])
        assert_error(answer, 502, "api_error")
        assert answer["location"] == "" and url not in json.dumps(answer.headers)
    assert len(sim.records(since)) == 3  # a message is asked of one other account
