"""How many conversations live where: on a real server and on a cluster."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
import redis

from gateway.core.routing import broadcast
from gateway.core.routing.binding import Record, pack
from gateway.store.client.connection import StoreDown
from gateway.store.pool import binding_counts
from gateway.store.pool.binding_counts import BindingCounts
from tests.e2e.rig import eventually
from tests.store.topologies import ClusterOf, wait_for


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], BindingCounts]]:
    made: list[BindingCounts] = []

    def make(url: str) -> BindingCounts:
        made.append(BindingCounts(url))
        return made[-1]

    yield make
    for each in made:
        await each.close()


def fill(admin, conversations: int, tenants: int = 5) -> None:
    """Conversations with a record in `w1` each, and every second one with another in `w2`; and as many other keys."""
    for number in range(conversations):
        key = f"{{c:caller-{number % tenants}}}:b:{number:032x}"
        models = {"m1": pack(Record("w1")), **({"m2": pack(Record("w2"))} if number % 2 else {})}
        admin.hset(key, mapping=models)
        admin.set(f"other-{number}", "x")


async def test_bindings_are_counted_by_workspace(server, connect):
    fill(server.admin, 100)
    counted = connect(server.url)
    await counted.look()
    assert counted.counts == {"w1": 100, "w2": 50}
    server.admin.delete(*server.admin.keys("{c:caller-0}:b:*"))
    await counted.look()
    assert counted.counts == {"w1": 80, "w2": 40}


async def test_what_is_no_binding_is_passed_over(server, connect):
    fill(server.admin, 2)
    server.admin.set("{c:a}:b:00", "no hash")
    server.admin.hset("{c:a}:b:01", mapping={"m": b"\xff no record", "n": pack(Record("w3"))})
    counted = connect(server.url)
    await counted.look()
    assert counted.counts == {"w1": 2, "w2": 1, "w3": 1}


async def test_a_large_store_is_estimated_first_and_counted_then(server, connect, monkeypatch):
    monkeypatch.setattr(binding_counts, "AT_ONCE", 100)
    fill(server.admin, 1000)
    counted = connect(server.url)
    await counted.look()
    assert counted.counts is not None
    assert 500 < counted.counts["w1"] < 2000  # of 100 keys or so
    assert 5 < await looks_of_a_round(counted) < 40
    assert counted.counts == {"w1": 1000, "w2": 500}
    fill(server.admin, 1200)
    await counted.look()
    assert counted.counts == {"w1": 1000, "w2": 500}  # until the next round is complete


async def test_a_round_of_a_larger_store_takes_more_calls_at_a_look_and_no_more_looks(server, connect, monkeypatch):
    monkeypatch.setattr(binding_counts, "AT_ONCE", 20)
    monkeypatch.setattr(binding_counts, "ROUND", 10 * binding_counts.EVERY)
    fill(server.admin, 300)
    small = await looks_of_a_round(connect(server.url))
    fill(server.admin, 1200)
    large = await looks_of_a_round(connect(server.url))
    assert max(small, large) <= 11
    monkeypatch.setattr(binding_counts, "MOST", 2)
    assert await looks_of_a_round(connect(server.url)) >= 40  # of 2,400 keys, 40 or so at a look


async def looks_of_a_round(counted: BindingCounts) -> int:
    looks = 0
    while not counted._whole:
        await counted.look()
        looks += 1
    return looks


async def test_a_workspace_that_was_flushed_has_no_bindings(server, connect, monkeypatch):
    monkeypatch.setattr(binding_counts, "AT_ONCE", 20)
    fill(server.admin, 100)
    counted = connect(server.url)
    counted.heard(broadcast.encode(broadcast.Forget(workspace="w1")))
    await looks_of_a_round(counted)
    assert counted.counts == {"w1": 100, "w2": 50}
    await counted.look()  # the next round has begun, and has seen some that are gone by now
    for other in (broadcast.Forget(key="{c:a}:b:00"), broadcast.Forget(workspace="w3"), broadcast.Hello()):
        counted.heard(broadcast.encode(other))
    assert counted.counts == {"w1": 100, "w2": 50, "w3": 0}
    counted.heard(broadcast.encode(broadcast.Forget(workspace="w1")))
    assert counted.counts == {"w1": 0, "w2": 50, "w3": 0}
    for key in server.admin.scan_iter("*:b:*"):
        server.admin.hdel(key, "m1")
    counted._whole = False
    await looks_of_a_round(counted)
    assert counted.counts is not None and counted.counts.get("w1", 0) == 0
    counted.heard(b"\xc1 no broadcast")


async def test_a_store_that_went_away_leaves_no_number_and_comes_back(own_server, connect, monkeypatch):
    monkeypatch.setattr(binding_counts, "EVERY", 0.05)
    server = own_server("--appendonly", "yes")
    fill(server.admin, 4)
    counted = connect(server.url)
    await counted.look()
    server.kill()
    with pytest.raises(StoreDown):
        await counted.look()
    assert counted.counts is None
    counted.counts = {"w1": 4}
    running = asyncio.create_task(counted.run())
    await eventually(lambda: counted.counts is None)
    server.start()
    await eventually(lambda: counted.counts == {"w1": 4, "w2": 2})
    running.cancel()


async def test_a_cluster_is_counted_on_all_its_primaries(connect):
    cluster = ClusterOf(3)
    try:
        with redis.RedisCluster(host="127.0.0.1", port=cluster.primaries[0].port) as client:
            fill(client, 60, tenants=20)
        assert all(node.admin.keys("*:b:*") for node in cluster.primaries)
        counted = connect(cluster.url)
        for _ in range(3):
            await counted.look()
        assert counted.counts == {"w1": 60, "w2": 30}
    finally:
        cluster.end()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what redis-py drops
async def test_a_cluster_that_has_failed_over_is_counted_again(connect):
    cluster = ClusterOf(3, replicas=True)
    try:
        with redis.RedisCluster(host="127.0.0.1", port=cluster.primaries[0].port) as client:
            fill(client, 30)
        counted = connect(cluster.url)
        await asyncio.wait_for(counts(counted, 30), 20)
        killed = cluster.primaries[1]
        wait_for(lambda: killed.admin.wait(1, 1000) == 1, "its replica to have all")
        killed.kill()
        counted.counts = None
        await asyncio.wait_for(counts(counted, 30), 20)
        await counted.close()
    finally:
        cluster.end()
        gc.collect()


async def counts(counted: BindingCounts, conversations: int) -> None:
    """Look until all are counted."""
    while counted.counts != {"w1": conversations, "w2": conversations // 2}:
        with suppress(StoreDown):
            await counted.look()
        await asyncio.sleep(0.01)
