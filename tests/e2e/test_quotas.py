"""What callers and teams may use, over two gateways of two workers each on one store: limits, budgets and slots, taken
before an account is asked and given back afterwards, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from gateway.cli import app
from tests import subjects
from tests.e2e.rig import (
    ADMIN_TOKEN,
    Answer,
    Gateway,
    Simulator,
    Store,
    Wire,
    Within,
    accounts_of,
    ask,
    assert_error,
    at_once,
    conversation,
    eventually,
    message,
    request,
)

Launch = Callable[..., Gateway]
NANO = 1_000_000_000
STREAM = message(stream=True)
CACHED = "claude-opus-5-5"  # remembers prompts from 512 tokens on
CALLERS: dict[str, dict[str, Any]] = {
    "rate": {"requests_per_minute": 10},
    "narrow": {"concurrency": 3},
    "strict": {"budget_usd": {"day": 0.05}},
    "monthly": {"budget_usd": {"day": 5, "month": 0.0004}},
    "one-of-team": {},
    "two-of-team": {"requests_per_minute": 100},
    "one-in-flight": {},
    "two-in-flight": {},
    "one-who-pays": {},
    "two-who-pays": {},
    "input": {"input_tokens_per_minute": 4000},
    "reads": {"input_tokens_per_minute": 4000},
    "output": {"output_tokens_per_minute": 31},
    "counts": {"requests_per_minute": 2},
    "nothing": {"requests_per_minute": 5, "concurrency": 1},
    "heads": {"requests_per_minute": 50, "input_tokens_per_minute": 9000, "output_tokens_per_minute": 8000},
    "tighter": {"requests_per_minute": 20, "output_tokens_per_minute": 5000},
    "free": {},
    "killed": {"concurrency": 8, "budget_usd": {"day": 100}},
    "alive": {"concurrency": 8, "budget_usd": {"day": 100}},
}
TEAMS = {
    "one-of-team": "six", "two-of-team": "six", "one-in-flight": "pair", "two-in-flight": "pair",
    "one-who-pays": "purse", "two-who-pays": "purse", "tighter": "wide",
}  # fmt: skip
TEAM_LIMITS: dict[str, dict[str, Any]] = {
    "six": {"requests_per_minute": 6},
    "pair": {"concurrency": 2},
    "purse": {"budget_usd": {"day": 0.05}},
    "wide": {"requests_per_minute": 300, "output_tokens_per_minute": 1000, "input_tokens_per_minute": 70_000},
}


def key_of(caller: str) -> str:
    """The key of a caller of this module."""
    return "sk-" + (caller.replace("-", "0") * 48)[:48]


def tenant(caller: str) -> str:
    return f"t:{TEAMS[caller]}" if caller in TEAMS else f"c:{caller}"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """An upstream that says of its accounts what is left of their limits."""
    options = ("--rpm", "900001", "--itpm", "900000002", "--otpm", "900000003")
    simulator = Simulator(tmp_path_factory.mktemp("limited"), 4, *options)
    yield simulator
    assert simulator.end() == 0


@pytest.fixture(scope="module")
def replicas(limited: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    config = {
        "redis": f"{store.url}/10",
        "accounts": accounts_of(limited),
        "workers": 2,
        "budget_mode": "strict",
        "keys": [
            {"id": name, "key": key_of(name), "limits": limits} | ({"team": TEAMS[name]} if name in TEAMS else {})
            for name, limits in CALLERS.items()
        ],
        "teams": [{"id": name, "limits": limits} for name, limits in TEAM_LIMITS.items()],
    }
    gateways = [Gateway(tmp_path_factory.mktemp(name), dict(config)).launch() for name in ("left", "right")]
    for gateway in gateways:
        gateway.ready()
    yield gateways
    for gateway in gateways:
        gateway.stop()


@pytest.fixture
def up(limited: Simulator) -> Simulator:
    limited.clear()
    return limited


@pytest.fixture(scope="module")
def kept(store: Store) -> Iterator[redis.Redis]:
    """What the gateways keep in the store."""
    with redis.Redis.from_url(f"{store.url}/10", decode_responses=True) as client:
        yield client


async def flood(
    replicas: list[Gateway], count: int, body: dict[str, Any], *callers: str, limit: int = 200, **options: Any
) -> list[Answer]:
    """So many at once, over all replicas and these callers, each a conversation of its own."""
    return await at_once(
        (
            ask(
                replicas[number % len(replicas)], body, conversation(),
                key=key_of(callers[number // len(replicas) % len(callers)]), **options,
            )
            for number in range(count)
        ),
        limit,
    )  # fmt: skip


def money(kept: redis.Redis, caller: str, subject: str = "") -> dict[str, float]:
    """A subject's buckets and money."""
    return subjects.read(kept, f"{{{tenant(caller)}}}:q:{subject or 'c:' + caller}")


