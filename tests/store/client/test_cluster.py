"""The store as a cluster of real nodes: every call reaches its slot, wherever that goes."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from gateway.core.routing.document import Announcement, PoolDocument
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.client.redis_py import ask, open_redis, run, run_all, scan, subscribe
from gateway.store.client.topology import Access
from gateway.store.pool.pool_store import BROADCASTS, PoolStore
from tests.store import topologies
from tests.store.topologies import BOTH, COUNT, ECHO, READ, SLOTS, Changes, ClusterOf, Node, Servers, script


@pytest.fixture(scope="module")
def running() -> Iterator[ClusterOf]:
    cluster = ClusterOf(3, replicas=True)
    yield cluster
    cluster.end()


@pytest.fixture
def cluster(running: ClusterOf) -> ClusterOf:
    """Three primaries and three replicas without data and without scripts; which are which, a test before may have
    changed."""
    for node in running.nodes:
        if node.process is None:
            node.start()
            topologies.wait_for(node.answers, f"{node} to answer")
    running.settle()
    for node in running.nodes:
        if node.admin.info("replication")["role"] == "master":
            node.admin.flushall()
        node.admin.script_flush()
    return running


@pytest.fixture(scope="module")
def few() -> Iterator[ClusterOf]:
    """Primaries alone: nobody takes over."""
    cluster = ClusterOf(3)
    yield cluster
    cluster.end()


@pytest.fixture
async def client(cluster: ClusterOf) -> AsyncIterator[StoreClient]:
    made = StoreClient(cluster.url, on_change=Changes())
    assert await made.start(wait=10)
    yield made
    await made.close()


def changes(client: StoreClient) -> Changes:
    told: Any = client._on_change
    return told


def key_of(cluster: ClusterOf, node: Node, name: str = "n") -> str:
    """A key whose slot the node has."""
    return next(
        key for number in range(10_000) if cluster.owner(key_slot((key := f"{{t{number}}}:{name}").encode())) is node
    )


def a_key_for_each(cluster: ClusterOf) -> dict[Node, str]:
    return {node: key_of(cluster, node) for node in cluster.owners()}


async def test_calls_reach_the_primary_of_their_slot_and_scripts_are_sent_where_they_are_unknown(cluster, client):
    keys = a_key_for_each(cluster)
    calls = [client.call(COUNT, (1, key, number)) for number in range(1, 4) for key in keys.values()]
    assert await asyncio.gather(*calls) == [1, 1, 1, 3, 3, 3, 6, 6, 6]
    for node, key in keys.items():
        assert node.admin.get(key) == b"6"
    for node in keys:
        node.admin.script_flush()
    assert await asyncio.gather(*(client.call(READ, (1, key)) for key in keys.values())) == [b"6"] * 3
    assert await client.call(ECHO, (0, "no key")) == b"no key"
    assert changes(client).states == [True]


async def test_calls_of_one_tick_leave_in_one_write_a_node(cluster, client):
    keys = a_key_for_each(cluster)
    writes: list[bytes] = []
    for key in keys.values():
        await client.call(READ, (1, key))
        connection: Any = client._route((1, key))
        connection.transport = Recorder(connection.transport, writes)
    calls = [client.call(READ, (1, key)) for _ in range(20) for key in keys.values()]
    assert await asyncio.gather(*calls) == [None] * 60
    assert [data.count(b"EVALSHA") for data in writes] == [20, 20, 20]


class Recorder:
    """A transport that notes what is written."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self.transport = transport
        self.writes = writes

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


async def test_among_cancelled_calls_no_reply_reaches_another_caller(client):
    rnd = random.Random(1)
    answered = 0

    async def ask(number: int) -> None:
        nonlocal answered
        for _ in range(rnd.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)
        assert await client.call(ECHO, (1, f"{{{number}}}", f"call {number}")) == b"call %d" % number
        answered += 1

    tasks = [asyncio.create_task(ask(number)) for number in range(4000)]
    for index, task in enumerate(rnd.sample(tasks, 3000)):
        if index % 100 == 0:
            await asyncio.sleep(0)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [each for each in results if isinstance(each, Exception)] == []
    assert answered == sum(each is None for each in results) >= 1000


# Slots that move.


async def test_a_moved_slot_is_followed_without_an_error(cluster, client):
    source, target, _ = cluster.owners()
    key = key_of(cluster, source)
    assert await client.call(COUNT, (1, key, 1)) == 1
    cluster.move(key_slot(key.encode()), source, target)
    calls = [client.call(COUNT, (1, key, 1)) for _ in range(20)]
    client.post(COUNT, (1, key, 10))
    assert sorted(await asyncio.gather(*calls)) == list(range(2, 22))
    assert await client.call(COUNT, (1, key, 0)) == 31
    connection: Any = client._route((1, key))
    assert connection.transport.get_extra_info("peername")[1] == target.port
    assert changes(client).states == [True]


