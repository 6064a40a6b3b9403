"""Whether the numbers are true: over several workers, after one has died, and for what went wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.rig import (
    ALICE,
    BOB,
    CALLERS,
    MODEL,
    Answer,
    Gateway,
    Series,
    Simulator,
    Wire,
    accounts_of,
    ask,
    at_once,
    conversation,
    eventually,
    free_port,
    message,
    request,
    runs,
)

CACHED = "claude-opus-5-5"  # remembers prompts from 512 tokens on
HASTY = "sk-" + "Ha5ty" * 9 + "one"
PROMPT = [{"type": "text", "text": "All about caches. " * 300, "cache_control": {"type": "ephemeral"}}]
FAMILIES = {
    "gateway_requests": "counter", "gateway_request_duration_seconds": "histogram",
    "gateway_requests_in_flight": "gauge", "gateway_time_to_first_token_seconds": "histogram",
    "gateway_time_per_output_token_seconds": "histogram", "gateway_overhead_seconds": "histogram",
    "gateway_queue_wait_seconds": "histogram", "gateway_tokens": "counter", "gateway_team_tokens": "counter",
    "gateway_cost_usd": "counter", "gateway_cache_savings_usd": "counter", "gateway_prompt_cache_requests": "counter",
    "gateway_prompt_cache_avoidable_miss_tokens": "counter", "gateway_affinity_decisions": "counter",
    "gateway_lacking_requests": "counter",
    "gateway_conversation_moves": "counter", "gateway_upstream_requests": "counter", "gateway_failovers": "counter",
    "gateway_stream_interruptions": "counter", "gateway_throttled": "counter",
    "gateway_store_operation_duration_seconds": "histogram", "gateway_store_errors": "counter",
    "gateway_event_loop_lag_seconds": "histogram", "gateway_degraded": "gauge", "gateway_account_state": "gauge",
    "gateway_account_ratelimit_remaining_ratio": "gauge", "gateway_build_info": "gauge",
    "gateway_admin_refused": "counter", "gateway_config_last_reload_successful": "gauge",
    "gateway_config_last_reload_success_timestamp_seconds": "gauge",
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers over a store of their own."""
    hasty = {"id": "hasty", "key": HASTY, "team": "haste", "limits": {"requests_per_minute": 1}}
    config = {"workers": 2, "accounts": accounts_of(simulator, 3), "keys": [*CALLERS, hasty]}
    gateway = Gateway(tmp_path_factory.mktemp("measured"), config).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def measured(shared: Gateway, sim: Simulator) -> Gateway:
    shared.mend()
    return shared


