"""The store as a master, its replicas and three sentinels: calls go to whatever is the master now."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.client.redis_py import Client, ask, open_redis, run, scan, subscribe
from tests.store import topologies
from tests.store.topologies import COUNT, ECHO, READ, Changes, Node, SentinelSet

HEALED = 2.0  # seconds from the moment that a sentinel names the new master


@pytest.fixture(scope="module")
def running() -> Iterator[SentinelSet]:
    running = SentinelSet(replicas=2)
    yield running
    running.end()


def url_of(servers: SentinelSet, master: str = topologies.MASTER, **other: str) -> str:
    hosts = other.get("hosts") or ",".join(f"127.0.0.1:{node.port}" for node in servers.sentinels)
    password = quote(other.get("password", topologies.PASSWORD), safe="")
    own = quote(other.get("sentinel_password", topologies.SENTINEL_PASSWORD))
    return f"redis+sentinel://:{password}@{hosts}/{master}/1?sentinel_password={own}"


@pytest.fixture
async def client(running: SentinelSet) -> AsyncIterator[StoreClient]:
    made = StoreClient(url_of(running), on_change=Changes())
    assert await made.start(wait=10)
    yield made
    await made.close()


@pytest.fixture
async def redis(running: SentinelSet) -> AsyncIterator[Client]:
    made = open_redis(url_of(running))
    yield made
    await made.aclose()


def changes(client: StoreClient) -> Changes:
    told: Any = client._on_change
    return told


def port_of(client: StoreClient) -> int:
    connection: Any = client._route((0,))
    return int(connection.transport.get_extra_info("peername")[1])


async def test_calls_go_to_the_master_with_its_password_and_database(running, client, redis):
    assert await client.call(COUNT, (1, "{t}:n", 2)) == 2
    assert port_of(client) == running.master().port
    assert await run(redis, COUNT, (1, "{t}:n", 2)) == 4
    assert [key async for key in scan(redis, "{t}*")] == [b"{t}:n"]
    assert list(running.master().admin.info("keyspace")) == ["db1"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"master": "nobody"}, "No such master"),
        ({"sentinel_password": "wrong"}, "WRONGPASS"),
        ({"password": "wrong"}, "WRONGPASS"),
        ({"hosts": "127.0.0.1:1"}, "no sentinel knows the master"),
    ],
)
async def test_what_stands_in_the_way_is_told(running, wrong, words):
    told = Changes()
    client = StoreClient(url_of(running, **wrong), on_change=told)
    assert not await client.start(wait=0.01)
    await topologies.until(lambda: told.states)
    assert words in told.reasons[0]
    assert "wrong" not in told.reasons[0]
    with pytest.raises(StoreDown):
        client.call(ECHO, (0, "x"))
    await client.close()


async def test_sentinels_that_do_not_answer_are_passed_over(running):
    first, _, third = running.sentinels
    first.pause()
    try:
        told = Changes()
        hosts = f"127.0.0.1:1,127.0.0.1:{first.port},127.0.0.1:{third.port}"
        client = StoreClient(url_of(running, hosts=hosts), on_change=told)
        assert await client.start(wait=10)
        assert await client.call(ECHO, (0, "x")) == b"x"
        await client.close()
        assert told.states == [True]
    finally:
        first.resume()


async def successor(running: SentinelSet, old: Node) -> tuple[Node, float]:
    """The new master as soon as any sentinel names one, and the time of that."""
    await topologies.until(lambda: running.named() - {old.port})
    return running.by_port((running.named() - {old.port}).pop()), time.monotonic()


async def test_a_failover_by_hand_is_followed_although_the_old_master_goes_on(running, client, redis, within):
    old = running.master()
    await client.call(COUNT, (1, "{t}:m", 1))
    heard: list[tuple[str, bytes]] = []
    subscriptions: list[int] = []

    async def listen() -> None:
        async for message in subscribe(url_of(running), ["{pool}:a"], subscribed=lambda: subscriptions.append(1)):
            heard.append(message)

    listening = asyncio.create_task(listen())
    try:
        await topologies.until(lambda: subscriptions)
        running.sentinels[1].admin.execute_command("SENTINEL", "FAILOVER", topologies.MASTER)
        new, named = await successor(running, old)
        await topologies.until(lambda: client.up and port_of(client) == new.port)
        assert await client.call(COUNT, (1, "{t}:m", 0)) == 1
        within(time.monotonic() - named, HEALED)
        assert changes(client).states == [True, False, True]
        await topologies.until(lambda: len(subscriptions) >= 2)
        await topologies.until(lambda: new.admin.pubsub_numsub("{pool}:a")[0][1])
        new.admin.publish("{pool}:a", "from the new one")
        await topologies.until(lambda: heard == [("{pool}:a", b"from the new one")])
        await arrives(redis, new)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def arrives(redis: Client, node: Node) -> None:
    """Wait until what redis-py writes is written to this server."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreDown):
                mark = await ask(redis, "INCR", "mark")
                there = "redis.call('SELECT', 1) return tonumber(redis.call('GET', 'mark'))"
                if node.admin.execute_command("EVAL", there, 0) == mark:
                    return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("way", ["kill", "pause"])
async def test_a_master_that_is_gone_is_replaced(running, client, way, within):
    old = running.master()
    assert await client.call(COUNT, (1, "{t}:k", 1)) >= 1
    assert old.admin.execute_command("WAIT", 1, 5000) >= 1
    getattr(old, way)()
    new, named = await successor(running, old)
    assert int(await topologies.succeeds(client, READ, (1, "{t}:k"))) >= 1
    within(time.monotonic() - named, HEALED)
    assert await client.call(COUNT, (1, "{t}:k", 1)) >= 2
    assert port_of(client) == new.port
