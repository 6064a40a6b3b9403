"""One bad account among good ones, one bad request among good ones, one sick replica beside a healthy one: who is left
alone, who is not, and what operators are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.e2e.rig import (
    ADMIN_TOKEN,
    BOB,
    WAIT_SECONDS,
    Answer,
    Gateway,
    Store,
    ask,
    at_once,
    conversation,
    eventually,
    message,
)
from tests.e2e.upstream import (
    CUT,
    HTML,
    STREAM,
    Reply,
    Request,
    Upstream,
    error,
    events,
    failed,
    served,
    started,
    streamed,
)

Launch = Callable[..., Gateway]
BAD: dict[str, Reply | None] = {
    "500": error(500, "Internal server error", "api_error"),
    "400 that names the organization": error(400, "This organization has been disabled."),
    "html": HTML,
    "hangs up": None,
    "cuts": CUT,
}


def one_bad(reply: Reply | None, *accounts: str) -> Callable[[Request], Reply | None]:
    """These accounts reply so, the others well."""
    return lambda request: reply if request.account in accounts else served()


def view(gateway: Gateway, account: str = "a0") -> dict[str, Any]:
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    found: dict[str, Any] = gateway.get(f"/admin/v1/accounts/{account}", admin=True, headers=headers).json()
    return found


def state(gateway: Gateway, account: str = "a0") -> str:
    return str(view(gateway, account)["health"]["state"])


async def new_ones(gateway: Gateway, count: int, limit: int = 1, **fields: Any) -> list[Answer]:
    """The first requests of so many conversations, `limit` at a time."""
    body = message(**fields)
    return await at_once((ask(gateway, body, conversation()) for _ in range(count)), limit)


def fails(gateway: Gateway) -> bool:
    return state(gateway) == "failing"


def told(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


# -- A bad account ----------------------------------------------------------------------------------------------------


CALM, FAST = 1, 16  # requests at a time


@pytest.mark.parametrize(
    ("kind", "weights", "limit"),
    [("500", (1, 2), FAST), ("400 that names the organization", (1, 1), CALM), ("html", (2, 1, 1), CALM)],
)
async def test_what_a_bad_account_does_no_client_sees(
    kind: str, weights: tuple[float, ...], limit: int, launch: Launch
):
    async with Upstream(one_bad(BAD[kind], "a0")).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(*weights))
        answers = await new_ones(gateway, 60, limit)
        on_their_way = limit if kind == "500" and limit > 1 else 0  # what is sent again has a budget
        assert told(answers)[200] >= 60 - on_their_way
        asked = upstream.asked["a0"]
        assert asked <= 3 + 2 * limit
        assert told(await new_ones(gateway, 60, limit)) == {200: 60}
        assert upstream.asked["a0"] - asked <= 1  # its trial, if its time has come


@pytest.mark.parametrize(("kind", "limit"), [("cuts", CALM), ("hangs up", FAST)])
async def test_an_account_that_cuts_is_left_after_three(kind: str, limit: int, launch: Launch):
    async with Upstream(one_bad(BAD[kind], "a0")).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1, 1, 1))
        answers = await new_ones(gateway, 80, limit)
        assert told(answers)[502] <= 3 + (limit if limit > 1 else 0)
        assert told(await new_ones(gateway, 80, limit))[502] <= 1
        await eventually(lambda: state(gateway) == "failing", "the account failing")


OPENINGS = {"as first event": [failed("overloaded_error")], "after its start": [started(), failed("overloaded_error")]}


@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS)
async def test_streams_of_an_overloaded_account_are_served_by_the_other_the_warm_ones_too(
    opening: list[tuple[str, dict[str, Any]]], launch: Launch
):
    bad: set[str] = set()

    def answers(request: Request) -> Reply:
        return (200, dict(STREAM), events(*opening)) if request.account in bad else streamed(50_000)

    def streams(names: list[dict[str, str]]) -> Coroutine[Any, Any, list[Answer]]:
        return at_once((ask(gateway, body, name) for name in names), len(names))

    async with Upstream(answers).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1))
        body, names = message(stream=True), [conversation() for _ in range(8)]
        assert all(b"message_stop" in answer.body for answer in await streams(names))
        bad.add("a0")
        upstream.asked.clear()
        warm = await streams(names)
        assert upstream.asked["a0"] >= 2  # once more in place, before the other
        new = await streams([conversation() for _ in range(2)])
        for answer in [*warm, *new]:
            assert answer.status == 200 and b"message_stop" in answer.body and b"overloaded_error" not in answer.body
        assert {answer.route for answer in warm} == {"bound", "detour"}


async def test_it_is_named_with_what_happened_who_says_so_and_when_it_is_tried(launch: Launch):
    async with Upstream(one_bad(BAD["500"], "a0")).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1, 1))
        await new_ones(gateway, 30)
        health = await eventually(lambda: (found := view(gateway)["health"])["state"] == "failing" and found)
        assert health["faults"]["errors"] >= 2 and health["reason"] == "errors"
        assert "fails where other accounts do not" in health["why"]
        assert health["judged_by"] and health["until"]
        metrics = gateway.metrics()
        assert metrics.total("gateway_account_state", account="a0", state="failing") == 1
        warned = gateway.line("account fails where others do not")
        assert (warned["level"], warned["account"], warned["judged_by"]) == ("warning", "a0", health["judged_by"])
        assert warned["faults"]["errors"] >= 2 and warned["tried_again_in"] == 10
        enabled = gateway.get(
            "/admin/v1/accounts/a0", admin=True, method="PATCH", body=b'{"state": "active"}',
            headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
        )  # fmt: skip
        assert enabled.json()["health"]["state"] == "available"
        assert gateway.line("account is well again")["account"] == "a0"
        upstream.answers = one_bad(None)
        before = upstream.asked["a0"]
        assert told(await new_ones(gateway, 30)) == {200: 30}
        assert upstream.asked["a0"] > before  # it is used at once


async def test_a_pool_of_one_goes_on(launch: Launch):
    async with Upstream(one_bad(BAD["500"], "a0")).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1))
        assert told(await new_ones(gateway, 20)) == {500: 20}
        upstream.answers = one_bad(None)
        assert told(await new_ones(gateway, 20)) == {200: 20}
        assert state(gateway) == "available"


async def test_two_replicas_leave_it_together_and_it_comes_back_by_a_trial(launch: Launch, store: Store):
    async with Upstream(one_bad(BAD["500"], "a0")).serve() as upstream:
        accounts = upstream.accounts(1, 1)
        gateways = [launch(accounts=accounts, redis=store.url) for _ in range(2)]
        answers = await at_once((ask(gateways[n % 2], message(), conversation()) for n in range(40)), 1)
        assert told(answers) == {200: 40}
        assert upstream.asked["a0"] <= 5
        loop = asyncio.get_running_loop()
        for gateway in gateways:
            deadline = loop.time() + WAIT_SECONDS
            while not fails(gateway):  # one that has heard nothing of the other's exchanges goes by its own
                await new_ones(gateway, 1)
                assert loop.time() < deadline, (view(gateway), upstream.asked)
        upstream.answers = one_bad(None)
        deadline = loop.time() + 40

        async def well() -> bool:
            await new_ones(gateways[0], 4)
            await asyncio.sleep(0.2)
            return {state(gateway) for gateway in gateways} == {"available"}

        while not await well():
            assert loop.time() < deadline


async def test_one_conversation_that_always_fails_moves_nobody(launch: Launch):
    def poison(request: Request) -> Reply | None:
        return None if b"poison" in request.body else served()

    async with Upstream(poison).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1))
        name = conversation()
        answers = [await ask(gateway, message("poison"), name) for _ in range(10)]
        assert told(answers) == {502: 10}
        assert {state(gateway, account) for account in ("a0", "a1")} == {"available"}


# -- A refusal that is the request's own ------------------------------------------------------------------------------


async def test_what_every_account_refuses_passes_in_the_upstreams_words_and_closes_nobody(launch: Launch):
    words = "Extra usage is required for long context requests."

    def entitled(request: Request) -> Reply | None:
        if "1m" in request.headers.get("anthropic-beta", ""):
            return error(429, words, "rate_limit_error", **{"x-should-retry": "false"})
        return served()

    async with Upstream(lambda request: error(400, "max_tokens: must be positive")).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1, 1))
        answers = await new_ones(gateway, 20)
        assert told(answers) == {400: 20}
        assert "max_tokens" in answers[0].json()["error"]["message"]
        assert upstream.asked.total() == 21  # the first one's refusal was confirmed by another account
        assert {state(gateway, f"a{n}") for n in range(3)} == {"available"}
        upstream.answers = entitled  # a 429 that says nothing is about the request as well
        upstream.asked.clear()
        beta = {"anthropic-beta": "context-1m-2025-08-07"}
        for n in range(12):
            answer = await ask(gateway, message(), {**conversation(), **beta})
            assert (answer.status, answer["x-should-retry"]) == (429, "false")
            assert words in answer.json()["error"]["message"]
            assert (await ask(gateway, message(), conversation(), key=BOB)).status == 200
            if n == 0:
                assert upstream.asked.total() == 3
        assert {state(gateway, f"a{n}") for n in range(3)} == {"available"}


async def test_a_request_larger_than_the_limit_closes_only_for_its_like(launch: Launch):
    def bucket(request: Request) -> Reply | None:
        limits = {
            "anthropic-ratelimit-input-tokens-limit": "50000",
            "anthropic-ratelimit-input-tokens-remaining": "50000",
        }
        if len(request.body) > 200_000:
            limits["retry-after"] = "40"
            return error(429, "This request would exceed the rate limit.", "rate_limit_error", **limits)
        return served()[0], {"content-type": "application/json", **limits}, served()[2]

    async with Upstream(bucket).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1, 1))
        huge = message("x " * 200_000)
        answer = await ask(gateway, huge, conversation())
        assert answer.status == 429
        assert told(await new_ones(gateway, 30, 4)) == {200: 30}
        asked = upstream.asked.total()
        assert (await ask(gateway, huge, conversation())).status == 429
        assert upstream.asked.total() - asked <= 1


async def test_a_feature_that_one_account_lacks_moves_only_those_who_ask_for_it(launch: Launch):
    def lacks(request: Request) -> Reply | None:
        if request.account == "a0" and b"web_search" in request.body:
            return error(403, "web_search is not enabled for this organization", "permission_error")
        return served()

    async with Upstream(lacks).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1))
        homes: dict[str, str] = {}
        while "a0" not in homes.values():
            name = conversation()["X-Conversation-Id"]
            homes[name] = (await ask(gateway, message(), {"X-Conversation-Id": name})).account
        tools = [{"type": "web_search_20250305", "name": "web_search"}]
        for _ in range(20):
            assert (await ask(gateway, message(tools=tools), conversation(), key=BOB)).status == 200
        for name, home in homes.items():
            answer = await ask(gateway, message(), {"X-Conversation-Id": name})
            assert (answer.status, answer.account) == (200, home)
        before = upstream.asked["a0"]
        for _ in range(20):
            await ask(gateway, message(tools=tools), conversation())
        assert upstream.asked["a0"] == before
        closed = view(gateway)["health"]["features_closed"]
        assert closed and closed[0]["features"] == ["tool:web_search_20250305"]


# -- A sick replica ---------------------------------------------------------------------------------------------------


async def test_a_replica_that_reaches_nobody_refuses_and_the_other_serves_everything(launch: Launch, store: Store):
    async with Upstream(one_bad(None)).serve() as upstream:
        accounts = upstream.accounts(1, 1, 1)
        sick_accounts = [{**each, "base_url": "http://no-such-host.invalid"} for each in accounts]
        well = launch(accounts=accounts, redis=store.url)
        sick = launch(accounts=sick_accounts, redis=store.url)
        answers = await at_once((ask((well, sick)[n % 2], message(), conversation()) for n in range(80)), 4)
        assert told(answers[0::2]) == {200: 40}
        assert told(answers[1::2]) == {529: 40}
        assert {state(well, f"a{n}") for n in range(3)} == {"available"}
        await eventually(lambda: state(sick) == "out", "out where it cannot be reached")
        [name] = await eventually(lambda: view(well)["health"]["unreachable_from"], "that the other cannot reach it")
        assert f"-{sick.pid}-" in name and view(sick)["health"]["unreachable_from"] == []


async def test_a_stale_key_on_one_replica_is_that_replicas_own(launch: Launch, store: Store):
    def known(request: Request) -> Reply | None:
        return error(401, "invalid x-api-key", "authentication_error") if "stale" in request.account else served()

    async with Upstream(known).serve() as upstream:
        upstream.probes = lambda request: known(request) if "stale" in request.account else (200, {}, b"{}")
        accounts = upstream.accounts(1, 1)
        stale = [{**accounts[0], "api_key": "key-of-stale"}, accounts[1]]
        well, sick = launch(accounts=accounts, redis=store.url), launch(accounts=stale, redis=store.url)
        for n in range(40):
            assert (await ask((well, sick)[n % 2], message(), conversation())).status == 200
        await eventually(lambda: state(sick) == "out", "out where its key is stale")
        assert state(well) == "available"
        before = upstream.asked["a0"]
        assert told(await new_ones(well, 20)) == {200: 20}
        assert upstream.asked["a0"] > before


async def test_without_descriptors_a_gateway_blames_nobody_and_recovers(launch: Launch):
    async with Upstream(one_bad(None)).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1), limits={"max_connections": 10_000})
        worker = gateway.workers()[0]
        assert told(await new_ones(gateway, 5)) == {200: 5}
        used = len(os.listdir(f"/proc/{worker}/fd"))
        hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)[1]
        # Room for clients, and for no connection to an account beside those that are there.
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 12, hard))
        upstream.delay = 0.2

        async def attempt() -> int:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                return (await ask(gateway, message(), conversation())).status
            return 529  # not even the connection could be taken

        assert set(await at_once((attempt() for _ in range(40)), 20)) <= {200, 529}
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (hard, hard))
        assert {state(gateway, account) for account in ("a0", "a1")} == {"available"}
        assert told(await new_ones(gateway, 10)) == {200: 10}


async def test_connections_are_bounded_by_half_the_descriptors(launch: Launch):
    async with Upstream(one_bad(None)).serve() as upstream:
        gateway = launch(accounts=upstream.accounts(1, 1), prefix=("sh", "-c", 'ulimit -n 200; exec "$@"', "sh"))
        upstream.delay = 0.5
        answers = await at_once((ask(gateway, message(), conversation()) for _ in range(150)), 150)
        assert told(answers)[200] >= 60 and set(told(answers)) == {200, 529}
        assert "too many open connections" in json.dumps([a.json() for a in answers if a.status == 529])
        upstream.delay = 0.0
        assert told(await new_ones(gateway, 10)) == {200: 10}
