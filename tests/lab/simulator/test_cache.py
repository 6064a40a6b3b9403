"""Prompt caches: one rule, one test."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.lab.simulator import Simulator, World
from tests.lab.simulator.simulator_kit import MODEL, Clock, body, headers, text, until, words


class Bench:
    """A simulator with three accounts, the first two in one workspace, and a client."""

    def __init__(self, sim: Simulator, client: httpx.AsyncClient, clock: Clock) -> None:
        self.sim, self.client, self.clock = sim, client, clock

    async def send(self, data: dict[str, Any], account: int = 0, **more: str) -> dict[str, Any]:
        answer = await self.client.post(
            "/v1/messages", json=data, headers=headers(self.sim.world.accounts[account], **more)
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def usage(self, data: dict[str, Any], account: int = 0) -> tuple[int, int, int]:
        """(fresh, read, written) tokens."""
        usage = (await self.send(data, account))["usage"]
        split = usage["cache_creation"]
        written = usage["cache_creation_input_tokens"]
        assert written == split["ephemeral_5m_input_tokens"] + split["ephemeral_1h_input_tokens"]
        return usage["input_tokens"], usage["cache_read_input_tokens"], written


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = Clock()
    world = World.grid(accounts=3, workspaces=2)
    async with (
        Simulator(world, clock=clock) as sim,
        httpx.AsyncClient(base_url=sim.base_url) as client,
    ):
        yield Bench(sim, client, clock)


def cached(*tail: Any, tag: str = "s", tokens: int = 2000, ttl: str = "5m", **fields: Any) -> dict[str, Any]:
    return body(*(tail or ("hi",)), system=[text(words(tokens, tag), ttl)], **fields)


async def test_a_prefix_is_written_once_and_read_afterwards(bench):
    assert await bench.usage(cached()) == (1, 0, 2001)
    assert await bench.usage(cached()) == (1, 2001, 0)
    assert await bench.usage(cached("another question")) == (5, 2001, 0)


async def test_without_a_breakpoint_nothing_is_cached(bench):
    plain = body("hi", system=words(2000))
    assert await bench.usage(plain) == await bench.usage(plain) == (2002, 0, 0)


async def test_one_changed_byte_in_the_prefix_reads_nothing(bench):
    await bench.usage(cached(tag="s"))
    assert await bench.usage(cached(tag="t")) == (1, 0, 2001)


async def test_changed_tools_invalidate_system_and_messages(bench):
    def with_tool(name: str) -> dict[str, Any]:
        return cached(tools=[{"name": name, "input_schema": {"type": "object"}}])

    await bench.usage(with_tool("a"))
    assert (await bench.usage(with_tool("a")))[1] > 2000
    assert (await bench.usage(with_tool("b")))[1] == 0


async def test_a_changed_tool_choice_keeps_the_system_prefix_only(bench):
    tools = [{"name": "a", "input_schema": {"type": "object"}}]
    message = [text(words(2000, "m"), "5m")]
    await bench.usage(cached(message, tools=tools))
    _, read, written = await bench.usage(cached(message, tools=tools, tool_choice={"type": "none"}))
    assert 2000 < read < 2100 and written == 2001


async def test_the_identity_of_a_prefix_ignores_cache_control_key_order_and_the_string_form(bench):
    message = words(1500, "m")
    await bench.usage(body([text(message, "5m")]))
    as_string = body(message, "answer", [text("more", "5m")])
    assert (await bench.usage(as_string))[1] == 1501
    reordered = json.dumps(body([{"text": message, "cache_control": {"type": "ephemeral"}, "type": "text"}]), indent=1)
    answer = await bench.client.post("/v1/messages", content=reordered, headers=headers(bench.sim.world.accounts[0]))
    assert answer.json()["usage"]["cache_read_input_tokens"] == 1501


async def test_the_breakpoint_moves_with_the_conversation_and_each_turn_reads_the_last(bench):
    turns: list[Any] = []
    prefix = 0
    for turn in range(5):
        turns.append([text(words(1200, f"q{turn}"), "5m")])
        answer = await bench.send(body(*turns))
        usage = answer["usage"]
        assert usage["cache_read_input_tokens"] == prefix
        assert usage["input_tokens"] == 0
        prefix += usage["cache_creation_input_tokens"]
        turns[-1] = words(1200, f"q{turn}")
        turns.append(answer["content"])


async def test_a_top_level_cache_control_marks_the_last_block(bench):
    data = body(words(1500, "a"), cache_control={"type": "ephemeral"})
    assert await bench.usage(data) == (0, 0, 1501)
    longer = body(words(1500, "a"), "b", "c", cache_control={"type": "ephemeral"})
    assert (await bench.usage(longer))[1] == 1501


@pytest.mark.parametrize(("blocks", "found"), [(19, True), (20, False)])
async def test_reading_looks_back_over_twenty_positions(bench, blocks, found):
    await bench.usage(body([text(words(1500, "a"), "5m")]))
    tail = [text(f"b{index}") for index in range(blocks)]
    tail[-1] = text("end", "5m")
    _, read, _ = await bench.usage(body([text(words(1500, "a")), *tail]))
    assert (read == 1501) is found


async def test_an_entry_exists_only_where_a_request_had_a_breakpoint(bench):
    await bench.usage(body([text(words(1500, "a")), text(words(1500, "b"), "5m")]))
    assert (await bench.usage(body([text(words(1500, "a"), "5m"), text("other")])))[1] == 0


async def test_a_prefix_below_the_models_minimum_is_silently_not_cached(bench):
    short = cached(tokens=1000)
    assert await bench.usage(short) == await bench.usage(short) == (1002, 0, 0)
    opus = cached(tokens=2000) | {"model": "claude-opus-4-6"}
    assert (await bench.usage(opus))[2] == 0


async def test_an_entry_expires_after_five_minutes(bench):
    await bench.usage(cached())
    bench.clock.now += 301
    assert await bench.usage(cached()) == (1, 0, 2001)


async def test_reading_refreshes_the_ttl(bench):
    await bench.usage(cached())
    for _ in range(4):
        bench.clock.now += 200
        assert (await bench.usage(cached()))[1] == 2001
    bench.clock.now += 301
    assert (await bench.usage(cached()))[1] == 0


async def test_an_hour_long_entry_lives_an_hour_and_is_counted_apart(bench):
    usage = (await bench.send(cached(ttl="1h")))["usage"]
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2001}
    bench.clock.now += 3599
    assert (await bench.usage(cached(ttl="1h")))[1] == 2001
    bench.clock.now += 3601
    assert (await bench.usage(cached(ttl="1h")))[1] == 0


async def test_both_ttls_in_one_request_split_what_is_written(bench):
    both = cached([text(words(1200, "m"), "5m")], ttl="1h")
    usage = (await bench.send(both))["usage"]
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 1201, "ephemeral_1h_input_tokens": 2001}
    bench.clock.now += 400
    assert await bench.usage(both) == (0, 2001, 1201)


async def test_workspaces_do_not_share_and_accounts_of_one_workspace_do(bench):
    assert [account.workspace for account in bench.sim.world] == ["wrkspc_sim_1", "wrkspc_sim_2", "wrkspc_sim_1"]
    await bench.usage(cached(), account=0)
    assert (await bench.usage(cached(), account=1))[1] == 0
    assert (await bench.usage(cached(), account=2))[1] == 2001


async def test_models_do_not_share_and_a_dated_id_is_the_same_model(bench):
    await bench.usage(cached())
    assert (await bench.usage(cached() | {"model": "claude-sonnet-4-6"}))[1] == 0
    assert (await bench.usage(cached() | {"model": f"{MODEL}-20250929"}))[1] == 2001


async def test_an_entry_is_readable_only_once_the_writing_response_began(bench):
    # The first answer stays silent: its request was read, its response has not begun.
    bench.sim.faults.add("silence", 3600, times=1)
    head = headers(bench.sim.world.accounts[0])
    writing = bench.client.build_request("POST", "/v1/messages", json=cached(), headers=head)
    task = asyncio.create_task(bench.client.send(writing))
    await until(lambda: bench.sim.requests)
    assert await bench.usage(cached()) == (1, 0, 2001)
    assert await bench.usage(cached()) == (1, 2001, 0)
    task.cancel()


async def test_a_failed_request_writes_nothing(bench):
    bench.sim.faults.add("status", 529, times=1)
    answer = await bench.client.post("/v1/messages", json=cached(), headers=headers(bench.sim.world.accounts[0]))
    assert answer.status_code == 529
    assert (await bench.usage(cached()))[1] == 0


async def test_the_billing_block_is_left_out_when_it_comes_first(bench):
    billing = text("x-anthropic-billing-header: cc_version=1")
    system = [text(words(2000, "s"), "5m")]
    await bench.usage(body("hi", system=system))
    assert (await bench.usage(body("hi", system=[billing, *system])))[1] == 2001
    merged = [text("x-anthropic-billing-header: " + words(2000, "s"), "5m")]
    assert (await bench.usage(body("hi", system=merged)))[1] == 0


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"system": [text(f"s{n}", "5m") for n in range(5)]}, "maximum of 4 blocks"),
        ({"system": [text(f"s{n}", "5m") for n in range(4)], "cache_control": {"type": "ephemeral"}}, "maximum of 4"),
        ({"system": [text("a", "5m"), text("b", "1h")]}, "must not come after"),
        ({"system": [text("a", "2h")]}, "cache_control"),
    ],
)
async def test_impossible_breakpoints_are_a_400(bench, fields, complaint):
    answer = await bench.client.post(
        "/v1/messages", json=body("hi", **fields), headers=headers(bench.sim.world.accounts[0])
    )
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]["message"]