class Growth:
    """What has been counted since it was made."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._before = gateway.metrics()

    def __call__(self) -> Series:
        grown = Series({key: value - self._before.get(key, 0.0) for key, value in self._gateway.metrics().items()})
        return grown


async def test_every_family_is_there_at_the_first_scrape_and_explained_once(measured: Gateway):
    answer = measured.get("/metrics", admin=True, headers={"authorization": "Bearer token-of-the-test-operator"})
    lines = answer.body.decode().splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    helps = [line.split()[2] for line in lines if line.startswith("# HELP") and len(line.split()) > 3]
    assert len(set(names)) == len(names)
    assert names == helps
    series = measured.metrics()
    assert series.families.items() >= FAMILIES.items()
    zeros = [
        ("gateway_failovers_total", {"reason": "limited", "result": "recovered"}),
        ("gateway_stream_interruptions_total", {"cause": "upstream"}),
        ("gateway_throttled_total", {"scope": "caller", "reason": "requests_per_minute"}),
        ("gateway_degraded", {"mode": "store"}),
        ("gateway_requests_in_flight", {"endpoint": "messages"}),
        ("gateway_store_errors_total", {"op": "admit"}),
    ]
    for name, labels in zeros:
        assert series[name, frozenset(labels.items())] == 0, name
    assert series.total("gateway_build_info") == series.total("gateway_config_last_reload_successful") == 1


def costs(gateway: Gateway, answers: list[Answer]) -> tuple[float, float]:
    """Dollars spent and saved by the log."""
    records = [gateway.record(answer.request_id) for answer in answers]
    fields = ("cost_nano_usd", "savings_nano_usd")
    spent, saved = (sum(record.get(field, 0) for record in records) / 1e9 for field in fields)
    return spent, saved


async def test_tokens_dollars_and_caches_are_those_of_the_log_by_team(measured: Gateway, sim: Simulator):
    grown, name = Growth(measured), conversation()
    body = message("Tell me", model=CACHED, system=PROMPT, stream=True)
    answers = [await ask(measured, body, name) for _ in range(3)]
    answers.append(await ask(measured, message(), key=BOB))
    assert [answer.status for answer in answers] == [200] * 4
    spent, saved = costs(measured, answers)
    series = grown()
    assert series.total("gateway_cost_usd_total") == pytest.approx(spent) and spent > 0
    assert series.total("gateway_cache_savings_usd_total", team="research") == pytest.approx(saved) and saved > 0
    assert series.total("gateway_cost_usd_total", team="", model=MODEL) > 0  # Bob has no team
    for kind in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output"):
        assert series.total("gateway_team_tokens_total", type=kind) == series.total("gateway_tokens_total", type=kind)
    assert series.total("gateway_team_tokens_total", type="cache_read", team="research", model=CACHED) > 1000
    results = {result: series.total("gateway_prompt_cache_requests_total", result=result)
               for result in ("miss", "hit", "partial", "none")}  # fmt: skip
    assert results == {"miss": 1, "hit": 2, "partial": 0, "none": 1}
    assert series.total("gateway_time_per_output_token_seconds_count") == 3
    assert series.total("gateway_prompt_cache_avoidable_miss_tokens_total") == 0
    assert series.total("gateway_team_tokens_total") == series.total("gateway_tokens_total")


async def test_the_gateways_own_share_is_told_by_phases(measured: Gateway, sim: Simulator):
    grown = Growth(measured)
    await at_once(ask(measured, message(stream=number % 2 == 0), conversation()) for number in range(20))
    series = grown()
    counts = {series.total("gateway_overhead_seconds_count", phase=phase)
              for phase in ("choose", "admit", "relay", "total")}  # fmt: skip
    assert counts == {20}
    sums = {phase: series.total("gateway_overhead_seconds_sum", phase=phase)
            for phase in ("choose", "admit", "relay", "total")}  # fmt: skip
    assert min(sums.values()) > 0
    assert sums["choose"] + sums["admit"] + sums["relay"] >= sums["total"] - 1e-6
    await eventually(lambda: measured.metrics().total("gateway_event_loop_lag_seconds_count") > 0, "a look at the loop")


async def test_the_store_is_timed_by_operation(measured: Gateway, sim: Simulator):
    grown = Growth(measured)
    await at_once(ask(measured, message(), conversation()) for _ in range(10))
    await eventually(
        lambda: grown().total("gateway_store_operation_duration_seconds_count", op="settle"), "settlements"
    )
    series = grown()
    assert series.total("gateway_store_operation_duration_seconds_count", op="settle") <= 10  # some together
    assert series.total("gateway_store_operation_duration_seconds_count", op="admit") == 10
    assert 0 < series.total("gateway_store_operation_duration_seconds_sum", op="admit") < 10
    assert series.total("gateway_store_errors_total") == 0


def on(account: str, kind: str, value: Any = None) -> dict[str, Any]:
    return {"kind": kind, "value": value, "account": account}


async def test_failovers_tell_why_and_how_they_ended(measured: Gateway, sim: Simulator):
    grown, name = Growth(measured), conversation()
    home = (await ask(measured, message(), name)).account
    answer = await ask(measured, message(), name, fault=on(home, "status", 500))
    assert (answer.status, answer["x-gateway-attempts"]) == (200, "2")
    assert measured.record(answer.request_id)["failover"] == "failed"
    everywhere = [on(account["id"], "status", 500) for account in sim.accounts]
    assert (await ask(measured, message(), conversation(), fault=everywhere)).status == 500
    assert (await ask(measured, message(model="claude-none-1"))).status == 404
    assert (await ask(measured, {"model": MODEL}, conversation())).status == 400
    series = grown()
    assert series.total("gateway_failovers_total", reason="failed", result="recovered") == 1
    assert series.total("gateway_failovers_total", reason="failed", result="exhausted") == 1
    assert series.total("gateway_failovers_total", reason="declined", result="exhausted") == 1  # a model of nobody's
    assert series.total("gateway_failovers_total") == 3


async def test_streams_that_break_off_tell_whose_doing_it_was(measured: Gateway, sim: Simulator):
    grown = Growth(measured)
    stream = message(stream=True)
    await ask(measured, stream, fault="error_mid_stream=5")
    await ask(measured, stream)
    async with Wire.open(measured) as wire:
        await wire.send(request(stream, fault="stall=4"))
        await wire.head()
        await wire.until_events(3)
        assert measured.metrics().total("gateway_requests_in_flight", endpoint="messages") == 1
    await eventually(
        lambda: measured.metrics().total("gateway_requests_in_flight") == 0, "the end of what nobody waits for"
    )
    series = grown()
    causes = {cause: series.total("gateway_stream_interruptions_total", cause=cause)
              for cause in ("upstream", "client", "timeout", "drain")}  # fmt: skip
    assert causes == {"upstream": 1, "client": 1, "timeout": 0, "drain": 0}


async def test_refusals_tell_whose_limit_it_was(measured: Gateway, sim: Simulator):
    grown = Growth(measured)
    answers = [await ask(measured, message(), conversation(), key=HASTY) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 429, 429]
    everywhere = [{**on(account["id"], "status", 429), "retry_after": 30} for account in sim.accounts]
    answer = await ask(measured, message(), conversation(), fault=everywhere)
    assert answer.status == 429
    line = measured.record(answer.request_id)
    assert (line["throttled"], line["limit"]) == ("account", "rate_limit")
    series = grown()
    assert series.total("gateway_throttled_total", scope="caller", reason="requests_per_minute") == 2
    assert series.total("gateway_throttled_total", scope="account", reason="rate_limit") == 1
    assert series.total("gateway_throttled_total") == 3


async def test_a_conversation_that_has_to_leave_its_cache_tells_what_that_cost(measured: Gateway, sim: Simulator):
    grown, name = Growth(measured), conversation()
    own = [{**PROMPT[0], "text": f"Of {uuid4()}. {PROMPT[0]['text']}"}]  # in no cache that another test has filled
    body = message("Tell me", model=CACHED, system=own)
    for _ in range(2):
        home = (await ask(measured, body, name)).account
    assert grown().total("gateway_prompt_cache_avoidable_miss_tokens_total") == 0
    detour = await ask(measured, body, name, fault=on(home, "status", 500))
    moved = await ask(measured, body, name, fault=on(home, "status", 401))
    assert (detour.route, moved.route) == ("detour", "moved")
    records = [measured.record(answer.request_id) for answer in (detour, moved)]
    assert [record.get("missed_reason") for record in records if record.get("missed")]
    series = grown()
    for route, record in zip(("detour", "moved"), records, strict=True):
        missed = series.total("gateway_prompt_cache_avoidable_miss_tokens_total", reason=route)
        assert missed == record.get("missed", 0) == min(record["usage"].get("cache_write_5m", 0), missed)
    assert records[0]["missed"] > 1000  # nobody but its home had it in a cache


async def test_totals_survive_the_death_of_a_worker(measured: Gateway, sim: Simulator):
    """What it had counted by the last look stays, gauges of it go, and its successor counts on."""
    await at_once(ask(measured, message(), conversation()) for _ in range(30))
    stuck = [Wire.open(measured) for _ in range(8)]
    wires = [await wire.__aenter__() for wire in stuck]
    for wire in wires:
        await wire.send(request(message(stream=True), fault="stall=4"))
        await wire.head()
    before = measured.metrics()
    assert before.total("gateway_requests_in_flight") == 8
    victim, other = measured.workers()
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: not runs(victim) and len(measured.workers()) == 2, "another worker")
    for each in stuck:
        await each.__aexit__(None, None, None)
    await eventually(lambda: measured.metrics().total("gateway_requests_in_flight") == 0, "the end of its requests")
    after = measured.metrics()
    fallen = {
        key for key, value in before.items()
        if not key[0].startswith(("gateway_requests_in_flight", "gateway_account_", "gateway_degraded"))
        and after.get(key, -1.0) < value
    }  # fmt: skip
    assert not fallen
    await eventually(lambda: measured.get("/readyz", admin=True).json()["workers"] == {"0": True, "1": True}, "both")
    grown = Growth(measured)
    await at_once(ask(measured, message(), conversation()) for _ in range(20))
    assert grown().total("gateway_requests_total", code="200") == 20
    assert other in measured.workers() and ALICE not in str(after)


async def test_connections_beyond_the_bound_are_counted(tight: Gateway, sim: Simulator):
    grown = Growth(tight)
    bound = 20
    async with AsyncExitStack() as stack:
        for _ in range(bound + 3):
            await stack.enter_async_context(Wire.open(tight))
        refused = {"scope": "gateway", "reason": "connections"}
        await eventually(lambda: grown().total("gateway_throttled_total", **refused) >= 2, "those refused")


async def test_calls_of_a_store_that_is_away_are_counted_as_failed(simulator: Simulator, tmp_path: Path):
    config = {"accounts": accounts_of(simulator, 2), "redis": f"redis://127.0.0.1:{free_port()}"}
    gateway = Gateway(tmp_path, config).start()
    assert (await ask(gateway, message(), conversation())).status == 200
    series = gateway.metrics()
    assert series.total("gateway_store_errors_total", op="admit") == 1
    assert series.total("gateway_degraded", mode="store") >= 1
    gateway.stop()