def level(kept: redis.Redis, caller: str, bucket: str) -> float:
    return money(kept, caller).get(bucket, float("inf"))  # full before it is first used


def lasting(kept: redis.Redis, caller: str, subject: str = "") -> dict[str, float]:
    """The leases, and until when each lasts."""
    found: Any = kept.zrange(f"{{{tenant(caller)}}}:c:{subject or 'c:' + caller}", 0, -1, withscores=True)
    return {str(request_id): float(until) for request_id, until in found}


def leases(kept: redis.Redis, caller: str, subject: str = "") -> set[str]:
    return set(lasting(kept, caller, subject))


def reserved(kept: redis.Redis, caller: str) -> int:
    """How many requests hold a reservation."""
    return int(kept.hlen(f"{{{tenant(caller)}}}:r"))


def bindings(kept: redis.Redis, caller: str) -> int:
    return len(list(kept.scan_iter(f"{{{tenant(caller)}}}:b:*", count=1000)))


def usage(gateway: Gateway, **query: str) -> list[dict[str, Any]]:
    words = "&".join(f"{name}={value}" for name, value in query.items())
    answer = gateway.get(f"/admin/v1/usage?{words}", admin=True, headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
    assert answer.status == 200, answer.body
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def used(gateway: Gateway, caller: str) -> dict[str, Any]:
    """The caller's one row; zeros before there is one."""
    rows = usage(gateway, group_by="key", key=caller)
    return rows[0] if rows else {"requests": 0, "estimated_requests": 0, "cost_usd": 0}


def limit_headers(answer: Answer) -> dict[str, str]:
    prefix = "anthropic-ratelimit-"
    return {name[len(prefix) :]: value for name, value in answer.headers if name.startswith(prefix)}


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


async def not_across_midnight(seconds: float = 60) -> None:
    """Budgets end with the UTC day; let a test of theirs be on one side of it."""
    now = datetime.now(UTC)
    left = 86_400 - (now - now.replace(hour=0, minute=0, second=0)).total_seconds()
    if left < seconds:
        await asyncio.sleep(left + 1)


async def breaks_off(wire: Wire, seconds: float = 0.5) -> bool:
    """Whether the answer does within that time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            try:
                while await wire.piece():
                    pass
            except (asyncio.IncompleteReadError, ConnectionError):
                return True
    return False


# -- Requests a minute ------------------------------------------------------------------------------------------------


async def test_of_forty_at_once_ten_a_minute_pass_whichever_replica_they_reach(
    replicas: list[Gateway], up: Simulator, kept: redis.Redis
):
    since = up.mark()
    answers = await flood(replicas, 40, message(), "rate")
    passed = [answer for answer in answers if answer.status == 200]
    assert 10 <= len(passed) <= 11, statuses(answers)
    for answer in answers:
        if answer.status != 200:
            said = assert_error(answer, 429, "rate_limit_error")
            assert said == "This request would exceed your limit of 10 requests per minute."
            assert 1 <= int(answer["retry-after"]) <= 6
            assert not answer["x-should-retry"] and not answer.account
    assert len(up.records(since)) == len(passed)
    assert bindings(kept, "rate") == len(passed)
    await eventually(lambda: reserved(kept, "rate") == 0, "settlements")
    assert used(replicas[0], "rate")["requests"] == len(passed)


async def test_a_team_shares_its_limit_over_callers_and_replicas(replicas: list[Gateway], up: Simulator):
    since = up.mark()
    answers = await flood(replicas, 40, message(), "one-of-team", "two-of-team")
    assert 6 <= statuses(answers)[200] <= 7, statuses(answers)
    for answer in answers:
        if answer.status != 200:
            said = assert_error(answer, 429, "rate_limit_error")
            assert said == "This request would exceed your team's limit of 6 requests per minute."
            assert 1 <= int(answer["retry-after"]) <= 10
    assert len(up.records(since)) == statuses(answers)[200]


async def test_counting_tokens_has_a_bucket_of_its_own(replicas: list[Gateway], up: Simulator, kept: redis.Redis):
    path = "/v1/messages/count_tokens"
    body = {"model": message()["model"], "messages": message()["messages"]}
    since = up.mark()
    counted = [await ask(gateway, body, key=key_of("counts"), path=path) for gateway in replicas * 2]
    assert [answer.status for answer in counted] == [200, 200, 429, 429]
    said = assert_error(counted[2], 429, "rate_limit_error")
    assert said == "This request would exceed your limit of 2 token counting requests per minute."
    asked = [await ask(gateway, message(), key=key_of("counts")) for gateway in replicas * 2]
    assert [answer.status for answer in asked] == [200, 200, 429, 429]
    assert "2 requests per minute" in assert_error(asked[2], 429, "rate_limit_error")
    assert len(up.records(since)) == 4
    await eventually(lambda: reserved(kept, "counts") == 0, "settlements")
    assert used(replicas[0], "counts")["requests"] == 2  # counting is free


# -- Concurrency ------------------------------------------------------------------------------------------------------


async def test_three_at_a_time_are_exactly_three(replicas: list[Gateway], up: Simulator, kept: redis.Redis):
    since = up.mark()
    answers = await flood(replicas, 30, message(), "narrow", fault="silence=3")
    assert statuses(answers) == {200: 3, 429: 27}
    for answer in answers:
        if answer.status == 429:
            said = assert_error(answer, 429, "rate_limit_error")
            assert said == "This request would exceed your limit of 3 concurrent requests."
            assert int(answer["retry-after"]) >= 1
    assert len(up.records(since)) == 3
    await eventually(lambda: not leases(kept, "narrow"), "free slots")
    # They are taken again and again, by streams too, and there are never more than three of them.
    since, most, served = up.mark(), 0, 0

    async def insist(number: int) -> None:
        nonlocal served
        body, gateway = STREAM if number % 2 else message(), replicas[number % 4 // 2]
        status = 0
        while status != 200:
            await asyncio.sleep(0.02)
            status = (await ask(gateway, body, key=key_of("narrow"), fault="silence=0.1")).status
        served += 1

    work = [asyncio.create_task(insist(number)) for number in range(24)]
    while not all(task.done() for task in work):
        records = await asyncio.to_thread(up.records, since)
        most = max(most, sum(not record["finished"] for record in records))
        await asyncio.sleep(0.005)
    await asyncio.gather(*work)
    assert (served, len(up.records(since))) == (24, 24)
    assert most == 3
    await eventually(lambda: not leases(kept, "narrow") and reserved(kept, "narrow") == 0, "free slots")


async def test_a_team_shares_its_slots(replicas: list[Gateway], up: Simulator):
    answers = await flood(replicas, 20, message(), "one-in-flight", "two-in-flight", fault="silence=2")
    assert statuses(answers) == {200: 2, 429: 18}
    refused = next(answer for answer in answers if answer.status == 429)
    assert "your team's limit of 2 concurrent" in assert_error(refused, 429, "rate_limit_error")


async def test_a_client_that_goes_leaves_no_slot_behind(replicas: list[Gateway], up: Simulator, kept: redis.Redis):
    for body, fault in ((message(), "silence=30"), (STREAM, "silence=30"), (STREAM, "stall=4"), (STREAM, "slow=0.05")):
        since = up.mark()
        async with contextlib.AsyncExitStack() as stack:
            for number in range(3):
                wire = await stack.enter_async_context(Wire.open(replicas[number % 2]))
                await wire.send(request(body, key=key_of("narrow"), fault=fault))
            await eventually(lambda: len(leases(kept, "narrow")) == 3, "three slots taken")
            await eventually(lambda: len(up.records(since)) == 3, "three requests upstream")  # noqa: B023
            assert (await ask(replicas[0], message(), key=key_of("narrow"))).status == 429
        await eventually(lambda: not leases(kept, "narrow"), "free slots")
    assert (await ask(replicas[0], message(), key=key_of("narrow"))).status == 200


async def test_what_one_limit_refuses_takes_nothing_of_another(
    replicas: list[Gateway], up: Simulator, kept: redis.Redis
):
    async with Wire.open(replicas[0]) as wire:
        await wire.send(request(STREAM, key=key_of("nothing"), fault="stall=4"))
        first = await wire.head()
        assert limit_headers(first)["requests-remaining"] == "4"
        await wire.until_events(3)
        answers = await flood(replicas, 20, message(), "nothing")
        assert statuses(answers) == {429: 20}
        assert {answer.json()["error"]["message"] for answer in answers} == {
            "This request would exceed your limit of 1 concurrent requests."
        }
    await eventually(lambda: not leases(kept, "nothing"), "a free slot")
    last = await ask(replicas[1], message(), key=key_of("nothing"))
    assert last.status == 200 and 3 <= int(limit_headers(last)["requests-remaining"]) <= 4  # one may have come back


# -- Tokens a minute --------------------------------------------------------------------------------------------------


async def test_input_beyond_the_limit_passes_once_and_blocks_until_it_has_come_back(
    replicas: list[Gateway], up: Simulator, kept: redis.Redis
):
    body = message("word " * 3270)
    first = await ask(replicas[0], body, key=key_of("input"))
    tokens = first.json()["usage"]["input_tokens"]
    assert first.status == 200 and 4050 < tokens < 4300, tokens
    await eventually(lambda: level(kept, "input", "input") < 0, "a negative level")
    since = up.mark()
    second = await ask(replicas[1], message(), key=key_of("input"))
    assert "your limit of 4,000 input tokens per minute" in assert_error(second, 429, "rate_limit_error")
    wait = int(second["retry-after"])
    assert abs(wait - (tokens - 4000) / 4000 * 60) <= 2
    assert up.records(since) == []
    await asyncio.sleep(wait)
    assert (await ask(replicas[1], message(), key=key_of("input"))).status == 200  # who waits as told is served


async def test_cache_reads_are_no_input_and_writes_are(replicas: list[Gateway], up: Simulator, kept: redis.Redis):
    system = [{"type": "text", "text": "remember " * 1510, "cache_control": {"type": "ephemeral"}}]
    body, name = message(model=CACHED, system=system), conversation()
    first = await ask(replicas[0], body, name, key=key_of("reads"))
    written = first.json()["usage"]["cache_creation_input_tokens"]
    assert 2900 < written < 3900, written
    await eventually(lambda: level(kept, "reads", "input") < 4000 - written, "the debit")
    for number in range(6):  # each reads more than is left
        again = await ask(replicas[number % 2], body, name, key=key_of("reads"))
        assert again.status == 200, again.body
        assert again.json()["usage"]["cache_read_input_tokens"] == written
    await eventually(lambda: reserved(kept, "reads") == 0, "settlements")
    assert level(kept, "reads", "input") > 0


async def test_output_beyond_the_limit_blocks_until_it_has_come_back(
    replicas: list[Gateway], up: Simulator, kept: redis.Redis
):
    first = await ask(replicas[0], STREAM, key=key_of("output"))
    assert first.status == 200 and limit_headers(first)["output-tokens-remaining"] == "31"
    await eventually(lambda: level(kept, "output", "output") < 0, "a negative level")
    second = await ask(replicas[1], STREAM, key=key_of("output"))
    assert "your limit of 31 output tokens per minute" in assert_error(second, 429, "rate_limit_error")
    assert 1 <= int(second["retry-after"]) <= 3
    await asyncio.sleep(int(second["retry-after"]))
    assert (await ask(replicas[1], STREAM, key=key_of("output"))).status == 200


# -- Money ------------------------------------------------------------------------------------------------------------


async def test_a_strict_budget_is_never_promised_twice_and_what_is_not_used_is_there_again(
    replicas: list[Gateway], up: Simulator, kept: redis.Redis
):
    await not_across_midnight()
    body = message(max_tokens=1000)
    each = len(request(body).partition(b"\r\n\r\n")[2]) // 4 * 1000 + 1000 * 5000  # nano-dollars reserved
    holds = NANO // 20 // each
    assert holds == 9
    since = up.mark()
    answers = await flood(replicas, 200, body, "strict", fault="silence=5")
    assert statuses(answers) == {200: holds, 429: 200 - holds}
    assert len(up.records(since)) == holds
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    for answer in answers:
        if answer.status == 429:
            said = assert_error(answer, 429, "billing_error")
            when = f"{midnight:%Y-%m-%d} 00:00 UTC"
            assert said == f"This request would exceed your budget of $0.05 per day, which resets {when}."
            assert answer["x-should-retry"] == "false"
            assert -5 <= int(answer["retry-after"]) - (midnight - now).total_seconds() <= 20
    await eventually(lambda: money(kept, "strict")["reserved"] == 0, "settlements")
    spent = int(money(kept, "strict")["day_spent"])
    assert 0 < spent < each  # little of what was reserved
    assert used(replicas[0], "strict")["cost_usd"] == spent / NANO

    rest = 0  # one after the other, until what is left does not hold another one
    while (answer := await ask(replicas[rest % 2], body, key=key_of("strict"))).status == 200:
        rest += 1
        await eventually(lambda: reserved(kept, "strict") == 0, "the settlement")
        assert rest < 1000
    assert_error(answer, 429, "billing_error")
    spent = int(money(kept, "strict")["day_spent"])
    assert NANO // 20 - each < spent <= NANO // 20
    assert rest > 200
    assert used(replicas[1], "strict")["requests"] == holds + rest


async def test_a_team_pays_from_one_purse(replicas: list[Gateway], up: Simulator, kept: redis.Redis):
    await not_across_midnight()
    answers = await flood(replicas, 60, message(max_tokens=1000), "one-who-pays", "two-who-pays", fault="silence=3")
    assert statuses(answers) == {200: 9, 429: 51}
    refused = next(answer for answer in answers if answer.status == 429)
    assert "your team's budget of $0.05 per day" in assert_error(refused, 429, "billing_error")
    await eventually(lambda: money(kept, "one-who-pays", "t:purse")["reserved"] == 0, "settlements")
    both = [used(replicas[0], caller) for caller in ("one-who-pays", "two-who-pays")]
    spent = int(money(kept, "one-who-pays", "t:purse")["day_spent"])
    assert round(sum(row["cost_usd"] for row in both) * NANO) == spent
    assert sum(row["requests"] for row in both) == 9


async def test_a_monthly_budget_is_refused_until_the_month_ends(replicas: list[Gateway], up: Simulator):
    await not_across_midnight()
    answer = await ask(replicas[0], message(max_tokens=100), key=key_of("monthly"))
    said = assert_error(answer, 429, "billing_error")
    now = datetime.now(UTC)
    end = (now.replace(day=28) + timedelta(days=4)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    words = f"This request would exceed your budget of $0.0004 per month, which resets {end:%Y-%m-%d} 00:00 UTC."
    assert said == words
    assert abs(int(answer["retry-after"]) - (end - now).total_seconds()) <= 5
    assert answer["x-should-retry"] == "false"
    assert (await ask(replicas[0], message(max_tokens=10), key=key_of("monthly"))).status == 200


async def test_a_budget_that_is_not_strict_reserves_what_answers_have_at_most(launch: Launch, sim: Simulator):
    await not_across_midnight()
    limits = {"budget_usd": {"day": 0.1}}  # 8,192 tokens are 0.04096
    gateway = launch(accounts=accounts_of(sim, 1), keys=[{"id": "capped", "key": key_of("capped"), "limits": limits}])
    answers = await flood([gateway], 10, message(max_tokens=64_000), "capped", fault="silence=2")
    assert statuses(answers) == {200: 2, 429: 8}
    await eventually(lambda: used(gateway, "capped")["requests"] == 2, "settlements")
    assert (await ask(gateway, message(max_tokens=64_000), key=key_of("capped"))).status == 200


# -- Headers ----------------------------------------------------------------------------------------------------------


async def test_headers_tell_callers_their_own_limits_and_never_an_accounts(
    replicas: list[Gateway], up: Simulator, kept: redis.Redis
):
    for number, body in enumerate((message(), STREAM, message())):
        before = time.time()
        answer = await ask(replicas[number % 2], body, conversation() if number else {}, key=key_of("heads"))
        found = limit_headers(answer)
        resets = {name: found.pop(name) for name in list(found) if name.endswith("-reset")}
        assert {name: value for name, value in found.items() if name.endswith("-limit")} == {
            "requests-limit": "50", "input-tokens-limit": "9000", "output-tokens-limit": "8000"
        }  # fmt: skip
        assert int(found["requests-remaining"]) in (49 - number, 50 - number)
        assert 7900 <= int(found["output-tokens-remaining"]) <= 8000
        assert set(found) | set(resets) == {
            f"{kind}-{word}"
            for kind in ("requests", "input-tokens", "output-tokens")
            for word in ("limit", "remaining", "reset")
        }
        for text in resets.values():
            reset = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
            assert -2 <= reset - before <= 62
        await eventually(lambda: reserved(kept, "heads") == 0, "the settlement")


async def test_of_a_caller_and_its_team_the_tighter_one_is_in_the_headers(replicas: list[Gateway], up: Simulator):
    found = limit_headers(await ask(replicas[0], message(), key=key_of("tighter")))
    assert (found["requests-limit"], found["requests-remaining"]) == ("20", "19")
    assert (found["output-tokens-limit"], found["output-tokens-remaining"]) == ("1000", "1000")
    assert (found["input-tokens-limit"], found["input-tokens-remaining"]) == ("70000", "70000")


async def test_who_has_no_limits_is_told_of_none(replicas: list[Gateway], up: Simulator):
    for body in (message(), STREAM):
        assert limit_headers(await ask(replicas[0], body, conversation(), key=key_of("free"))) == {}
    since = up.mark()
    async with Wire.open(up) as wire:  # though the account has some
        account = {"authorization": f"Bearer {up.accounts[0]['api_key']}", "anthropic-version": "2023-06-01"}
        assert limit_headers(await wire.ask(message(), account, key=None))["requests-limit"] == "900001"
    assert len(up.records(since)) == 1


async def test_a_refusal_says_what_is_left_as_answers_do(replicas: list[Gateway], up: Simulator):
    """SDKs and their users read the headers of a 429 first of all."""
    async with Wire.open(replicas[0]) as wire:
        answers = [await wire.ask(message(), key=key_of("rate")) for _ in range(14)]
    refused = answers[-1]
    assert refused.status == 429
    found = limit_headers(refused)
    assert (found.get("requests-limit"), found.get("requests-remaining")) == ("10", "0")


# -- Keys made at run time --------------------------------------------------------------------------------------------


async def test_a_key_made_at_run_time_brings_its_limits_to_all_replicas_at_once(
    replicas: list[Gateway], up: Simulator, kept: redis.Redis, within: Within
):
    def command(*words: str) -> Any:
        done = CliRunner(env={"HTTP_PROXY": "http://127.0.0.1:9"}).invoke(
            app, [*words, "--config", str(replicas[0].folder / "gateway.yaml")]
        )
        assert done.exit_code == 0, done.stderr
        return done

    made = await asyncio.to_thread(command, "keys", "create", "newcomer", "--rpm", "5", "--concurrency", "4", "--json")
    made = json.loads(made.stdout)
    key = made["key"]
    created = time.monotonic()
    async with asyncio.timeout(20):
        while (await ask(replicas[1], {"model": "x"}, key=key, path="/v1/unknown/x", method="GET")).status == 401:
            pass
    within(time.monotonic() - created, 2)
    answers = await at_once((ask(replicas[number % 2], message(), conversation(), key=key) for number in range(30)), 30)
    assert 401 not in statuses(answers) and 4 <= statuses(answers)[200] <= 6, statuses(answers)
    passed = statuses(answers)[200]
    await eventually(lambda: int(kept.hlen("{c:newcomer}:r")) == 0, "settlements")
    await eventually(lambda: used(replicas[1], "newcomer")["requests"], "its usage")
    shown = json.loads((await asyncio.to_thread(command, "usage", "--from", "1d", "--json")).stdout)
    [row] = [row for row in shown if row["key"] == "newcomer"]
    [same] = usage(replicas[1], key="newcomer", **{"from": "1d"})
    assert row == same and row["requests"] == passed

    await asyncio.to_thread(command, "keys", "revoke", made["id"])
    revoked = time.monotonic()
    for gateway in replicas:
        refused = 0
        while refused < 6:  # whichever worker answers
            refused = refused + 1 if (await ask(gateway, message(), key=key)).status == 401 else 0
            assert time.monotonic() < revoked + 20
        within(time.monotonic() - revoked, 1.5)


# -- Who dies ---------------------------------------------------------------------------------------------------------


async def test_a_killed_workers_slots_and_money_come_back_as_estimates_and_nobody_elses_do(
    replicas: list[Gateway], up: Simulator, kept: redis.Redis
):
    """Streams of the victim and of others are open all the while. Slots of the living are kept."""
    left, right = replicas
    async with contextlib.AsyncExitStack() as stack:

        async def hold(gateway: Gateway, caller: str) -> tuple[Wire, str]:
            wire = await stack.enter_async_context(Wire.open(gateway))
            await wire.send(request(STREAM, key=key_of(caller), fault="stall=4"))
            head = await wire.head()
            assert head.status == 200
            await wire.until_events(3)
            return wire, head["x-gateway-request-id"]

        held = [await hold(left, "killed") for _ in range(8)]
        kept_alive = [await hold(right, "alive") for _ in range(4)]
        ids = {request_id for _, request_id in held}
        assert leases(kept, "killed") == ids and reserved(kept, "killed") == 8
        assert (await ask(right, message(), key=key_of("killed"))).status == 429

        lasting_at_first = {caller: lasting(kept, caller) for caller in ("killed", "alive")}
        gone: set[str] = set()
        for victim in left.workers():  # the first one that serves any of them
            os.kill(victim, signal.SIGKILL)
            broken = await asyncio.gather(*(breaks_off(wire) for wire, _ in held))
            gone = {request_id for (_, request_id), each in zip(held, broken, strict=True) if each}
            if gone:
                break
        survivors = ids - gone
        assert gone, "the victim had no streams"
        await eventually(lambda: leases(kept, "killed") == survivors, "slots of the dead", 60)
        await eventually(lambda: reserved(kept, "killed") == len(survivors), "estimates of the dead", 60)
        row = used(right, "killed")
        assert (row["requests"], row["estimated_requests"]) == (len(gone), len(gone))
        assert row["input_tokens"] > 0 and row["output_tokens"] == 0 and row["cost_usd"] > 0
        for caller, lasted in lasting_at_first.items():
            await eventually(
                lambda: all(lasting(kept, caller)[each] > lasted[each] for each in leases(kept, caller)),  # noqa: B023
                "slots of the living kept",
            )
        assert leases(kept, "killed") == survivors
        assert leases(kept, "alive") == {request_id for _, request_id in kept_alive}
        assert reserved(kept, "alive") == 4 and used(left, "alive")["requests"] == 0
        assert int(money(kept, "alive")["reserved"]) > 0

    for caller in ("killed", "alive"):
        await eventually(lambda: not leases(kept, caller) and reserved(kept, caller) == 0, "the end of all")  # noqa: B023
        await eventually(lambda: money(kept, caller)["reserved"] == 0, "money back")  # noqa: B023
    assert used(left, "alive")["requests"] == 4
    assert used(left, "killed")["requests"] == 8


def test_nothing_is_reserved_or_held_when_all_has_ended(replicas: list[Gateway], kept: redis.Redis):
    until = time.monotonic() + 20
    while True:
        open_ = [key for pattern in ("{*}:r", "{*}:c:*") for key in kept.scan_iter(pattern, count=1000)]
        owed = {
            key: value
            for key in kept.scan_iter("*:q:*", count=1000)
            if (value := subjects.read(kept, key).get("reserved"))
        }
        if not open_ and not owed:
            return
        assert time.monotonic() < until, (open_, owed)
        time.sleep(0.05)