async def test_while_a_slot_moves_each_key_is_found_on_its_side(cluster, client):
    source, target, _ = cluster.owners()
    stays = key_of(cluster, source, "stays")
    slot = key_slot(stays.encode())
    goes = stays.replace("stays", "goes")
    await client.call(COUNT, (1, stays, 1))
    await client.call(COUNT, (1, goes, 5))
    cluster.begin_move(slot, source, target)
    source.admin.migrate("127.0.0.1", target.port, [goes], 0, 5000)
    for script_known in (False, True):  # at the target, which has run nothing yet
        assert await client.call(COUNT, (1, goes, 1)) == 6 + script_known
        assert await client.call(COUNT, (1, stays, 1)) == 2 + script_known
    both = [client.call(COUNT, (1, each, 1)) for _ in range(10) for each in (goes, stays)]
    assert await asyncio.gather(*both) == [start + n for n in range(10) for start in (8, 4)]
    with pytest.raises(StoreDown, match="TRYAGAIN"):
        await client.call(BOTH, (2, stays, goes))
    source.admin.migrate("127.0.0.1", target.port, [stays], 0, 5000)
    cluster.end_move(slot, target)
    assert await client.call(BOTH, (2, stays, goes)) == [b"13", b"17"]
    assert changes(client).states == [True]


async def test_a_call_that_is_sent_from_node_to_node_ends(cluster, client):
    """Two nodes that each believe the other has the slot."""
    source, target, _ = cluster.owners()
    key = key_of(cluster, source)
    liar = script(f"return redis.error_reply('MOVED {key_slot(key.encode())} 127.0.0.1:{target.port}')")
    with pytest.raises(StoreDown, match="from node to node"):
        async with asyncio.timeout(10):
            await client.call(liar, (1, key))
    assert await topologies.succeeds(client, COUNT, (1, key, 1)) == 1


# Nodes that go.


async def test_a_stopped_node_fails_only_its_own_calls_within_the_budget_and_then_at_once(cluster, monkeypatch):
    monkeypatch.setattr(Access, "budget", 0.05)
    told = Changes()
    client = StoreClient(cluster.url, on_change=told)
    await client.start(wait=10)
    keys = a_key_for_each(cluster)
    stopped, *others = keys
    for key in keys.values():
        await topologies.succeeds(client, COUNT, (1, key, 1))
    await topologies.until(lambda: client.up)
    before = len(told.states)
    loop = asyncio.get_running_loop()
    stopped.pause()
    try:
        began = loop.time()
        with pytest.raises(StoreDown, match="no reply within 50 ms"):
            await client.call(COUNT, (1, keys[stopped], 1))
        assert loop.time() - began >= 0.05
        with pytest.raises(StoreDown):
            client.call(COUNT, (1, keys[stopped], 1))
        assert not client.up
        for node in others:
            assert await topologies.succeeds(client, COUNT, (1, keys[node], 1)) >= 2
    finally:
        stopped.resume()
    await topologies.until(lambda: client.up)
    assert await topologies.succeeds(client, COUNT, (1, keys[stopped], 1)) >= 2
    assert told.states[before:][:2] == [False, True]
    assert str(stopped.port) in told.reasons[before]
    await client.close()


async def test_the_replica_of_a_killed_primary_takes_over_and_the_others_go_on_meanwhile(cluster, client):
    keys = a_key_for_each(cluster)
    killed, *others = keys
    for key in keys.values():
        await client.call(COUNT, (1, key, 1))
    topologies.wait_for(lambda: all(node.admin.execute_command("WAIT", 1, 0) for node in keys), "replication")
    heir = cluster.replica_of(killed)
    killed.kill()
    await topologies.until(lambda: not client.up)
    promoted = 0.0
    failures = 0
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        while True:
            for node in others:
                assert await client.call(COUNT, (1, keys[node], 0)) == 1
            if not promoted and heir.admin.info("replication")["role"] == "master":
                promoted = loop.time()
            try:
                assert await client.call(COUNT, (1, keys[killed], 0)) == 1
                break
            except StoreDown:
                failures += 1
                await asyncio.sleep(0.005)
    assert failures
    assert loop.time() - promoted < 2.0 or not promoted
    assert client.up
    assert changes(client).states == [True, False, True]


async def test_a_primary_that_hands_over_to_its_replica_is_left_for_it(cluster, client):
    [node, *_] = cluster.owners()
    key = key_of(cluster, node)
    await client.call(COUNT, (1, key, 1))
    heir = cluster.replica_of(node)
    heir.admin.execute_command("CLUSTER", "FAILOVER")
    async with asyncio.timeout(20):
        while heir.admin.info("replication")["role"] != "master":
            assert await topologies.succeeds(client, COUNT, (1, key, 0)) == 1
    assert await topologies.succeeds(client, COUNT, (1, key, 1), seconds=2) == 2
    connection: Any = client._route((1, key))
    await topologies.until(lambda: client.up)
    assert connection.transport.get_extra_info("peername")[1] == heir.port


async def test_a_client_finds_the_cluster_if_any_node_of_its_url_answers(cluster):
    told = Changes()
    client = StoreClient(f"redis+cluster://127.0.0.1:1,localhost:{cluster.nodes[-1].port}", on_change=told)
    assert await client.start(wait=10)
    assert await client.call(ECHO, (1, "k", "x")) == b"x"
    await client.close()
    assert told.states == [True]
    with pytest.raises(StoreDown):
        client.post(ECHO, (1, "k", "x"))


@pytest.mark.parametrize("known", [True, False])
async def test_closing_delivers_what_was_posted(cluster, known):
    client = StoreClient(cluster.url)
    assert await client.start(wait=10)
    keys = a_key_for_each(cluster)
    if known:
        await asyncio.gather(*(client.call(COUNT, (1, key, 0)) for key in keys.values()))
    for _ in range(500):
        for key in keys.values():
            client.post(COUNT, (1, key, 1))
    await client.close()
    assert [node.admin.get(key) for node, key in keys.items()] == [b"500"] * 3


# Less than a cluster.


@pytest.fixture(scope="module")
def half() -> Iterator[ClusterOf]:
    """One node that has half of the slots, and nobody who has the others."""
    cluster = ClusterOf(1, slots=SLOTS // 2)
    yield cluster
    cluster.end()


async def test_a_cluster_without_an_owner_for_some_slots_is_not_up_but_serves_the_others(half):
    told = Changes()
    client = StoreClient(half.url, on_change=told)
    assert not await client.start(wait=0.3)
    [node] = half.primaries
    low = key_of(half, node)
    assert await topologies.succeeds(client, COUNT, (1, low, 1)) == 1
    high = next(key for n in range(99) if key_slot((key := f"k{n}").encode()) >= SLOTS // 2)
    with pytest.raises(StoreDown):
        client.call(COUNT, (1, high, 1))
    await topologies.until(lambda: told.states == [False])
    node.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOTS // 2, SLOTS - 1)
    await topologies.until(lambda: client.up)
    assert await topologies.succeeds(client, COUNT, (1, high, 1)) == 1
    node.admin.execute_command("CLUSTER", "DELSLOTSRANGE", SLOTS // 2, SLOTS - 1)
    with pytest.raises(StoreDown, match="CLUSTERDOWN"):
        await client.call(COUNT, (1, high, 1))
    assert await client.call(COUNT, (1, low, 1)) == 2
    assert told.states == [False, True]
    await client.close()


async def test_a_server_that_is_no_cluster_is_told_and_not_used():
    servers = Servers()
    try:
        [node] = servers.add(1, lambda port: ['save ""'])
        told = Changes()
        client = StoreClient(f"redis+cluster://127.0.0.1:{node.port}", on_change=told)
        assert not await client.start(wait=0.05)
        await topologies.until(lambda: told.states)
        assert "cluster support disabled" in told.reasons[0]
        await client.close()
    finally:
        servers.end()


# redis-py.


async def test_redis_py_runs_scripts_and_scans_every_primary(cluster):
    redis = open_redis(cluster.url)
    try:
        keys = a_key_for_each(cluster)
        for key in keys.values():
            assert await run(redis, COUNT, (1, key, 2)) == 2
            assert await run(redis, COUNT, (1, key, 2)) == 4
        for number in range(50):
            await ask(redis, "SET", f"{{{number}}}:b:x", 1)
        found = {key async for key in scan(redis, "*:b:*")}
        assert found == {b"{%d}:b:x" % number for number in range(50)}
        with pytest.raises(StoreDown, match="not an integer"):
            await ask(redis, "SET", "text", "x")
            await run(redis, COUNT, (1, "text", 1))
    finally:
        await redis.aclose()


async def all_of(redis: Any, keys: Iterable[str]) -> list[Any]:
    return await run_all(redis, [(READ, (1, key)) for key in keys])


async def test_redis_py_asks_all_nodes_at_once_and_follows_them_when_they_fail_over():
    cluster = ClusterOf(3, replicas=True)
    redis = open_redis(cluster.url)
    try:
        keys = a_key_for_each(cluster)
        for node, key in keys.items():
            await ask(redis, "SET", key, node.port)
        found = [b"%d" % node.port for node in keys]
        assert await all_of(redis, keys.values()) == found
        await ask(redis, "HSET", "a hash", "a", 1)
        wrong, right = await all_of(redis, ["a hash", next(iter(keys.values()))])
        assert str(wrong).startswith("WRONGTYPE")
        assert right == found[0]
        killed = next(iter(keys))
        topologies.wait_for(lambda: killed.admin.wait(1, 1000) == 1, "its replica to have all")
        killed.kill()
        async with asyncio.timeout(20):
            while await all_of(redis, keys.values()) != found:
                pass  # it waits itself
    finally:
        await redis.aclose()
        cluster.end()
        gc.collect()


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_redis_py_waits_for_a_node_that_is_slow(few, warm):
    """As one is on a busy machine, for longer than one reply may take."""
    redis = open_redis(few.url)
    keys = a_key_for_each(few)
    try:
        for each in (all_of(redis, keys.values()), looked_for(redis, "*")) if warm else ():
            await each
        for slow, look in zip(few.primaries, (all_of, looked_for), strict=False):
            slow.pause()
            resumed = asyncio.get_running_loop().call_later(1.2, slow.resume)
            try:
                found = await look(redis, keys.values())
                assert not any(isinstance(each, Exception) for each in found), found
            finally:
                resumed.cancel()
                slow.resume()
                few.settle()
            if not warm:
                await redis.aclose()
    finally:
        await redis.aclose()


async def looked_for(redis: Any, keys: object) -> set[bytes]:
    return {key async for key in scan(redis, "*")}


async def test_a_subscription_hears_every_node_and_outlives_its_own(cluster):
    redis = open_redis(cluster.url)
    heard: list[tuple[str, bytes]] = []
    subscriptions = 0

    def subscribed() -> None:
        nonlocal subscriptions
        subscriptions += 1

    async def listen() -> None:
        async for message in subscribe(cluster.url, ["{pool}:a", "{pool}:b"], subscribed=subscribed):
            heard.append(message)

    listening = asyncio.create_task(listen())
    try:
        await topologies.until(lambda: subscriptions == 1)
        for node in cluster.nodes:
            node.admin.publish("{pool}:a", str(node.port))
        await ask(redis, "PUBLISH", "{pool}:b", "from redis-py")
        said = {("{pool}:a", b"%d" % node.port) for node in cluster.nodes}
        await topologies.until(lambda: set(heard) == said | {("{pool}:b", b"from redis-py")})
        assert len(heard) == len(cluster.nodes) + 1
        [its_own] = [node for node in cluster.nodes if node.admin.client_list("pubsub")]
        its_own.kill()
        await topologies.until(lambda: subscriptions == 2)
        other = next(node for node in cluster.nodes if node is not its_own)
        other.admin.publish("{pool}:b", "again")
        await topologies.until(lambda: heard[-1] == ("{pool}:b", b"again"))
        its_own.start()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await redis.aclose()


async def test_the_agreed_pool_and_its_news_live_in_a_cluster_too(cluster):
    store = PoolStore(cluster.url)
    heard: list[bytes] = []
    following = asyncio.create_task(store.follow(lambda: None, heard.append))
    try:
        await topologies.until(lambda: any(node.admin.pubsub_numsub(BROADCASTS)[0][1] for node in cluster.nodes))
        agreed = await store.agree(Announcement("p1", 1.0, ()), PoolDocument())
        assert [each.process for each in agreed.live] == ["p1"]
        async with asyncio.timeout(20):
            while not heard:  # nodes that have just come back may not hear of each other at once
                await store.publish(b"said")
                await asyncio.sleep(0.05)
        assert set(heard) == {b"said"}
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.close()


async def test_connections_that_another_task_closes_are_a_store_that_is_away(cluster):
    """As when one command has found a node gone, and others are about to connect to it."""
    client: Any = open_redis(cluster.url)

    async def one(number: int) -> str:
        try:
            await ask(client, "GET", f"k{number}")
        except StoreDown:
            return "away"
        return "served"

    seen = set()
    for round_ in range(70):
        work = [asyncio.create_task(one(number)) for number in range(30)]
        for _ in range(round_ % 7):
            await asyncio.sleep(0)
        for node in client.get_nodes():
            await node.disconnect()
        seen |= set(await asyncio.gather(*work))
    await client.aclose()
    assert "served" in seen and seen <= {"served", "away"}
